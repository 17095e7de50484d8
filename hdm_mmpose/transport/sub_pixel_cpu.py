r"""``sub_pixel.read_heatmap`` for CPUs: the same numbers with a fraction of the work.

All supplier rules have the form ``S = m(H) / sum m(H)`` with a non-decreasing ``m``.  So

1. the best square can only lie where the raw map is high.  No square sums to more than ``4 m(highest cell)``, and the
   best one to no less than ``m(peak)``: strips of rows with ``4 m(highest cell) < m(peak)`` are never looked at;
2. no normalised map is needed, only its total, and that needs no more memory than one block of maps in the cache;
3. softplus needs no logarithm per cell: ``sum log(1 + e^x)`` is the logarithm of a product.

Maps for which a shortcut leaves the range of float32 (and empty, NaN and infinite ones) go to ``read_heatmap``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .blurred_mode import Surroundings, settle, surroundings
from .sub_pixel import LOWEST, Reading, accept, lift, pick_square, read_heatmap, square_centroid
from .suppliers import Relu, ReluSurrogate, Softmax, Softplus, SupplierRule

STRIP_ROWS = 5  # neighbouring strips share a row, so that every square lies inside a strip
BLOCK_CELLS = 2**19  # 2 MiB of float32: a block and its temporaries stay in the cache
SMALLEST_TOTAL = 1e-20  # below, products of masses underflow


class Shortcut(NamedTuple):
    """A supplier rule in the form that is cheapest to sum; ``suppliers`` is the definition, tests hold the two together.

    Attributes:
        weight: (cells (J, n), peak (J, 1), rule) -> ``w(H)`` per cell, a new tensor.
        join: weight of two cells together from the weights of each.
        mass: ``m`` from weights, in place; up to a factor per map.
    """

    weight: Callable[[Tensor, Tensor, Any], Tensor]
    join: Callable[[Tensor, Tensor], Tensor]
    mass: Callable[[Tensor], Tensor]


def _relu_weight(cells: Tensor, peak: Tensor, rule: SupplierRule) -> Tensor:
    return cells.relu()


def _softplus_weight(cells: Tensor, peak: Tensor, rule: Softplus) -> Tensor:
    """``e^x``; exp2 is the one exponential that is fast on CPUs."""
    return (cells * (rule.sharpness / math.log(2))).exp2_()


def _softmax_weight(cells: Tensor, peak: Tensor, rule: Softmax) -> Tensor:
    return (cells - peak).mul_(rule.sharpness / math.log(2)).exp2_()


def _join_softplus(first: Tensor, second: Tensor) -> Tensor:
    """``(1 + a)(1 + b) - 1`` as ``a + b + a b``, so that small weights keep all their digits."""
    return (first + second).addcmul_(first, second)


_RELU = Shortcut(_relu_weight, torch.add, lambda weight: weight)
SHORTCUTS: dict[type[SupplierRule], Shortcut] = {
    Relu: _RELU,
    ReluSurrogate: _RELU,
    Softplus: Shortcut(_softplus_weight, _join_softplus, Tensor.log1p_),
    Softmax: Shortcut(_softmax_weight, torch.add, lambda weight: weight),
}


def read_heatmap_cpu(heatmap: Tensor, rule: SupplierRule, blur: float = 0) -> Reading:
    """As ``read_heatmap``, for tensors on the CPU; branches on values, so it cannot be traced.

    Args:
        heatmap: (..., H, W), H and W at least 2.
        rule: supplier rule of the loss; one without a shortcut is read by ``read_heatmap``.
        blur: as for ``read_heatmap``; a blur needs every mass, so all it saves is memory.
    """
    maps = lift(heatmap).reshape(-1, *heatmap.shape[-2:]).contiguous()
    if blur:
        return _in_blocks(maps, rule, blur, heatmap.shape[:-2])
    shortcut = SHORTCUTS.get(type(rule))
    if shortcut is None or maps.dtype != torch.float32 or not maps.numel():
        return read_heatmap(heatmap, rule)
    highest, total = _scan(maps, rule, shortcut)
    peak = highest.amax(-1)
    dots, mass = _best_square(maps, highest, peak, rule, shortcut)
    reading = Reading(dots, (mass / total).clamp(max=1), peak)
    odd = ~((total > SMALLEST_TOTAL) & torch.isfinite(total) & torch.isfinite(mass) & torch.isfinite(peak))
    if odd.any():
        for values, slow in zip(reading, read_heatmap(maps[odd], rule), strict=True):
            values[odd] = slow
    return Reading(*(values.view(heatmap.shape[:-2] + values.shape[1:]) for values in reading))


def _in_blocks(maps: Tensor, rule: SupplierRule, blur: float, shape: torch.Size) -> Reading:
    """``read_heatmap`` of maps (J, H, W), a block that stays in the cache at a time; fields of shape (*shape, ...)."""
    step = max(1, BLOCK_CELLS // (maps.shape[-2] * maps.shape[-1]))
    parts = [surroundings(rule.masses(block.clamp(min=LOWEST)), blur) for block in maps.split(step)]
    found = Surroundings(*(torch.cat(values) for values in zip(*parts, strict=True)))
    reading = accept(maps, rule, settle(found), found.share)
    return Reading(*(values.view(shape + values.shape[1:]) for values in reading))


def _starts(height: int) -> list[int]:
    """First rows of the strips; the last strip is moved up to end with the map."""
    last = max(height - STRIP_ROWS, 0)
    return [*range(0, last, STRIP_ROWS - 1), last]


def _scan(maps: Tensor, rule: SupplierRule, shortcut: Shortcut) -> tuple[Tensor, Tensor]:
    """Highest cell of each strip (J, strips) and total mass (J,), in one walk over the memory."""
    _, height, width = maps.shape
    highest, total = [], []
    for block in maps.split(max(1, BLOCK_CELLS // (height * width))):
        highest.append(_highest(block))
        total.append(_total(shortcut.weight(block.flatten(1), highest[-1].amax(-1, keepdim=True), rule), shortcut))
    return torch.cat(highest), torch.cat(total)


def _highest(block: Tensor) -> Tensor:
    count, height, width = block.shape
    regular = len(_starts(height)) - 1
    step = (STRIP_ROWS - 1) * width
    strips = block.as_strided((count, regular, STRIP_ROWS * width), (height * width, step, 1))
    last = block[:, -STRIP_ROWS:].flatten(1).amax(-1, keepdim=True)
    return torch.cat([strips.amax(-1), last], -1) if regular else last


def _total(weight: Tensor, shortcut: Shortcut) -> Tensor:
    """Sum of the masses over the last axis; where joining is not adding, up to 32 cells are joined before the sum."""
    if shortcut.join is not torch.add:
        for _ in range(5):
            if weight.shape[-1] % 2:
                break
            weight = shortcut.join(*weight.chunk(2, -1))
    return shortcut.mass(weight).sum(-1)


def _best_square(maps: Tensor, highest: Tensor, peak: Tensor, rule: SupplierRule,
                 shortcut: Shortcut) -> tuple[Tensor, Tensor]:
    """Dots (J, 2) and masses (J,) of the best squares; a mass that is not finite says that joining overflowed."""
    _, height, width = maps.shape
    rows, starts = min(height, STRIP_ROWS), torch.tensor(_starts(height))
    windows = maps.as_strided((len(maps) * height - rows + 1, rows * width), (width, 1))

    def squares(joint: Tensor, strip: Tensor) -> tuple[Tensor, Tensor]:
        """Weights (n, rows, W) of cells and (n, squares) of squares in strips ``strip`` of maps ``joint``."""
        cells = windows.index_select(0, joint * height + starts[strip])
        weight = shortcut.weight(cells, peak[joint, None], rule).view(-1, rows, width)
        pairs = shortcut.join(weight[:, :-1], weight[:, 1:])
        return weight, shortcut.join(pairs[..., :-1], pairs[..., 1:]).flatten(-2)

    bound = shortcut.mass(shortcut.weight(highest, peak[:, None], rule))
    # Written so that a map with a NaN has strips too: each map needs at least one.
    joint, strip = (~(4 * bound < bound.amax(-1, keepdim=True))).nonzero(as_tuple=True)
    step = BLOCK_CELLS // (rows * width) + 1
    found = [squares(*part)[1].amax(-1) for part in zip(joint.split(step), strip.split(step), strict=True)]
    table = torch.full(highest.shape, -1, dtype=maps.dtype).index_put_((joint, strip), torch.cat(found))
    value, best = table.max(-1)
    weight, candidates = squares(torch.arange(len(maps)), best)
    cells, corner = pick_square(weight, candidates.argmax(-1))
    offset, mass = square_centroid(shortcut.mass(cells))
    corner[:, 1] += starts[best]
    return corner + offset, torch.where(torch.isfinite(value), mass, value)
