"""The transport problem of a joint and what a solver returns for it.

    min_p  <C, p> + epsilon KL(p | S x D)    over p >= 0 with row sums S and column sums D            (Eq. 2)

``S`` are the suppliers (N = H x W cells), ``D`` the demanders (M, usually 4), ``C_nm`` the ground distance in heatmap
cells between supplier n and demander m.  Eq. 2 writes the entropy ``-h(p) / lambda`` in place of the divergence: the plan
is the same, the value differs by ``epsilon (sum S log S + sum D log D)``.  ``epsilon`` is in heatmap cells; a paper that
measures cost in input pixels with ``lambda`` has ``epsilon = 1 / (lambda g)``, ``g`` pixels per cell.

Letters used throughout: J joints, M demanders, N = H x W suppliers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hdm_mmpose import checks

from .demanders import Demanders
from .ground_distance import Euclidean, GroundDistance


@dataclass(frozen=True)
class TransportProblem:
    """J independent problems.

    Attributes:
        suppliers: (J, H, W) masses, non-negative, summing to 1 per joint; float32 or float64.
        demanders: positions (J, M, 2) in cells, x then y, and masses (J, M) summing to 1.
        epsilon: entropic parameter in heatmap cells, > 0.
        ground_distance: cost of a unit of mass as a function of distance.

    Raises:
        TypeError, ValueError: shapes, dtypes or values that do not fit together; the message names the argument.
    """

    suppliers: Tensor
    demanders: Demanders
    epsilon: float
    ground_distance: GroundDistance = Euclidean()

    def __post_init__(self) -> None:
        checks.positive('epsilon', self.epsilon, 'heatmap cells')
        shape = tuple(self.suppliers.shape)
        if len(shape) != 3:
            raise ValueError(f'suppliers must have shape (J, H, W), got {shape}')
        if self.suppliers.dtype not in (torch.float32, torch.float64):
            raise TypeError(f'suppliers must be float32 or float64, got {self.suppliers.dtype}')
        position, mass = tuple(self.demanders.position.shape), tuple(self.demanders.mass.shape)
        if len(mass) != 2 or mass[0] != shape[0] or position != (*mass, 2):
            raise ValueError(
                f'demanders must have position (J, M, 2) and mass (J, M) with J = {shape[0]}, got {position} and {mass}'
            )
        if self.demanders.mass.dtype != self.suppliers.dtype:
            raise TypeError(
                f'demanders must have the dtype of suppliers, {self.suppliers.dtype}, got {self.demanders.mass.dtype}'
            )

    def reduced_cost(self) -> tuple[Tensor, Tensor]:
        """The cost split as ``C_nm = reference_n + excess_nm``, with demander 0 as the reference.

        Far from the dot four nearly equal costs differ by at most ``sqrt(2)``, and only the differences, divided by
        epsilon, decide the plan.  They are computed without subtracting large numbers:
        ``d_m - d_0 = (d_m^2 - d_0^2) / (d_m + d_0)``, whose numerator is exact for integer cells.

        Returns:
            ``reference`` (J, N) and ``excess`` (J, M, N), in cells; cells in row-major order.
        """
        height, width = self.suppliers.shape[1:]
        columns = torch.arange(width, dtype=self.suppliers.dtype, device=self.suppliers.device)
        rows = torch.arange(height, dtype=self.suppliers.dtype, device=self.suppliers.device)
        x2 = (columns - self.demanders.position[..., 0, None]).square_()  # (J, M, W)
        y2 = (rows - self.demanders.position[..., 1, None]).square_()  # (J, M, H)
        square = (y2[..., :, None] + x2[..., None, :]).flatten(2)  # (J, M, N)
        distance = square.sqrt()
        reference = distance[:, :1]
        difference = (square - square[:, :1]) / (distance + reference).clamp_min(1e-30)
        return self.ground_distance.cost(reference[:, 0]), self.ground_distance.excess(reference, difference)

    def cost(self) -> Tensor:
        """``C`` (J, M, N) in cells."""
        reference, excess = self.reduced_cost()
        return reference[:, None] + excess
