"""Ground distances: increasing, concave, exact where two large costs nearly cancel."""

import math

import pytest
import torch

from hdm_mmpose.transport import Euclidean, Saturated, build_ground_distance

RULES = [Euclidean(), Saturated(), Saturated(scale=0.3), Saturated(scale=50.0)]


@pytest.mark.parametrize('rule', RULES, ids=repr)
def test_is_an_increasing_concave_function_that_starts_at_zero(rule):
    distance = torch.linspace(0, 9, 1000, dtype=torch.float64)
    cost = rule.cost(distance)
    slope = cost.diff() / distance.diff()
    assert cost[0] == 0
    assert (slope > 0).all() and (slope <= 1 + 1e-9).all()
    assert (slope.diff() <= 1e-9).all()


def test_by_hand():
    distance = torch.tensor([0.0, 1.0, 5.0], dtype=torch.float64)
    assert Euclidean().cost(distance).tolist() == [0, 1, 5]
    expected = [0, 4 * (1 - math.exp(-0.25)), 4 * (1 - math.exp(-1.25))]
    assert Saturated(scale=4).cost(distance).tolist() == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize('rule', RULES, ids=repr)
def test_excess_keeps_its_digits_in_float32(rule):
    distance = torch.tensor([1e-3, 0.5, 3.0, 20.0, 150.0], dtype=torch.float64)
    delta = torch.tensor([1.4, -0.4, -1e-4, 3e-5, -1.3], dtype=torch.float64)
    delta = torch.maximum(delta, -distance)
    exact = rule.excess(distance, delta)
    difference = rule.cost(distance + delta) - rule.cost(distance)
    assert exact == pytest.approx(difference, rel=1e-9, abs=1e-13)
    single = rule.excess(distance.float(), delta.float()).double()
    assert single.tolist() == pytest.approx(exact.tolist(), rel=1e-4, abs=1e-37)


@pytest.mark.parametrize('scale', [1e-6, 1e-2, 1.0, 1e6])
def test_excess_is_finite_at_every_scale(scale):
    distance = torch.tensor([0.0, 1.0, 80.0])
    for delta in (-1.4, 0.0, 1.4):
        assert Saturated(scale).excess(distance, (distance + delta).clamp(min=0) - distance).isfinite().all()


def test_build():
    assert build_ground_distance('euclidean') == Euclidean()
    assert build_ground_distance(dict(type='saturated', scale=3)) == Saturated(3)
    assert build_ground_distance(Saturated(3)) == Saturated(3)
    assert Saturated(3) != Saturated(4)


@pytest.mark.parametrize('spec', ['manhattan', None, 3, dict(scale=2), dict(type='euclidean', scale=2), dict(type='saturated', tau=2)])
def test_unknown_names_and_options_are_named(spec):
    with pytest.raises(ValueError, match='ground_distance') as error:
        build_ground_distance(spec)
    assert 'euclidean' in str(error.value) or 'tau' in str(error.value)


@pytest.mark.parametrize('scale', [0, -1, float('nan'), float('inf'), 'wide', None])
def test_the_scale_must_be_positive(scale):
    with pytest.raises(ValueError, match='scale must be a positive finite number') as error:
        Saturated(scale)
    assert repr(scale) in str(error.value)
