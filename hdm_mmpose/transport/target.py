r"""What a joint's target says: where its dot is, and whether it takes part.

Targets are dots (B, K, 2) in heatmap cells, x then y, or dense maps (B, K, H, W).  A dense target is a Gaussian, which the
border may cut, or a map whose mass lies within a cell of its maximum, like the bilinear dot map and the naive one-hot map.
A map without a positive cell is no annotation.  Anything else, the map of another network above all, should be decoded first
and handed over as dots (docs/swap.md).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from hdm_mmpose import checks

from .demanders import clamp, nearest_cell
from .options import EMDOptions
from .suppliers import EMPTY, compute_dtype


class Annotation(NamedTuple):
    """Per joint.

    Attributes:
        dots: (J, 2) in cells, x then y, between the outermost centres; (0, 0) where the joint takes no part, NaN where its target
            has negative cells only, which is no way to say so.
        valid: (J,) bool, whether it takes part: its target is not empty and its weight is positive.
        weight: (J,), 0 where it takes no part.
    """

    dots: Tensor
    valid: Tensor
    weight: Tensor


def annotate(target: Tensor, weights: Tensor | None, options: EMDOptions, dtype: torch.dtype, size: tuple[int, int]) -> Annotation:
    """Read targets (B, K, H, W) or (B, K, 2) and weights (B, K) in the dtype of the computation.

    On the CPU values are looked at.  On other devices, where that would stall, a weight that is negative or NaN counts as 0, and
    ``TransportMonitorHook`` says when it logs what would have been said here.

    Raises:
        ValueError: a weight that is negative or NaN, or NaN or infinity in the target of a joint that takes part.
    """
    look = may_look(target)
    weight = torch.ones(target.shape[:2], dtype=dtype, device=target.device) if weights is None else weights.to(dtype)
    if look and weights is not None and not (weight >= 0).all():
        raise ValueError(f'target_weights must not be negative or NaN, got {weight[~(weight >= 0)][:5].tolist()} among them')
    asked = weight > 0
    if target.dim() == 4:
        dots, peak, guessed = read_target(target.to(dtype))
        valid, negative = asked & ~(peak <= EMPTY), asked & (peak < 0)
        if look:
            _warn(negative, guessed & valid)
    else:
        dots, valid, negative = target.to(dtype), asked, None
    if look and not dots[valid].isfinite().all():
        raise ValueError('target must be finite for every joint of positive weight, got NaN or infinity')
    dots = torch.where(dots.isfinite(), dots, torch.nan)
    dots = clamp(dots if options.subpixel else nearest_cell(dots), size)
    dots = torch.where(valid[..., None], dots, 0.0)
    if negative is not None:
        dots = dots.masked_fill(negative[..., None], torch.nan)
    return Annotation(dots.flatten(0, 1), valid.flatten(), torch.where(valid, weight, 0.0).flatten())


def may_look(values: Tensor) -> bool:
    """Whether a look at the values costs nothing: on a GPU the host would wait for it."""
    return values.device.type == 'cpu'


def judge(target: Tensor) -> None:
    """Warn once about dense targets (B, K, H, W) that are none, of joints that are not said to have no weight."""
    _, peak, guessed = read_target(target.to(compute_dtype(target)))
    _warn(peak < 0, guessed & ~(peak <= EMPTY))


def _warn(negative: Tensor, guessed: Tensor) -> None:
    if negative.any():
        checks.warn_once('negative targets', (
            f'{int(negative.sum())} dense targets have negative cells only and count as not annotated. A joint that is not '
            f'annotated has a target of zeros; the map of a network must be decoded, and handed over as (B, K, 2) dots.'))
    if guessed.any():
        checks.warn_once('guessed targets', (
            f'{int(guessed.sum())} dense targets are neither Gaussians nor within a cell of their maximum: their dots are taken '
            f'to be their centres of mass. Hand over (B, K, 2) dots instead; the map of a network must be decoded first.'))


def centroid(target: Tensor) -> Tensor:
    """The centre of mass of the positive part of a dense target (..., H, W).

    Returns:
        (..., 2) in heatmap cells, x then y; (inf, inf) for a target without mass.
    """
    centre = _centre_of_mass(target, target.new_zeros(*target.shape[:-2], 2))
    return centre.masked_fill((target.amax((-2, -1)) <= 0)[..., None], torch.inf)


def read_target(target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The dot that a dense target stands for.

    A dense target is a Gaussian, cut off by the border or not, or a map whose mass lies within a cell of its maximum, like the
    bilinear dot map and the naive one-hot map.  Per axis, three cells ``t`` in a row round the maximum (moved inside where it
    lies on the border) are looked at.  If they are positive and ``q = 2 log t_0 - log t_-1 - log t_1 > 0``, a Gaussian passes
    through them with its centre at ``(log t_1 - log t_-1) / (2 q)`` from the middle one: exact also where the border cuts it,
    where the centre of mass lies too far inside (by a whole cell for a dot half a cell from the border and sigma = 2).  What
    lies elsewhere, the floor of a network's map, say, does not matter.  Otherwise it is the centre of mass of all positive cells.

    What remains: rounding, about 1e-6 cells in float32 and a hundredth in bfloat16 (sigma = 2); a flat maximum, like that of
    several Gaussians of equal height, is read by its centre of mass.

    Args:
        target: (..., H, W), float32 or float64.

    Returns:
        (..., 2) dots in cells, x then y, not clamped; NaN where the target holds NaN or infinity, without meaning where no cell
        is positive. (...) the largest entry. (...) bool, whether it is neither a Gaussian nor compact, and the dot a guess.
    """
    size = target.shape[-2:]
    rows = target.amax(-1)
    peak, row = rows.max(-1)  # the first of equal ones
    across = target.gather(-2, row[..., None, None].expand(*row.shape, 1, size[1])).squeeze(-2)
    column = across.argmax(-1)
    down = target.gather(-1, column[..., None, None].expand(*column.shape, size[0], 1)).squeeze(-1)
    x, x_gaussian = _gaussian_centre(across, column)
    y, y_gaussian = _gaussian_centre(down, row)
    dots, found, place = torch.stack([x, y], -1), torch.stack([x_gaussian, y_gaussian], -1), torch.stack([column, row], -1)
    other = ~found.all(-1)
    if not may_look(target):
        mean = _centre_of_mass(target, place)
    elif other.any():  # spares Gaussian targets the passes over the map
        mean = torch.zeros_like(dots)
        mean[other] = _centre_of_mass(target[other], place[other])
    else:
        return dots, peak, other
    return torch.where(found, dots, mean), peak, (~found & ((mean - place).abs() > 1)).any(-1)


def _gaussian_centre(line: Tensor, peak: Tensor) -> tuple[Tensor, Tensor]:
    """(...) where the Gaussian through three cells of a line (..., cells) round its ``peak`` is centred, and whether there is one."""
    if line.shape[-1] < 3:
        return peak.to(line.dtype), torch.zeros_like(peak, dtype=torch.bool)
    middle = peak.clamp(1, line.shape[-1] - 2)
    three = line.gather(-1, middle[..., None] + torch.arange(-1, 2, device=line.device))
    left, centre, right = three.log().unbind(-1)
    # two differences, because 2 log t_0 would be rounded
    bend = (centre - left) + (centre - right)
    gaussian = (three > 0).all(-1) & (bend > 1e-6) & bend.isfinite()
    return middle + (right - left) / (2 * bend), gaussian


def _centre_of_mass(target: Tensor, place: Tensor) -> Tensor:
    """(..., 2) centre of the positive cells of (..., H, W), counted from a ``place`` (..., 2) close to it, which keeps digits."""
    mass = target.clamp(min=0)
    return torch.stack([_mean_cell(mass.sum(-2), place[..., 0]), _mean_cell(mass.sum(-1), place[..., 1])], -1)


def _mean_cell(masses: Tensor, origin: Tensor) -> Tensor:
    """(...) mean cell of masses (..., cells); counted from an ``origin`` (...) close to it, which keeps its digits."""
    # products and sums, because a matrix product may be rounded to bfloat16 (autocast) or TF32
    offset = torch.arange(masses.shape[-1], dtype=masses.dtype, device=masses.device) - origin[..., None]
    return origin + (masses * offset).sum(-1) / masses.sum(-1)
