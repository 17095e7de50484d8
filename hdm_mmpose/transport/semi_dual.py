r"""The semi-dual: what every solver evaluates, a smooth concave function of one number per demander.

    F(b) = <b, D> - epsilon sum_n S_n log sum_m exp((b_m - C_nm) / epsilon)

    share_nm  = softmax_m((b_m - C_nm) / epsilon)         the part of supplier n's mass that goes to demander m
    received_m = sum_n S_n share_nm                        gradient of F:  D - received
    exchange_mk = sum_n S_n share_nm share_nk              Hessian of F:   -L / epsilon

``L = diag(received) - exchange`` is the Laplacian of a graph on the demanders with edge weights ``exchange_mk``: building
it from its off-diagonal entries never subtracts, so it stays accurate when almost nothing is exchanged.

``b`` is free up to a constant.  Demanders of mass 0 receive nothing: their ``b`` is minus infinity, kept apart as a mask.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .problem import TransportProblem


class SemiDual:
    """The semi-dual of J problems, evaluated at potentials ``b`` (J, M) in cells.

    Attributes:
        suppliers: (J, N) masses.
        mass: (J, M) demander masses; ``active`` where they are positive, ``log_mass`` their logarithm (0 where inactive).
        reference: (J, N) cost to demander 0, which no share depends on; ``excess`` (J, M, N) the rest of the cost.
    """

    def __init__(self, problem: TransportProblem) -> None:
        self.epsilon = float(problem.epsilon)
        self.suppliers = problem.suppliers.flatten(1)
        self.mass = problem.demanders.mass
        self.active = self.mass > 0
        self.log_mass = torch.where(self.active, self.mass, 1).log()
        self.reference, self.excess = problem.reduced_cost()
        # -C / epsilon up to a constant per supplier, minus infinity for demanders of mass 0
        self.log_kernel = self.excess / -self.epsilon
        self.log_kernel.masked_fill_(~self.active[..., None], -torch.inf)

    def exponent(self, b: Tensor) -> Tensor:
        """``(b_m - C_nm) / epsilon`` (J, M, N), up to a constant per supplier."""
        return self.log_kernel + (b / self.epsilon)[..., None]

    def share(self, b: Tensor) -> Tensor:
        """``share_nm`` (J, M, N)."""
        return self.exponent(b).softmax(1)

    def receive(self, share: Tensor) -> tuple[Tensor, Tensor]:
        """``received`` (J, M) and ``exchange`` (J, M, M)."""
        carried = share * self.suppliers[:, None]
        return carried.sum(-1), carried @ share.mT

    def marginal_error(self, received: Tensor) -> Tensor:
        """(J,) sum over demanders of |D - received|: how far the plan is from the right column sums."""
        return (self.mass - received).abs().sum(-1)

    def sinkhorn_step(self, b: Tensor, received: Tensor) -> Tensor:
        """One Sinkhorn iteration: it scales each column of the plan to its mass, and F never decreases."""
        tiny = torch.finfo(b.dtype).tiny
        return b + self.epsilon * torch.where(self.active, self.log_mass - received.clamp(min=tiny).log(), 0)

    def supplier_potential(self, b: Tensor) -> Tensor:
        """``f_n = -epsilon log sum_m exp((b_m - C_nm) / epsilon)`` (J, N), in cells."""
        return self.reference - self.epsilon * self.exponent(b).logsumexp(1)

    def mean_cost(self, share: Tensor) -> Tensor:
        """Cost of a unit of mass from each supplier, ``sum_m share_nm C_nm`` (J, N)."""
        return self.reference + (share * self.excess).sum(1)
