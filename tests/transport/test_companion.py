"""Cross-entropy between suppliers and dot."""

import pytest
import torch

from hdm_mmpose.transport import build_supplier, centroid, cross_entropy, dot_demanders
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
    at_the_dot = cross_entropy(dot_map(dots, SIZE).clamp(min=1e-30).log() / rule.sharpness, dots, rule)
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


@pytest.mark.parametrize('name', ['softplus', 'softmax'])
def test_with_a_blur_by_its_definition(name):
    rule, dots, blur = build_supplier(name), dots_in(SIZE), .8
    heatmap = torch.randn(len(dots), *SIZE, dtype=torch.float64, requires_grad=True)
    cells = [torch.arange(size, dtype=torch.float64) for size in SIZE]
    target = torch.zeros(len(dots), *SIZE, dtype=torch.float64)
    for y in range(SIZE[0]):
        for x in range(SIZE[1]):
            spread = torch.exp(-((cells[0][:, None] - y) ** 2 + (cells[1] - x) ** 2) / (2 * blur**2))
            spread[(cells[0] - y).abs() > min(y, SIZE[0] - 1 - y)] = 0
            spread[:, (cells[1] - x).abs() > min(x, SIZE[1] - 1 - x)] = 0
            target += dot_map(dots, SIZE)[:, y, x, None, None] * spread / spread.sum()
    expected = -(target * rule(heatmap).log()).sum((1, 2))
    found = cross_entropy(heatmap, dots, rule, blur)
    assert torch.allclose(found, expected, atol=1e-12)
    for one, other in zip(*(torch.autograd.grad(value.sum(), heatmap) for value in (found, expected))):
        assert torch.allclose(one, other, atol=1e-12)


def test_a_blur_of_almost_nothing_is_none():
    rule, dots = build_supplier('softmax'), dots_in(SIZE)
    heatmap = torch.randn(len(dots), *SIZE, dtype=torch.float64)
    assert torch.allclose(cross_entropy(heatmap, dots, rule, .05), cross_entropy(heatmap, dots, rule), atol=1e-12)


def test_a_blur_leaves_the_centroid_where_it_is():
    """The minimiser, the blurred masses, has the dot as its centroid, at the border too."""
    size, blur = (9, 7), 1.5
    dots = dots_in(size)
    heatmap = torch.zeros(len(dots), *size, dtype=torch.float64, requires_grad=True)
    rule = build_supplier(dict(type='softmax', sharpness=1.))
    cross_entropy(heatmap, dots, rule, blur).sum().backward()
    target = rule(heatmap.detach()) - heatmap.grad  # the gradient of softmax is S - target
    inside = dots.clamp(min=0).minimum(torch.tensor([size[1] - 1, size[0] - 1]))
    assert torch.allclose(centroid(target), inside, atol=1e-9)


def test_a_dot_that_is_not_a_number_spoils_only_its_joint_with_a_blur_too():
    dots = dots_in(SIZE)[:3].clone()
    dots[1] = float('nan')
    loss = cross_entropy(torch.randn(3, *SIZE), dots, build_supplier('softmax'), 1.)
    assert loss[1].isnan() and loss[[0, 2]].isfinite().all()
