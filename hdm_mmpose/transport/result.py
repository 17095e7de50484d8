"""What a solver hands back: potentials, how exact they are, and the values and plans that follow from them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from .semi_dual import SemiDual


@dataclass(frozen=True)
class TransportResult:
    """The solution of J transport problems.

    Attributes:
        semi_dual: the problem as the solver saw it.
        b: (J, M) demander potentials in cells, free up to a constant per joint; meaningless where the mass is 0.
        marginal_error: (J,) L1 distance of the plan's column sums from the demander masses (row sums are exact).
        iterations: evaluations of the semi-dual that were spent.
        converged: (J,) whether ``marginal_error`` reached the tolerance.
    """

    semi_dual: SemiDual
    b: Tensor
    marginal_error: Tensor
    iterations: int
    converged: Tensor

    @cached_property
    def share(self) -> Tensor:
        """(J, M, N) part of each supplier's mass that each demander gets."""
        return self.semi_dual.share(self.b)

    @cached_property
    def plan(self) -> Tensor:
        """(J, M, N) the transport plan ``p``."""
        return self.share * self.semi_dual.suppliers[:, None]

    @cached_property
    def mean_cost(self) -> Tensor:
        """(J, N) what carrying a unit of mass from each supplier costs, in cells."""
        return self.semi_dual.mean_cost(self.share)

    @cached_property
    def supplier_potential(self) -> Tensor:
        """(J, N) ``f``, in cells, free up to the same constant as ``b``, with the opposite sign."""
        return self.semi_dual.supplier_potential(self.b)

    @property
    def transport_cost(self) -> Tensor:
        """(J,) ``<C, p>`` in cells: the paper's loss (Eq. 2, left) and the value that is logged."""
        return (self.mean_cost * self.semi_dual.suppliers).sum(-1)
