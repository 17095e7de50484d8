"""Who computes ``emd``: PyTorch operations, everywhere, or the Triton kernel, on NVIDIA GPUs."""

from __future__ import annotations

import functools
import warnings
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from hdm_mmpose.features import triton_obstacle

SAVED = 16  # numbers per joint that the kernel keeps for the backward pass
BACKENDS = ('auto', 'torch', 'triton')
OLDEST_GPU = (7, 5)
# Compute capabilities on which tests/transport/test_triton_emd.py has passed on the hardware. Until one is listed the kernel is
# known from the interpreter and the compiler only, and 'auto' stays with PyTorch there; 'triton' by name is always possible.
TESTED_GPUS: tuple[tuple[int, int], ...] = ()


def check_backend(backend: str) -> None:
    """Raises ValueError for an unknown name."""
    if backend not in BACKENDS:
        raise ValueError(f'backend must be one of {BACKENDS}, got {backend!r}')


def kernel_for(maps: Tensor, target: Tensor, options: Any) -> ModuleType | None:
    """The kernel's module if it is to take these maps, None if PyTorch is."""
    if options.backend == 'triton':
        raise RuntimeError("backend='triton' is not possible here: the kernel is being rewritten; backend='auto' uses PyTorch")
    return None


def give_up(error: Exception) -> None:
    """From now on ``'auto'`` means PyTorch in this process; says so once."""
    warnings.warn(
        f'The Triton kernel of the EMD loss could not be started, PyTorch takes over (slower, same results): '
        f"{type(error).__name__}: {error}. backend='torch' avoids this message.",
        stacklevel=3,
    )
    _import.cache_clear()
    _failed.append(str(error))


_failed: list[str] = []


@functools.lru_cache(maxsize=None)
def _import() -> tuple[ModuleType | None, str | None]:
    if _failed:
        return None, f'the kernel failed to start before ({_failed[0]})'
    obstacle = triton_obstacle()
    if obstacle is not None:
        return None, obstacle
    from . import triton_emd

    return triton_emd, None


@functools.lru_cache(maxsize=None)
def _tested(device: torch.device) -> bool:
    return device.type == 'cuda' and torch.cuda.get_device_capability(device) in TESTED_GPUS


@functools.lru_cache(maxsize=None)
def _gpu_obstacle(device: torch.device) -> str | None:
    if device.type != 'cuda':
        return (f'heatmaps must be on a CUDA device, got {device}: move them there, or set TRITON_INTERPRET=1 before Triton is '
                f'imported to try the kernel on the CPU, slowly')
    if torch.version.hip is not None:
        return 'the kernel was never run on AMD GPUs'
    capability = torch.cuda.get_device_capability(device)
    if capability < OLDEST_GPU:
        return f'the GPU must have compute capability {OLDEST_GPU} or newer, got {capability}'
    return None
