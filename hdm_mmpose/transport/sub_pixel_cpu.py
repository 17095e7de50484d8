"""``sub_pixel.read_heatmap`` for CPUs: the same numbers from compiled code, several times faster.

``sub_pixel_cpu.cpp`` is compiled when the package is installed, if the machine has a C++ compiler; without one, and for maps in
float64, ``read_heatmap`` does the work.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .blurred_mode import FLAT, REACH, STEPS, TAPER
from .sub_pixel import Reading, lift, read_heatmap
from .suppliers import Relu, ReluSurrogate, Softmax, Softplus, SupplierRule

try:
    from . import _sub_pixel_cpu
except ImportError:
    COMPILED = False
else:
    COMPILED = True

RULES: dict[type[SupplierRule], int] = {Relu: 0, ReluSurrogate: 0, Softplus: 1, Softmax: 2}  # numbers as in sub_pixel_cpu.cpp
MAPS_PER_THREAD = 16  # below, waking a thread takes longer than it saves


def read_heatmap_cpu(heatmap: Tensor, rule: SupplierRule, blur: float = 0) -> Reading:
    """As ``read_heatmap``, for tensors on the CPU; neither traceable nor differentiable.

    Args:
        heatmap: (..., H, W), H and W at least 2.
        rule: supplier rule of the loss; one that the compiled code does not know is read by ``read_heatmap``.
        blur: as for ``read_heatmap``.
    """
    maps = lift(heatmap.detach()).reshape(-1, *heatmap.shape[-2:]).contiguous()
    height, width = maps.shape[-2:]
    if not COMPILED or type(rule) not in RULES or maps.dtype != torch.float32 or not maps.numel() or min(height, width) < 2:
        return read_heatmap(heatmap, rule, blur)
    found = torch.empty(len(maps), 5)
    threads = max(1, min(torch.get_num_threads(), len(maps) // MAPS_PER_THREAD))
    _sub_pixel_cpu.read_heatmaps(
        maps.data_ptr(), found.data_ptr(), len(maps), height, width, threads, RULES[type(rule)], getattr(rule, 'sharpness', 1.),
        blur, FLAT, TAPER, REACH, STEPS)
    reading = Reading(dots=found[:, :2], share=found[:, 2], peak=found[:, 3])
    odd = found[:, 4] == 0
    if odd.any():
        for values, slow in zip(reading, read_heatmap(maps[odd], rule, blur), strict=True):
            values[odd] = slow
    return Reading(*(values.reshape(heatmap.shape[:-2] + values.shape[1:]) for values in reading))
