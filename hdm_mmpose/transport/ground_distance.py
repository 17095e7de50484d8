"""Ground distances: what it costs to carry a unit of mass over ``d`` heatmap cells.

The paper uses the Euclidean distance itself (Sec. 3.2, "The cost function C").  Everything in this package holds for any
increasing concave function ``c`` of that distance with ``c(0) = 0``: such a cost is again a metric, and the costs of two
demanders of one dot never differ by more than ``c(sqrt(2)) <= sqrt(2)``.

A new distance is a subclass of ``GroundDistance``, anywhere; defining it makes its name known.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from hdm_mmpose import checks

GROUND_DISTANCES: dict[str, type[GroundDistance]] = {}


@dataclass(frozen=True)
class GroundDistance:
    """Base of the distances: frozen dataclasses whose fields are all their parameters.

    Attributes:
        name: how configs call it.
        limit: the cost at infinite distance, in cells.
    """

    name: ClassVar[str]

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        register(GROUND_DISTANCES, cls)

    @property
    def limit(self) -> float:
        return math.inf

    def cost(self, distance: Tensor) -> Tensor:
        """Cost of a unit of mass carried over ``distance`` cells (any shape, same shape returned)."""
        raise NotImplementedError

    def excess(self, distance: Tensor, delta: Tensor) -> Tensor:
        """``c(distance + delta) - c(distance)``; better without the cancellation of subtracting two large costs."""
        return self.cost(distance + delta) - self.cost(distance)

    def reach(self, share: float) -> float:
        """Cells beyond which the cost misses its limit by less than ``share`` of the limit; infinity if it has none."""
        return math.inf


def register(known: dict[str, Any], cls: type) -> None:
    """Make a class known by its ``name``, which must not be another's; one without a name is a base of others."""
    if 'name' not in vars(cls):
        return
    other = known.setdefault(cls.name, cls)  # type: ignore[attr-defined]
    if (other.__module__, other.__qualname__) != (cls.__module__, cls.__qualname__):
        raise ValueError(f'name of {cls.__qualname__} must not be taken, got {cls.name!r}, which is {other}')  # type: ignore[attr-defined]
    known[cls.name] = cls  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Euclidean(GroundDistance):
    """``c(d) = d``: the paper's cost, in heatmap cells."""

    name = 'euclidean'

    def cost(self, distance: Tensor) -> Tensor:
        return distance

    def excess(self, distance: Tensor, delta: Tensor) -> Tensor:
        return delta


@dataclass(frozen=True)
class Saturated(GroundDistance):
    """``c(d) = scale * (1 - exp(-d / scale))``: near the dot as Euclidean, far from it at most ``scale`` cells.

    A joint that may be at A or at B has the same expected Euclidean cost anywhere between them; a saturating cost prefers
    A or B.  Thresholded ground distances: Pele & Werman, "Fast and Robust Earth Mover's Distances", ICCV 2009.
    """

    scale: float = 1.0
    name = 'saturated'

    def __post_init__(self) -> None:
        checks.positive('ground_distance: scale', self.scale, 'heatmap cells')

    @property
    def limit(self) -> float:
        return self.scale

    def cost(self, distance: Tensor) -> Tensor:
        return -self.scale * (distance / -self.scale).expm1()

    def excess(self, distance: Tensor, delta: Tensor) -> Tensor:
        # counted from the nearer of the two, so that no exponent is positive
        nearer = distance + delta.clamp(max=0)
        return delta.sign() * (nearer / -self.scale).exp() * self.cost(delta.abs())

    def reach(self, share: float) -> float:
        return -self.scale * math.log(share)


def build_ground_distance(spec: str | dict | GroundDistance) -> GroundDistance:
    """A ground distance from its name, ``dict(type=name, scale=...)``, or itself.

    Raises:
        ValueError: unknown name or option, or a scale that is not positive.
    """
    return build('ground_distance', spec, GroundDistance, GROUND_DISTANCES)


def build(what: str, spec: Any, base: type, known: dict[str, Any]) -> Any:
    """An instance of one of the ``known`` classes from its name, a dict with ``type``, or itself."""
    if isinstance(spec, base):
        return spec
    options = {'type': spec} if isinstance(spec, str) else dict(spec) if isinstance(spec, dict) else {}
    name = options.pop('type', None)
    if not isinstance(name, str) or name not in known:
        raise ValueError(f'{what} must be one of {sorted(known)} or a dict with such a type, got {spec!r}')
    try:
        return known[name](**options)
    except TypeError as error:
        raise ValueError(f'{what} {name!r} does not take these options: {options} ({error})') from None
