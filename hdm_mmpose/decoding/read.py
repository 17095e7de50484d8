"""Raw heatmaps, read as dots through the supplier rule that they were trained with: the one reader of decoder, hooks and export."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from hdm_mmpose.transport.suppliers import SupplierRule, compute_dtype

from .mode import decode_blurred_mode
from .square import decode_square

# Minus infinity means "no mass here"; the supplier rules want finite numbers.  Low enough to be no mass under any rule.
LOWEST = -1e30
CELLS_AT_ONCE = 2**20  # on a CPU: 4 MB in float32, which stay in its cache from one operation to the next


class DecodedJoints(NamedTuple):
    """What a heatmap says about its joint; finite whatever the map holds.

    Attributes:
        dots: (..., 2) in heatmap cells, x then y.
        share: (...) share of the map's mass inside the best square, or around the blurred mode, in [0, 1]; 0 for a map
            without a usable distribution.
        peak: (...) maximum of the raw map; 0 for a map without a usable distribution.
    """

    dots: Tensor
    share: Tensor
    peak: Tensor


def read_heatmap(heatmap: Tensor, rule: SupplierRule, blur: float = 0, traceable: bool = False) -> DecodedJoints:
    """Read raw heatmaps through the supplier rule that they were trained with.

    A map without a usable distribution (empty under the rule, or with a NaN or plus infinity in it) is read as the cell
    of its maximum, with share and peak 0.  Where there is a NaN, ``torch.argmax`` counts it as the maximum.

    Args:
        heatmap: (..., H, W) raw network output, any floating dtype; half precision is lifted to float32.
        rule: supplier rule of the loss.
        blur: 0 for the best square (Sec. 3.4); otherwise the standard deviation, in cells, of ``decode_blurred_mode``.
        traceable: True for plain tensor operations without branches on values, which can be traced, exported and captured.
            Other devices than the CPU are always read so, and do not synchronise.  False saves a CPU half of the time.
    """
    heatmap = heatmap.to(compute_dtype(heatmap))
    if traceable or heatmap.device.type != 'cpu':
        return _read(heatmap, rule, blur, search=False)
    height, width = heatmap.shape[-2:]
    parts = heatmap.reshape(-1, height, width).split(max(1, CELLS_AT_ONCE // (height * width)))
    together = map(torch.cat, zip(*(_read(part, rule, blur, search=True) for part in parts)))
    return DecodedJoints(*(values.view(heatmap.shape[:-2] + values.shape[1:]) for values in together))


def _read(heatmap: Tensor, rule: SupplierRule, blur: float, search: bool) -> DecodedJoints:
    suppliers = rule.masses(heatmap.clamp(min=LOWEST))
    decoded = decode_blurred_mode(suppliers, blur, search) if blur else decode_square(suppliers)
    return fallback_to_argmax(heatmap, rule, *decoded)


def fallback_to_argmax(heatmap: Tensor, rule: SupplierRule, dots: Tensor, share: Tensor) -> DecodedJoints:
    """What was decoded from raw maps (..., H, W), or the cell of the maximum for those without a usable distribution."""
    peak, cell = heatmap.flatten(-2).max(-1)
    usable = torch.isfinite(peak) & torch.isfinite(share) & ~rule.is_empty(heatmap)
    y = torch.div(cell, heatmap.shape[-1], rounding_mode='floor')
    x = cell - y * heatmap.shape[-1]
    return DecodedJoints(
        dots=torch.where(usable[..., None], dots, torch.stack([x, y], -1).to(dots.dtype)),
        # not where(usable, ..., 0): the ONNX exporter of torch 1 gives a bare number a type of its own
        share=share.clamp(max=1).masked_fill(~usable, 0),
        peak=peak.masked_fill(~usable, 0))
