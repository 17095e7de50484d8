"""Supplier rules: how a heatmap is read as a distribution over its cells.

**This is the one place that says so.**  The loss trains, and the decoder reads, the distribution that a rule makes of a
raw map ``H``; both must name the same rule, otherwise the decoder looks at something that was never trained.
``python -m hdm_mmpose check CONFIG`` compares them in a config, ``SupplierAgreementHook`` in a model.

Every rule has the form ``S_n = m(H_n) / sum_k m(H_k)`` with a non-negative, non-decreasing ``m``.  Its gradient is
``dL/dH_n = rate_n (a_n - <a, S>)`` with ``a = dL/dS`` and ``rate_n = m'(H_n) / sum_k m(H_k)`` (paper, supplement C, for
``m = relu``).

=================  ==================================  =======================  ==============================================
name               m(h)                                scaling H                a map of zeros / of negative values
=================  ==================================  =======================  ==============================================
``relu``           max(h, 0): Eq. 3                    no effect                empty: read as uniform, **no gradient** (dead)
``softplus``       log(1 + exp(sharpness h))           none for large H         uniform / softmax(sharpness H): never empty
``softmax``        exp(sharpness h)                    sharpens                 uniform / as any other: never empty
``relu_surrogate`` Eq. 3 forward, softplus' ``m'``     no effect forward        read as uniform, gradient of softplus: revives
                   in the gradient
=================  ==================================  =======================  ==============================================

For finite maps up to 1e4 in magnitude masses and gradients are finite.  A map with a NaN or an infinity gives NaN.

A new rule is a subclass of ``SupplierRule``, anywhere; defining it makes its name known.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from hdm_mmpose import checks
from hdm_mmpose.features import is_compiling

from .ground_distance import build, register

SUPPLIERS: dict[str, type[SupplierRule]] = {}
# Below this maximum a map counts as empty: dividing by it would overflow float32 in the gradient.
EMPTY = 1e-30


def compute_dtype(values: Tensor) -> torch.dtype:
    """What these values are computed in: float64 stays, everything else is float32."""
    return torch.float64 if values.dtype == torch.float64 else torch.float32


def _poison(heatmap: Tensor) -> Tensor:
    """0 for a finite map, NaN for one with a NaN or an infinity; (..., 1, 1)."""
    return heatmap.sum((-2, -1), keepdim=True) * 0


@dataclass(frozen=True)
class SupplierRule:
    """Base of the rules: frozen dataclasses whose fields are all their parameters.

    Rules compare equal when they read every map alike.
    """

    name: ClassVar[str]
    positive: ClassVar[bool] = True  # does every cell of every map have mass?

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        register(SUPPLIERS, cls)

    def masses_and_rate(self, heatmap: Tensor) -> tuple[Tensor, Tensor]:
        """Supplier masses and the factor ``rate`` of the gradient (see the module).

        Args:
            heatmap: (..., H, W), float32 or float64.

        Returns:
            ``S`` (..., H, W), summing to 1 over H x W, and ``rate`` of the same shape.
        """
        raise NotImplementedError

    def masses(self, heatmap: Tensor) -> Tensor:
        """Supplier masses (..., H, W) alone; plain tensor operations, so that exporters can follow them."""
        return self.masses_and_rate(heatmap)[0]

    def is_empty(self, heatmap: Tensor) -> Tensor:
        """Which maps (..., H, W) hold no mass at all; bool (...)."""
        return torch.zeros(heatmap.shape[:-2], dtype=torch.bool, device=heatmap.device)

    def log_masses(self, heatmap: Tensor) -> Tensor:
        """``log S`` (..., H, W), differentiable, finite however small ``S`` is; only for rules with ``positive``."""
        raise ValueError(f'supplier {self.name!r} gives cells of mass 0, whose logarithm is minus infinity: '
                         f"use 'softplus' or 'softmax'")

    def log_slope(self, heatmap: Tensor) -> Tensor:
        """``m'(H) / m(H)`` (..., H, W), finite however small ``m`` is; only for rules with ``positive``."""
        raise NotImplementedError(f'supplier {self.name!r} does not say its log_slope, which a cross-entropy needs')

    def __call__(self, heatmap: Tensor) -> Tensor:
        """Supplier masses (..., H, W), differentiable; half precision is lifted to float32."""
        if heatmap.dim() < 2:
            raise ValueError(f'heatmap must have at least 2 dimensions (..., H, W), got shape {tuple(heatmap.shape)}')
        return _Supply.apply(heatmap.to(compute_dtype(heatmap)), self)


class _Supply(torch.autograd.Function):
    @staticmethod
    def forward(ctx, heatmap: Tensor, rule: SupplierRule) -> Tensor:
        suppliers, rate = rule.masses_and_rate(heatmap)
        ctx.save_for_backward(suppliers, rate)
        return suppliers

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        refuse_second_derivative('a supplier rule')
        return pull_back(grad, *ctx.saved_tensors), None


def refuse_second_derivative(what: str) -> None:
    """Raise in a backward pass that is itself recorded: its second derivative would silently lack a part."""
    if torch.is_grad_enabled() and not is_compiling():
        raise RuntimeError(f'{what} has no second derivative here: create_graph must be False in its backward pass, got True')


def pull_back(grad: Tensor, suppliers: Tensor, rate: Tensor) -> Tensor:
    """``dL/dH = rate (a - <a, S>)`` from ``a = dL/dS``; all (..., H, W)."""
    mean = torch.linalg.vecdot(grad.flatten(-2), suppliers.flatten(-2))[..., None, None]
    return rate * (grad - mean)


@dataclass(frozen=True)
class Relu(SupplierRule):
    """Eq. 3 of the paper: ``S = relu(H) / ||relu(H)||_1``."""

    name = 'relu'
    positive = False

    def masses_and_rate(self, heatmap: Tensor) -> tuple[Tensor, Tensor]:
        suppliers, slope, empty = self._normalised(heatmap)
        return suppliers, torch.where((heatmap > 0) & ~empty, slope, 0)

    def masses(self, heatmap: Tensor) -> Tensor:
        return self._normalised(heatmap)[0]

    @staticmethod
    def _normalised(heatmap: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``S``; ``1 / ||relu(H)||_1`` (..., 1, 1); which maps are empty (..., 1, 1)."""
        mass = heatmap.relu()
        peak = mass.amax((-2, -1), keepdim=True)
        empty = peak <= EMPTY
        # S does not depend on the scale: divide by the peak first, and neither sum nor gradient can leave float32.
        scale = peak.masked_fill(empty, 1)
        mass = mass / scale
        poison = _poison(heatmap)
        total = mass.sum((-2, -1), keepdim=True).masked_fill(empty, 1) + poison
        uniform = 1 / (heatmap.shape[-2] * heatmap.shape[-1]) + poison
        return torch.where(empty, uniform, mass / total), 1 / (total * scale), empty

    def is_empty(self, heatmap: Tensor) -> Tensor:
        return heatmap.amax((-2, -1)) <= EMPTY


@dataclass(frozen=True)
class Sharpened(SupplierRule):
    """A rule with a ``sharpness`` in 1 / (unit of the heatmap)."""

    sharpness: float = 5.0

    def __post_init__(self) -> None:
        checks.positive(f'supplier {self.name!r}: sharpness', self.sharpness)


@dataclass(frozen=True)
class Softplus(Sharpened):
    """``m(h) = log(1 + exp(sharpness h))``: like relu for large values, alive below zero."""

    name = 'softplus'

    def masses_and_rate(self, heatmap: Tensor) -> tuple[Tensor, Tensor]:
        x = self._raised(heatmap)
        mass = F.softplus(x, threshold=40)
        total = mass.sum((-2, -1), keepdim=True) + _poison(heatmap)
        return mass / total, x.sigmoid() * (self.sharpness / total)

    def masses(self, heatmap: Tensor) -> Tensor:
        mass = F.softplus(self._raised(heatmap), threshold=40)
        return mass / (mass.sum((-2, -1), keepdim=True) + _poison(heatmap))

    def log_masses(self, heatmap: Tensor) -> Tensor:
        x = self.sharpness * heatmap
        floor = math.log(torch.finfo(x.dtype).eps) / 2
        # log softplus(x) = x - exp(x) / 2 + O(exp(2 x)); clamps keep the branch not taken finite in the gradient too.
        low = x - x.clamp(max=0).exp() / 2
        high = F.softplus(x.clamp(min=floor), threshold=40).log()
        log_mass = torch.where(x < floor, low, high)
        return log_mass - torch.logsumexp(log_mass.flatten(-2), -1)[..., None, None]

    def log_slope(self, heatmap: Tensor) -> Tensor:
        x = self.sharpness * heatmap
        floor = math.log(torch.finfo(x.dtype).eps) / 2
        high = x.sigmoid() / F.softplus(x.clamp(min=floor), threshold=40)
        return self.sharpness * torch.where(x < floor, 1 - x.clamp(max=0).exp() / 2, high)

    def _raised(self, heatmap: Tensor) -> Tensor:
        """``sharpness * H``, maps whose peak is so low that softplus(x) = exp(x) to rounding raised as a whole.

        For such a map the masses are a softmax, which no common shift changes; without it they would underflow to 0.
        """
        x = self.sharpness * heatmap
        lowest = math.log(torch.finfo(x.dtype).eps)
        return x - (x.amax((-2, -1), keepdim=True) - lowest).clamp(max=0)


@dataclass(frozen=True)
class Softmax(Sharpened):
    """``m(h) = exp(sharpness h)``; its default sharpness learns fast with the learning rates of MMPose's recipes."""

    name = 'softmax'
    sharpness: float = 20.0

    def masses_and_rate(self, heatmap: Tensor) -> tuple[Tensor, Tensor]:
        suppliers = self.masses(heatmap)
        return suppliers, self.sharpness * suppliers

    def masses(self, heatmap: Tensor) -> Tensor:
        flat = (self.sharpness * heatmap).flatten(-2)
        return flat.softmax(-1).view(heatmap.shape) + _poison(heatmap)

    def log_masses(self, heatmap: Tensor) -> Tensor:
        return (self.sharpness * heatmap).flatten(-2).log_softmax(-1).view(heatmap.shape)

    def log_slope(self, heatmap: Tensor) -> Tensor:
        return torch.full_like(heatmap, self.sharpness)


@dataclass(frozen=True)
class ReluSurrogate(Sharpened):
    """Eq. 3 exactly in the forward pass; the gradient flows as if ``m`` were softplus, so cells and maps at or below 0
    still learn (a surrogate gradient, as for spiking neurons: Neftci et al., IEEE Signal Processing Magazine 2019)."""

    name = 'relu_surrogate'
    positive = False

    def masses_and_rate(self, heatmap: Tensor) -> tuple[Tensor, Tensor]:
        return Relu().masses(heatmap), Softplus(self.sharpness).masses_and_rate(heatmap)[1]

    def masses(self, heatmap: Tensor) -> Tensor:
        return Relu().masses(heatmap)

    def is_empty(self, heatmap: Tensor) -> Tensor:
        return Relu().is_empty(heatmap)


def build_supplier(spec: str | dict | SupplierRule) -> SupplierRule:
    """A supplier rule from its name, ``dict(type=name, sharpness=...)``, or itself.

    >>> build_supplier('relu')
    Relu()
    >>> build_supplier(dict(type='softmax', sharpness=10))
    Softmax(sharpness=10)

    Raises:
        ValueError: unknown name or option, or a sharpness that is not positive.
    """
    return build('supplier', spec, SupplierRule, SUPPLIERS)
