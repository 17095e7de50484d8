"""Ground distances: what it costs to carry a unit of mass over ``d`` heatmap cells.

The paper uses the Euclidean distance itself (Sec. 3.2, "The cost function C").  Everything in this package holds for any
increasing concave function ``c`` of that distance with ``c(0) = 0``: such a cost is again a metric, and the costs of two
demanders of one dot never differ by more than ``c(sqrt(2)) <= sqrt(2)``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Union

import torch
from torch import Tensor


@dataclass(frozen=True)
class Euclidean:
    """``c(d) = d``: the paper's cost, in heatmap cells."""

    name = 'euclidean'

    def cost(self, distance: Tensor) -> Tensor:
        """Cost of a unit of mass carried over ``distance`` cells (any shape, same shape returned)."""
        return distance

    def excess(self, distance: Tensor, delta: Tensor) -> Tensor:
        """``c(distance + delta) - c(distance)``, without the cancellation of subtracting two large costs."""
        return delta


@dataclass(frozen=True)
class Saturated:
    """``c(d) = scale * (1 - exp(-d / scale))``: near the dot as Euclidean, far from it at most ``scale`` cells.

    A joint that may be at A or at B has the same expected Euclidean cost anywhere between them; a saturating cost prefers
    A or B.  Thresholded ground distances: Pele & Werman, "Fast and Robust Earth Mover's Distances", ICCV 2009.
    """

    scale: float = 1.0
    name = 'saturated'

    def __post_init__(self) -> None:
        if not (isinstance(self.scale, (int, float)) and 0 < self.scale < float('inf')):
            raise ValueError(f'ground_distance: scale must be a positive finite number of heatmap cells, got {self.scale!r}')

    def cost(self, distance: Tensor) -> Tensor:
        """See :meth:`Euclidean.cost`."""
        return -self.scale * torch.expm1(distance / -self.scale)

    def excess(self, distance: Tensor, delta: Tensor) -> Tensor:
        """See :meth:`Euclidean.excess`."""
        # counted from the nearer of the two, so that no exponent is positive
        nearer = distance + delta.clamp(max=0)
        return delta.sign() * torch.exp(nearer / -self.scale) * self.cost(delta.abs())


GroundDistance = Union[Euclidean, Saturated]
GROUND_DISTANCES: dict[str, type] = {'euclidean': Euclidean, 'saturated': Saturated}


def build_ground_distance(spec: str | dict | GroundDistance) -> GroundDistance:
    """A ground distance from its name, ``dict(type=name, scale=...)``, or itself.

    Raises:
        ValueError: unknown name or option, or a scale that is not positive.
    """
    if isinstance(spec, (Euclidean, Saturated)):
        return spec
    options = {'type': spec} if isinstance(spec, str) else dict(spec) if isinstance(spec, dict) else {}
    name = options.pop('type', None)
    if name not in GROUND_DISTANCES:
        raise ValueError(f'ground_distance must be one of {sorted(GROUND_DISTANCES)} or a dict with such a type, got {spec!r}')
    try:
        return GROUND_DISTANCES[name](**options)
    except TypeError as error:
        raise ValueError(f'ground_distance {name!r} does not take these options: {options} ({error})') from None
