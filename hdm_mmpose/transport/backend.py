"""Who computes the loss round the dot: PyTorch, everywhere, or the Triton kernel, on NVIDIA GPUs where it has proved right."""

from __future__ import annotations

import functools
from types import ModuleType

import torch
import torch.distributed as dist
from torch import Tensor

from hdm_mmpose import checks
from hdm_mmpose.features import triton_obstacle

from . import local
from .options import EMDOptions

OLDEST_GPU = (7, 5)
SAVED = 10  # numbers per joint that the kernel keeps for its backward pass


def kernel_for(maps: Tensor, target: Tensor, options: EMDOptions) -> ModuleType | None:
    """The kernel's module if it is to take these maps (B, K, H, W) and their target, None if PyTorch is.

    ``'auto'`` takes the kernel on a GPU where it computes what is asked for and has solved a small problem as PyTorch does: tried
    once per process, GPU, dtype of the maps and kind of target, by all ranks of a distributed run, which take the same way.

    Raises:
        RuntimeError: ``'triton'`` was asked for by name, and cannot be had; the message says what would help.
    """
    if options.backend == 'torch' or (options.backend == 'auto' and maps.device.type != 'cuda'):
        return None
    module, reason = _import()
    if module is not None:
        reason = module.obstacle(maps, target, options)
    if module is not None and reason is None:
        look = _unproven if options.backend == 'auto' else _gpu_obstacle
        reason = look(module, maps.device, maps.dtype, target.dim() == 4)
    if reason is None:
        return module
    if options.backend == 'triton':
        raise RuntimeError(f"backend='triton' is not possible here: {reason}; backend='auto' falls back to PyTorch")
    checks.warn_once('kernel', f"PyTorch computes the EMD loss in place of the faster Triton kernel, with the same results: {reason}. "
                               f"backend='torch' avoids this message.", stacklevel=2)
    return None


@functools.lru_cache(maxsize=None)
def _import() -> tuple[ModuleType | None, str | None]:
    obstacle = triton_obstacle()
    if obstacle is not None:
        return None, obstacle
    from . import triton_emd

    return triton_emd, None


@functools.lru_cache(maxsize=None)
def _gpu_obstacle(module: ModuleType, device: torch.device, *_) -> str | None:
    if module.INTERPRETED:
        return None
    if device.type != 'cuda':
        return (f'heatmaps must be on a CUDA device, got {device}: move them there, or set TRITON_INTERPRET=1 before Triton is '
                f'imported to try the kernel on the CPU, slowly')
    if torch.version.hip is not None:
        return 'the kernel was never run on AMD GPUs'
    capability = torch.cuda.get_device_capability(device)
    if capability < OLDEST_GPU:
        return f'the GPU must have compute capability {OLDEST_GPU} or newer, got {capability}'
    return None


_verdicts: dict[tuple, str | None] = {}


def _unproven(module: ModuleType, device: torch.device, dtype: torch.dtype, dense: bool) -> str | None:
    """Why the kernel is not trusted, or None; all ranks of a distributed run ask this together the first time."""
    variant = (device, dtype, dense)
    if variant not in _verdicts:
        if torch.cuda.is_current_stream_capturing():
            return 'it must be tried once before a CUDA graph is captured: take a step before'
        try:
            reason = _gpu_obstacle(module, device) or disagreement(module, *variant)
        except Exception as error:  # a compiler is missing, say: training need not stop
            reason = f'it could not be started ({type(error).__name__}: {error})'
        agreed = _on_all_ranks(reason is None, device)
        _verdicts[variant] = None if agreed else reason or 'it failed on another rank of this run'
    return _verdicts[variant]


def disagreement(module: ModuleType, device: torch.device, dtype: torch.dtype, dense: bool) -> str | None:
    """In what the kernel differs from PyTorch on a small problem, or None; some seconds where it has to be compiled."""
    options, (height, width) = EMDOptions(backend='torch'), (48, 40)
    cells = torch.arange(3 * height * width, dtype=torch.float32, device=device)
    maps = (0.2 * (0.01 * cells * cells).sin()).to(dtype).view(1, 3, height, width)
    target = torch.tensor([[[11.3, 30.8], [3.0, 5.0], [39.2, 0.6]]], device=device)
    if dense:  # bilinear dots, the last of them spread
        x, y = ((torch.arange(size, device=device) - target[0, :, axis, None]).abs() for axis, size in enumerate((width, height)))
        target = ((1 - y).clamp(min=0)[:, :, None] * (1 - x).clamp(min=0)[:, None])[None]
        target[0, 2] = (-0.1 * (y[2, :, None] ** 2 + x[2] ** 2)).exp()
    weights, grad = torch.tensor([[1.0, 0.0, 0.5], [1.0, 1.0, -3.0]], device=device)[:, None]
    loss, _, _, dots, valid, saved = module.forward(maps, target, weights, options)
    gradient = module.backward(maps, target, saved, grad, options)
    wanted, _, _, wanted_dots, wanted_valid, slope = local.forward(maps, target, weights, options)
    slope = slope * grad[..., None, None]
    for name, ours, theirs, tolerance in (
        ('choice of joints', valid, wanted_valid, 0), ('reading of dots', dots, wanted_dots, 1e-5), ('loss', loss, wanted, 1e-5),
        ('gradient', gradient, slope, max(1e-5, torch.finfo(dtype).eps)),
    ):
        error = float((ours.double() - theirs.double()).abs().max() / theirs.double().abs().max())
        if not error <= tolerance:
            return f'on {device} its {name} differs from that of PyTorch by {error:.0e} of its largest entry'
    return None


def _on_all_ranks(good: bool, device: torch.device) -> bool:
    if not (dist.is_available() and dist.is_initialized()):
        return good
    flag = torch.tensor([int(good)], device=device if 'nccl' in dist.get_backend() else 'cpu')
    dist.all_reduce(flag, dist.ReduceOp.MIN)
    return bool(flag.item())
