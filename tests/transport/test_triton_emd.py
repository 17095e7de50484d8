"""The Triton kernel: its own tests interpreted, its compilation for GPUs, and on a GPU how it gets on with PyTorch."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

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
    pytest.importorskip('triton', reason='triton is not installed')
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
    triton = pytest.importorskip('triton', reason='triton is not installed')
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


# ----------------------------------------------------------------------------------------------------------- torch.compile
def loss_and_inputs(device: str = 'cpu', dense: bool = False, dtype: torch.dtype = torch.float32, **options):
    """A loss, a map that asks for a gradient, targets, and weights one of which is 0; B, K, H, W all different."""
    pytest.importorskip('mmpose.registry', reason='MMPose is not installed')
    from hdm_mmpose.components.emd_heatmap_loss import EMDHeatmapLoss

    output = torch.randn(2, 3, 9, 7, device=device, dtype=dtype).requires_grad_()
    target = torch.rand((2, 3, 9, 7) if dense else (2, 3, 2), device=device) * 6
    weights = torch.tensor([[1.0, 0.0, 1.0], [0.5, 1.0, 1.0]], device=device)
    return EMDHeatmapLoss(epsilon=0.5, potential='product', **options), output, target, weights


def value_and_gradient(loss, output, target, weights):
    value = loss(output, target, weights)
    gradient, = torch.autograd.grad(value, output)
    return value.detach(), gradient


@pytest.mark.parametrize('dense', [False, True])
def test_torch_compile_takes_the_loss_as_one_graph(dense):
    torch.compiler.reset()
    loss, *inputs = loss_and_inputs(dense=dense)
    compiled = torch.compile(loss, fullgraph=True, backend='aot_eager')
    torch.testing.assert_close(value_and_gradient(compiled, *inputs), value_and_gradient(loss, *inputs), rtol=1e-6, atol=1e-7)


@pytest.mark.slow
def test_torch_compile_with_its_own_backend():
    torch.compiler.reset()
    loss, *inputs = loss_and_inputs(cross_entropy_weight=0.5)
    compiled = torch.compile(loss, fullgraph=True)
    torch.testing.assert_close(value_and_gradient(compiled, *inputs), value_and_gradient(loss, *inputs), rtol=1e-5, atol=1e-6)


def test_operator_is_well_formed():
    """Schema, shapes without data, and gradient registration, as PyTorch checks them."""
    from hdm_mmpose.transport.operator import _emd

    heatmap = torch.randn(3, 5, 4, requires_grad=True)
    arguments = (heatmap, torch.rand(3, 2), True, 0.5, 'product', 'softplus', 5.0, 'newton', 10, False, 'saturated', 2.0, 'auto', True)
    torch.library.opcheck(_emd, arguments)


# --------------------------------------------------------------------------------------------------------------- on a GPU
@needs_gpu
@pytest.mark.parametrize('dense', [False, True])
@pytest.mark.parametrize('cross_entropy_weight', [0.0, 0.5])
def test_host_is_never_made_to_wait(dense, cross_entropy_weight):
    loss, *inputs = loss_and_inputs('cuda', dense, backend='triton', cross_entropy_weight=cross_entropy_weight)
    value_and_gradient(loss, *inputs)  # compiles
    torch.cuda.set_sync_debug_mode('error')
    try:
        value_and_gradient(loss, *inputs)
    finally:
        torch.cuda.set_sync_debug_mode('default')


@needs_gpu
def test_cuda_graph():
    loss, output, target, weights = loss_and_inputs('cuda', backend='triton')
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        value_and_gradient(loss, output, target, weights)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = value_and_gradient(loss, output, target, weights)
    with torch.no_grad():
        output.add_(torch.randn_like(output))
        target.mul_(0.5)
    graph.replay()
    torch.testing.assert_close(captured, value_and_gradient(loss, output, target, weights))


@needs_gpu
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_autocast(dtype):
    """Maps come in half precision; the result is float32's of the same numbers, its gradient rounded once."""
    loss, output, target, weights = loss_and_inputs('cuda', dtype=dtype, backend='triton')
    with torch.autocast('cuda', dtype=dtype):
        value, gradient = value_and_gradient(loss, output, target, weights)
    wide = value_and_gradient(loss, output.detach().float().requires_grad_(), target, weights)
    assert value.dtype == torch.float32 and gradient.dtype == dtype
    torch.testing.assert_close(value, wide[0])
    torch.testing.assert_close(gradient, wide[1].to(dtype))


@needs_gpu
def test_torch_compile_on_a_gpu():
    torch.compiler.reset()
    loss, *inputs = loss_and_inputs('cuda', dense=True, backend='triton')
    compiled = torch.compile(loss, fullgraph=True)
    torch.testing.assert_close(value_and_gradient(compiled, *inputs), value_and_gradient(loss, *inputs), rtol=1e-5, atol=1e-6)


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
