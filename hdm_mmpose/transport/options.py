"""Every option of the loss with its default, its check and its text form: the one place that knows them."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from dataclasses import InitVar, dataclass
from typing import Any

import torch
from torch import Tensor

from hdm_mmpose import checks

from .ground_distance import GroundDistance, build_ground_distance
from .suppliers import SupplierRule, build_supplier

OBJECTIVES = ('shannon', 'product', 'sharp')
SOLVERS = ('newton', 'sinkhorn')
BACKENDS = ('auto', 'torch', 'triton')
REDUCTIONS = ('mean', 'sum', 'none')


@dataclass(frozen=True)
class EMDOptions:
    """What the loss computes; ``EMDHeatmapLoss`` explains each option.  ``EMDOptions()`` is what ``EMDHeatmapLoss()`` does.

    Options that are left out (None) take the value that the others allow: see ``__post_init__``.  ``entropic_lambda`` with
    ``cell_size`` are another way to say ``epsilon``, and ``potential`` is the former name of ``objective``.

    Raises:
        ValueError: an unknown name, a number out of range, or options that contradict each other.
    """

    # types are those after __post_init__; what may be given instead is resolved there
    epsilon: float = None  # type: ignore[assignment]
    objective: str = None  # type: ignore[assignment]
    supplier: SupplierRule = 'softmax'  # type: ignore[assignment]
    solver: str = 'newton'
    num_iters: int = 1000
    unbiased: bool = None  # type: ignore[assignment]
    ground_distance: GroundDistance = 'saturated'  # type: ignore[assignment]
    use_target_weight: bool = True
    reduction: str = 'mean'
    loss_weight: float = 1.0
    subpixel: bool = True
    cross_entropy_weight: float = None  # type: ignore[assignment]
    cross_entropy_blur: float = 0.0
    entropic_lambda: InitVar[float | None] = None
    cell_size: InitVar[float | None] = None
    backend: str = 'auto'
    potential: InitVar[str | None] = None
    key: str = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self, entropic_lambda: float | None, cell_size: float | None, potential: str | None) -> None:
        if potential is not None:  # in a config of before, perhaps on top of one of ours: it counts
            checks.warn_once('potential', (
                f"The option 'potential' is called 'objective' now; the old name goes on working: potential={potential!r}"
                f"{'' if self.objective in (None, potential) else f' counts, not objective={self.objective!r}'}."), FutureWarning, 4)
            self._set('objective', potential)
        self._set('objective', checks.one_of('objective', 'product' if self.objective is None else self.objective, OBJECTIVES))
        self._set('epsilon', _epsilon(self.epsilon, entropic_lambda, cell_size))
        self._set('supplier', build_supplier(self.supplier))
        self._set('ground_distance', build_ground_distance(self.ground_distance))
        checks.one_of('solver', self.solver, SOLVERS)
        self._set('num_iters', checks.positive_int('num_iters', self.num_iters))
        checks.true_or_false('use_target_weight', self.use_target_weight)
        checks.true_or_false('subpixel', self.subpixel)
        checks.one_of('reduction', self.reduction, REDUCTIONS)
        checks.one_of('backend', self.backend, BACKENDS)
        self._set('loss_weight', checks.not_negative('loss_weight', self.loss_weight))
        self._set('cross_entropy_blur', checks.not_negative('cross_entropy_blur', self.cross_entropy_blur))
        # unbiased demanders where they exist, a cross-entropy where it is finite
        unbiased = self.objective == 'product' and self.subpixel if self.unbiased is None else self.unbiased
        self._set('unbiased', checks.true_or_false('unbiased', unbiased))
        weight = self.cross_entropy_weight
        weight = (0.5 if self.supplier.positive else 0.0) if weight is None else weight
        self._set('cross_entropy_weight', checks.not_negative('cross_entropy_weight', weight))
        self._check_together()
        self._set('key', self._key())

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def _check_together(self) -> None:
        if self.cross_entropy_weight and not self.supplier.positive:
            raise ValueError(
                f'cross_entropy_weight must be 0 with supplier {self.supplier.name!r}, whose cells may have mass 0, '
                f"got {self.cross_entropy_weight!r}; use 'softplus' or 'softmax'"
            )
        if self.unbiased and self.objective != 'product':
            raise ValueError(
                f"unbiased demanders exist for objective='product' only, got objective={self.objective!r}: the minimiser of "
                f"'shannon' is blurred whatever the demanders are, and for 'sharp' no exact correction is known"
            )
        if self.unbiased and not self.subpixel:
            raise ValueError('unbiased must be False with subpixel=False: all mass goes to one demander, which has no bias')

    # ------------------------------------------------------------------------------------------------------- text form

    def _key(self) -> str:
        """All that changes what is computed, as JSON, without the ``numbers``."""
        words = {name: getattr(self, name) for name in ('objective', 'solver', 'num_iters', 'unbiased', 'subpixel', 'backend')}
        parts = {'supplier': _spec(self.supplier, 'sharpness'), 'ground_distance': _spec(self.ground_distance, 'scale')}
        return json.dumps({**words, **parts}, sort_keys=True)

    @property
    def numbers(self) -> Tensor:
        """(6,) float64 on the CPU: what a schedule may change while compiled code stays as it is.

        epsilon, scale of the ground distance (infinity without one), sharpness of the supplier rule (0 without one), weight and
        blur of the cross-entropy, and the constant logit of an outside cell (minus infinity: there is none, and no option yet).
        """
        return torch.tensor([
            self.epsilon, getattr(self.ground_distance, 'scale', math.inf), getattr(self.supplier, 'sharpness', 0.0),
            self.cross_entropy_weight, self.cross_entropy_blur, -math.inf], dtype=torch.float64, device='cpu')

    @classmethod
    def read(cls, key: str, numbers: Tensor) -> EMDOptions:
        """The options (but for weights and reduction) that ``key`` and ``numbers`` were taken from."""
        return _read(key, *numbers.tolist())

    def replace(self, **changes: Any) -> EMDOptions:
        """The same options with these changed."""
        return dataclasses.replace(self, **changes)


def _spec(part: Any, scheduled: str) -> dict:
    """A rule or distance as the dict that builds it, without the number that a schedule may change."""
    spec = {'type': part.name, **{field.name: getattr(part, field.name) for field in dataclasses.fields(part)}}
    build = build_supplier if isinstance(part, SupplierRule) else build_ground_distance
    if vars(build(dict(spec))) != vars(part):
        raise ValueError(f'{part!r} must be a dataclass whose fields are all its parameters: {spec} does not build it')
    return {name: value for name, value in spec.items() if name != scheduled}


@functools.lru_cache(maxsize=64)
def _read(key: str, epsilon: float, scale: float, sharpness: float, weight: float, blur: float, outside: float) -> EMDOptions:
    given = json.loads(key)
    if math.isfinite(scale):
        given['ground_distance']['scale'] = scale
    if sharpness:
        given['supplier']['sharpness'] = sharpness
    return EMDOptions(epsilon=epsilon, cross_entropy_weight=weight, cross_entropy_blur=blur, **given)


def _epsilon(epsilon: float | None, entropic_lambda: float | None, cell_size: float | None) -> float:
    if entropic_lambda is None and cell_size is None:
        return checks.positive('epsilon', 0.5 if epsilon is None else epsilon, 'heatmap cells')
    if epsilon is not None:
        raise ValueError(f'epsilon must be left out when entropic_lambda and cell_size are given, got epsilon = {epsilon!r}')
    if entropic_lambda is None or cell_size is None:
        raise ValueError(f'entropic_lambda and cell_size must be given together, got {entropic_lambda!r} and {cell_size!r}')
    return 1 / (checks.positive('entropic_lambda', entropic_lambda) * checks.positive('cell_size', cell_size))
