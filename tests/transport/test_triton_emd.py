"""The Triton kernel: its own tests interpreted, its machine code for two kinds of GPU, and on a GPU how it gets on with PyTorch."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from hdm_mmpose.features import triton_obstacle
from hdm_mmpose.transport import DotLoss, EMDOptions

HERE = Path(__file__).parent
SIZE = (96, 72)
needs_triton = pytest.mark.skipif(triton_obstacle() is not None, reason=str(triton_obstacle()))
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available() or triton_obstacle() is not None, reason='needs an NVIDIA GPU and Triton')


@needs_triton
def test_interpreted_kernel():
    """Everything in ``triton_emd_kernel.py``, on the CPU; a process of its own, because Triton decides at its import how kernels run."""
    path = os.pathsep.join([str(HERE.parent.parent), os.environ.get('PYTHONPATH', '')])
    done = subprocess.run(
        [sys.executable, '-m', 'pytest', str(HERE / 'triton_emd_kernel.py'), '-q', '-p', 'no:cacheprovider', '-W', 'ignore'],
        cwd=HERE.parent.parent, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=900,
        env={**os.environ, 'PYTHONPATH': path, 'TRITON_INTERPRET': '1'})
    assert done.returncode == 0, done.stdout[-8000:]
    assert re.search(r'\d+ passed', done.stdout) and 'skipped' not in done.stdout, done.stdout[-2000:]


# ------------------------------------------------------------------------------------------------------------ machine code
class Program(NamedTuple):
    """A compiled program: registers and bytes of local memory per thread, warps, and its instructions at their addresses."""

    registers: int
    spilled: int
    warps: int
    code: dict[int, str]

    @property
    def programs_per_multiprocessor(self) -> int:
        """As many as its 65,536 registers are enough for, eight at a time."""
        return 65536 // (-(-self.registers // 8) * 8 * 32 * self.warps)

    def loops(self) -> list[list[int]]:
        """Addresses of the instructions in each loop, which a jump back ends; what follows the exit only serves odd cases."""
        end = max(address for address, text in self.code.items() if text.endswith('EXIT'))
        jumps = [(int(found[1], 16), address) for address, text in self.code.items()
                 for found in [re.search(r'\bBRA\b.*(0x[0-9a-f]+)', text)] if found]
        return [[address for address in self.code if first <= address <= last] for first, last in sorted(jumps) if first <= last < end]

    def instructions(self, *trips: int) -> int:
        """Of all warps together, each loop walked through as often as said."""
        loops = self.loops()
        assert len(loops) == len(trips) and not any(set(a) & set(b) for a in loops for b in loops if a is not b)
        end = max(address for address, text in self.code.items() if text.endswith('EXIT'))
        once = sum(address <= end for address in self.code) - sum(map(len, loops))
        return self.warps * (once + sum(n * len(loop) for n, loop in zip(trips, loops)))


def compiled(name: str, capability: int, folder: Path, dtype: str = 'fp32', dense: bool = True, flat: bool = True,
             weighted: bool = True) -> Program:
    """A program for a GPU that need not be here, specialised as Triton does it for maps of ``SIZE``."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from hdm_mmpose.transport import triton_emd

    tools = triton.knobs.nvidia
    if triton_emd.INTERPRETED or not all(Path(tool.path).exists() for tool in (tools.ptxas, tools.cuobjdump)):
        pytest.skip('needs ptxas and cuobjdump, which Triton brings along, and no TRITON_INTERPRET')
    function = getattr(triton_emd, name)
    flags = dict(DENSE=dense, WEIGHTED=weighted, FLAT_MAP=flat, FLAT_TARGET=flat, FLAT_GRADIENT=flat)
    ones = {name: 1 for name in ('map_stride3', 'target_stride3', 'gradient_stride3', 'weight_stride1', 'grad_stride1') if flat}
    known = {name: value for name, value in {**flags, **ones}.items() if name in function.arg_names}
    floats = ('epsilon', 'scale', 'sharpness', 'companion', 'inverse_blur', 'outside', 'beside', 'across')
    types = {name: 'constexpr' if name in known else '*i1' if name == 'valid_ptr' else f'*{dtype}' if name in ('maps_ptr', 'gradient_ptr')
             else '*fp32' if name.endswith('_ptr') else 'fp32' if name in floats else 'i32' for name in function.arg_names}
    sixteenths = re.compile(r'.*_ptr|cells|(map|target|gradient)_stride[01]')
    hints = {(i,): [['tt.divisibility', 16]] for i, name in enumerate(function.arg_names)
             if sixteenths.fullmatch(name) and name not in known}
    options = dict(num_warps=triton_emd.WARPS, **({'maxnreg': triton_emd.REGISTERS} if name == '_forward' else {}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('TRITON_CACHE_DIR', str(folder))
        kernel = triton.compile(ASTSource(function, types, known, hints), target=GPUTarget('cuda', capability, 32), options=options)
    cubin = folder / 'program.cubin'
    cubin.write_bytes(kernel.asm['cubin'])
    usage, code = (subprocess.run([tools.cuobjdump.path, flag, str(cubin)], text=True, capture_output=True, check=True).stdout
                   for flag in ('--dump-resource-usage', '--dump-sass'))
    registers, stack = map(int, re.search(r'REG:(\d+) STACK:(\d+)', usage).groups())
    return Program(registers, stack, triton_emd.WARPS,
                   {int(address, 16): text.strip() for address, text in re.findall(r'/\*([0-9a-f]{4,})\*/\s+([^;]*);', code)})


@needs_triton
@pytest.mark.parametrize('capability', [80, 90])
def test_budget(tmp_path, capability):
    """What a joint of 96 x 72 cells costs: no spills, four programs at a time, 25,000 instructions of a warp, forward and backward.

    Two steps of Sinkhorn and two of Newton; the target's mass lies within a cell of its peak, so that one walk reads it.
    """
    walk = -(-SIZE[0] * SIZE[1] // 1024)
    forward, backward = (compiled(name, capability, tmp_path) for name in ('_forward', '_backward'))
    for program in (forward, backward):
        assert program.spilled == 0 and program.registers <= 128 and program.programs_per_multiprocessor >= 4
    assert forward.instructions(walk, 0, 2, 2) + backward.instructions(walk) <= 25_000
    # 16 bytes at a time
    assert sum('LDG.E.128' in text for text in forward.code.values()) >= 4 and any('STG.E.128' in text for text in backward.code.values())


@needs_triton
@pytest.mark.slow
@pytest.mark.parametrize('variant', [
    dict(dense=False), dict(weighted=False), dict(dtype='bf16'), dict(dtype='fp16', dense=False), dict(flat=False)])
@pytest.mark.parametrize('capability', [75, 80, 90, 100, 120])
def test_other_variants(tmp_path, capability, variant):
    """Dots, half precision and the newest GPUs compile without spills too; strides that need a division may take a few."""
    for name in ('_forward', '_backward'):
        program = compiled(name, capability, tmp_path, **variant)
        assert program.programs_per_multiprocessor >= 4 and (program.spilled == 0 or not variant.get('flat', True))


@needs_triton
def test_a_batch_size_is_no_argument(monkeypatch):
    """So the last batch of an epoch, of any number of joints, compiles nothing: Triton looks whether an argument is 1 or divides by 16."""
    from hdm_mmpose.transport import triton_emd

    class Recorder:
        def __getitem__(self, _):
            return lambda *arguments, **more: seen.append([*(each for each in arguments if not torch.is_tensor(each)), more])

    seen: list = []
    monkeypatch.setattr(triton_emd, '_forward', Recorder())
    monkeypatch.setattr(triton_emd, '_backward', Recorder())
    for batch in (1, 7, 16):
        maps, weights = torch.zeros(batch, 5, 6, 4), torch.ones(batch, 5)
        *_, saved = triton_emd.forward(maps, maps, weights, EMDOptions())
        triton_emd.backward(maps, maps, saved, weights, EMDOptions())
    assert len(seen) == 6 and seen[:2] == seen[2:4] == seen[4:]


# --------------------------------------------------------------------------------------------------------------- on a GPU
def inputs_of(dense: bool = False, dtype: torch.dtype = torch.float32, size: tuple[int, int] = (41, 37)):
    """A map that asks for a gradient, a target, and weights one of which is 0; B, K, H, W all different, on the GPU."""
    maps = torch.randn(2, 3, *size, device='cuda', dtype=dtype).requires_grad_()
    target = torch.rand((2, 3, *size) if dense else (2, 3, 2), device='cuda') * 36
    return maps, target, torch.tensor([[1.0, 0.0, 1.0], [0.5, 1.0, 1.0]], device='cuda')


def value_and_gradient(loss, maps, target, weights):
    value = loss(maps, target, weights)
    gradient, = torch.autograd.grad(value, maps)
    return value.detach(), gradient


@needs_gpu
@pytest.mark.parametrize('dense', [False, True])
@pytest.mark.parametrize('backend', ['auto', 'triton'])
def test_host_is_never_made_to_wait(dense, backend):
    loss, inputs = DotLoss(backend=backend), inputs_of(dense)
    value_and_gradient(loss, *inputs)  # compiles, and proves
    torch.cuda.set_sync_debug_mode('error')
    try:
        value_and_gradient(loss, *inputs)
    finally:
        torch.cuda.set_sync_debug_mode('default')


@needs_gpu
def test_cuda_graph():
    loss, (maps, target, weights) = DotLoss(), inputs_of()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        value_and_gradient(loss, maps, target, weights)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = value_and_gradient(loss, maps, target, weights)
    with torch.no_grad():
        maps.add_(torch.randn_like(maps))
        target.mul_(0.5)
    graph.replay()
    torch.testing.assert_close(captured, value_and_gradient(loss, maps, target, weights))


@needs_gpu
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_autocast(dtype):
    """Maps come in half precision; the result is float32's of the same numbers, its gradient rounded once."""
    loss, (maps, target, weights) = DotLoss(backend='triton'), inputs_of(dtype=dtype)
    with torch.autocast('cuda', dtype=dtype):
        value, gradient = value_and_gradient(loss, maps, target, weights)
    wide = value_and_gradient(loss, maps.detach().float().requires_grad_(), target, weights)
    assert value.dtype == torch.float32 and gradient.dtype == dtype
    torch.testing.assert_close(value, wide[0])
    torch.testing.assert_close(gradient, wide[1].to(dtype))


@needs_gpu
@pytest.mark.parametrize('dense', [False, True])
def test_torch_compile_on_a_gpu(dense):
    torch.compiler.reset()
    loss, inputs = DotLoss(), inputs_of(dense)
    torch.testing.assert_close(value_and_gradient(torch.compile(loss, fullgraph=True), *inputs), value_and_gradient(loss, *inputs))
