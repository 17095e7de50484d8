"""The three gradients: each is the derivative of its own objective, and each stays bounded."""

import pytest
import torch

from hdm_mmpose.transport import (
    OBJECTIVES,
    TransportProblem,
    build_ground_distance,
    dot_demanders,
    objective_value,
    solve_newton,
    supplier_gradient,
)
from tests.transport.families import GROUND_DISTANCES, centred, problem_of, random_dots, suppliers_of

SIZE = (5, 6)


def objective_at(suppliers, problem, objective):
    moved = TransportProblem(suppliers, problem.demanders, problem.epsilon, problem.ground_distance)
    return objective_value(solve_newton(moved, tolerance=1e-15, max_steps=60), objective)


@pytest.mark.filterwarnings('ignore:The transport solver left')
@pytest.mark.parametrize('objective', OBJECTIVES)
@pytest.mark.parametrize('epsilon', [0.1, 0.25, 1, 4])
@pytest.mark.parametrize('ground', GROUND_DISTANCES)
def test_is_the_derivative_of_the_objective(objective, epsilon, ground):
    """Central differences along random directions that keep the total mass."""
    problem = problem_of('noise', epsilon, ground, size=SIZE)
    gradient = supplier_gradient(solve_newton(problem), objective)
    for _ in range(4):
        direction = torch.randn_like(problem.suppliers) * problem.suppliers
        direction = direction - direction.sum((1, 2), keepdim=True) * problem.suppliers
        step = 1e-4
        ahead = objective_at(problem.suppliers + step * direction, problem, objective)
        behind = objective_at(problem.suppliers - step * direction, problem, objective)
        slope = (gradient * direction.flatten(1)).sum(1)
        assert torch.allclose((ahead - behind) / (2 * step), slope, rtol=1e-6, atol=1e-8)


def test_values_of_the_objectives_by_their_definitions():
    problem = problem_of('noise', 0.4, size=SIZE)
    result = solve_newton(problem)
    supply, demand = problem.suppliers.flatten(1)[:, None], problem.demanders.mass[..., None]
    plan = result.plan
    cost = (plan * problem.cost()).sum((1, 2))
    product = torch.where(plan > 0, plan * (plan / (supply * demand)).log(), 0).sum((1, 2))
    assert torch.allclose(objective_value(result, 'sharp'), cost, atol=1e-12)
    assert torch.allclose(objective_value(result, 'product'), cost + 0.4 * product, atol=1e-12)
    assert torch.allclose(objective_value(result, 'shannon'), cost - 0.4 * torch.special.entr(plan).sum((1, 2)), atol=1e-12)


def test_shannon_is_product_plus_the_logarithm_of_the_masses():
    problem = problem_of('noise', 0.4, size=SIZE)
    result = solve_newton(problem)
    difference = supplier_gradient(result, 'shannon') - supplier_gradient(result, 'product')
    assert torch.allclose(difference, 0.4 * problem.suppliers.flatten(1).log(), atol=1e-12)


def test_shannon_is_cut_off_where_there_is_no_mass():
    for dtype in (torch.float32, torch.float64):
        gradient = supplier_gradient(solve_newton(problem_of('one cell', 0.25, dtype=dtype, size=SIZE)), 'shannon')
        assert gradient.isfinite().all()


def test_all_three_agree_when_nothing_is_regularised():
    """Far away from the dot and at small epsilon, the gradient is the distance."""
    size = (6, 40)
    dots = torch.tensor([[2.3, 3.6]], dtype=torch.float64)
    problem = TransportProblem(suppliers_of('flat', dots, size), dot_demanders(dots, size), 0.02)
    result = solve_newton(problem)
    x, y = torch.meshgrid(torch.arange(40.0), torch.arange(6.0), indexing='xy')
    distance = ((x - 2.3) ** 2 + (y - 3.6) ** 2).sqrt().flatten()[None].double()
    for objective in OBJECTIVES:
        found = supplier_gradient(result, objective)
        assert (centred(found, problem.suppliers) - centred(distance, problem.suppliers)).abs().max() < 0.8


@pytest.mark.parametrize('epsilon', [0.02, 0.1])
@pytest.mark.parametrize('ground', GROUND_DISTANCES)
def test_sharp_is_exact_in_float32_on_narrow_peaks(epsilon, ground):
    """There, weak edges hang on strong ones: node by node, their digits would be lost (error .02 at epsilon = 0.02)."""
    size = (9, 8)
    dots = random_dots(200, size)
    single, double = (
        TransportProblem(
            suppliers_of('narrow peak at the dot', dots, size).to(dtype), dot_demanders(dots, size).to(dtype), epsilon,
            build_ground_distance(ground),
        )
        for dtype in (torch.float32, torch.float64)
    )
    found = centred(supplier_gradient(solve_newton(single), 'sharp').double(), double.suppliers)
    wanted = centred(supplier_gradient(solve_newton(double), 'sharp'), double.suppliers)
    error = (found - wanted).abs().amax(1) / wanted.abs().amax(1)
    assert error.quantile(0.95) < 2e-5
    assert found.abs().max() < 20


def test_unknown_objectives_are_named():
    result = solve_newton(problem_of('flat', 1))
    for function in (supplier_gradient, objective_value):
        with pytest.raises(ValueError, match="objective must be one of .*'shannon'.* got 'sinkhorn'"):
            function(result, 'sinkhorn')
