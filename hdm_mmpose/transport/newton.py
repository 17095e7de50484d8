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
import warnings

import torch
from torch import Tensor

from .problem import TransportProblem
from .result import TransportResult
from .semi_dual import SemiDual

# Sinkhorn iterations before the first Newton step, and after the last one where the tolerance was missed.
WARM_UP = 4
FALLBACK = 200
# Marginal error that counts as solved, in units of the dtype's rounding; sums over N cells do not get below a few.
TOLERANCE = {torch.float32: 2e-6, torch.float64: 1e-13}


def step_budget(epsilon: float) -> int:
    """Newton steps that are enough for this epsilon (measured: ``tools/benchmark_transport.py --accuracy``).

    Used up in full only where stopping early would need to ask the device (GPU), or by joints that do not converge.
    """
    return min(64, math.ceil(4 + 1.2 / epsilon))


def solve_newton(
    problem: TransportProblem, max_steps: int | None = None, warm_up: int = WARM_UP, tolerance: float | None = None
) -> TransportResult:
    """Solve by a few Sinkhorn iterations and damped Newton steps.

    On the CPU the loop ends as soon as every joint has converged; joints that have not after ``max_steps`` get
    ``FALLBACK`` further Sinkhorn iterations, which cannot make them worse, and a warning is given once.  On other devices
    ``max_steps`` steps are taken without asking the device anything.

    Args:
        problem: J transport problems.
        max_steps: Newton steps at most; by default ``step_budget(epsilon)``.
        warm_up: Sinkhorn iterations before them.
        tolerance: marginal error to reach; by default ``TOLERANCE`` of the dtype.

    Returns:
        TransportResult.
    """
    semi_dual = SemiDual(problem)
    tolerance = TOLERANCE[semi_dual.suppliers.dtype] if tolerance is None else tolerance
    max_steps = step_budget(problem.epsilon) if max_steps is None else max_steps
    may_ask = semi_dual.suppliers.device.type == 'cpu'
    b = semi_dual.epsilon * semi_dual.log_mass
    evaluations = 0
    for step in range(warm_up + max_steps + 1):
        received, exchange = semi_dual.receive(semi_dual.share(b))
        error = semi_dual.marginal_error(received)
        evaluations += 1
        # "not >" lets joints that are not finite count as finished
        if step == warm_up + max_steps or (may_ask and not (error > tolerance).any()):
            break
        b = semi_dual.sinkhorn_step(b, received) if step < warm_up else b + newton_step(semi_dual, received, exchange)
    if may_ask and (error > tolerance).any():
        for _ in range(FALLBACK):
            b = semi_dual.sinkhorn_step(b, received)
            received, _ = semi_dual.receive(semi_dual.share(b))
        error = semi_dual.marginal_error(received)
        evaluations += FALLBACK
        if (error > tolerance).any():
            _warn_once(problem.epsilon, float(error.nan_to_num(nan=0.0).max()), tolerance)
    return TransportResult(semi_dual, b, error, evaluations, error <= tolerance)


def newton_step(semi_dual: SemiDual, received: Tensor, exchange: Tensor) -> Tensor:
    """The damped Newton step ``t delta`` (J, M) at the potentials that gave ``received`` and ``exchange``."""
    missing = torch.where(semi_dual.active, semi_dual.mass - received, 0)
    # In units of epsilon, so that omega is simply the range over demanders that take part.
    delta = solve_laplacian(exchange, missing, semi_dual.mass)
    inactive = ~semi_dual.active
    omega = delta.masked_fill(inactive, -torch.inf).amax(-1) - delta.masked_fill(inactive, torch.inf).amin(-1)
    damping = torch.log1p(omega) / omega.clamp(min=torch.finfo(omega.dtype).tiny)
    return semi_dual.epsilon * torch.where(omega > 0, damping, 1)[:, None] * delta


def solve_laplacian(weight: Tensor, right: Tensor, mass: Tensor) -> Tensor:
    """Solve ``L x = right`` for the Laplacian ``L`` of a graph with edge weights ``weight``.

    Gaussian elimination of one node after another.  What is left of a Laplacian is again a Laplacian, with weights
    ``w_jk + w_ij w_ik / sum_k w_ik``: sums and products of non-negative numbers, so small weights keep all their digits.

    Args:
        weight: (J, M, M), symmetric, non-negative; the diagonal is not read.
        right: (J, M), summing to 0 up to rounding.
        mass: (J, M); nodes go in ascending order, and the last one (which certainly takes part) gets x = 0.

    Returns:
        (J, M); 0 for nodes without edges and right-hand side.  Bounded by 1e30 in magnitude.
    """
    order = mass.argsort(-1)
    count = order.shape[-1]
    weight = weight.gather(1, order[..., None].expand_as(weight)).gather(2, order[:, None, :].expand_as(weight))
    right = right.gather(1, order)
    least = torch.finfo(weight.dtype).tiny * 1e4
    degree, flow = [], []
    for i in range(count - 1):
        degree.append(weight[:, i, i + 1 :].sum(-1).clamp(min=least))
        flow.append(weight[:, i, i + 1 :] / degree[i][:, None])
        right = torch.cat([right[:, : i + 1], right[:, i + 1 :] + right[:, i, None] * flow[i]], dim=-1)
        inner = weight[:, i + 1 :, i + 1 :] + flow[i][:, :, None] * weight[:, i, None, i + 1 :]
        weight = torch.nn.functional.pad(inner, (i + 1, 0, i + 1, 0))
    x = torch.zeros_like(right[:, -1:])
    for i in reversed(range(count - 1)):
        head = (right[:, i] / degree[i]).clamp(-1e30, 1e30) + (flow[i] * x).sum(-1)
        x = torch.cat([head[:, None], x], dim=-1)
    return torch.zeros_like(x).scatter(1, order, x)


_warned = False


def _warn_once(epsilon: float, error: float, tolerance: float) -> None:
    global _warned
    if not _warned:
        _warned = True
        warnings.warn(
            f'The transport solver left a marginal error of {error:.2e} (wanted {tolerance:.0e}) at epsilon = {epsilon} '
            f'heatmap cells; values and gradients are that much off. A larger epsilon or float64 avoids it. '
            f'This is said once.',
            stacklevel=3,
        )
