"""Cross-entropy between suppliers and dot."""

import pytest
import torch

from hdm_mmpose.transport import build_supplier, cross_entropy, dot_demanders
from tests.transport.families import dot_map, dots_in

SIZE = (5, 7)


@pytest.mark.parametrize('name', ['softplus', 'softmax'])
def test_by_its_definition(name):
    rule, dots = build_supplier(name), dots_in(SIZE)
    heatmap = torch.randn(len(dots), *SIZE, dtype=torch.float64)
    expected = -(dot_map(dots, SIZE) * rule(heatmap).log()).sum((1, 2))
    assert torch.allclose(cross_entropy(heatmap, dots, rule), expected, atol=1e-12)


@pytest.mark.parametrize('name', ['softplus', 'softmax'])
def test_gradcheck(name):
    rule, dots = build_supplier(name), dots_in((3, 4))[:3]
    heatmap = torch.randn(3, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda h: cross_entropy(h, dots, rule), heatmap)


def test_is_lowest_at_the_dot():
    """Its least value is the entropy of the masses."""
    rule, dots = build_supplier('softmax'), dots_in(SIZE)
    mass = dot_demanders(dots, SIZE).mass
    least = torch.special.entr(mass).sum(-1)
    at_the_dot = cross_entropy(dot_map(dots, SIZE).clamp(min=1e-30).log() / 5, dots, rule)
    assert torch.allclose(at_the_dot, least, atol=1e-6)
    assert (cross_entropy(torch.randn(len(dots), *SIZE, dtype=torch.float64), dots, rule) > least).all()


def test_is_finite_for_extreme_maps_and_lifts_half_precision():
    for name in ('softplus', 'softmax'):
        heatmap = (1e4 * torch.randn(4, *SIZE)).half().requires_grad_()
        loss = cross_entropy(heatmap, dots_in(SIZE)[:4], build_supplier(name))
        assert loss.dtype == torch.float32 and loss.isfinite().all()
        loss.sum().backward()
        assert heatmap.grad.isfinite().all()


def test_a_dot_that_is_not_a_number_spoils_only_its_joint():
    dots = dots_in(SIZE)[:3].clone()
    heatmap = torch.randn(3, *SIZE)
    clean = cross_entropy(heatmap, dots, build_supplier('softmax'))
    dots[1] = float('nan')
    loss = cross_entropy(heatmap, dots, build_supplier('softmax'))
    assert loss[1].isnan() and torch.equal(loss[[0, 2]], clean[[0, 2]])


def test_rules_with_empty_cells_are_refused():
    with pytest.raises(ValueError, match="supplier 'relu' gives cells of mass 0"):
        cross_entropy(torch.ones(1, *SIZE), torch.ones(1, 2), build_supplier('relu'))
