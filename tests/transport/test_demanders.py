"""Demanders: Eq. 4, and the masses that make the dot the minimiser."""

import pytest
import torch

from hdm_mmpose.transport import (
    TransportProblem,
    build_ground_distance,
    centroid,
    dot_demanders,
    naive_demander,
    solve_newton,
    supplier_gradient,
    unbiased_mass,
)
from hdm_mmpose.transport.semi_dual import SemiDual
from tests.transport.families import EPSILONS, GROUND_DISTANCES, centred, dot_map, dots_in, random_dots

SIZE = (7, 11)
# All the grid's, and one between them for which a network is likely to be trained.
GRID = (*EPSILONS, 0.15)


def test_masses_by_hand():
    demanders = dot_demanders(torch.tensor([[1.25, 0.5]]), (2, 3))
    assert demanders.position.tolist() == [[[1, 0], [2, 0], [1, 1], [2, 1]]]
    assert demanders.mass.tolist() == [[0.375, 0.125, 0.375, 0.125]]


def test_follow_equation_4():
    dots = random_dots(50, SIZE)
    demanders = dot_demanders(dots, SIZE)
    offset = (dots[:, None] - demanders.position).abs()
    assert torch.allclose(demanders.mass, (1 - offset[..., 0]) * (1 - offset[..., 1]), rtol=1e-14, atol=0)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('size', [(2, 2), (2, 9), SIZE], ids=str)
def test_masses_sum_to_one_and_have_the_dot_as_centroid(size, dtype):
    dots = torch.cat([dots_in(size), random_dots(100, size)]).to(dtype)
    last = torch.tensor([size[1] - 1, size[0] - 1], dtype=dtype)
    demanders = dot_demanders(dots, size)
    assert demanders.mass.dtype == demanders.position.dtype == dtype
    assert (demanders.mass >= 0).all()
    assert torch.allclose(demanders.mass.sum(-1), torch.ones(1, dtype=dtype), atol=4 * torch.finfo(dtype).eps)
    inside = torch.minimum(dots.clamp(min=0), last)
    middle = (demanders.mass[..., None] * demanders.position).sum(1)
    assert torch.allclose(middle, inside, atol=16 * torch.finfo(dtype).eps)
    assert (demanders.position == demanders.position.round()).all()
    assert ((demanders.position >= 0) & (demanders.position <= last)).all()


def test_a_dot_on_a_centre_or_an_edge_has_masses_of_exactly_zero():
    mass = dot_demanders(torch.tensor([[2.0, 3.0], [2.0, 3.25], [0.0, 0.0], [10.0, 6.0], [10.0, 2.5]]), SIZE).mass
    assert sorted(mass[0].tolist()) == [0, 0, 0, 1]
    assert sorted(mass[1].tolist()) == [0, 0, 0.25, 0.75]
    assert (mass > 0).sum(-1).tolist() == [1, 2, 1, 1, 2]


def test_maps_of_a_single_row_are_refused():
    with pytest.raises(ValueError, match='at least 2 x 2 cells, got H x W = 1 x 5'):
        dot_demanders(torch.zeros(1, 2), (1, 5))


def test_naive_demander_is_the_cell_that_holds_the_dot():
    dots = torch.tensor([[1.49, 2.51], [-3.0, 99.0], [0.5, 0.2]], dtype=torch.float64)
    demanders = naive_demander(dots, SIZE)
    assert demanders.position.tolist() == [[[1, 3]], [[0, 6]], [[1, 0]]]
    assert demanders.mass.tolist() == [[1], [1], [1]]


def test_centroid_reads_every_kind_of_target():
    dots = dots_in(SIZE)[:9]
    assert torch.allclose(centroid(dot_map(dots, SIZE)), dots, atol=1e-14)
    x, y = torch.arange(41.0, dtype=torch.float64), torch.arange(33.0, dtype=torch.float64)
    gaussian = torch.exp(-((x - 20.3) ** 2 + (y[:, None] - 15.8) ** 2) / 8)
    assert centroid(gaussian).tolist() == pytest.approx([20.3, 15.8], abs=1e-9)
    one_hot = torch.zeros(2, 3, *SIZE)
    one_hot[:, :, 4, 9] = 0.1
    assert (centroid(one_hot) == torch.tensor([9.0, 4.0])).all()


def test_centroid_ignores_negative_cells_and_survives_an_empty_target():
    target = torch.zeros(2, *SIZE)
    target[0, 2, 3], target[0, 6, 10] = 2.0, -5.0
    assert centroid(target).tolist() == [[3, 2], [torch.inf, torch.inf]]


def test_centroid_keeps_its_digits_inside_autocast():
    dots = torch.tensor([[9.37, 5.81]])
    with torch.autocast('cpu', dtype=torch.bfloat16):
        found = centroid(dot_map(dots, SIZE))
    assert torch.allclose(found, dots, atol=1e-5)


@pytest.mark.parametrize('epsilon', GRID)
@pytest.mark.parametrize('ground', GROUND_DISTANCES)
def test_unbiased_masses_are_the_normalised_kernel_times_the_masses(epsilon, ground):
    mass = dot_demanders(torch.cat([dots_in(SIZE), random_dots(20, SIZE)]), SIZE).mass
    corners = torch.tensor([[0.0, 0], [1, 0], [0, 1], [1, 1]], dtype=torch.float64)
    distance = (corners[:, None] - corners).square().sum(-1).sqrt()
    kernel = (-build_ground_distance(ground).cost(distance) / epsilon).exp()
    kernel = kernel / kernel.sum(1, keepdim=True)
    given = unbiased_mass(mass, epsilon, build_ground_distance(ground))
    assert torch.allclose(given, mass @ kernel, rtol=1e-13, atol=1e-16)
    assert torch.allclose(given.sum(-1), torch.ones(1, dtype=torch.float64), atol=1e-14)


@pytest.mark.parametrize('epsilon', GRID)
@pytest.mark.parametrize('ground', GROUND_DISTANCES)
def test_the_dot_is_the_minimiser_for_unbiased_masses(epsilon, ground):
    """The optimality conditions, from the certificate of the proof (b = 0) and without any solver, for 1,000 dots."""
    distance = build_ground_distance(ground)
    dots = torch.cat([random_dots(1000, SIZE), dots_in(SIZE)])
    demanders, suppliers = dot_demanders(dots, SIZE), dot_map(dots, SIZE)
    mass = unbiased_mass(demanders.mass, epsilon, distance)
    semi_dual = SemiDual(TransportProblem(suppliers, type(demanders)(demanders.position, mass), epsilon, distance))
    zero = torch.zeros_like(mass)
    assert semi_dual.marginal_error(semi_dual.receive(zero)[0]).max() < 1e-14
    gradient = centred(semi_dual.supplier_potential(zero), suppliers)
    assert gradient.min() > -1e-9
    assert (gradient * (suppliers.flatten(1) > 0)).abs().max() < 1e-9


@pytest.mark.parametrize('epsilon', [0.1, 0.15, 0.25, 0.5, 1, 4])
@pytest.mark.parametrize('ground', GROUND_DISTANCES)
@pytest.mark.parametrize('unbiased', [True, False])
def test_a_solver_finds_the_dot_to_be_the_minimiser_only_for_unbiased_masses(epsilon, ground, unbiased):
    """As above with the potentials that Newton finds.  Below epsilon = 0.1 rounding alone moves them (``test_newton``)."""
    distance = build_ground_distance(ground)
    dots = random_dots(1000, SIZE)
    demanders, suppliers = dot_demanders(dots, SIZE), dot_map(dots, SIZE)
    mass = unbiased_mass(demanders.mass, epsilon, distance) if unbiased else demanders.mass
    problem = TransportProblem(suppliers, type(demanders)(demanders.position, mass), epsilon, distance)
    gradient = centred(supplier_gradient(solve_newton(problem), 'product'), suppliers)
    violation = -gradient.amin(1)
    if unbiased:
        assert violation.max() < 1e-9
    else:
        assert violation.median() > 1e-3
