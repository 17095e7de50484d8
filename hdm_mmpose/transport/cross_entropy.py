"""Cross-entropy between the supplier distribution and the dot: a companion term on the same suppliers.

    CE = -sum_m D_m log S[cell of demander m]

It keeps several modes alive while a network is still undecided, where the transport cost commits early, and it is minimised
by the same ``S = D``.  Unlike the transport cost it does not know how far away misplaced mass is.
"""

from __future__ import annotations

from torch import Tensor

from .demanders import dot_demanders
from .suppliers import SupplierRule


def cross_entropy(heatmap: Tensor, dots: Tensor, supplier: SupplierRule) -> Tensor:
    """(J,) cross-entropy in nats, differentiable.

    Args:
        heatmap: (J, H, W) raw maps; half precision is lifted to float32.
        dots: (J, 2) dots in heatmap cells, x then y.
        supplier: a rule under which every cell has mass.

    Raises:
        ValueError: a rule with cells of mass 0, whose logarithm is minus infinity.
    """
    lifted = heatmap.float() if heatmap.element_size() < 4 else heatmap
    log_masses = supplier.log_masses(lifted).flatten(1)
    demanders = dot_demanders(dots.to(lifted.dtype), (heatmap.shape[1], heatmap.shape[2]))
    cell = demanders.position[..., 1] * heatmap.shape[2] + demanders.position[..., 0]
    cell = cell.long().clamp(0, log_masses.shape[1] - 1)  # a NaN dot has NaN masses, and any cell
    return -(demanders.mass * log_masses.gather(1, cell)).sum(-1)
