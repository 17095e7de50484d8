r"""The best square of four cells, read as masses (paper Sec. 3.4).

Heatmap cells have their centres at integer coordinates; the square with its upper left cell at (x, y) holds ::

    a = S[y, x]      b = S[y, x+1]          dot = (x + (b + d) / m,  y + (c + d) / m),   m = a + b + c + d
    c = S[y+1, x]    d = S[y+1, x+1]

which is Eq. 4 backwards: four bilinear masses give back the dot they were made from, exactly.
"""

from __future__ import annotations

import torch
from torch import Tensor


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
    safe = mass.masked_fill(~some, 1)
    return (torch.stack([right, below], -1) / safe[..., None]).masked_fill(~some[..., None], 0.5), mass
