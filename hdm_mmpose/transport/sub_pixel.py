r"""From a heatmap back to a dot: the best square of four cells, read as masses (paper Sec. 3.4).

Heatmap cells have their centres at integer coordinates; the square with its upper left cell at (x, y) holds ::

    a = S[y, x]      b = S[y, x+1]          dot = (x + (b + d) / m,  y + (c + d) / m),   m = a + b + c + d
    c = S[y+1, x]    d = S[y+1, x+1]

which is Eq. 4 backwards: four bilinear masses give back the dot they were made from, exactly.

Everything here is plain tensor code on the tensor's own device: no synchronisation, no branch on values, so it can be
traced, exported and captured.  ``sub_pixel_cpu`` computes the same with less work where branches cost nothing.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .blurred_mode import decode_blurred_mode
from .suppliers import SupplierRule

# Minus infinity means "no mass here"; the supplier rules want finite numbers.  Low enough to be no mass under any rule.
LOWEST = -1e30


class Reading(NamedTuple):
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


def decode_square(suppliers: Tensor) -> tuple[Tensor, Tensor]:
    """Centroid and mass of the 2 x 2 square that holds the most (Sec. 3.4).

    Among equal squares the first in reading order counts; where they differ by cells of mass 0 only, all of them have
    the same centroid.

    Args:
        suppliers: (..., H, W) non-negative masses, H and W at least 2.  They need not sum to 1.

    Returns:
        dots (..., 2) in cells, x then y; the middle of the square if it is empty or NaN.
        mass (...) of the square: the share of mass if ``suppliers`` sums to 1.
    """
    if suppliers.dim() < 2 or suppliers.shape[-2] < 2 or suppliers.shape[-1] < 2:
        raise ValueError(f'suppliers must have shape (..., H, W) with H and W at least 2, got {tuple(suppliers.shape)}')
    pairs = suppliers[..., :-1, :] + suppliers[..., 1:, :]
    squares = pairs[..., :-1] + pairs[..., 1:]
    cells, corner = pick_square(suppliers, squares.flatten(-2).argmax(-1))
    offset, mass = square_centroid(cells)
    return corner + offset, mass


def pick_square(cells: Tensor, best: Tensor) -> tuple[Tensor, Tensor]:
    """The four cells of one square of each map.

    Args:
        cells: (..., H, W).
        best: (...) number of the square in reading order, below (H - 1) * (W - 1).

    Returns:
        (..., 4) cells in reading order, and (..., 2) the upper left one's coordinates, x then y.
    """
    width = cells.shape[-1]
    y = torch.div(best, width - 1, rounding_mode='floor')
    x = best - y * (width - 1)
    first = y * width + x
    square = torch.stack([first, first + 1, first + width, first + width + 1], -1)
    return cells.flatten(-2).gather(-1, square), torch.stack([x, y], -1)


def square_centroid(masses: Tensor) -> tuple[Tensor, Tensor]:
    """Centroid (..., 2) relative to the upper left cell, and sum (...), of the four masses (..., 4) of a square."""
    mass = masses.sum(-1)
    right, below = masses[..., 1] + masses[..., 3], masses[..., 2] + masses[..., 3]
    # Dividing where there is mass only: 0 / 0 never happens, not even in the branch not taken.
    some = mass > 0
    safe = torch.where(some, mass, 1)
    return torch.where(some[..., None], torch.stack([right, below], -1) / safe[..., None], 0.5), mass


def read_heatmap(heatmap: Tensor, rule: SupplierRule, blur: float = 0) -> Reading:
    """Read raw heatmaps through the supplier rule that they were trained with.

    A map without a usable distribution (empty under the rule, or with a NaN or plus infinity in it) is read as the cell
    of its maximum, with share and peak 0.  Where there is a NaN, ``torch.argmax`` counts it as the maximum.

    Args:
        heatmap: (..., H, W) raw network output, any floating dtype; half precision is lifted to float32.
        rule: supplier rule of the loss.
        blur: 0 for the best square (Sec. 3.4); otherwise the standard deviation, in cells, of ``decode_blurred_mode``.
    """
    heatmap = lift(heatmap)
    suppliers = rule.masses(heatmap.clamp(min=LOWEST))
    return accept(heatmap, rule, *(decode_blurred_mode(suppliers, blur) if blur else decode_square(suppliers)))


def accept(heatmap: Tensor, rule: SupplierRule, dots: Tensor, share: Tensor) -> Reading:
    """What was decoded from raw maps (..., H, W), or the cell of the maximum for those without a usable distribution."""
    peak, cell = heatmap.flatten(-2).max(-1)
    usable = torch.isfinite(peak) & torch.isfinite(share) & ~rule.is_empty(heatmap)
    y = torch.div(cell, heatmap.shape[-1], rounding_mode='floor')
    x = cell - y * heatmap.shape[-1]
    return Reading(
        dots=torch.where(usable[..., None], dots, torch.stack([x, y], -1).to(dots.dtype)),
        share=torch.where(usable, share.clamp(max=1), 0),
        peak=torch.where(usable, peak, 0))


def lift(heatmap: Tensor) -> Tensor:
    """The map in a dtype to compute in: float32 or float64."""
    return heatmap if heatmap.dtype in (torch.float32, torch.float64) else heatmap.float()
