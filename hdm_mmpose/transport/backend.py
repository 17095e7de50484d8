"""Who computes the loss: PyTorch operations, everywhere, or the Triton kernel, on NVIDIA GPUs."""

from __future__ import annotations

from types import ModuleType

from torch import Tensor

from .options import EMDOptions

SAVED = 16  # numbers per joint that the kernel keeps for the backward pass


def kernel_for(maps: Tensor, target: Tensor, options: EMDOptions) -> ModuleType | None:
    """The kernel's module if it is to take these maps, None if PyTorch is."""
    if options.backend == 'triton':
        raise RuntimeError("backend='triton' is not possible here: the kernel is being rewritten; backend='auto' uses PyTorch")
    return None
