"""Closed form for a single demander (the naive variant of Tab. 4): all mass goes to it, whatever epsilon."""

from __future__ import annotations

import torch

from .problem import TransportProblem
from .result import TransportResult
from .semi_dual import SemiDual


def solve_single_demander(problem: TransportProblem) -> TransportResult:
    """The only feasible plan: ``p_n1 = S_n``, cost ``<S, C>``, potentials ``b = 0`` and ``f_n = C_n1``.

    Raises:
        ValueError: the problem has more than one demander per joint.
    """
    mass = problem.demanders.mass
    if mass.shape[-1] != 1:
        raise ValueError(f'demanders must be one per joint for the closed form, got M = {mass.shape[-1]}')
    semi_dual = SemiDual(problem)
    error = semi_dual.marginal_error(semi_dual.suppliers.sum(-1, keepdim=True))
    return TransportResult(semi_dual, torch.zeros_like(mass), error, 0, error <= semi_dual.tolerance)
