"""Sinkhorn iterations: the reference solver, and the bound on how slowly it may converge (Birkhoff-Hopf)."""

import math

import ot
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hdm_mmpose.transport import TransportProblem, build_ground_distance, contraction_bound, dot_demanders, solve_sinkhorn
from hdm_mmpose.transport.semi_dual import SemiDual
from tests.transport.exact import solve_exactly
from tests.transport.families import GROUND_DISTANCES, MAPS, every_family, problem_of, random_dots, suppliers_of


def spread(values, active):
    """(J,) largest minus smallest value over the demanders that take part: Hilbert's projective distance from 0."""
    highest = values.masked_fill(~active, -torch.inf).amax(-1)
    return highest - values.masked_fill(~active, torch.inf).amin(-1)


@settings(deadline=None, max_examples=60, derandomize=True)
@given(
    seed=st.integers(0, 1000),
    family=st.sampled_from(sorted(MAPS)),
    log_epsilon=st.floats(-1.5, 2),
    ground=st.sampled_from(GROUND_DISTANCES),
    size=st.tuples(st.integers(2, 9), st.integers(2, 9)),
)
def test_never_converges_slower_than_the_bound(seed, family, log_epsilon, ground, size):
    """Each iteration shrinks the projective error by the bound at least; the marginal error stays under its envelope."""
    epsilon = 10**log_epsilon
    dots = random_dots(4, size, seed)
    problem = TransportProblem(
        suppliers_of(family, dots, size), dot_demanders(dots, size), epsilon, build_ground_distance(ground)
    )
    semi_dual = SemiDual(problem)
    b = torch.zeros_like(semi_dual.mass)
    rounding = 1e-13 * (1 + 1 / epsilon)
    bound, previous, first = contraction_bound(epsilon), None, None
    for step in range(25):
        received, _ = semi_dual.receive(b)
        error = semi_dual.marginal_error(received)
        log_ratio = torch.where(semi_dual.active, received.log() - semi_dual.log_mass, 0)
        projective = spread(log_ratio, semi_dual.active)
        first = projective if first is None else first
        if previous is not None:
            assert (projective <= bound * previous + rounding).all()
        # received / D lies within e^-s and e^s, where s is the projective error
        assert (error <= torch.expm1(bound**step * first) + rounding).all()
        previous, b = projective, semi_dual.sinkhorn_step(b, received)


def test_the_bound_by_hand():
    assert contraction_bound(1.0) == pytest.approx(0.371, abs=5e-4)
    assert contraction_bound(0.25) == pytest.approx(math.tanh(2 * math.sqrt(2)) ** 2)


def test_seventeen_iterations_reach_double_precision_at_one_cell():
    """What the module says; the bound alone would ask for 35."""
    result = solve_sinkhorn(every_family(1.0, size=(24, 18)), num_iters=17)
    assert result.marginal_error.max() < 2e-11
    assert result.marginal_error.median() < 1e-13


@pytest.mark.parametrize('epsilon', [0.25, 1, 4])
@pytest.mark.parametrize('ground', GROUND_DISTANCES)
def test_agrees_with_the_exact_solution(epsilon, ground):
    problem = problem_of('noise', epsilon, ground)
    result, exact = solve_sinkhorn(problem, num_iters=2000), solve_exactly(problem)
    assert result.converged.all() and result.iterations == 2000
    assert result.transport_cost.numpy() == pytest.approx(exact.cost, rel=1e-12)


def test_agrees_with_pot():
    problem = problem_of('relu of noise', 0.25)
    result = solve_sinkhorn(problem, num_iters=300)
    for joint in range(3):
        supply, demand = problem.suppliers[joint].flatten().numpy(), problem.demanders.mass[joint].numpy()
        cells = supply > 0
        cost = problem.cost()[joint].T.numpy()[cells]
        plan = ot.sinkhorn(supply[cells], demand, cost, 0.25, method='sinkhorn_log', numItermax=5000, stopThr=1e-13)
        assert result.plan[joint].T.numpy()[cells] == pytest.approx(plan, abs=1e-12)


def test_a_tolerance_stops_early():
    problem = every_family(1.0)
    result = solve_sinkhorn(problem, num_iters=500, tolerance=1e-6)
    assert result.converged.all() and 3 < result.iterations < 30
    strict = solve_sinkhorn(problem, num_iters=3, tolerance=1e-12)
    assert strict.iterations == 3 and not strict.converged.all()


def test_a_map_that_is_not_finite_does_not_hang_it():
    problem = problem_of('noise', 0.5)
    problem.suppliers[1] = float('nan')
    result = solve_sinkhorn(problem, num_iters=400, tolerance=1e-9)
    assert result.iterations < 400
    assert result.converged.tolist() == [joint != 1 for joint in range(len(problem.suppliers))]


@pytest.mark.parametrize('num_iters', [0, -3, 2.5, True, None])
def test_the_number_of_iterations_must_be_positive(num_iters):
    with pytest.raises(ValueError, match='num_iters must be a positive integer') as error:
        solve_sinkhorn(problem_of('flat', 1), num_iters=num_iters)
    assert repr(num_iters) in str(error.value)
