"""Cross-entropy between the supplier distribution and the dot: a companion term on the same suppliers.

    CE = -sum_m D_m log S[cell of demander m]

It keeps several modes alive while a network is still undecided, where the transport cost commits early, and it is minimised
by the same ``S = D``.  Unlike the transport cost it does not know how far away misplaced mass is.

With a ``blur`` the dot's masses are spread by a Gaussian first, as annotators would spread them: more cells are told to rise,
which a network learns sooner.  Then the minimiser is the blurred ``D``.  Its centroid is the dot everywhere: the Gaussian of a
cell reaches no further than the border does on its nearer side, so it is never cut on one side only.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .demanders import dot_demanders
from .suppliers import SupplierRule


def cross_entropy(heatmap: Tensor, dots: Tensor, supplier: SupplierRule, blur: float = 0) -> Tensor:
    """(J,) cross-entropy in nats, differentiable.

    Args:
        heatmap: (J, H, W) raw maps; half precision is lifted to float32.
        dots: (J, 2) dots in heatmap cells, x then y; beyond the outermost centres they are clamped.
        supplier: a rule under which every cell has mass.
        blur: standard deviation in cells of the Gaussian that spreads the dot's masses, 0 for none.

    Raises:
        ValueError: a rule with cells of mass 0, whose logarithm is minus infinity.
    """
    lifted = heatmap.float() if heatmap.element_size() < 4 else heatmap
    log_masses = supplier.log_masses(lifted)
    height, width = heatmap.shape[1:]
    dots = dots.to(lifted.dtype)
    if blur:
        # products instead of a dense target; autocast would take them in half precision
        with torch.autocast(heatmap.device.type, enabled=False):
            rows, columns = _blurred(dots[:, 1], height, blur), _blurred(dots[:, 0], width, blur)
            return -((rows[:, None] @ log_masses)[:, 0] * columns).sum(-1)
    demanders = dot_demanders(dots, (height, width))
    cell = demanders.position[..., 1] * width + demanders.position[..., 0]
    cell = cell.long().clamp(0, height * width - 1)  # a NaN dot has NaN masses, and any cell
    return -(demanders.mass * log_masses.flatten(1).gather(1, cell)).sum(-1)


def _blurred(position: Tensor, size: int, blur: float) -> Tensor:
    """(J, size) the bilinear masses of dots at (J,) along one axis, spread by a Gaussian symmetric about each cell."""
    cells = torch.arange(size, dtype=position.dtype, device=position.device)
    distance = (cells[:, None] - cells).abs()
    reach = torch.minimum(cells, size - 1 - cells)[:, None]
    spread = torch.where(distance <= reach, -((distance / blur) ** 2) / 2, -torch.inf).softmax(-1)
    masses = (1 - (position.clamp(0, size - 1)[:, None] - cells).abs()).clamp(min=0)
    return masses @ spread
