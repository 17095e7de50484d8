r"""Three gradients share one plan (paper, supplement C).

The plan, and the logged cost ``<C, p>``, do not depend on how the entropy is written; the gradient with respect to the
suppliers does.  Each is the exact gradient of its own objective:

===========  ===================================================  =====================================================
objective    what is minimised                                    its derivative with respect to S_n, up to a constant
===========  ===================================================  =====================================================
``product``  ``<C, p> + epsilon KL(p | S x D)``                   ``f_n = -epsilon log sum_m exp((b_m - C_nm) / epsilon)``
``shannon``  ``<C, p> + epsilon sum p log p`` (Eq. 2 with         ``f_n + epsilon log S_n``
             ``h(p) = -sum p log p``)
``sharp``    ``<C, p>`` itself                                    ``c_n - <u, share_n>``, below
===========  ===================================================  =====================================================

The constant does not matter: suppliers are normalised, and ``pull_back`` subtracts the mean.

``sharp`` differentiates through the optimality condition ``received(b, S) = D``.  With ``c_n = sum_m share_nm C_nm`` the
cost is ``sum_n S_n c_n``; moving ``S`` moves ``b`` by ``db = -epsilon L^+ sum_n share_n dS_n``, and
``d<C, p>/db_m = sum_n S_n share_nm (C_nm - c_n) / epsilon =: w_m / epsilon``.  Hence the gradient
``c_n - <u, share_n>`` with ``L u = w``: one more solve with the Laplacian of Newton's last step.

``w`` is a sum over the edges of the graph, ``w_m = sum_k pull_mk`` with ``pull_mk = sum_n S_n share_nm share_nk
(C_nm - C_nk)``, each at most ``sqrt(2) exchange_mk``.  Solved edge by edge, ``u`` and with it the gradient are bounded for
every epsilon; summed to ``w`` first, the digits of weak edges would be lost (measured: .02 instead of 1e-7 in float32).
"""

from __future__ import annotations

import torch
from torch import Tensor

from hdm_mmpose import checks

from .newton import solve_laplacian
from .options import OBJECTIVES
from .result import TransportResult
from .semi_dual import pair_sums

# Masses below the normal numbers of float32 count as this much in the logarithm.
SMALLEST = torch.finfo(torch.float32).tiny


def supplier_gradient(result: TransportResult, objective: str) -> Tensor:
    """``dObjective / dS`` (J, N) in cells, up to a constant per joint.

    Where ``S_n = 0`` the ``shannon`` gradient is minus infinity; it is cut off at ``epsilon log SMALLEST``, in every dtype.
    Of the supplier rules only ``relu_surrogate`` lets it through there, and pushes such cells up with it.
    """
    checks.one_of('objective', objective, OBJECTIVES)
    if objective == 'sharp':
        return _sharp(result)
    if objective == 'product':
        return result.supplier_potential
    suppliers = result.semi_dual.suppliers
    log_suppliers = suppliers.clamp(min=SMALLEST).log()
    return result.supplier_potential + result.semi_dual.epsilon * log_suppliers


def objective_value(result: TransportResult, objective: str) -> Tensor:
    """(J,) the value that ``supplier_gradient`` is the gradient of, in cells."""
    checks.one_of('objective', objective, OBJECTIVES)
    if objective == 'sharp':
        return result.transport_cost
    semi_dual = result.semi_dual
    value = (result.supplier_potential * semi_dual.suppliers).sum(-1)
    g = torch.where(semi_dual.active, result.b - semi_dual.epsilon * semi_dual.log_mass, 0)  # = dObjective / dD
    value = value + (g * semi_dual.mass).sum(-1)
    if objective == 'product':
        return value
    entropy = torch.special.entr(semi_dual.suppliers).sum(-1) + torch.special.entr(semi_dual.mass).sum(-1)
    return value - semi_dual.epsilon * entropy


def _sharp(result: TransportResult) -> Tensor:
    semi_dual, share, plan = result.semi_dual, result.share, result.plan
    pull = pair_sums(plan * semi_dual.excess, share)
    u = solve_laplacian(pair_sums(plan, share), semi_dual.mass, pull=pull - pull.mT)
    return result.mean_cost - (u[..., None] * share).sum(1)
