"""Entropic transport with 50 decimal digits: the truth that the solvers are compared with.

Nothing of ``hdm_mmpose`` is used.  Newton's method on the dual, a dense elimination in each step, mpmath numbers.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import mpmath
import numpy as np
import torch
from mpmath import mpf

from hdm_mmpose.transport import TransportProblem

DIGITS = 50
GROUND = {
    'euclidean': lambda distance, rule: distance,
    'saturated': lambda distance, rule: rule.scale * (1 - mpmath.exp(-distance / rule.scale)),
}


class Exact(NamedTuple):
    """All (J, ...) numpy float64, rounded once, at the end.

    Attributes:
        cost: (J,) ``<C, p>``.
        product, shannon, sharp: (J, N) gradients, their mean under the suppliers removed; 0 for ``shannon`` where S = 0.
        b: (J, M) demander potentials, the one of the largest mass set to 0; NaN where the mass is 0.
        condition: (J,) how far the potentials move when demander masses move by 1: ``epsilon |L^-1|``.
    """

    cost: np.ndarray
    product: np.ndarray
    shannon: np.ndarray
    sharp: np.ndarray
    b: np.ndarray
    condition: np.ndarray


def solve_exactly(problem: TransportProblem) -> Exact:
    """The solution of each joint; suppliers and demanders are rescaled to sums of exactly 1."""
    width = problem.suppliers.shape[2]
    joints = [
        _solve(tuple(s.flatten().tolist()), tuple(map(tuple, p.tolist())), tuple(m.tolist()), float(problem.epsilon), width,
               problem.ground_distance)
        for s, p, m in zip(problem.suppliers.double(), problem.demanders.position, problem.demanders.mass.double())
    ]
    return Exact(*(np.array(values, dtype=np.float64) for values in zip(*joints)))


@lru_cache(maxsize=None)
def _solve(suppliers, position, mass, epsilon, width, ground):
    with mpmath.workdps(DIGITS):
        masses = [mpf(m) for m in mass if m > 0]
        demand = [m / sum(masses) for m in masses]
        total = sum(map(mpf, suppliers))
        supply = [mpf(s) / total for s in suppliers]
        places = [p for p, m in zip(position, mass) if m > 0]
        cost = [[GROUND[ground.name](mpmath.hypot(n % width - x, n // width - y), ground) for x, y in places] for n in range(len(supply))]
        epsilon = mpf(epsilon)
        kernel = [[mpmath.exp(-c / epsilon) for c in row] for row in cost]
        b = _newton(supply, demand, kernel, epsilon)
        return _outputs(supply, mass, demand, cost, kernel, epsilon, b)


def _shares(kernel, b, epsilon):
    weight = [mpmath.exp(value / epsilon) for value in b]
    rows = [[w * k for w, k in zip(weight, row)] for row in kernel]
    totals = [sum(row) for row in rows]
    return [[value / total for value in row] for row, total in zip(rows, totals)], totals


def _received(supply, shares):
    return [sum(s * row[m] for s, row in zip(supply, shares)) for m in range(len(shares[0]))]


def _laplacian(supply, shares):
    count = len(shares[0])
    matrix = mpmath.zeros(count)
    for s, row in zip(supply, shares):
        if s == 0:
            continue
        for m in range(count):
            for k in range(m):
                weight = s * row[m] * row[k]
                matrix[m, k] -= weight
                matrix[k, m] -= weight
                matrix[m, m] += weight
                matrix[k, k] += weight
    return matrix


def _grounded(matrix, right):
    """Solution of ``matrix x = right`` with the last x = 0."""
    count = matrix.rows
    if count == 1:
        return [mpf(0)]
    x = mpmath.lu_solve(matrix[: count - 1, : count - 1], mpmath.matrix(right[: count - 1]))
    return [*x, mpf(0)]


def _newton(supply, demand, kernel, epsilon):
    b = [epsilon * mpmath.log(d) for d in demand]
    for step in range(400):
        shares, _ = _shares(kernel, b, epsilon)
        received = _received(supply, shares)
        missing = [d - r for d, r in zip(demand, received)]
        if sum(map(abs, missing)) < mpf(10) ** (5 - DIGITS):
            return b
        if step < 4:
            b = [v + epsilon * mpmath.log(d / r) for v, d, r in zip(b, demand, received)]
            continue
        delta = _grounded(_laplacian(supply, shares), missing)
        omega = max(delta) - min(delta)
        b = [v + epsilon * mpmath.log1p(omega) / omega * d for v, d in zip(b, delta)]
    raise AssertionError('the exact solution was not found')


def _outputs(supply, mass, demand, cost, kernel, epsilon, b):
    shares, totals = _shares(kernel, b, epsilon)
    laplacian = _laplacian(supply, shares)
    mean_cost = [sum(c * s for c, s in zip(row, share)) for row, share in zip(cost, shares)]
    pulled = [
        sum(s * share[m] * (row[m] - mean) for s, share, row, mean in zip(supply, shares, cost, mean_cost))
        for m in range(len(b))
    ]
    u = _grounded(laplacian, pulled)
    product = [-epsilon * mpmath.log(total) for total in totals]
    sharp = [mean - sum(v * s for v, s in zip(u, share)) for mean, share in zip(mean_cost, shares)]
    shannon = [f + epsilon * mpmath.log(s) if s > 0 else mpf(0) for f, s in zip(product, supply)]
    top = b[max(range(len(b)), key=lambda m: demand[m])]
    entries = iter(b)
    return (
        float(sum(s * mean for s, mean in zip(supply, mean_cost))),
        _centred(product, supply), [v if s > 0 else 0.0 for v, s in zip(_centred(shannon, supply), supply)],
        _centred(sharp, supply),
        [float(next(entries) - top) if m > 0 else float('nan') for m in mass],
        float(epsilon * _inverse_norm(laplacian)),
    )


def _centred(values, supply):
    mean = sum(v * s for v, s in zip(values, supply))
    return [float(v - mean) for v in values]


def _inverse_norm(laplacian):
    """Largest sum of absolute values in a row of the inverse of the grounded Laplacian."""
    count = laplacian.rows - 1
    if count == 0:
        return mpf(0)
    inverse = mpmath.inverse(laplacian[:count, :count])
    return max(sum(abs(inverse[i, k]) for k in range(count)) for i in range(count))


def centred(values: torch.Tensor, suppliers: torch.Tensor) -> np.ndarray:
    """Solver output (J, N) with its mean under the suppliers removed, in float64."""
    weights = suppliers.flatten(1).double()
    weights = weights / weights.sum(1, keepdim=True)
    values = values.double()
    return (values - (values * weights).sum(1, keepdim=True)).numpy()
