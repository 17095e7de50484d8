"""Transport in a window: equal to a float64 Sinkhorn on the whole map that shares no code with it, on every kind of map."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from hdm_mmpose.transport import DotLoss, EMDOptions, emd, general, local
from hdm_mmpose.transport.operator import path_of

B, K, H, W = 2, 5, 44, 37
LAST = torch.tensor([W - 1.0, H - 1.0])


def sinkhorn(maps: Tensor, dots: Tensor, sharpness: float, epsilon: float, scale: float, weight: float) -> tuple[Tensor, Tensor]:
    """(B, K) loss and (B, K, H, W) gradient of softmax suppliers, unbiased demanders, ``product``; alternating log-sum-exp."""
    heat = maps.double().flatten(2).requires_grad_()
    log_s = (sharpness * heat).log_softmax(-1)
    dot = torch.minimum(dots.double().clamp(min=0), LAST.double())
    corner = torch.minimum(dot.floor(), LAST.double() - 1)
    x, y = (dot - corner).unbind(-1)
    mass = torch.stack([(1 - x) * (1 - y), x * (1 - y), (1 - x) * y, x * y], -1)
    place = corner[..., None, :] + torch.tensor([[0.0, 0], [1, 0], [0, 1], [1, 1]], dtype=torch.float64)
    cells = torch.stack([torch.arange(W).repeat(H), torch.arange(H).repeat_interleave(W)], -1).double()

    def cost(there: Tensor) -> Tensor:
        return scale * (1 - torch.exp(-torch.cdist(there, place) / scale))

    across = (cost(place) / -epsilon).softmax(-1)
    log_d = (across * mass[..., None, :]).sum(-1).log()
    matrix = cost(cells.expand(*dots.shape[:2], -1, -1))  # (B, K, N, 4)
    g = torch.zeros_like(log_d)
    for _ in range(math.ceil(40 / -math.log(math.tanh(scale * (1 - math.exp(-(2**0.5) / scale)) / (2 * epsilon)) ** 2))):
        f = epsilon * (log_s.detach() - ((g[..., None, :] - matrix) / epsilon).logsumexp(-1))
        g = epsilon * (log_d - ((f[..., None] - matrix) / epsilon).logsumexp(-2))
    potential = -epsilon * ((g[..., None, :] - matrix) / epsilon).logsumexp(-1)
    plan = ((epsilon * log_s.detach() + potential)[..., None] + g[..., None, :] - matrix).div(epsilon).exp()
    index = (place[..., 1] * W + place[..., 0]).long()
    companion = -(mass * log_s.gather(-1, index)).sum(-1)
    objective = (log_s.exp() * potential).sum(-1) + weight * companion
    (gradient,) = torch.autograd.grad(objective.sum(), heat)
    return (plan * matrix).sum((-1, -2)) + weight * companion.detach(), gradient.view_as(maps)


def blob(centre: Tensor, sigma: float) -> Tensor:
    y, x = torch.arange(H), torch.arange(W)
    square = (x - centre[..., 0, None, None]) ** 2 + (y[:, None] - centre[..., 1, None, None]) ** 2
    return torch.exp(-square / (2 * sigma**2))


def anywhere() -> Tensor:
    return torch.rand(B, K, 2) * LAST


def at(*dots: tuple[float, float]) -> Tensor:
    return torch.tensor([dots[index % len(dots)] for index in range(B * K)]).view(B, K, 2)


def noise(size: float) -> Tensor:
    return size * torch.randn(B, K, H, W)


CELLS, EDGES = at((7, 9), (0, 0), (W - 1, H - 1)), at((0, 11.5), (20.25, 0), (W - 1, 4), (3, H - 1), (0.5, 0.5))
FAMILIES = {
    'flat': lambda: (torch.zeros(B, K, H, W), anywhere()),
    'faint noise': lambda: (noise(0.02), anywhere()),
    'noise': lambda: (noise(0.2), anywhere()),
    'strong noise': lambda: (noise(1.0), anywhere()),
    'peak at the dot': lambda: peaked(anywhere(), 0.0, 4.0),
    'peak a cell away': lambda: peaked(anywhere(), 1.0, 1.5),
    'peak five cells away': lambda: peaked(anywhere(), 5.0, 1.5),
    'peak at the edge of the solved window': lambda: peaked(at((15.3, 20.6), (20, 20)), 5.5, 0.7),
    'peak at the edge of the evaluated window': lambda: peaked(at((18.3, 22.6), (18, 21)), 16.0, 0.7),
    'misplaced by the whole map': lambda: (3 * blob(LAST - EDGES, 1.0), EDGES),
    'wide': lambda: (blob(CELLS, 8.0) + noise(0.01), CELLS),
    'high': lambda: (20 * blob(anywhere(), 2.0), anywhere()),
    'low': lambda: (0.05 * blob(EDGES, 2.0) - 30, EDGES),
    'two modes': lambda: (blob(at((9, 9)), 1.5) + blob(at((28, 31)), 1.5) + noise(0.01), at((9.4, 8.7), (28, 31), (18, 20))),
    'half of the peak beyond the border': lambda: (blob(at((-1, 12), (W, H)), 6.0), at((0, 12.2), (W - 1.1, H - 1))),
    'dots on cells': lambda: (blob(CELLS, 4.0) + noise(0.02), CELLS),
    'dots on borders and corners': lambda: (blob(EDGES, 4.0) + noise(0.02), EDGES),
    'dots beyond the border': lambda: (noise(0.2), at((-3, 50), (W + 2, 7), (-0.4, -0.4))),
    'all mass in one cell': lambda: (9 * dense(at((9, 12), (30, 31))), at((9.4, 12.2), (29, 31), (20, 20))),
    'all mass in one far cell': lambda: (9 * dense(at((9, 12))), at((31.4, 12.2), (29, 41), (25.5, 12))),
    'bfloat16': lambda: ((blob(anywhere(), 1.5) + noise(0.05)).bfloat16(), anywhere()),
    'float16': lambda: ((blob(CELLS, 4.0) + noise(0.05)).half(), CELLS),
}


def peaked(dots: Tensor, away: float, sigma: float) -> tuple[Tensor, Tensor]:
    angle = 6.28 * torch.rand(B, K)
    return blob(dots + away * torch.stack([angle.cos(), angle.sin()], -1), sigma) + noise(0.02), dots


def dense(dots: Tensor) -> Tensor:
    inside = torch.minimum(dots.clamp(min=0), LAST)
    y, x = torch.arange(H), torch.arange(W)
    return (1 - (x - inside[..., 0, None, None]).abs()).clamp(min=0) * (1 - (y[:, None] - inside[..., 1, None, None]).abs()).clamp(min=0)


def loss_and_gradient(maps: Tensor, target: Tensor, **options) -> tuple[Tensor, Tensor]:
    maps = maps.detach().clone().requires_grad_()
    losses = DotLoss(reduction='none', **options)(maps, target)
    return losses.detach(), torch.autograd.grad(losses.sum(), maps)[0]


def errors(maps: Tensor, target: Tensor, exact: tuple[Tensor, Tensor], **options) -> tuple[float, Tensor]:
    loss, gradient = loss_and_gradient(maps, target, **options)
    value, slope = exact
    rounding = torch.finfo(maps.dtype).eps / 2 * slope.abs() if maps.dtype != torch.float32 else 0
    off = ((gradient - slope).abs() - rounding).amax((-1, -2))
    return ((loss - value).abs() / value).max().item(), off / slope.abs().amax((-1, -2))


# Maps that have learned: loss and gradient are what is left of numbers near 1, of which float32 holds 7 digits.
LEARNED = {
    'sharp peak at the dot': lambda: peaked(anywhere(), 0.0, 1.5),
    'sharp peak on cells': lambda: (blob(CELLS, 1.0) + noise(0.05), CELLS),
    'sharp peak on borders': lambda: (blob(EDGES, 1.0) + noise(0.05), EDGES),
    'the dot itself': lambda: learned(anywhere()),
    'the dot itself, on borders': lambda: learned(EDGES),
}


def learned(dots: Tensor) -> tuple[Tensor, Tensor]:
    return dense(dots).clamp(min=1e-9).log() / 20, dots


@pytest.mark.parametrize('form', ['dots', 'dense'])
@pytest.mark.parametrize('family', FAMILIES)
def test_the_default_is_exact_to_float32(family: str, form: str) -> None:
    maps, dots = FAMILIES[family]()
    assert path_of(maps, EMDOptions()) is local
    exact = sinkhorn(maps, dots, 20.0, 0.5, 1.0, 0.5)
    value, gradient = errors(maps, dots if form == 'dots' else dense(dots), exact)
    assert value < 1e-6 and gradient.max() < 1e-6


@pytest.mark.parametrize('family', LEARNED)
def test_the_default_is_exact_to_float32_where_nothing_is_left_to_learn(family: str) -> None:
    maps, dots = LEARNED[family]()
    value, slope = sinkhorn(maps, dots, 20.0, 0.5, 1.0, 0.5)
    loss, gradient = loss_and_gradient(maps, dots)
    assert (loss - value).abs().max() < 5e-7
    assert (gradient - slope).abs().max() < 6e-7 * 20  # sharpness times the largest S


@pytest.mark.parametrize(('epsilon', 'scale', 'sharpness', 'weight'), [
    (0.5, 1.0, 20.0, 0.0), (0.25, 1.0, 10.0, 2.0), (1.0, 2.0, 1.0, 0.5), (0.5, 2.0, 20.0, 0.5), (2.0, 0.5, 5.0, 0.1)])
@pytest.mark.parametrize('family', ['noise', 'peak a cell away', 'dots on borders and corners'])
def test_other_numbers(family: str, epsilon: float, scale: float, sharpness: float, weight: float) -> None:
    maps, dots = FAMILIES[family]()
    options = dict(epsilon=epsilon, ground_distance=dict(type='saturated', scale=scale), cross_entropy_weight=weight,
                   supplier=dict(type='softmax', sharpness=sharpness))
    assert path_of(maps, EMDOptions(**options)) is local
    value, slope = sinkhorn(maps, dots, sharpness, epsilon, scale, weight)
    loss, gradient = loss_and_gradient(maps, dots, **options)
    assert ((loss - value).abs() < 1e-6 * value).all()
    assert (gradient - slope).abs().max() < 5e-7 * sharpness * max(scale, weight)


SETTINGS = {
    'softplus': dict(supplier='softplus'),
    'softplus, shannon': dict(supplier='softplus', objective='shannon'),
    'shannon': dict(objective='shannon'),
    'relu': dict(supplier='relu'),
    'relu, shannon': dict(supplier='relu', objective='shannon'),
    'surrogate': dict(supplier='relu_surrogate'),
    'blurred companion': dict(cross_entropy_blur=1.7),
    'softplus, blurred companion': dict(supplier='softplus', cross_entropy_blur=1.7),
    'naive': dict(subpixel=False),
    'biased': dict(unbiased=False),
    'small epsilon': dict(epsilon=0.05),
    'wide': dict(epsilon=0.25, ground_distance=dict(type='saturated', scale=2.0)),
}


@pytest.mark.parametrize('setting', SETTINGS)
@pytest.mark.parametrize('family', ['noise', 'peak a cell away', 'two modes', 'dots on borders and corners', 'misplaced by the whole map'])
def test_other_rules_and_objectives_are_as_on_the_whole_map(family: str, setting: str) -> None:
    """The general solvers in float64 are the reference; they have theirs."""
    maps, dots = FAMILIES[family]()
    options = SETTINGS[setting]
    assert path_of(maps, EMDOptions(**options)) is local and path_of(maps.double(), EMDOptions(**options)) is general
    value, slope = loss_and_gradient(maps.double(), dots, **options)
    loss, gradient = loss_and_gradient(maps, dots, **options)
    scale = max(1.0, slope.abs().max().item())
    assert ((loss - value).abs() < 1e-6 * value).all() and (gradient - slope).abs().max() < 3e-6 * scale


def test_what_is_not_local_is_left_to_the_general_solvers() -> None:
    maps, small = torch.zeros(1, 1, H, W), torch.zeros(1, 1, 7, 5)
    for options in (dict(ground_distance='euclidean'), dict(ground_distance=dict(type='saturated', scale=9.0)), dict(solver='sinkhorn'),
                    dict(objective='sharp'), dict(epsilon=0.01)):
        assert path_of(maps, EMDOptions(**options)) is general
    assert path_of(small, EMDOptions()) is general and path_of(maps.double(), EMDOptions()) is general


@pytest.mark.parametrize('epsilon', [0.03, 0.1, 0.5, 4.0])
def test_the_budget_of_steps_is_enough(epsilon: float) -> None:
    """On a GPU all of them are taken, and nobody looks whether they were enough."""
    for family in (*FAMILIES.values(), *LEARNED.values()):
        maps, dots = family()
        assert emd(maps[0], dots[0], EMDOptions(epsilon=epsilon)).converged.all()


def test_nothing_but_the_number_of_steps_depends_on_a_look_at_the_values(monkeypatch) -> None:
    maps, dots = FAMILIES['noise']()
    maps[0, 0] *= 30  # masses below the normal numbers
    weights = torch.ones(B, K)
    weights[1, 1] = 0
    looking = local.forward(maps, dense(dots), weights, EMDOptions())
    monkeypatch.setattr(local, 'may_look', lambda _: False)
    monkeypatch.setattr('hdm_mmpose.transport.target.may_look', lambda _: False)
    blind = local.forward(maps, dense(dots), weights, EMDOptions())
    for one, other in zip(looking, blind):
        assert torch.allclose(one.double(), other.double(), rtol=1e-6, atol=2e-6)


def test_masses_that_are_next_to_nothing_count_as_nothing() -> None:
    """Denormal numbers take a processor many times as long; there is none in what is kept."""
    maps, dots = FAMILIES['noise']()
    maps = 4.4 * maps.div(maps.abs().amax()) - 2.2  # sharpness H spreads over 176 powers of e
    gradient = local.forward(maps, dots, None, EMDOptions())[-1]
    tiny = torch.finfo(torch.float32).tiny
    assert not ((gradient != 0) & (gradient.abs() < tiny)).any() and gradient.isfinite().all()


def test_maps_are_read_and_gradients_written_in_any_order_of_memory() -> None:
    maps, dots = FAMILIES['noise']()
    value, gradient = loss_and_gradient(maps, dots)
    other = maps.contiguous(memory_format=torch.channels_last).requires_grad_()
    losses = DotLoss(reduction='none')(other, dots)
    losses.sum().backward()
    assert other.grad.stride() == other.stride() != gradient.stride()
    assert torch.equal(losses, value) and torch.equal(other.grad, gradient)

