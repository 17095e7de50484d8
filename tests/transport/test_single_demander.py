"""One demander takes everything: closed form, whatever epsilon."""

import pytest
import torch

from hdm_mmpose.transport import Demanders, TransportProblem, naive_demander, solve, solve_newton, solve_single_demander
from hdm_mmpose.transport import supplier_gradient as gradient_of
from tests.transport.families import centred, dots_in, problem_of, suppliers_of

SIZE = (6, 9)


def single(epsilon=0.3):
    dots = dots_in(SIZE)
    return TransportProblem(suppliers_of('noise', dots, SIZE), naive_demander(dots, SIZE), epsilon)


def test_the_cost_is_the_mean_distance():
    problem = single()
    result = solve_single_demander(problem)
    distance = problem.cost()[:, 0]
    assert torch.allclose(result.transport_cost, (distance * problem.suppliers.flatten(1)).sum(1), atol=1e-13)
    assert result.converged.all() and result.marginal_error.max() < 1e-14 and result.iterations == 0


def test_every_gradient_is_the_distance_itself():
    problem = single()
    result = solve_single_demander(problem)
    distance = centred(problem.cost()[:, 0], problem.suppliers)
    for objective in ('product', 'sharp'):
        assert torch.allclose(centred(gradient_of(result, objective), problem.suppliers), distance, atol=1e-13)
    logarithm = centred(problem.suppliers.flatten(1).log(), problem.suppliers)
    shannon = centred(gradient_of(result, 'shannon'), problem.suppliers)
    assert torch.allclose(shannon, distance + 0.3 * logarithm, atol=1e-13)


@pytest.mark.parametrize('solver', ['newton', 'sinkhorn'])
def test_both_solvers_use_it(solver):
    result = solve(single(), solver, 5)
    assert result.iterations == 0 and result.converged.all()


def test_agrees_with_four_demanders_of_which_three_have_no_mass():
    problem = single(0.1)
    position = problem.demanders.position.expand(-1, 4, -1).clone()
    position[:, 1:] = (position[:, 1:] + 1) % 5
    mass = torch.zeros(len(position), 4, dtype=torch.float64)
    mass[:, 0] = 1
    four = solve_newton(TransportProblem(problem.suppliers, Demanders(position, mass), 0.1))
    assert torch.allclose(four.transport_cost, solve_single_demander(problem).transport_cost, atol=1e-13)


def test_a_map_that_is_not_finite_has_not_converged():
    problem = single()
    problem.suppliers[2] = float('nan')
    assert solve_single_demander(problem).converged.tolist() == [j != 2 for j in range(len(problem.suppliers))]


def test_more_demanders_are_refused():
    with pytest.raises(ValueError, match='demanders must be one per joint for the closed form, got M = 4'):
        solve_single_demander(problem_of('flat', 1))
