"""The Triton kernel: its own tests interpreted, its compilation for GPUs, and on a GPU its agreement with PyTorch."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hdm_mmpose.features import HAS_CUSTOM_OPERATORS, triton_obstacle
from hdm_mmpose.transport import EMDOptions

HERE = Path(__file__).parent
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason='needs an NVIDIA GPU')


def run(arguments: list[str], seconds: int, **environment: str) -> subprocess.CompletedProcess:
    """A Python process of its own, because Triton decides at its import how kernels run."""
    python_path = os.pathsep.join([str(HERE.parent.parent), os.environ.get('PYTHONPATH', '')])
    return subprocess.run([sys.executable, *arguments], cwd=HERE.parent.parent, text=True, stdout=subprocess.PIPE, timeout=seconds,
                          stderr=subprocess.STDOUT, env={**os.environ, 'PYTHONPATH': python_path, **environment})


def test_interpreted_kernel():
    """Everything in ``triton_emd_kernel.py``, on the CPU."""
    if triton_obstacle() is not None:
        pytest.skip(triton_obstacle())
    done = run(['-m', 'pytest', str(HERE / 'triton_emd_kernel.py'), '-q', '-p', 'no:cacheprovider', '-W', 'ignore'], 600,
               TRITON_INTERPRET='1')
    assert done.returncode == 0, done.stdout[-8000:]
    assert re.search(r'\d+ passed', done.stdout) and 'skipped' not in done.stdout, done.stdout[-2000:]


COMPILE = '''
import sys, torch, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from hdm_mmpose.transport import EMDOptions, triton_emd
from hdm_mmpose.transport.triton_emd import _emd_kernel, launch_of, plan_of

height, width, capability = map(int, sys.argv[1:4])
how = EMDOptions(epsilon=0.25, potential=sys.argv[4])
launch = launch_of(height * width, torch.float32)
plan = plan_of(height, width, torch.float32, how, True, True)
types = dict.fromkeys(['heatmap_ptr', 'target_ptr', 'cost_ptr', 'error_ptr', 'dots_ptr', 'gradient_ptr'], '*fp32')
types |= dict.fromkeys(['epsilon_high', 'epsilon_low', 'tolerance'], 'fp32')
types |= dict.fromkeys(['sinkhorn_steps', 'newton_steps'], 'i32') | {'P': 'constexpr'}
source = ASTSource(_emd_kernel, types, {'P': plan}, {(i,): [['tt.divisibility', 16]] for i in range(6)})
options = {'num_warps': launch.num_warps, 'maxnreg': launch.registers}
kernel = triton.compile(source, target=GPUTarget('cuda', capability, 32), options=options)
open(sys.argv[5], 'wb').write(kernel.asm['cubin'])
print('warps', launch.num_warps)
'''


def resources(tmp_path: Path, height: int, width: int, capability: int, potential: str) -> dict[str, int]:
    """Compile for a GPU that need not be here; registers and bytes of spilled registers per thread, warps."""
    if triton_obstacle() is not None:
        pytest.skip(triton_obstacle())
    import triton

    tools = triton.knobs.nvidia
    if not all(Path(tool.path).exists() for tool in (tools.ptxas, tools.cuobjdump)):
        pytest.skip('this Triton comes without ptxas and cuobjdump')
    script = tmp_path / 'compile_kernel.py'
    script.write_text(COMPILE)
    done = run([str(script), str(height), str(width), str(capability), potential, str(tmp_path / 'cubin')], 600,
               TRITON_CACHE_DIR=str(tmp_path), TRITON_INTERPRET='0')
    assert done.returncode == 0, done.stdout[-4000:]
    usage = subprocess.run([tools.cuobjdump.path, '--dump-resource-usage', str(tmp_path / 'cubin')], text=True,
                           capture_output=True, check=True).stdout
    registers, stack = re.search(r'REG:(\d+) STACK:(\d+)', usage).groups()
    return {'registers': int(registers), 'spilled': int(stack), 'warps': int(re.search(r'warps (\d+)', done.stdout)[1])}


@pytest.mark.parametrize('height, width, potential', [(12, 9, 'product'), (128, 120, 'shannon')])
def test_compiles_for_a_gpu(tmp_path, height, width, potential):
    """Kept in registers, and walked through in tiles: valid beyond the interpreter, and without spills."""
    used = resources(tmp_path, height, width, 90, potential)
    assert used['spilled'] == 0 and used['registers'] <= 128


@pytest.mark.slow
@pytest.mark.parametrize('capability', [80, 90])
def test_registers_at_full_size(tmp_path, capability):
    """96 x 72: 16 warps leave 128 registers each; what does not fit is a few numbers that wait for the gradient."""
    used = resources(tmp_path, 96, 72, capability, 'shannon')
    assert used['warps'] == 16 and used['registers'] <= 128 and used['spilled'] <= 160


@pytest.mark.skipif(not HAS_CUSTOM_OPERATORS, reason='this torch has no custom operators')
def test_operator_is_well_formed():
    """Schema, shapes without data, and gradient registration, as PyTorch checks them."""
    from hdm_mmpose.transport.operator import _emd

    heatmap = torch.randn(3, 5, 4, requires_grad=True)
    arguments = (heatmap, torch.rand(3, 2), True, 0.5, 'product', 'softplus', 5.0, 'newton', 10, False, 'saturated', 2.0, 'auto', True)
    torch.library.opcheck(_emd, arguments)


# --------------------------------------------------------------------------------------------------------------- on a GPU
@needs_gpu
@pytest.mark.parametrize('size', [(96, 72), (64, 48), (128, 128), (17, 23), (200, 150)])
def test_real_kernel_at_real_sizes(size):
    """Against float64 on the CPU; residents of 4, 8 and 16 warps, and tiles."""
    from hdm_mmpose.transport import emd, triton_emd

    heatmap = torch.randn(5, *size)
    dots = torch.rand(5, 2) * torch.tensor([size[1] - 1.0, size[0] - 1.0])
    how = EMDOptions(epsilon=0.25, potential='shannon')
    cost, error, converged, _, gradient = triton_emd.emd_triton(heatmap.cuda(), dots.cuda(), how, True)
    wide = heatmap.double().requires_grad_()
    wanted = emd(wide, dots.double(), how).cost
    slope, = torch.autograd.grad(wanted.sum(), wide)
    assert converged.all()
    torch.testing.assert_close(cost.cpu().double(), wanted.detach(), rtol=2e-5, atol=2e-5)
    torch.testing.assert_close(gradient.cpu().double() / slope.abs().max(), slope / slope.abs().max(), rtol=0, atol=1e-4)


@needs_gpu
def test_auto_takes_the_kernel_where_it_is_listed_as_tested():
    from hdm_mmpose.transport.backend import TESTED_GPUS, kernel_for

    heatmap = torch.rand(1, 5, 4, device='cuda')
    assert kernel_for(heatmap, 'triton') is not None
    assert (kernel_for(heatmap, 'auto') is not None) == (torch.cuda.get_device_capability() in TESTED_GPUS)
