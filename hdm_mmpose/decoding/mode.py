r"""From a distribution to a dot by the place that most of it is near: the mode after a blur.

The best square of four cells (``square``, the paper's rule) is the right reading of a network that is sure.  Where a
network is not, its mass lies in ridges and several heaps, and the sharpest square may stand far from where most of the mass
is.  The place with the least expected cost under a ground distance that saturates,

    y* = argmin_y sum_n S_n (1 - exp(-|x_n - y|^2 / (2 blur^2))) = argmax_y (S * Gaussian)(y),

is what such a distribution says: it is the dot at the least transport cost from ``S``, every unit of mass being charged 1 at
most.  Object keypoint similarity, by which COCO's AP judges, is a Gaussian of the distance too (its width depends on joint and
person, ours does not), so the value there is like the similarity to be expected and ranks detections.  It is taken at the best
cell, not at the dot: of a map that is one dot it lies between .88 and 1, by where between the cells the dot is.

The blurred map is evaluated at cells.  From the best one the dot is found as the centroid of a window that moves with it
(mean shift), flat over the cells that a dot's four masses can lie in; so the masses of a dot give the dot back exactly.
"""

from __future__ import annotations

import torch
from torch import Tensor

FLAT, TAPER = 1.5, 1.0  # the window, in cells from the dot: weight 1 up to FLAT on either axis, 0 from FLAT + TAPER on
REACH = 1.5  # how far, in cells on either axis, the dot may move away from the best cell
STEPS = 10
RADIUS = int(REACH + FLAT + TAPER)  # cells the window can come to see
BAND = 12  # rows the search blurs
SLACK = 1e-5  # how far rounding may carry its bound, in parts of it


def decode_blurred_mode(suppliers: Tensor, blur: float, search: bool = False) -> tuple[Tensor, Tensor]:
    """Dot near which most of the mass lies.

    Among equal cells the first in reading order counts.

    Args:
        suppliers: (..., H, W) non-negative masses that sum to 1.
        blur: standard deviation of the Gaussian in cells, positive.
        search: False for plain tensor operations without branches on values.  True gives the same, to rounding, with less work
            on maps (N, H, W) of one heap: for CPUs.

    Returns:
        dots (..., 2) in cells, x then y, and share (...) in [0, 1]: the blurred mass at the best cell, where mass on the
        cell itself counts fully and mass at a distance ``d`` counts ``exp(-d^2 / (2 blur^2))``.
    """
    with torch.autocast(suppliers.device.type, enabled=False):  # it would blur in half precision
        share, cell = (search_mode if search else blurred_maximum)(suppliers, blur)
    masses, best = window_at(suppliers, cell)
    return best + mean_shift(masses), share


def blurred_maximum(suppliers: Tensor, blur: float) -> tuple[Tensor, Tensor]:
    """Highest value (...) of the blurred maps (..., H, W), and the number of its cell in reading order."""
    height, width = suppliers.shape[-2:]
    blurred = _gaussian(height, blur, suppliers) @ suppliers @ _gaussian(width, blur, suppliers)
    share, cell = blurred.flatten(-2).max(-1)
    return share, cell


def search_mode(suppliers: Tensor, blur: float) -> tuple[Tensor, Tensor]:
    """As ``blurred_maximum`` of maps (N, H, W), blurring few rows of most maps.

    Blurring along x brings no more into a cell than its whole row holds.  So row r of the blurred map is nowhere above
    ``U_r``, the sums of the rows blurred along y.  A band of rows around the highest ``U_r`` is blurred; the whole map only
    where a row outside the band has a ``U_r`` that is not below the best cell found.
    """
    height, width = suppliers.shape[-2:]
    along_y, along_x = _gaussian(height, blur, suppliers), _gaussian(width, blur, suppliers)
    bounds = suppliers.sum(-1) @ along_y
    band = min(BAND, height)
    first = (bounds.argmax(-1) - band // 2).clamp(0, height - band)
    rows = first[:, None] + torch.arange(band)
    share, cell = (along_y[rows] @ suppliers @ along_x).flatten(-2).max(-1)
    cell = cell + first * width
    missed = ~(bounds.scatter(-1, rows, -1).amax(-1) * (1 + SLACK) < share)
    share[missed], cell[missed] = blurred_maximum(suppliers[missed], blur)
    return share, cell


def window_at(suppliers: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    """What the mean shift may come to see of maps (..., H, W) from the cell (...) of that number in reading order.

    Returns:
        masses (..., D, D) around the cell, 0 outside the map, and the cell's coordinates (..., 2), x then y.
    """
    height, width = suppliers.shape[-2:]
    row = torch.div(cell, width, rounding_mode='floor')
    column = cell - row * width
    offsets = torch.arange(-RADIUS, RADIUS + 1, device=suppliers.device)
    xs, ys = column[..., None] + offsets, row[..., None] + offsets
    inside = ((ys >= 0) & (ys < height))[..., :, None] & ((xs >= 0) & (xs < width))[..., None, :]
    cells = ys.clamp(0, height - 1)[..., :, None] * width + xs.clamp(0, width - 1)[..., None, :]
    masses = suppliers.flatten(-2).gather(-1, cells.flatten(-2)).view(cells.shape).masked_fill(~inside, 0)
    return masses, torch.stack([column, row], -1).to(suppliers.dtype)


def mean_shift(masses: Tensor) -> Tensor:
    """Centroid (..., 2), x then y, of a window that moves with it, relative to the middle of ``masses`` (..., D, D)."""
    offsets = torch.arange(-RADIUS, RADIUS + 1, dtype=masses.dtype, device=masses.device)
    dots = torch.zeros_like(masses[..., 0, :2])
    for _ in range(STEPS):
        weights = ((FLAT + TAPER - (offsets - dots[..., None]).abs()) / TAPER).clamp(0, 1)
        # products and sums, no matmul: on a GPU that may round to TF32
        weighted = masses * (weights[..., 1, :, None] * weights[..., 0, None, :])
        columns, rows = weighted.sum(-2), weighted.sum(-1)
        mass = columns.sum(-1, keepdim=True)
        moment = torch.stack([(columns * offsets).sum(-1), (rows * offsets).sum(-1)], -1)
        some = mass > 0
        dots = torch.where(some, moment / mass.masked_fill(~some, 1), dots).clamp(-REACH, REACH)
    return dots


def _gaussian(size: int, blur: float, like: Tensor) -> Tensor:
    """(size, size) ``exp(-(i - j)^2 / (2 blur^2))``."""
    cells = torch.arange(size, dtype=like.dtype, device=like.device)
    return torch.exp(-((cells[:, None] - cells) / blur) ** 2 / 2)
