"""The problem: what it refuses, and that its costs keep their digits."""

import math

import pytest
import torch

from hdm_mmpose.transport import Demanders, TransportProblem, build_ground_distance, dot_demanders
from tests.transport.families import GROUND_DISTANCES, problem_of, random_dots


def direct_cost(problem):
    height, width = problem.suppliers.shape[1:]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing='ij')
    cells = torch.stack([x, y], -1).view(-1, 2).double()
    distance = (cells - problem.demanders.position.double()[:, :, None]).square().sum(-1).sqrt()
    return problem.ground_distance.cost(distance)


@pytest.mark.parametrize('ground', GROUND_DISTANCES)
def test_cost_is_the_ground_distance(ground):
    problem = problem_of('flat', 1, ground, size=(5, 9))
    assert torch.allclose(problem.cost(), direct_cost(problem), atol=1e-13)


@pytest.mark.parametrize('ground', GROUND_DISTANCES)
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_differences_between_demanders_keep_their_digits_far_away(ground, dtype):
    size = (130, 256)
    dots = random_dots(3, size)
    problem = TransportProblem(
        torch.full((3, *size), 1 / (size[0] * size[1]), dtype=dtype), dot_demanders(dots, size).to(dtype), 1.0,
        build_ground_distance(ground),
    )
    _, excess = problem.reduced_cost()
    corner = problem.demanders.position.double()
    y, x = torch.meshgrid(torch.arange(size[0]).double(), torch.arange(size[1]).double(), indexing='ij')
    square = (x.flatten() - corner[..., :1]) ** 2 + (y.flatten() - corner[..., 1:]) ** 2
    difference = (square - square[:, :1]) / (square.sqrt() + square[:, :1].sqrt()).clamp(min=1e-300)
    exact = problem.ground_distance.excess(square[:, :1].sqrt(), difference)
    assert (excess.double() - exact).abs().max() < 2 * torch.finfo(dtype).eps
    assert excess.abs().max() <= math.sqrt(2) * (1 + 1e-6)


@pytest.mark.parametrize('epsilon', [0, -1.0, float('nan'), float('inf'), True, '1', None])
def test_epsilon_must_be_positive(epsilon):
    problem = problem_of('flat', 1)
    with pytest.raises(ValueError, match='epsilon must be a positive finite number of heatmap cells') as error:
        TransportProblem(problem.suppliers, problem.demanders, epsilon)
    assert repr(epsilon) in str(error.value)


def test_shapes_and_dtypes_must_fit():
    suppliers = torch.full((3, 4, 5), 1 / 20)
    demanders = dot_demanders(torch.ones(3, 2), (4, 5))
    with pytest.raises(ValueError, match=r'suppliers must have shape \(J, H, W\), got \(4, 5\)'):
        TransportProblem(suppliers[0], demanders, 1.0)
    with pytest.raises(TypeError, match='suppliers must be float32 or float64, got torch.float16'):
        TransportProblem(suppliers.half(), demanders, 1.0)
    with pytest.raises(ValueError, match=r'demanders must have position \(J, M, 2\) .* with J = 3, got \(2, 4, 2\) and \(2, 4\)'):
        TransportProblem(suppliers, demanders[:2], 1.0)
    with pytest.raises(ValueError, match='demanders must have position'):
        TransportProblem(suppliers, Demanders(demanders.position[:, :3], demanders.mass), 1.0)
    with pytest.raises(TypeError, match='demanders must have the dtype of suppliers, torch.float32, got torch.float64'):
        TransportProblem(suppliers, demanders.to(torch.float64), 1.0)
