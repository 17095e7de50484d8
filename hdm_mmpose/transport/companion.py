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
from .suppliers import SupplierRule, compute_dtype


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
    lifted = heatmap.to(compute_dtype(heatmap))
    masses = dot_masses(dots.to(lifted.dtype), (heatmap.shape[1], heatmap.shape[2]), blur)
    return -(masses * supplier.log_masses(lifted)).sum((1, 2))


def dot_masses(dots: Tensor, size: tuple[int, int], blur: float = 0) -> Tensor:
    """(J, H, W) the masses of dots (J, 2) on maps of this size, spread by a Gaussian if there is a blur."""
    if blur:
        return _blurred(dots[:, 1], size[0], blur)[:, :, None] * _blurred(dots[:, 0], size[1], blur)[:, None]
    demanders = dot_demanders(dots, size)
    cell = demanders.position[..., 1] * size[1] + demanders.position[..., 0]
    cell = cell.nan_to_num(nan=0.0).long()  # a NaN dot has NaN masses, and any cell
    return dots.new_zeros(len(dots), size[0] * size[1]).scatter_(1, cell, demanders.mass).view(-1, *size)


def _blurred(position: Tensor, size: int, blur: float) -> Tensor:
    """(J, size) the bilinear masses of dots at (J,) along one axis, spread by a Gaussian symmetric about each cell."""
    cells = torch.arange(size, dtype=position.dtype, device=position.device)
    distance = (cells[:, None] - cells).abs()
    reach = torch.minimum(cells, size - 1 - cells)[:, None]
    spread = torch.where(distance <= reach, -((distance / blur) ** 2) / 2, -torch.inf).softmax(-1)
    masses = (1 - (position.clamp(0, size - 1)[:, None] - cells).abs()).clamp(min=0)
    return (masses[:, :, None] * spread).sum(1)  # no matrix product, which a GPU may round to TF32
