"""The whole way from heatmap and dot to value and gradient."""

import itertools

import numpy as np
import ot
import pytest
import torch

from hdm_mmpose.decoding import decode_square
from hdm_mmpose.transport import (
    GROUND_DISTANCES,
    OBJECTIVES,
    SUPPLIERS,
    EMDOptions,
    Saturated,
    dot_demanders,
    emd,
    emd_objective,
    general,
    solve,
)
from hdm_mmpose.transport.suppliers import Softplus
from tests.transport.families import dot_map, dots_in, problem_of, random_dots
from tools.benchmarks.measuring import peak_memory

SIZE = (7, 5)
DOTS = dots_in(SIZE)


def options(epsilon=0.25, supplier='softplus', ground_distance='euclidean', objective='shannon', unbiased=False, **others):
    return EMDOptions(epsilon, objective, supplier, ground_distance=ground_distance, unbiased=unbiased, **others)


def value_and_gradient(heatmap, dots, how):
    heatmap = heatmap.detach().clone().requires_grad_()
    output = emd(heatmap, dots, how)
    output.cost.sum().backward()
    return output, heatmap.grad


class Objective(torch.autograd.Function):
    """The objective as the value, paired with the gradient that ``emd`` hands back."""

    @staticmethod
    def forward(ctx, heatmap, dots, how):
        ctx.save_for_backward(value_and_gradient_enabled(heatmap, dots, how))
        return emd_objective(heatmap, dots, how)

    @staticmethod
    def backward(ctx, grad):
        return ctx.saved_tensors[0] * grad[:, None, None], None, None


def value_and_gradient_enabled(heatmap, dots, how):
    with torch.enable_grad():
        return value_and_gradient(heatmap, dots, how)[1]


@pytest.mark.parametrize('supplier', ['relu', 'softplus', 'softmax'])
@pytest.mark.parametrize('objective', OBJECTIVES)
@pytest.mark.parametrize('epsilon', [0.1, 1])
def test_gradcheck(supplier, objective, epsilon):
    """Maps of both signs; relu's kink at 0 is avoided, and with it shannon's infinite slope there."""
    heatmap = torch.randn(2, 4, 3, dtype=torch.float64)
    if supplier == 'relu':
        heatmap = heatmap + 0.05 * heatmap.sign()
    for ground, unbiased in itertools.product(GROUND_DISTANCES, {False, objective == 'product'}):
        how = options(epsilon, supplier, ground, objective=objective, unbiased=unbiased)
        dots = dots_in((4, 3))[[0, 5]]
        assert torch.autograd.gradcheck(
            lambda h, dots=dots, how=how: Objective.apply(h, dots, how), heatmap.requires_grad_(), eps=1e-6, atol=1e-6, rtol=1e-5
        )


@pytest.mark.parametrize('objective', OBJECTIVES)
def test_the_surrogate_has_the_value_of_relu_and_a_gradient_everywhere(objective):
    heatmap = torch.randn(len(DOTS), *SIZE, dtype=torch.float64)
    relu, relu_gradient = value_and_gradient(heatmap, DOTS, options(supplier='relu', objective=objective))
    surrogate, gradient = value_and_gradient(heatmap, DOTS, options(supplier='relu_surrogate', objective=objective))
    assert torch.equal(relu.cost, surrogate.cost)
    assert (relu_gradient[heatmap < 0] == 0).all() and (gradient != 0).all()


@pytest.mark.parametrize('epsilon', [0.1, 0.25, 1, 4])
@pytest.mark.parametrize('ground', GROUND_DISTANCES)
def test_value_agrees_with_pot(epsilon, ground):
    how = options(epsilon, 'softmax', ground)
    heatmap = torch.randn(len(DOTS), *SIZE, dtype=torch.float64)
    found = emd(heatmap, DOTS, how).cost
    problem = problem_of('flat', epsilon, ground, size=SIZE)
    for joint in range(3):
        supply = how.supplier(heatmap[joint]).flatten().numpy()
        demand, cost = problem.demanders.mass[joint].numpy(), problem.cost()[joint].T.contiguous().numpy()
        plan = ot.sinkhorn(supply, demand, cost, epsilon, method='sinkhorn_log', numItermax=20_000, stopThr=1e-13, warn=False)
        assert found[joint].item() == pytest.approx((plan * cost).sum(), rel=1e-9)


def test_value_tends_to_the_exact_distance():
    heatmap = torch.randn(len(DOTS), *SIZE, dtype=torch.float64)
    problem = problem_of('flat', 1, size=SIZE)
    supply = Softplus()(heatmap).flatten(1).numpy()
    exact = np.array([
        ot.emd2(s / s.sum(), d / d.sum(), c.T.copy())
        for s, d, c in zip(supply, problem.demanders.mass.numpy(), problem.cost().numpy())
    ])
    errors = [np.abs(emd(heatmap, DOTS, options(epsilon)).cost.numpy() - exact).max() for epsilon in (0.4, 0.1, 0.03, 0.01)]
    assert errors == sorted(errors, reverse=True) and errors[-1] < 1e-3


@pytest.mark.parametrize('solver', ['newton', 'sinkhorn'])
def test_solvers_agree(solver):
    heatmap = torch.randn(len(DOTS), *SIZE, dtype=torch.float64)
    for objective in OBJECTIVES:
        (one, gradient), (other, same) = (
            value_and_gradient(heatmap, DOTS, options(0.5, objective=objective, solver=name)) for name in ('newton', 'sinkhorn')
        )
        assert one.converged.all() and other.converged.all()
        assert torch.allclose(one.cost, other.cost, rtol=1e-11)
        assert torch.allclose(gradient, same, atol=1e-11)


def test_the_number_of_iterations_is_that_asked_for():
    heatmap = torch.randn(len(DOTS), *SIZE, dtype=torch.float64)
    few, many = (emd(heatmap, DOTS, options(0.05, solver='sinkhorn', num_iters=n)) for n in (2, 1000))
    assert few.marginal_error.max() > 1e-4 > many.marginal_error.max()


def free_map_descent(dots, size, how, steps=400):
    """Dots that maps without any network decode to after Adam."""
    heatmap = torch.full((len(dots), *size), 0.1, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.Adam([heatmap], lr=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        optimiser.zero_grad()
        emd(heatmap, dots, how).cost.sum().backward()
        optimiser.step()
        schedule.step()
    return decode_square(how.supplier(heatmap.detach()))[0]


@pytest.mark.parametrize('epsilon', [0.1, 0.25, 1, 4])
def test_descent_on_a_free_map_finds_the_dot_with_unbiased_demanders_only(epsilon):
    size = (5, 6)
    dots = random_dots(25, size)
    errors = {}
    for unbiased in (True, False):
        how = options(epsilon, 'relu_surrogate', objective='product', unbiased=unbiased)
        found = free_map_descent(dots, size, how, steps=400 if epsilon < 2 else 1000)
        errors[unbiased] = (found - dots).norm(dim=-1)
    assert errors[True].max() < 0.01
    if epsilon >= 0.25:
        assert errors[False].mean() > 0.01


@pytest.mark.slow
@pytest.mark.parametrize('epsilon', [0.02, 0.05, 0.1, 0.25, 0.5, 1, 4])
@pytest.mark.parametrize('ground', GROUND_DISTANCES)
def test_descent_finds_a_thousand_dots(epsilon, ground):
    size = (5, 6)
    dots = random_dots(1000, size)
    how = options(epsilon, 'relu_surrogate', ground, objective='product', unbiased=True)
    found = free_map_descent(dots, size, how, steps=400 if epsilon < 0.5 else 1500)
    assert (found - dots).norm(dim=-1).max() < 0.01


def test_the_dot_is_a_minimum_and_the_value_grows_on_both_sides():
    """What a person believes: moving the whole map away from the dot costs the way."""
    size = (12, 15)
    dot = torch.tensor([[6.3, 5.6]], dtype=torch.float64)
    ways = torch.linspace(-4, 4, 33, dtype=torch.float64)
    moved = dot + torch.stack([ways, torch.zeros_like(ways)], -1)
    cost = emd(dot_map(moved, size), dot.expand(33, 2), options(0.02, 'relu')).cost
    assert cost[16] < 1e-6
    assert (cost[:17].diff() < 0).all() and (cost[16:].diff() > 0).all()
    # exact but for the spread of the four cells
    assert torch.allclose(cost, ways.abs(), atol=0.25)


@pytest.mark.parametrize('supplier', sorted(SUPPLIERS))
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32])
def test_half_precision_is_lifted(supplier, dtype):
    heatmap = torch.randn(len(DOTS), *SIZE).to(dtype)
    output, gradient = value_and_gradient(heatmap, DOTS, options(supplier=supplier))
    wide, wanted = value_and_gradient(heatmap.double(), DOTS, options(supplier=supplier))
    assert output.cost.dtype == torch.float32 and gradient.dtype == dtype
    assert torch.allclose(output.cost.double(), wide.cost, rtol=2e-5)
    assert torch.allclose(gradient.double(), wanted, atol=torch.finfo(dtype).eps * 8 * wanted.abs().max().item() + 1e-6)


@pytest.mark.parametrize('supplier', sorted(SUPPLIERS))
@pytest.mark.parametrize('objective', OBJECTIVES)
@pytest.mark.parametrize('dtype', [torch.float16, torch.float32, torch.float64])
def test_nothing_that_is_finite_gives_anything_that_is_not(supplier, objective, dtype):
    big = torch.randn(len(DOTS), *SIZE) * 1e4
    maps = [big, -big.abs(), big.abs(), 0 * big, 0 * big - 1e4, 0 * big + 1e4, 1e-6 * big, big * (torch.rand_like(big) < 0.05)]
    for heatmap, epsilon in itertools.product(maps, (0.02, 0.25, 4)):
        output, gradient = value_and_gradient(heatmap.clamp(-1e4, 1e4).to(dtype), DOTS, options(epsilon, supplier, objective=objective))
        assert output.cost.isfinite().all() and gradient.isfinite().all()
        assert (output.cost >= 0).all()


@pytest.mark.parametrize('bad', [float('nan'), float('inf'), -float('inf')])
@pytest.mark.parametrize('supplier', sorted(SUPPLIERS))
@pytest.mark.parametrize('solver', ['newton', 'sinkhorn'])
def test_a_map_that_is_not_finite_spoils_only_its_joint(bad, supplier, solver):
    how = options(supplier=supplier, solver=solver, num_iters=50)
    heatmap = torch.randn(len(DOTS), *SIZE)
    clean, clean_gradient = value_and_gradient(heatmap, DOTS, how)
    heatmap[3, 2, 1] = bad
    output, gradient = value_and_gradient(heatmap, DOTS, how)
    others = [joint for joint in range(len(DOTS)) if joint != 3]
    assert output.cost[3].isnan() and not output.converged[3] and not gradient[3].isfinite().any()
    assert torch.allclose(output.cost[others], clean.cost[others], rtol=1e-5)
    assert torch.allclose(gradient[others], clean_gradient[others], atol=1e-5)


def test_a_gradient_of_zero_silences_a_joint_that_is_not_finite():
    heatmap = torch.randn(len(DOTS), *SIZE)
    heatmap[3] = float('nan')
    heatmap.requires_grad_()
    cost = emd(heatmap, DOTS, options()).cost
    weight = torch.ones(len(DOTS)).index_fill(0, torch.tensor([3]), 0)
    torch.where(weight > 0, cost, 0).sum().backward()
    assert heatmap.grad.isfinite().all() and (heatmap.grad[3] == 0).all() and (heatmap.grad[2] != 0).any()


def test_does_not_depend_on_how_the_batch_is_split(monkeypatch):
    heatmap = torch.randn(len(DOTS), *SIZE, dtype=torch.float64)
    whole, gradient = value_and_gradient(heatmap, DOTS, options())
    monkeypatch.setitem(general.CHUNK_CELLS, 'cpu', 3 * SIZE[0] * SIZE[1])
    chunks, same = value_and_gradient(heatmap, DOTS, options())
    singles = torch.cat([emd(heatmap[j : j + 1], DOTS[j : j + 1], options()).cost for j in range(len(DOTS))])
    assert torch.allclose(whole.cost, chunks.cost, rtol=1e-12) and torch.allclose(whole.cost, singles, rtol=1e-12)
    assert torch.allclose(gradient, same, atol=1e-12)


def test_autocast_lowers_nothing():
    heatmap = torch.randn(len(DOTS), *SIZE)
    outside, gradient = value_and_gradient(heatmap, DOTS, options(objective='sharp'))
    with torch.autocast('cpu', dtype=torch.bfloat16):
        inside, same = value_and_gradient(heatmap, DOTS, options(objective='sharp'))
    assert torch.equal(outside.cost, inside.cost) and torch.equal(gradient, same)


def test_maps_that_are_not_contiguous():
    heatmap = torch.randn(SIZE[1], SIZE[0], len(DOTS)).permute(2, 1, 0)
    assert not heatmap.is_contiguous()
    output, gradient = value_and_gradient(heatmap, DOTS, options())
    expected, wanted = value_and_gradient(heatmap.contiguous(), DOTS, options())
    assert torch.allclose(output.cost, expected.cost, rtol=1e-6) and torch.allclose(gradient, wanted, atol=1e-6)


def test_no_joints_at_all():
    output = emd(torch.zeros(0, *SIZE, requires_grad=True), torch.zeros(0, 2), options())
    assert output.cost.shape == (0,)
    output.cost.sum().backward()


def test_only_the_cost_carries_a_gradient():
    output = emd(torch.randn(len(DOTS), *SIZE, requires_grad=True), DOTS.clone().requires_grad_(), options())
    assert output.cost.requires_grad and not output.marginal_error.requires_grad and not output.converged.requires_grad
    assert not emd(torch.randn(len(DOTS), *SIZE), DOTS, options()).cost.requires_grad


@pytest.mark.parametrize('other', ['emd', 'supplier'])
def test_a_second_derivative_is_refused(other):
    """It would lack a part without a word: gradients are computed as constants.  For the loss it is refused when it is taken."""
    heatmap = torch.randn(2, *SIZE, dtype=torch.float64, requires_grad=True)
    how = options(supplier='softmax')
    value = emd(heatmap, DOTS[:2], how).cost if other == 'emd' else how.supplier(heatmap).square()
    with pytest.raises(RuntimeError, match='no second derivative'):
        (slope,) = torch.autograd.grad(value.sum() + heatmap.square().sum(), heatmap, create_graph=True)
        slope.sum().backward()


@pytest.mark.parametrize('objective', OBJECTIVES)
@pytest.mark.parametrize('solver', ['newton', 'sinkhorn'])
def test_without_subpixel_one_demander_takes_everything(objective, solver):
    """Value and gradient as from four demanders, of which the naive dot leaves three without mass; no iterations."""
    heatmap = torch.randn(len(DOTS), *SIZE, dtype=torch.float64)
    dots = DOTS + 0.2
    whole = torch.minimum((dots + 0.5).floor().clamp(min=0), torch.tensor([SIZE[1] - 1, SIZE[0] - 1]))
    wanted, slope = value_and_gradient(heatmap, whole, options(objective=objective))
    got, gradient = value_and_gradient(heatmap, dots, options(objective=objective, solver=solver, num_iters=1, subpixel=False))
    assert torch.equal(got.dots, whole)
    assert torch.allclose(got.cost, wanted.cost, atol=1e-12) and torch.allclose(gradient, slope, atol=1e-10)
    assert got.converged.all()


def test_no_more_memory_than_eight_heatmaps():
    """Forward and backward, on top of the map and its target (tools/benchmarks/transport.py measures 4.3)."""
    heatmap, dots = torch.randn(32 * 17, 64, 48, requires_grad=True), torch.rand(32 * 17, 2) * 47
    how = options(supplier='softmax', ground_distance='saturated', objective='product', unbiased=True)
    peak = peak_memory(lambda: emd(heatmap, dots, how).cost.sum().backward(), 'cpu')
    size = heatmap.numel() * heatmap.element_size()
    assert size <= peak < 8 * size


def test_unbiased_changes_the_demanders_and_nothing_else():
    """At a large epsilon the corrected masses are spread evenly over the square, whatever the dot is."""
    heatmap = torch.randn(2, *SIZE, dtype=torch.float64).expand(2, *SIZE)[:1].repeat(2, 1, 1)
    dots = torch.tensor([[1.1, 2.2], [1.9, 2.8]], dtype=torch.float64)
    how = options(1e4, objective='product', unbiased=True)
    cost = emd(heatmap, dots, how).cost
    assert torch.allclose(cost[0], cost[1], rtol=1e-4)
    assert dot_demanders(dots, SIZE).mass[0].std() > 0.1


class TestOptions:
    def test_unknown_names_are_named(self):
        with pytest.raises(ValueError, match="solver must be one of .*'newton'.* got 'adam'"):
            options(solver='adam')
        with pytest.raises(ValueError, match="objective must be one of .*'product'.* got 'blunt'"):
            options(objective='blunt')
        with pytest.raises(ValueError, match="solver must be one of .* got 'adam'"):
            solve(problem_of('flat', 1), 'adam')

    @pytest.mark.parametrize('epsilon', [0, -1, float('nan'), 'a', True])
    def test_epsilon(self, epsilon):
        with pytest.raises(ValueError, match='epsilon must be a positive finite number'):
            options(epsilon)

    @pytest.mark.parametrize('num_iters', [0, 1.5, True])
    def test_num_iters(self, num_iters):
        with pytest.raises(ValueError, match=f'num_iters must be a positive integer, got {num_iters}'):
            options(num_iters=num_iters)

    @pytest.mark.parametrize('objective', ['shannon', 'sharp'])
    def test_unbiased_needs_product(self, objective):
        with pytest.raises(ValueError, match=f"unbiased demanders exist for objective='product' only, got objective='{objective}'"):
            options(objective=objective, unbiased=True)

    def test_a_single_demander_has_no_bias_to_correct(self):
        with pytest.raises(ValueError, match='unbiased must be False with subpixel=False'):
            options(objective='product', unbiased=True, subpixel=False)

    def test_compare(self):
        assert options() == options() != options(0.5)
        assert options(ground_distance='saturated').ground_distance == Saturated(1.0)


@pytest.mark.parametrize(
    ('shape', 'dots', 'message'),
    [
        ((4, 5), (4, 2), r'heatmap must have shape \(J, H, W\) .* got \(4, 5\)'),
        ((3, 1, 5), (3, 2), r'heatmap must .* at least 2 x 2 cells, got \(3, 1, 5\)'),
        ((3, 4, 5), (2, 2), r'target must have shape \(3, 2\), got \(2, 2\)'),
        ((3, 4, 5), (3, 3), r'target must have shape \(3, 2\), got \(3, 3\)'),
    ],
)
def test_shapes_must_fit(shape, dots, message):
    with pytest.raises(ValueError, match=message):
        emd(torch.zeros(shape), torch.zeros(dots), options())
    with pytest.raises(ValueError, match=message):
        emd_objective(torch.zeros(shape), torch.zeros(dots), options())
