"""Optimal transport between a heatmap and a dot, and the loss made of it.  Needs torch only.

Words that the literature has no short one for:

share      of a supplier: the part of its mass that goes to each demander; a softmax over demanders, rows of ``plan / S``
received   by a demander: what it gets from all suppliers, the column sums of the plan; solved when equal to its mass
exchange   between two demanders: how much of what both draw on is shared, the off-diagonal of the dual's Hessian
reference  of a supplier: its cost to the first demander, which no share depends on
excess     its cost to each other demander beyond that; all that decides who gets what
window     the cells round a dot that need a solver when the ground distance saturates; all others act as one

Read in this order: ``options``, ``target`` (where the dot is), ``suppliers`` and ``demanders`` (the two distributions),
``ground_distance``, ``problem``, ``semi_dual``, ``newton`` or ``sinkhorn``, ``gradient``, ``general`` (all of it together);
``local`` (the same in a window, for the default), ``operator`` (one autograd formula for all), ``loss``.
"""

from .companion import cross_entropy
from .demanders import Demanders, dot_demanders, naive_demander, unbiased_mass
from .general import emd_objective, solve
from .gradient import objective_value, supplier_gradient
from .ground_distance import GROUND_DISTANCES, Euclidean, GroundDistance, Saturated, build_ground_distance
from .loss import DotLoss, EMDOutput, LastStep, emd
from .newton import solve_newton
from .options import OBJECTIVES, REDUCTIONS, SOLVERS, EMDOptions
from .problem import TransportProblem
from .result import TransportResult
from .single_demander import solve_single_demander
from .sinkhorn import contraction_bound, solve_sinkhorn
from .suppliers import SUPPLIERS, SupplierRule, build_supplier
from .target import centroid, read_target

__all__ = [
    'GROUND_DISTANCES',
    'OBJECTIVES',
    'REDUCTIONS',
    'SOLVERS',
    'SUPPLIERS',
    'Demanders',
    'DotLoss',
    'EMDOptions',
    'EMDOutput',
    'Euclidean',
    'GroundDistance',
    'LastStep',
    'Saturated',
    'SupplierRule',
    'TransportProblem',
    'TransportResult',
    'build_ground_distance',
    'build_supplier',
    'centroid',
    'contraction_bound',
    'cross_entropy',
    'dot_demanders',
    'emd',
    'emd_objective',
    'naive_demander',
    'objective_value',
    'read_target',
    'solve',
    'solve_newton',
    'solve_single_demander',
    'solve_sinkhorn',
    'supplier_gradient',
    'unbiased_mass',
]
