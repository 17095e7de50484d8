"""Transport by the general solvers, for every distance, rule and objective: joint by joint in chunks, gradient and all.

What ``local`` leaves: distances that reach across the map, float64, small maps, Sinkhorn by name, ``sharp``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .companion import cross_entropy, dot_masses
from .demanders import Demanders, dot_demanders, naive_demander, unbiased_mass
from .gradient import objective_value, supplier_gradient
from .local import silence
from .newton import solve_newton
from .options import SOLVERS, EMDOptions
from .problem import TransportProblem
from .result import TransportResult
from .single_demander import solve_single_demander
from .sinkhorn import solve_sinkhorn
from .suppliers import compute_dtype, pull_back
from .target import annotate

# Joints are solved in chunks whose working arrays stay in the processor's cache (CPU), or take bounded memory (GPU).
CHUNK_CELLS = {'cpu': 1 << 17, 'cuda': 1 << 24}


def solve(problem: TransportProblem, solver: str = 'newton', num_iters: int = 1000) -> TransportResult:
    """Solve by name; a single demander has a closed form, which both solvers use."""
    if solver not in SOLVERS:
        raise ValueError(f'solver must be one of {SOLVERS}, got {solver!r}')
    if problem.demanders.mass.shape[-1] == 1:
        return solve_single_demander(problem)
    return solve_newton(problem) if solver == 'newton' else solve_sinkhorn(problem, num_iters)


def forward(
    maps: Tensor, target: Tensor, weights: Tensor | None, options: EMDOptions, wants_gradient: bool = True
) -> tuple[Tensor, ...]:
    """(loss, cost, error, dots, valid, gradient), each (B, K, ...), ``gradient`` empty unless wanted."""
    shape, size, dtype = maps.shape[:2], (maps.shape[2], maps.shape[3]), compute_dtype(maps)
    note = annotate(target, weights, options, dtype, size)
    flat, joints = maps.flatten(0, 1), len(note.dots)
    loss, cost, error = (note.dots.new_empty(joints) for _ in range(3))
    gradient = torch.empty(flat.shape if wants_gradient else 0, dtype=dtype, device=maps.device)
    step = max(1, CHUNK_CELLS.get(maps.device.type, 1 << 24) // (size[0] * size[1]))
    companion, blur = options.cross_entropy_weight, options.cross_entropy_blur
    for start in range(0, joints, step):
        part = slice(start, start + step)
        heatmap, dots = flat[part].to(dtype), note.dots[part]
        suppliers, rate = options.supplier.masses_and_rate(heatmap)
        result = solve(problem_of(suppliers, dots, options), options.solver, options.num_iters)
        loss[part] = cost[part] = result.transport_cost
        error[part] = result.marginal_error
        if companion:
            loss[part] += companion * cross_entropy(heatmap, dots, options.supplier, blur)
        if wants_gradient:
            wanted = supplier_gradient(result, options.objective).view_as(suppliers)
            slope = pull_back(wanted, suppliers, rate)
            if companion:
                slope += companion * (rate - dot_masses(dots, size, blur) * options.supplier.log_slope(heatmap))
            gradient[part] = slope.mul_(note.weight[part, None, None])
    if wants_gradient:
        gradient = silence(gradient, note.valid).view(maps.shape)
    loss = torch.where(note.valid, note.weight * loss, 0.0)
    return (*(each.view(*shape, *each.shape[1:]) for each in (loss, cost, error, note.dots, note.valid)), gradient)


def emd_objective(heatmap: Tensor, target: Tensor, options: EMDOptions) -> Tensor:
    """(J,) the objective whose exact gradient ``emd`` hands back, in cells; no gradient of its own.

    Arguments as for ``emd``.  For tests and for watching what is really being minimised.
    """
    check_shapes(heatmap, target)
    dtype = compute_dtype(heatmap)
    dots = annotate(target[None], None, options, dtype, (heatmap.shape[1], heatmap.shape[2])).dots
    suppliers = options.supplier.masses(heatmap.detach().to(dtype))
    return objective_value(solve(problem_of(suppliers, dots, options), options.solver, options.num_iters), options.objective)


def check_shapes(heatmap: Tensor, target: Tensor) -> None:
    if heatmap.dim() != 3 or min(heatmap.shape[1:]) < 2:
        raise ValueError(f'heatmap must have shape (J, H, W) with at least 2 x 2 cells, got {tuple(heatmap.shape)}')
    if target.shape != (heatmap.shape[0], 2) and target.shape != heatmap.shape:
        raise ValueError(
            f'target must have shape ({heatmap.shape[0]}, 2), got {tuple(target.shape)}; or that of heatmap, '
            f'{tuple(heatmap.shape)}, as dense targets'
        )


def problem_of(suppliers: Tensor, dots: Tensor, options: EMDOptions) -> TransportProblem:
    """The transport problem of suppliers (J, H, W) and dots (J, 2)."""
    size = (suppliers.shape[1], suppliers.shape[2])
    demanders = dot_demanders(dots, size) if options.subpixel else naive_demander(dots, size)
    if options.unbiased:
        demanders = Demanders(demanders.position, unbiased_mass(demanders.mass, options.epsilon, options.ground_distance))
    return TransportProblem(suppliers, demanders, options.epsilon, options.ground_distance)
