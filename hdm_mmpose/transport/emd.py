"""From a heatmap and its dot to the loss and its gradient: suppliers -> problem -> solver -> potential -> heatmap.

The gradient is computed together with the value, joint by joint, and only scaled in the backward pass: what is kept in
between is one array of the heatmap's size.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from .demanders import dot_demanders, unbiased_mass
from .gradient import check_potential, objective, supplier_gradient
from .ground_distance import Euclidean, GroundDistance
from .newton import solve_newton
from .problem import TransportProblem, check_epsilon
from .result import TransportResult
from .single_demander import solve_single_demander
from .sinkhorn import solve_sinkhorn
from .suppliers import Softplus, SupplierRule, pull_back

SOLVERS = ('newton', 'sinkhorn')
# Joints are solved in chunks whose working arrays stay in the processor's cache (CPU), or take bounded memory (GPU).
CHUNK_CELLS = {'cpu': 1 << 16, 'cuda': 1 << 24}


@dataclass(frozen=True)
class EMDOptions:
    """How the distance is measured; see ``EMDHeatmapLoss`` for the meaning of each.

    Raises:
        ValueError: unknown names, ``epsilon`` or ``num_iters`` not positive, ``unbiased`` where no correction exists.
    """

    epsilon: float
    potential: str = 'shannon'
    supplier: SupplierRule = field(default_factory=Softplus)
    solver: str = 'newton'
    num_iters: int = 1000
    unbiased: bool = False
    ground_distance: GroundDistance = field(default_factory=Euclidean)

    def __post_init__(self) -> None:
        check_epsilon(self.epsilon)
        check_potential(self.potential)
        if self.solver not in SOLVERS:
            raise ValueError(f'solver must be one of {SOLVERS}, got {self.solver!r}')
        if isinstance(self.num_iters, bool) or not isinstance(self.num_iters, int) or self.num_iters < 1:
            raise ValueError(f'num_iters must be a positive integer, got {self.num_iters!r}')
        if self.unbiased and self.potential != 'product':
            raise ValueError(
                f"unbiased demanders exist for potential='product' only, got potential={self.potential!r}: the minimiser of "
                f"'shannon' is blurred whatever the demanders are, and for 'sharp' no exact correction is known"
            )


class EMDOutput(NamedTuple):
    """Per joint, all (J,) and in cells; only ``cost`` carries a gradient."""

    cost: Tensor
    marginal_error: Tensor
    converged: Tensor


def solve(problem: TransportProblem, solver: str = 'newton', num_iters: int = 1000) -> TransportResult:
    """Solve by name; a single demander has a closed form, which both solvers use."""
    if solver not in SOLVERS:
        raise ValueError(f'solver must be one of {SOLVERS}, got {solver!r}')
    if problem.demanders.mass.shape[-1] == 1:
        return solve_single_demander(problem)
    return solve_newton(problem) if solver == 'newton' else solve_sinkhorn(problem, num_iters)


def emd(heatmap: Tensor, dots: Tensor, options: EMDOptions) -> EMDOutput:
    """Entropic Earth Mover's Distance between each heatmap and its dot.

    The value is the transport cost ``<C, p>`` (Eq. 2, left).  Its gradient with respect to the heatmap is that of the
    objective which ``options.potential`` belongs to (``gradient.py``); for ``sharp`` it is the derivative of the value.

    Args:
        heatmap: (J, H, W) raw maps of any sign; half precision is lifted to float32.
        dots: (J, 2) dots in heatmap cells, x then y; beyond the outermost centres they are clamped.
        options: how to measure.

    Returns:
        EMDOutput.  A map with a NaN or an infinity gives NaN for its own joint.

    Raises:
        ValueError: shapes that do not fit together, or a map smaller than 2 x 2.
    """
    if heatmap.dim() != 3 or min(heatmap.shape[1:]) < 2:
        raise ValueError(f'heatmap must have shape (J, H, W) with at least 2 x 2 cells, got {tuple(heatmap.shape)}')
    if dots.shape != (heatmap.shape[0], 2):
        raise ValueError(f'dots must have shape ({heatmap.shape[0]}, 2), got {tuple(dots.shape)}')
    dtype = torch.float64 if heatmap.dtype == torch.float64 else torch.float32
    return EMDOutput(*_EMD.apply(heatmap, dots.detach().to(dtype), options))


class _EMD(torch.autograd.Function):
    @staticmethod
    def forward(ctx, heatmap: Tensor, dots: Tensor, options: EMDOptions) -> tuple[Tensor, Tensor, Tensor]:
        wants_gradient = ctx.needs_input_grad[0]
        joints, height, width = heatmap.shape
        cost, error = dots.new_empty(joints), dots.new_empty(joints)
        converged = torch.empty(joints, dtype=torch.bool, device=heatmap.device)
        gradient = torch.empty_like(heatmap, dtype=dots.dtype) if wants_gradient else None
        step = max(1, CHUNK_CELLS.get(heatmap.device.type, 1 << 24) // (height * width))
        for start in range(0, joints, step):
            part = slice(start, start + step)
            suppliers, rate = options.supplier.masses_and_rate(heatmap[part].to(dots.dtype))
            result = solve(_problem(suppliers, dots[part], options), options.solver, options.num_iters)
            cost[part], error[part], converged[part] = result.transport_cost, result.marginal_error, result.converged
            if gradient is not None:
                wanted = supplier_gradient(result, options.potential).view_as(suppliers)
                gradient[part] = pull_back(wanted, suppliers, rate)
        if gradient is not None:
            ctx.save_for_backward(gradient)
        ctx.mark_non_differentiable(error, converged)
        ctx.dtype = heatmap.dtype
        return cost, error, converged

    @staticmethod
    def backward(ctx, grad: Tensor, *_: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        # A weight of exactly 0 silences a joint even where its map is not finite.
        scaled = torch.where(grad[:, None, None] == 0, 0, grad[:, None, None] * gradient)
        return scaled.to(ctx.dtype), None, None


def emd_objective(heatmap: Tensor, dots: Tensor, options: EMDOptions) -> Tensor:
    """(J,) the objective whose exact gradient ``emd`` hands back, in cells; no gradient of its own.

    Args and Raises as :func:`emd`.  For tests and for watching what is really being minimised.
    """
    dtype = torch.float64 if heatmap.dtype == torch.float64 else torch.float32
    suppliers = options.supplier.masses(heatmap.detach().to(dtype))
    result = solve(_problem(suppliers, dots.to(dtype), options), options.solver, options.num_iters)
    return objective(result, options.potential)


def _problem(suppliers: Tensor, dots: Tensor, options: EMDOptions) -> TransportProblem:
    demanders = dot_demanders(dots, suppliers.shape[1:])
    if options.unbiased:
        mass = unbiased_mass(demanders.mass, options.epsilon, options.ground_distance)
        demanders = type(demanders)(demanders.position, mass)
    return TransportProblem(suppliers, demanders, options.epsilon, options.ground_distance)
