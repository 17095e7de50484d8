"""``decoding.read_heatmap`` for CPUs: the same numbers from compiled code, several times faster.

``sub_pixel_cpu.cpp`` is compiled when the package is installed, if the machine has a C++ compiler with OpenMP.  Where it was not, or
the processor is an x86 without AVX2, and for what it does not know (float64, wide blurs, other rules), ``read_heatmap`` does the work.
Maps on which float32 overflows in one of the two (cells around 1e38) may be read by the other.
"""

from __future__ import annotations

import os
import warnings

import torch
from torch import Tensor

from hdm_mmpose.decoding.mode import FLAT, REACH, STEPS, TAPER
from hdm_mmpose.decoding.read import Reading, lift, read_heatmap

from .suppliers import Relu, ReluSurrogate, Softmax, Softplus, SupplierRule

INTERFACE = 1  # of sub_pixel_cpu.cpp
try:
    from . import _sub_pixel_cpu
except ImportError:
    COMPILED = False
else:
    COMPILED = getattr(_sub_pixel_cpu, 'INTERFACE', None) == INTERFACE
    if not COMPILED:
        warnings.warn('the compiled decoder is of another version of hdm_mmpose and not used: install the package again', stacklevel=2)

RULES: dict[type[SupplierRule], int] = {Relu: 0, ReluSurrogate: 0, Softplus: 1, Softmax: 2}  # numbers as in sub_pixel_cpu.cpp
NARROWEST, WIDEST = 1e-3, 16.  # blurs, in cells; beyond, tensor operations are as fast
MAPS_PER_THREAD = 16  # below, waking a thread takes longer than it saves
PROCESS = os.getpid()  # after a fork OpenMP's threads are gone, and waiting for them would never end


def read_heatmap_cpu(heatmap: Tensor, rule: SupplierRule, blur: float = 0) -> Reading:
    """As ``read_heatmap``, for tensors on the CPU; neither traceable nor differentiable.

    Args:
        heatmap: (..., H, W), H and W at least 2.
        rule: supplier rule of the loss; one that the compiled code does not know is read by ``read_heatmap``.
        blur: as for ``read_heatmap``.
    """
    heatmap = heatmap.detach()
    maps = lift(heatmap).reshape(-1, *heatmap.shape[-2:]).contiguous()
    height, width = maps.shape[-2:]
    if not (COMPILED and type(rule) in RULES and (blur == 0 or NARROWEST <= blur <= WIDEST) and min(height, width) >= 2
            and _in_memory(maps)):
        return read_heatmap(heatmap, rule, blur)
    found = torch.empty(len(maps), 5, dtype=torch.float32, device='cpu')
    threads = max(1, min(torch.get_num_threads() if os.getpid() == PROCESS else 1, len(maps) // MAPS_PER_THREAD))
    _sub_pixel_cpu.read_heatmaps(
        maps.data_ptr(), found.data_ptr(), len(maps), height, width, threads, RULES[type(rule)], getattr(rule, 'sharpness', 1.),
        blur, FLAT, TAPER, REACH, STEPS)
    reading = Reading(dots=found[:, :2], share=found[:, 2], peak=found[:, 3])
    odd = found[:, 4] == 0
    if odd.any():
        for values, slow in zip(reading, read_heatmap(maps[odd], rule, blur)):
            values[odd] = slow
    return Reading(*(values.reshape(heatmap.shape[:-2] + values.shape[1:]) for values in reading))


def _in_memory(maps: Tensor) -> bool:
    """Are these float32 numbers that stand at ``maps.data_ptr()`` as they are?  Not those of fake, meta or lazily negated tensors."""
    return (type(maps) is Tensor and maps.device.type == 'cpu' and maps.dtype == torch.float32 and maps.numel() > 0
            and not maps.is_neg() and not maps._is_zerotensor())
