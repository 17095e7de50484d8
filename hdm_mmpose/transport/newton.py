r"""Newton's method on the semi-dual: exact in a handful of steps, for every epsilon, without a line search.

Let ``delta`` solve ``L delta = epsilon (D - received)`` (Newton's step, ``semi_dual.py``) and ``omega`` its range divided
by epsilon.  We step by ``t delta`` with

    t = log(1 + omega) / omega.

**This never overshoots.**  Let ``phi(t) = F(b + t delta)``, and let ``V_n(t)`` be the variance of ``delta_m`` under
``share_nm`` at ``b + t delta``.  Then ``phi'' = -sum_n S_n V_n / epsilon`` and, a third central moment being at most the
range times the variance, ``|phi'''| <= omega |phi''|``.  So ``|phi''(t)| <= |phi''(0)| e^(omega t)``, and with
``phi'(0) = |phi''(0)|`` (a Newton direction) ``phi'(t) >= phi'(0) (1 - (e^(omega t) - 1) / omega)``, which is non-negative
up to the ``t`` above.  F increases along the whole step; near the solution omega -> 0, t -> 1 and convergence is quadratic;
far from it, where the Hessian is exponentially flat, the step still moves by ``epsilon log(1 + omega)``, as far as a
Sinkhorn iteration would.  (Generalised self-concordance: Sun & Tran-Dinh, Mathematical Programming 2019.)
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hdm_mmpose import checks

from .problem import TransportProblem
from .result import TransportResult
from .semi_dual import SemiDual

# Sinkhorn iterations before the first Newton step, and after the last one where the tolerance was missed.
WARM_UP = 4
FALLBACK = 200


def step_budget(epsilon: float) -> int:
    """Newton steps that are enough for this epsilon (measured: ``tools/benchmarks/transport.py --accuracy``).

    Used up in full only where stopping early would need to ask the device (GPU), or by joints that do not converge.
    """
    return min(64, math.ceil(4 + 1.2 / epsilon))


def solve_newton(
    problem: TransportProblem, max_steps: int | None = None, warm_up: int = WARM_UP, tolerance: float | None = None
) -> TransportResult:
    """Solve by a few Sinkhorn iterations and damped Newton steps.

    On the CPU the loop ends as soon as every joint has converged; joints that have not after ``max_steps`` get
    ``FALLBACK`` further Sinkhorn iterations, which cannot make them worse, and a warning is given once.  On other devices
    ``max_steps`` steps are taken without asking the device anything; no step decreases the dual, so the result is no worse
    than that of the Sinkhorn iterations before them, and ``converged`` says whether it is enough (``TransportMonitorHook``
    looks at it when it logs).

    Args:
        problem: J transport problems.
        max_steps: Newton steps at most; by default ``step_budget(epsilon)``.
        warm_up: Sinkhorn iterations before them.
        tolerance: marginal error to reach; by default what rounding allows (``SemiDual.tolerance``).

    Returns:
        TransportResult.
    """
    semi_dual = SemiDual(problem)
    tolerance = semi_dual.tolerance if tolerance is None else tolerance
    max_steps = step_budget(problem.epsilon) if max_steps is None else max_steps
    may_ask = semi_dual.suppliers.device.type == 'cpu'
    b = semi_dual.epsilon * semi_dual.log_mass
    evaluations = 0
    for step in range(warm_up + max_steps + 1):
        received, exchange = semi_dual.receive(b)
        error = semi_dual.marginal_error(received)
        evaluations += 1
        # "not >" lets joints that are not finite count as finished
        if step == warm_up + max_steps or (may_ask and not (error > tolerance).any()):
            break
        b = semi_dual.sinkhorn_step(b, received) if step < warm_up else b + newton_step(semi_dual, received, exchange)
    if may_ask and (error > tolerance).any():
        for _ in range(FALLBACK):
            b = semi_dual.sinkhorn_step(b, received)
            received, _ = semi_dual.receive(b)
        error = semi_dual.marginal_error(received)
        evaluations += FALLBACK
        if (error > tolerance).any():
            _warn_once(problem.epsilon, float(error.nan_to_num(nan=0.0).max()), tolerance)
    return TransportResult(semi_dual, b, error, evaluations, error <= tolerance)


def newton_step(semi_dual: SemiDual, received: Tensor, exchange: Tensor) -> Tensor:
    """The damped Newton step ``t delta`` (J, M) at the potentials that gave ``received`` and ``exchange``."""
    missing = torch.where(semi_dual.active, semi_dual.mass - received, 0)
    # In units of epsilon, so that omega is simply the range over demanders that take part.
    delta = solve_laplacian(exchange, semi_dual.mass, missing)
    inactive = ~semi_dual.active
    omega = delta.masked_fill(inactive, -torch.inf).amax(-1) - delta.masked_fill(inactive, torch.inf).amin(-1)
    damping = torch.log1p(omega) / omega.clamp(min=torch.finfo(omega.dtype).tiny)
    return semi_dual.epsilon * torch.where(omega > 0, damping, 1)[:, None] * delta


def solve_laplacian(weight: Tensor, mass: Tensor, right: Tensor | None = None, pull: Tensor | None = None) -> Tensor:
    """Solve ``sum_k w_mk (x_m - x_k) = right_m + sum_k pull_mk``, a Laplacian system on the graph of the demanders.

    Gaussian elimination of one node after another.  What is left of a Laplacian is again a Laplacian, with weights
    ``w_jk + w_ij w_ik / sum_k w_ik``: sums and products of non-negative numbers, so small weights keep all their digits.
    ``pull`` stays with its edges on the way, ``pull_jk + (pull_ji w_ik + w_ij pull_ik) / sum_k w_ik``, and the ``x`` that
    it causes are weighted means of ``pull / w``: bounded by these, however nearly the graph falls apart.

    Args:
        weight: (J, M, M) edge weights, symmetric, non-negative; the diagonal is not read.
        mass: (J, M); nodes go in ascending order, and the last one (which certainly takes part) gets x = 0.
        right: (J, M) per node, summing to 0 up to rounding.
        pull: (J, M, M) per edge, antisymmetric.

    Returns:
        (J, M); 0 for nodes without edges and right-hand side.  What ``right`` causes is bounded by 1e30 in magnitude.
    """
    order = mass.argsort(-1)
    rows, columns = order[..., None].expand_as(weight), order[:, None, :].expand_as(weight)
    weight = weight.gather(1, rows).gather(2, columns)
    right = torch.zeros_like(mass) if right is None else right.gather(1, order)
    pull = None if pull is None else pull.gather(1, rows).gather(2, columns)
    least = torch.finfo(weight.dtype).tiny * 1e4
    eliminated = []
    while weight.shape[-1] > 1:
        to_rest = weight[:, 0, 1:]
        degree = to_rest.sum(-1, keepdim=True).clamp(min=least)
        flow, head = to_rest / degree, (right[:, :1] / degree).clamp(-1e30, 1e30)
        right = right[:, 1:] + right[:, :1] * flow
        weight = weight[:, 1:, 1:] + to_rest[:, :, None] * flow[:, None, :]
        if pull is not None:
            head = head + pull[:, 0, 1:].sum(-1, keepdim=True) / degree
            across = flow[:, :, None] * pull[:, 0, None, 1:]
            pull = pull[:, 1:, 1:] + across - across.mT
        eliminated.append((head, flow))
    x = torch.zeros_like(right)
    for head, flow in reversed(eliminated):
        x = torch.cat([head + (flow * x).sum(-1, keepdim=True), x], dim=-1)
    return torch.zeros_like(x).scatter(1, order, x)


def _warn_once(epsilon: float, error: float, tolerance: float) -> None:
    checks.warn_once('solver', (
        f'The transport solver left a marginal error of {error:.2e} (wanted {tolerance:.0e}) at epsilon = {epsilon} heatmap cells; '
        f'values and gradients are that much off. A larger epsilon or float64 avoids it.'), stacklevel=4)
