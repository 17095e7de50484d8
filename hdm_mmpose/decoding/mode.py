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

from typing import NamedTuple

import torch
from torch import Tensor

FLAT, TAPER = 1.5, 1.0  # the window, in cells from the dot: weight 1 up to FLAT on either axis, 0 from FLAT + TAPER on
REACH = 1.5  # how far, in cells on either axis, the dot may move away from the best cell
STEPS = 10
RADIUS = int(REACH + FLAT + TAPER)  # cells the window can come to see


class Window(NamedTuple):
    """The best cell of the blurred map and what lies around it, D cells a side.

    Attributes:
        best: (..., 2) its column and row.
        share: (...) blurred mass there.
        masses: (..., D, D) of the cells around it, not blurred; 0 outside the map.
        xs, ys: (..., D) their columns and rows.
    """

    best: Tensor
    share: Tensor
    masses: Tensor
    xs: Tensor
    ys: Tensor


def decode_blurred_mode(suppliers: Tensor, blur: float) -> tuple[Tensor, Tensor]:
    """Dot near which most of the mass lies.

    Plain tensor operations without branches on values.  Among equal cells the first in reading order counts.

    Args:
        suppliers: (..., H, W) non-negative masses that sum to 1.
        blur: standard deviation of the Gaussian in cells, positive.

    Returns:
        dots (..., 2) in cells, x then y, and share (...) in [0, 1]: the blurred mass at the best cell, where mass on the
        cell itself counts fully and mass at a distance ``d`` counts ``exp(-d^2 / (2 blur^2))``.
    """
    found = window_at_mode(suppliers, blur)
    return mean_shift(found), found.share


def window_at_mode(suppliers: Tensor, blur: float) -> Window:
    """The part of ``decode_blurred_mode`` that looks at whole maps (..., H, W)."""
    height, width = suppliers.shape[-2:]
    # autocast would blur in half precision
    with torch.autocast(suppliers.device.type, enabled=False):
        blurred = _gaussian(height, blur, suppliers) @ suppliers @ _gaussian(width, blur, suppliers)
    share, cell = blurred.flatten(-2).max(-1)
    row = torch.div(cell, width, rounding_mode='floor')
    column = cell - row * width
    offsets = torch.arange(-RADIUS, RADIUS + 1, device=suppliers.device)
    xs, ys = column[..., None] + offsets, row[..., None] + offsets
    inside = ((ys >= 0) & (ys < height))[..., :, None] & ((xs >= 0) & (xs < width))[..., None, :]
    cells = ys.clamp(0, height - 1)[..., :, None] * width + xs.clamp(0, width - 1)[..., None, :]
    masses = torch.where(inside, suppliers.flatten(-2).gather(-1, cells.flatten(-2)).view(cells.shape), 0)
    best = torch.stack([column, row], -1)
    return Window(best.to(suppliers.dtype), share, masses, xs.to(suppliers.dtype), ys.to(suppliers.dtype))


def mean_shift(found: Window) -> Tensor:
    """Dots (..., 2): the mean shift from the best cell."""
    best, _, masses, xs, ys = found
    dots = best
    for _ in range(STEPS):
        weighted = masses * _weight(ys - dots[..., 1:])[..., :, None] * _weight(xs - dots[..., :1])[..., None, :]
        mass = weighted.sum((-2, -1))
        moment = torch.stack([(weighted.sum(-2) * xs).sum(-1), (weighted.sum(-1) * ys).sum(-1)], -1)
        some = mass[..., None] > 0
        centroid = torch.where(some, moment / torch.where(some, mass[..., None], 1), dots)
        dots = torch.minimum(torch.maximum(centroid, best - REACH), best + REACH)
    return dots


def _gaussian(size: int, blur: float, like: Tensor) -> Tensor:
    """(size, size) ``exp(-(i - j)^2 / (2 blur^2))``."""
    cells = torch.arange(size, dtype=like.dtype, device=like.device)
    return torch.exp(-((cells[:, None] - cells) / blur) ** 2 / 2)


def _weight(offset: Tensor) -> Tensor:
    """Weight of cells at an offset from the dot, along one axis."""
    return ((FLAT + TAPER - offset.abs()) / TAPER).clamp(0, 1)
