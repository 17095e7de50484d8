"""Supplier rules: formulas, gradients, and what maps do that are empty, huge, half precision or not finite."""

import pytest
import torch
import torch.nn.functional as F

from hdm_mmpose.transport import SUPPLIERS, build_supplier
from hdm_mmpose.transport.suppliers import Relu, ReluSurrogate, Softmax, Softplus, pull_back

RULES = sorted(SUPPLIERS)
ALIVE = ['softplus', 'softmax', 'relu_surrogate']
SHAPE = (2, 3, 5, 4)


def random_map(*shape, dtype=torch.float64, shift=0.0):
    return torch.randn(*shape, dtype=dtype) + shift


FORMULAS = {
    'relu': lambda h: h.relu(),
    'relu_surrogate': lambda h: h.relu(),
    'softplus': lambda h: torch.log1p(torch.exp(5 * h)),
    'softmax': lambda h: torch.exp(20 * h),
}


@pytest.mark.parametrize('name', RULES)
def test_follows_its_formula(name):
    heatmap = random_map(*SHAPE)
    mass = FORMULAS[name](heatmap)
    suppliers = build_supplier(name)(heatmap)
    assert torch.allclose(suppliers, mass / mass.sum((-2, -1), keepdim=True), rtol=1e-12, atol=1e-300)


@pytest.mark.parametrize('name', ['relu', 'softplus', 'softmax'])
@pytest.mark.parametrize('shift', [-1.5, 0.0, 2.0])
def test_gradcheck(name, shift):
    heatmap = random_map(2, 3, 4, shift=shift).requires_grad_()
    assert torch.autograd.gradcheck(build_supplier(name), heatmap, eps=1e-7, atol=1e-6)


def test_the_surrogate_is_relu_forward_and_softplus_backward():
    heatmap = random_map(*SHAPE).requires_grad_()
    wanted = random_map(*SHAPE)
    suppliers = ReluSurrogate(3.0)(heatmap)
    assert torch.equal(suppliers, Relu()(heatmap))
    (gradient,) = torch.autograd.grad((suppliers * wanted).sum(), heatmap)
    x = 3 * heatmap.detach()
    rate = 3 * x.sigmoid() / F.softplus(x).sum((-2, -1), keepdim=True)
    assert torch.allclose(gradient, pull_back(wanted, suppliers.detach(), rate), rtol=1e-12)


@pytest.mark.parametrize('name', RULES)
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize('scale', [1e-6, 1.0, 1e4])
def test_is_a_distribution_with_finite_gradient(name, dtype, scale):
    for shift in (-1.0, 0.0, 1.0):
        heatmap = (scale * (torch.rand(*SHAPE) + shift)).to(dtype).requires_grad_()
        suppliers = build_supplier(name)(heatmap)
        assert suppliers.dtype == (dtype if dtype == torch.float64 else torch.float32)
        assert (suppliers >= 0).all()
        assert torch.allclose(suppliers.sum((-2, -1)), torch.ones(1, dtype=suppliers.dtype), atol=2e-6)
        suppliers.square().sum().backward()
        assert heatmap.grad.isfinite().all() and heatmap.grad.dtype == dtype


@pytest.mark.parametrize(('name', 'invariant'), [('relu', True), ('relu_surrogate', True), ('softmax', False)])
def test_scaling_the_map(name, invariant):
    heatmap, rule = random_map(*SHAPE), build_supplier(name)
    assert torch.allclose(rule(heatmap), rule(7 * heatmap), atol=1e-12) == invariant


def test_softplus_does_not_see_the_scale_of_large_maps():
    heatmap = random_map(*SHAPE)
    softplus = build_supplier('softplus')
    assert torch.allclose(softplus(1e3 * heatmap), softplus(7e3 * heatmap), atol=1e-4)
    assert torch.allclose(softplus(1e6 * heatmap), Relu()(heatmap), atol=1e-7)


@pytest.mark.parametrize('name', RULES)
@pytest.mark.parametrize('value', [0.0, -2.0, -1e4])
def test_a_map_without_positive_cells_is_uniform_if_it_is_constant(name, value):
    heatmap = torch.full((3, 4, 6), value, requires_grad=True)
    rule = build_supplier(name)
    suppliers = rule(heatmap)
    assert torch.allclose(suppliers, torch.tensor(1 / 24), rtol=1e-5)
    assert rule.is_empty(heatmap).tolist() == [not rule.positive] * 3
    (suppliers * torch.arange(24.0).view(4, 6)).sum().backward()
    assert heatmap.grad.isfinite().all()
    assert bool((heatmap.grad == 0).all()) == (name == 'relu')


@pytest.mark.parametrize('name', ALIVE)
def test_low_maps_keep_learning(name):
    """The gradient on a map of negative cells is no smaller than on one near 0."""
    slope = torch.arange(12.0).view(3, 4)
    norms = []
    for shift in (0.0, -3.0, -30.0, -3000.0):
        heatmap = (0.1 * torch.sin(slope) + shift).requires_grad_()
        (build_supplier(name)(heatmap) * slope).sum().backward()
        norms.append(heatmap.grad.norm().item())
    assert min(norms) > 0.5 * norms[0] > 0


def test_softplus_of_a_low_map_is_a_softmax():
    heatmap = random_map(2, 4, 5, dtype=torch.float32, shift=-40.0)
    assert torch.allclose(Softplus(5.0)(heatmap), Softmax(5.0)(heatmap), rtol=2e-5)
    double = heatmap.double()
    assert torch.allclose(Softplus(5.0)(heatmap).double(), F.softplus(5 * double, threshold=1e9) /
                          F.softplus(5 * double, threshold=1e9).sum((-2, -1), keepdim=True), rtol=2e-5)


@pytest.mark.parametrize('name', RULES)
@pytest.mark.parametrize('bad', [float('nan'), float('inf'), -float('inf')])
def test_a_map_that_is_not_finite_spoils_only_itself(name, bad):
    heatmap = random_map(3, 4, 5)
    clean = build_supplier(name)(heatmap)
    heatmap[1, 2, 3] = bad
    suppliers = build_supplier(name)(heatmap)
    assert suppliers[1].isnan().all()
    assert torch.equal(suppliers[[0, 2]], clean[[0, 2]])


@pytest.mark.parametrize('name', ['softplus', 'softmax'])
def test_log_masses(name):
    rule = build_supplier(name)
    heatmap = random_map(2, 3, 4).requires_grad_()
    assert torch.allclose(rule.log_masses(heatmap), rule(heatmap).log(), atol=1e-12)
    assert torch.autograd.gradcheck(rule.log_masses, heatmap)
    extreme = (torch.randn(2, 5, 6) * 1e4).requires_grad_()
    log_masses = rule.log_masses(extreme)
    assert log_masses.isfinite().all()
    log_masses.sum().backward()
    assert extreme.grad.isfinite().all()
    assert torch.allclose(log_masses.double(), rule.log_masses(extreme.double()), rtol=1e-6, atol=1e-2)


@pytest.mark.parametrize('name', ['relu', 'relu_surrogate'])
def test_rules_with_empty_cells_have_no_logarithm(name):
    with pytest.raises(ValueError, match=f"supplier '{name}' gives cells of mass 0"):
        build_supplier(name).log_masses(torch.ones(2, 2))


def test_build_and_compare():
    assert build_supplier('softplus') == Softplus(5.0) == build_supplier(Softplus(5.0))
    assert build_supplier(dict(type='softmax', sharpness=2)) == Softmax(2)
    assert Softplus(2.0) != Softplus(3.0) and Softplus(2.0) != Softmax(2.0)


@pytest.mark.parametrize('spec', ['gelu', 7, None, dict(sharpness=3), dict(type='relu', sharpness=3), dict(type='softmax', beta=2)])
def test_unknown_names_and_options_are_named(spec):
    with pytest.raises(ValueError, match='supplier') as error:
        build_supplier(spec)
    assert 'softplus' in str(error.value) or 'does not take' in str(error.value)


@pytest.mark.parametrize('sharpness', [0, -2, float('inf'), float('nan'), 'sharp'])
def test_sharpness_must_be_positive(sharpness):
    with pytest.raises(ValueError, match='sharpness must be a positive finite number'):
        build_supplier(dict(type='softplus', sharpness=sharpness))


def test_a_map_needs_two_dimensions():
    with pytest.raises(ValueError, match=r'heatmap must have at least 2 dimensions .* got shape \(5,\)'):
        build_supplier('relu')(torch.ones(5))
