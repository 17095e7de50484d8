"""How many Newton steps are needed, and how close they come: ``tools/benchmarks/transport.py --accuracy``."""

from __future__ import annotations

import statistics
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from hdm_mmpose.transport import (
    OBJECTIVES,
    Demanders,
    TransportProblem,
    TransportResult,
    build_ground_distance,
    dot_demanders,
    solve_newton,
    solve_sinkhorn,
    supplier_gradient,
)
from hdm_mmpose.transport.newton import WARM_UP
from tools.pages import table

from .maps import families, random_dots

EPSILONS = (0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 4.0, 100.0)
GROUND_DISTANCES = ('euclidean', 'saturated')
SIZE = (24, 18)
JOINTS = 12
MOST_ITERATIONS = 20_000
# Sinkhorn counts as converged, and serves as the reference for float64, below this marginal error.
CONVERGED = 2e-15


@dataclass
class Row:
    """One family at one epsilon, over dots and ground distances.

    Attributes:
        steps: Newton steps of each joint, solved alone, in float64.
        unconverged: joints that missed the tolerance, in float64 and float32.
        double: largest relative error of value and gradients against converged Sinkhorn; None where Sinkhorn is not.
        single: the same of float32 against float64.
    """

    family: str
    epsilon: float
    steps: list[int]
    unconverged: int
    double: float | None
    single: float


def measure(seed: int, progress=print) -> list[Row]:
    """All rows; ``progress`` is told about each epsilon."""
    generator = torch.Generator().manual_seed(seed)
    dots = random_dots(JOINTS, SIZE, generator)
    dots[:4] = torch.tensor([[3.0, 4.0], [3.0 + 1e-7, 4.3], [0.0, 0.0], [0.5, 0.5]])
    maps = families(dots, SIZE, generator)
    rows = []
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', UserWarning)
        for epsilon in EPSILONS:
            progress(f'epsilon = {epsilon} cells ...')
            rows += [_row(family, masses, dots, epsilon) for family, masses in maps.items()]
    return rows


def _row(family: str, masses: Tensor, dots: Tensor, epsilon: float) -> Row:
    steps, unconverged, double, single = [], 0, [], []
    for ground in GROUND_DISTANCES:
        demanders = dot_demanders(dots, SIZE)
        problem = TransportProblem(masses, demanders, epsilon, build_ground_distance(ground))
        exact = solve_newton(problem)
        for joint in range(len(dots)):
            alone = TransportProblem(masses[joint : joint + 1], demanders[joint : joint + 1], epsilon, problem.ground_distance)
            steps.append(max(0, solve_newton(alone).iterations - 1 - WARM_UP))
        if epsilon >= 0.1:
            double.append(_difference(exact, solve_sinkhorn(problem, MOST_ITERATIONS, CONVERGED)))
        rounded, lifted = _in_single(problem), _in_single(problem).demanders.to(torch.float64)
        found = solve_newton(rounded)
        same = solve_newton(_lifted(rounded, lifted))
        single.append(_difference(found, same))
        unconverged += int((~exact.converged).sum() + (~found.converged).sum())
    known = [value for value in double if value is not None]
    return Row(family, epsilon, steps, unconverged, max(known) if known else None, max(v for v in single if v is not None))


def _in_single(problem: TransportProblem) -> TransportProblem:
    demanders = problem.demanders.to(torch.float32)
    return TransportProblem(problem.suppliers.float(), demanders, problem.epsilon, problem.ground_distance)


def _lifted(problem: TransportProblem, demanders: Demanders) -> TransportProblem:
    """The float32 problem in float64: the same numbers, rescaled to sums of exactly 1."""
    masses, mass = problem.suppliers.double(), demanders.mass
    return TransportProblem(
        masses / masses.sum((1, 2), keepdim=True), Demanders(demanders.position, mass / mass.sum(-1, keepdim=True)),
        problem.epsilon, problem.ground_distance,
    )


def _difference(found: TransportResult, reference: TransportResult) -> float | None:
    """Largest relative difference over joints: of the value, and of each gradient on the cells with mass.

    Gradients are compared as they act, after removing the mean under the suppliers, relative to their own largest entry
    or the largest potential, whichever is larger.
    """
    suppliers = reference.semi_dual.suppliers
    good = reference.marginal_error < (1e-13 if suppliers.dtype == torch.float64 else 1e-5)
    if not good.any():
        return None
    value = (found.transport_cost - reference.transport_cost).abs() / reference.transport_cost.clamp(min=1e-3)
    worst = [value[good].max().item()]
    largest = _centred(supplier_gradient(reference, 'product'), suppliers).abs().amax(1)
    for objective in OBJECTIVES:
        one, other = (_centred(supplier_gradient(result, objective), suppliers) for result in (found, reference))
        size = torch.where(suppliers > 0, other.abs(), 0).amax(1).maximum(largest)
        error = torch.where(suppliers > 0, (one - other).abs(), 0).amax(1) / size
        worst.append(error[good].max().item())
    return max(worst)


def _centred(values: Tensor, suppliers: Tensor) -> Tensor:
    values = values.double()
    return values - (values * suppliers).sum(1, keepdim=True)


def step_table(rows: list[Row]) -> str:
    """Newton steps, median and maximum, per family and epsilon."""
    def cell(some: list[Row]) -> str:
        steps = [step for row in some for step in row.steps]
        missed = sum(row.unconverged for row in some)
        return f'{statistics.median(steps):.0f} / {max(steps)}' + (f' ({missed} missed)' if missed else '')

    names = list(dict.fromkeys(row.family for row in rows))
    lines = [[name, *(cell([r for r in rows if (r.family, r.epsilon) == (name, e)]) for e in EPSILONS)] for name in names]
    lines.append(['all', *(cell([r for r in rows if r.epsilon == e]) for e in EPSILONS)])
    return table(['map, epsilon in cells', *(f'{e:g}' for e in EPSILONS)], lines)


def error_table(rows: list[Row]) -> str:
    """Largest relative error per family and epsilon: float64 against converged Sinkhorn, float32 against float64."""
    def cell(row: Row) -> str:
        return ('- / ' if row.double is None else f'{row.double:.0e} / ') + f'{row.single:.0e}'

    names = list(dict.fromkeys(row.family for row in rows))
    lines = [[name, *(cell(row) for row in rows if row.family == name)] for name in names]
    return table(['map, epsilon in cells', *(f'{e:g}' for e in EPSILONS)], lines)
