"""From a heatmap and its dot to the loss and its gradient: suppliers -> problem -> solver -> potential -> heatmap.

The gradient is computed together with the value, joint by joint, and only scaled in the backward pass: what is kept in
between is one array of the heatmap's size.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from hdm_mmpose.features import HAS_CUSTOM_OPERATORS, is_compiling, outside_graphs

from .backend import check_backend, give_up, kernel_for
from .demanders import centroid, dot_demanders, naive_demander, nearest_cell, unbiased_mass
from .gradient import check_potential, objective, supplier_gradient
from .ground_distance import Euclidean, GroundDistance
from .newton import solve_newton
from .problem import TransportProblem, check_epsilon
from .result import TransportResult
from .single_demander import solve_single_demander
from .sinkhorn import solve_sinkhorn
from .suppliers import Softplus, SupplierRule, pull_back, refuse_second_derivative

if HAS_CUSTOM_OPERATORS:
    from .operator import emd_operator

SOLVERS = ('newton', 'sinkhorn')
# Joints are solved in chunks whose working arrays stay in the processor's cache (CPU), or take bounded memory (GPU).
CHUNK_CELLS = {'cpu': 1 << 17, 'cuda': 1 << 24}


@dataclass(frozen=True)
class EMDOptions:
    """How the distance is measured; see ``EMDHeatmapLoss`` for the meaning of each.

    Raises:
        ValueError: unknown names, ``epsilon`` or ``num_iters`` not positive, ``unbiased`` where no correction exists or,
            without ``subpixel``, none is needed.
    """

    epsilon: float
    potential: str = 'shannon'
    supplier: SupplierRule = field(default_factory=Softplus)
    solver: str = 'newton'
    num_iters: int = 1000
    unbiased: bool = False
    ground_distance: GroundDistance = field(default_factory=Euclidean)
    backend: str = 'auto'
    subpixel: bool = True

    def __post_init__(self) -> None:
        check_epsilon(self.epsilon)
        check_potential(self.potential)
        check_backend(self.backend)
        if self.solver not in SOLVERS:
            raise ValueError(f'solver must be one of {SOLVERS}, got {self.solver!r}')
        if isinstance(self.num_iters, bool) or not isinstance(self.num_iters, int) or self.num_iters < 1:
            raise ValueError(f'num_iters must be a positive integer, got {self.num_iters!r}')
        if not isinstance(self.subpixel, bool):
            raise ValueError(f'subpixel must be True or False, got {self.subpixel!r}')
        if self.unbiased and self.potential != 'product':
            raise ValueError(
                f"unbiased demanders exist for potential='product' only, got potential={self.potential!r}: the minimiser of "
                f"'shannon' is blurred whatever the demanders are, and for 'sharp' no exact correction is known"
            )
        if self.unbiased and not self.subpixel:
            raise ValueError('unbiased must be False with subpixel=False: all mass goes to one demander, which has no bias')


class EMDOutput(NamedTuple):
    """Per joint, in cells; only ``cost`` carries a gradient.

    Attributes:
        cost: (J,) ``<C, p>``.
        marginal_error: (J,) how far the plan's column sums are from the demander masses.
        converged: (J,) bool.
        dots: (J, 2) x, y, as given or as read from dense targets, (inf, inf) where such a target is empty; without
            ``subpixel`` the cells that hold them.
    """

    cost: Tensor
    marginal_error: Tensor
    converged: Tensor
    dots: Tensor


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
        dots: (J, 2) dots in heatmap cells, x then y, or (J, H, W) dense targets whose centroids they are; beyond the
            outermost centres they are clamped.  What is returned for an empty target means nothing.
        options: how to measure.

    Returns:
        EMDOutput.  A map with a NaN or an infinity gives NaN for its own joint.

    Raises:
        ValueError: shapes that do not fit together, or a map smaller than 2 x 2.
        RuntimeError: ``options.backend`` is ``'triton'`` and cannot be had; in the backward pass, a second derivative is
            asked for (``create_graph=True``).
    """
    _check_shapes(heatmap, dots)
    # half precision is lifted inside; autocast must not lower anything again
    with torch.autocast(heatmap.device.type, enabled=False):
        if HAS_CUSTOM_OPERATORS and is_compiling():
            cost, *others = emd_operator(heatmap, dots.detach(), options)
            return EMDOutput(cost, *(each.detach() for each in others))
        return EMDOutput(*_apply(heatmap, dots.detach(), options))


def _check_shapes(heatmap: Tensor, dots: Tensor) -> None:
    if heatmap.dim() != 3 or min(heatmap.shape[1:]) < 2:
        raise ValueError(f'heatmap must have shape (J, H, W) with at least 2 x 2 cells, got {tuple(heatmap.shape)}')
    if dots.shape != (heatmap.shape[0], 2) and dots.shape != heatmap.shape:
        raise ValueError(
            f'dots must have shape ({heatmap.shape[0]}, 2), got {tuple(dots.shape)}; or that of heatmap, '
            f'{tuple(heatmap.shape)}, as dense targets'
        )


class _EMD(torch.autograd.Function):
    @staticmethod
    def forward(ctx, heatmap: Tensor, target: Tensor, options: EMDOptions) -> tuple[Tensor, ...]:
        *output, gradient = measure(heatmap, target, options, wants_gradient=ctx.needs_input_grad[0])
        ctx.save_for_backward(gradient)
        ctx.mark_non_differentiable(*output[1:])
        ctx.dtype, ctx.backend = heatmap.dtype, options.backend
        return tuple(output)

    @staticmethod
    def backward(ctx, grad: Tensor, *_: Tensor) -> tuple[Tensor, None, None]:
        refuse_second_derivative('emd')
        return scale_gradient(ctx.saved_tensors[0], grad, ctx.dtype, ctx.backend), None, None


_apply = outside_graphs(_EMD.apply)


def measure(heatmap: Tensor, target: Tensor, options: EMDOptions, wants_gradient: bool) -> tuple[Tensor, ...]:
    """The fields of ``EMDOutput``, and the gradient (J, H, W) in the dtype of the computation (empty unless wanted)."""
    kernel = kernel_for(heatmap, options.backend)
    if kernel is not None:
        try:
            return kernel.emd_triton(heatmap, target, options, wants_gradient)
        except torch.cuda.OutOfMemoryError:
            raise
        except Exception as error:  # a compiler missing, say: training need not stop
            if options.backend == 'triton':
                raise
            give_up(error)
    return _measure(heatmap, target, options, wants_gradient)


def scale_gradient(gradient: Tensor, factor: Tensor, dtype: torch.dtype, backend: str) -> Tensor:
    """``factor[j] * gradient[j]``; a factor of exactly 0 silences a joint even where its map is not finite."""
    kernel = kernel_for(gradient, backend)
    if kernel is not None:
        return kernel.scale_triton(gradient, factor, dtype)
    factor = factor[:, None, None]
    return torch.where(factor == 0, 0, factor * gradient).to(dtype)


def _measure(heatmap: Tensor, target: Tensor, options: EMDOptions, wants_gradient: bool) -> tuple[Tensor, ...]:
    """``measure`` in PyTorch."""
    joints, height, width = heatmap.shape
    dtype = torch.float64 if heatmap.dtype == torch.float64 else torch.float32
    dots = _read_dots(target, dtype, options)
    cost, error = dots.new_empty(joints), dots.new_empty(joints)
    converged = torch.empty(joints, dtype=torch.bool, device=heatmap.device)
    gradient = torch.empty(heatmap.shape if wants_gradient else 0, dtype=dtype, device=heatmap.device)
    step = max(1, CHUNK_CELLS.get(heatmap.device.type, 1 << 24) // (height * width))
    for start in range(0, joints, step):
        part = slice(start, start + step)
        suppliers, rate = options.supplier.masses_and_rate(heatmap[part].to(dtype))
        result = solve(_problem(suppliers, dots[part], options), options.solver, options.num_iters)
        cost[part], error[part], converged[part] = result.transport_cost, result.marginal_error, result.converged
        if wants_gradient:
            wanted = supplier_gradient(result, options.potential).view_as(suppliers)
            gradient[part] = pull_back(wanted, suppliers, rate)
    return cost, error, converged, dots, gradient


def _read_dots(target: Tensor, dtype: torch.dtype, options: EMDOptions) -> Tensor:
    """Dots (J, 2), a new tensor, from dots or dense targets."""
    dots = (centroid(target.to(dtype)) if target.dim() == 3 else target).to(dtype, copy=True)
    return dots if options.subpixel else nearest_cell(dots)


def emd_objective(heatmap: Tensor, dots: Tensor, options: EMDOptions) -> Tensor:
    """(J,) the objective whose exact gradient ``emd`` hands back, in cells; no gradient of its own.

    Arguments as for :func:`emd`.  For tests and for watching what is really being minimised.
    """
    _check_shapes(heatmap, dots)
    dtype = torch.float64 if heatmap.dtype == torch.float64 else torch.float32
    suppliers = options.supplier.masses(heatmap.detach().to(dtype))
    result = solve(_problem(suppliers, _read_dots(dots, dtype, options), options), options.solver, options.num_iters)
    return objective(result, options.potential)


def _problem(suppliers: Tensor, dots: Tensor, options: EMDOptions) -> TransportProblem:
    size = (suppliers.shape[1], suppliers.shape[2])
    demanders = dot_demanders(dots, size) if options.subpixel else naive_demander(dots, size)
    if options.unbiased:
        mass = unbiased_mass(demanders.mass, options.epsilon, options.ground_distance)
        demanders = type(demanders)(demanders.position, mass)
    return TransportProblem(suppliers, demanders, options.epsilon, options.ground_distance)
