"""Optimal transport between a heatmap and a dot.  Needs torch only.

Read in this order: ``suppliers`` and ``demanders`` (the two distributions), ``ground_distance``, ``problem``, ``semi_dual``,
``newton`` or ``sinkhorn``, ``gradient``, ``emd`` (all of it together).  ``hdm_mmpose.decoding`` is the way back.
"""

from .cross_entropy import cross_entropy
from .demanders import Demanders, centroid, dot_demanders, naive_demander, unbiased_mass
from .emd import SOLVERS, EMDOptions, EMDOutput, emd, emd_objective, solve
from .gradient import POTENTIALS, objective, supplier_gradient
from .ground_distance import GROUND_DISTANCES, Euclidean, Saturated, build_ground_distance
from .newton import solve_newton
from .problem import TransportProblem
from .result import TransportResult
from .single_demander import solve_single_demander
from .sinkhorn import contraction_bound, solve_sinkhorn
from .suppliers import SUPPLIERS, SupplierRule, build_supplier

__all__ = [
    'GROUND_DISTANCES',
    'POTENTIALS',
    'SOLVERS',
    'SUPPLIERS',
    'Demanders',
    'EMDOptions',
    'EMDOutput',
    'Euclidean',
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
    'objective',
    'solve',
    'solve_newton',
    'solve_single_demander',
    'solve_sinkhorn',
    'supplier_gradient',
    'unbiased_mass',
]
