r"""The semi-dual: what every solver evaluates, a smooth concave function of one number per demander.

    F(b) = <b, D> - epsilon sum_n S_n log sum_m exp((b_m - C_nm) / epsilon)

    share_nm  = softmax_m((b_m - C_nm) / epsilon)         the part of supplier n's mass that goes to demander m
    received_m = sum_n S_n share_nm                        gradient of F:  D - received
    exchange_mk = sum_n S_n share_nm share_nk              Hessian of F:   -L / epsilon

``L = diag(received) - exchange`` is the Laplacian of a graph on the demanders with edge weights ``exchange_mk``: building
it from its off-diagonal entries never subtracts, so it stays accurate when almost nothing is exchanged.

``b`` is free up to a constant.  Demanders of mass 0 receive nothing: their ``b`` is minus infinity, kept apart as a mask.

The kernel ``exp(-C_nm / epsilon)`` does not change between evaluations.  Where its numbers are far from the ends of the
dtype's range, shares are made from it by multiplication; where they are not, from exponents.
"""

from __future__ import annotations

import math
from functools import cached_property

import torch
from torch import Tensor

from .problem import TransportProblem

# Marginal error that counts as solved; sums over N cells do not get much below.
TOLERANCE = {torch.float32: 2e-6, torch.float64: 1e-13}


class SemiDual:
    """The semi-dual of J problems, evaluated at potentials ``b`` (J, M) in cells.

    Attributes:
        suppliers: (J, N) masses.
        mass: (J, M) demander masses; ``active`` where they are positive, ``log_mass`` their logarithm (0 where inactive).
        reference: (J, N) cost to demander 0, which no share depends on; ``excess`` (J, M, N) the rest of the cost.
        kernel: (J, M, N) ``exp(-C / epsilon)`` up to a factor per supplier, or None where it would leave the range.
    """

    def __init__(self, problem: TransportProblem) -> None:
        self.epsilon = float(problem.epsilon)
        self.suppliers = problem.suppliers.flatten(1)
        self.mass = problem.demanders.mass
        self.active = self.mass > 0
        self.log_mass = torch.where(self.active, self.mass, 1).log()
        self.reference, self.excess = problem.reduced_cost()
        self.kernel = (self.excess / -self.epsilon).exp_() if _fits(problem) else None

    @cached_property
    def log_kernel(self) -> Tensor:
        """``-C / epsilon`` (J, M, N) up to a constant per supplier."""
        return self.excess / -self.epsilon

    @property
    def tolerance(self) -> float:
        return tolerance(self.suppliers.dtype, self.epsilon)

    def level(self, b: Tensor) -> Tensor:
        """``b / epsilon`` (J, M); minus infinity for demanders of mass 0."""
        return (b / self.epsilon).masked_fill(~self.active, -torch.inf)

    def exponent(self, b: Tensor) -> Tensor:
        """``(b_m - C_nm) / epsilon`` (J, M, N), up to a constant per supplier."""
        return self.log_kernel + self.level(b)[..., None]

    def share(self, b: Tensor) -> Tensor:
        """``share_nm`` (J, M, N)."""
        if self.kernel is None:
            return self.exponent(b).softmax(1)
        weighted = self.kernel * self.level(b).softmax(-1)[..., None]
        return weighted.div_(weighted.sum(1, keepdim=True))

    def receive(self, b: Tensor) -> tuple[Tensor, Tensor]:
        """``received`` (J, M) and ``exchange`` (J, M, M)."""
        share = self.share(b)
        carried = share * self.suppliers[:, None]
        # not the row sums of exchange: a matrix product adds up long maps in sequence, and loses digits
        return carried.sum(-1), pair_sums(carried, share)

    def marginal_error(self, received: Tensor) -> Tensor:
        """(J,) sum over demanders of |D - received|: how far the plan is from the right column sums."""
        return (self.mass - received).abs().sum(-1)

    def sinkhorn_step(self, b: Tensor, received: Tensor) -> Tensor:
        """One Sinkhorn iteration: it scales each column of the plan to its mass, and F never decreases."""
        tiny = torch.finfo(b.dtype).tiny
        return b + self.epsilon * torch.where(self.active, self.log_mass - received.clamp(min=tiny).log(), 0)

    def supplier_potential(self, b: Tensor) -> Tensor:
        """``f_n = -epsilon log sum_m exp((b_m - C_nm) / epsilon)`` (J, N), in cells."""
        if self.kernel is None:
            return self.reference - self.epsilon * self.exponent(b).logsumexp(1)
        level = self.level(b)
        log_sum = (self.kernel * level.softmax(-1)[..., None]).sum(1).log_()
        return self.reference - self.epsilon * (log_sum + level.logsumexp(-1, keepdim=True))

    def mean_cost(self, share: Tensor) -> Tensor:
        """Cost of a unit of mass from each supplier, ``sum_m share_nm C_nm`` (J, N)."""
        return self.reference + (share * self.excess).sum(1)


def tolerance(dtype: torch.dtype, epsilon: float) -> float:
    """Marginal error that rounding allows: ``b`` of about 1 cell, rounded, moves shares by ``eps / epsilon``."""
    return max(TOLERANCE[dtype], torch.finfo(dtype).eps / epsilon)


def pair_sums(left: Tensor, right: Tensor) -> Tensor:
    """``sum_n left_mn right_kn`` (J, M, M) from two (J, M, N), in full precision: a GPU may round a matrix product to TF32."""
    if left.device.type == 'cpu':
        return left @ right.mT
    return torch.stack([(row * right).sum(-1) for row in left.unsqueeze(2).unbind(1)], dim=1)


def _fits(problem: TransportProblem) -> bool:
    """Do all ``exp(+-(C_nm - C_nk) / epsilon)`` stay inside half the exponent range?  Not asked on a GPU, which would stall.

    A metric's costs to two demanders never differ by more than the cost between these.
    """
    position = problem.demanders.position
    if position.device.type != 'cpu' or not position.numel():
        return False
    widest = (position.amax(1) - position.amin(1)).square().sum(-1).sqrt().nan_to_num(nan=0.0).max()
    exponent = float(problem.ground_distance.cost(widest)) / problem.epsilon
    return exponent < 0.45 * math.log(torch.finfo(position.dtype).max)
