"""The loss as MMPose users meet it: targets, weights, reductions, and the values behind them."""

from __future__ import annotations

import numpy as np
import ot
import pytest
import torch
from mmpose.registry import MODELS

from hdm_mmpose.components import EMDHeatmapLoss
from hdm_mmpose.decoding import decode_square, read_heatmap
from hdm_mmpose.features import HAS_CUSTOM_OPERATORS
from hdm_mmpose.transport import EMDOptions, SupplierRule, build_supplier, cross_entropy, dot_demanders, emd

B, K, H, W = 3, 4, 7, 5


def dots(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(B, K, 2, generator=generator) * torch.tensor([W - 1.0, H - 1.0])


def dense(coordinates):
    """(B, K, H, W) bilinear dot maps."""
    demanders = dot_demanders(coordinates.flatten(0, 1), (H, W))
    cell = (demanders.position[..., 1] * W + demanders.position[..., 0]).long()
    return torch.zeros(B * K, H * W, dtype=coordinates.dtype).scatter_add_(1, cell, demanders.mass).view(B, K, H, W)


def heatmaps():
    return torch.randn(B, K, H, W, requires_grad=True)


def gradient_of(loss, output):
    (gradient,) = torch.autograd.grad(loss, output)
    return gradient


def test_is_registered_and_says_what_it_is():
    loss = MODELS.build(dict(type='EMDHeatmapLoss', epsilon=0.1, supplier=dict(type='softmax', sharpness=2.0)))
    assert isinstance(loss, EMDHeatmapLoss)
    assert 'epsilon=0.1' in repr(loss) and 'Softmax' in repr(loss)


def test_dense_targets_and_coordinates_are_the_same():
    output, coordinates = heatmaps(), dots()
    loss = EMDHeatmapLoss()
    assert torch.allclose(loss(output, coordinates), loss(output, dense(coordinates)), rtol=1e-5)
    one_hot = torch.zeros(B, K, H, W)
    one_hot[:, :, 4, 2] = 1
    assert torch.equal(loss(output, one_hot), loss(output, torch.tensor([2.0, 4.0]).expand(B, K, 2)))


def test_gaussian_targets_need_no_change():
    """The one-line swap in an existing project: the centre of the Gaussian is the dot."""
    y, x = torch.arange(float(H)), torch.arange(float(W))
    gaussian = torch.exp(-((x - 2.0) ** 2 + (y[:, None] - 3.0) ** 2) / 2).expand(B, K, H, W)
    output, loss = heatmaps(), EMDHeatmapLoss()
    # the border cuts a little of the Gaussian
    assert torch.allclose(loss(output, gaussian), loss(output, torch.tensor([2.0, 3.0]).expand(B, K, 2)), rtol=1e-3)


@pytest.mark.parametrize(('supplier', 'epsilon'), [('relu', 1), ('softplus', 0.25), ('softmax', 0.1)])
def test_agrees_with_pot(supplier, epsilon):
    """Value and shannon gradient within 1e-6 of POT's float64 solution, from float64 maps."""
    output = torch.randn(1, K, H, W, dtype=torch.float64, requires_grad=True)
    coordinates = dots()[:1].double()
    loss = EMDHeatmapLoss(
        epsilon=epsilon, supplier=supplier, objective='shannon', ground_distance='euclidean', cross_entropy_weight=0.0, reduction='none'
    )(output, coordinates)
    gradient = gradient_of(loss.sum(), output)[0].flatten(1).numpy()
    rule: SupplierRule = build_supplier(supplier)
    suppliers, rate = rule.masses_and_rate(output.detach()[0])
    demanders = dot_demanders(coordinates[0], (H, W))
    x, y = np.tile(np.arange(W), H), np.repeat(np.arange(H), W)
    for joint in range(K):
        supply, demand = suppliers[joint].flatten().numpy(), demanders.mass[joint].numpy()
        position = demanders.position[joint].numpy()
        cost = np.hypot(x[:, None] - position[:, 0], y[:, None] - position[:, 1])
        cells = supply > 0
        plan, log = ot.bregman.sinkhorn_log(supply[cells], demand, cost[cells], epsilon, 20_000, 1e-13, log=True, warn=False)
        assert loss[0, joint].item() == pytest.approx((plan * cost[cells]).sum(), rel=1e-6)
        potential = epsilon * log['log_u']
        expected = np.zeros(H * W)
        expected[cells] = rate[joint].flatten().numpy()[cells] * (potential - (potential * supply[cells]).sum())
        assert gradient[joint] == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_reductions():
    output, target = heatmaps(), dots()
    weights = torch.tensor([[1.0, 0, 0.5, 1], [1, 1, 1, 1], [0, 0, 0, 2]])
    each = EMDHeatmapLoss(reduction='none')(output, target, weights)
    assert each.shape == (B, K) and (each[weights == 0] == 0).all()
    unweighted = EMDHeatmapLoss(reduction='none')(output, target)
    assert torch.allclose(each, unweighted * weights)
    assert torch.allclose(EMDHeatmapLoss(reduction='mean')(output, target, weights), each.sum() / (B * K))
    assert torch.allclose(EMDHeatmapLoss(reduction='sum')(output, target, weights), each.sum() / B)
    assert torch.allclose(EMDHeatmapLoss(loss_weight=3.0)(output, target, weights), 3 * each.mean())
    assert torch.equal(EMDHeatmapLoss(reduction='none')(output, target, weights[..., None]), each)


def test_the_value_does_not_depend_on_the_processes():
    """The mean of equally large parts is the mean of the whole; so are the gradients that DDP averages."""
    output, target = torch.randn(6, K, H, W), torch.rand(6, K, 2) * 4
    weights = (torch.rand(6, K) > 0.3).float()
    for reduction in ('mean', 'sum'):
        loss = EMDHeatmapLoss(reduction=reduction)
        whole = output.clone().requires_grad_()
        loss(whole, target, weights).backward()
        parts = [output[i : i + 2].clone().requires_grad_() for i in (0, 2, 4)]
        values = [loss(part, target[i : i + 2], weights[i : i + 2]) for part, i in zip(parts, (0, 2, 4))]
        torch.stack(values).mean().backward()
        assert torch.allclose(torch.stack(values).mean(), loss(whole, target, weights), rtol=1e-5)
        assert torch.allclose(torch.cat([part.grad for part in parts]), whole.grad, atol=1e-6)


def test_use_target_weight_decides_whether_weights_count():
    output, target, weights = heatmaps(), dots(), torch.zeros(B, K)
    assert EMDHeatmapLoss(use_target_weight=False)(output, target, weights) > 0
    assert EMDHeatmapLoss(use_target_weight=True)(output, target, weights) == 0


@pytest.mark.parametrize('cross_entropy_weight', [0.0, 0.5])
def test_a_batch_without_joints_gives_zero_and_stays_connected(cross_entropy_weight):
    output = heatmaps()
    loss = EMDHeatmapLoss(cross_entropy_weight=cross_entropy_weight)(output, dots(), torch.zeros(B, K))
    assert loss.item() == 0 and loss.requires_grad
    loss.backward()
    assert (output.grad == 0).all()


@pytest.mark.parametrize('reduction', ['mean', 'sum'])
@pytest.mark.parametrize('shape', [(0, K), (B, 0)])
def test_an_empty_batch_gives_zero(reduction, shape):
    output = torch.zeros(*shape, H, W, requires_grad=True)
    loss = EMDHeatmapLoss(reduction=reduction)(output, torch.zeros(*shape, 2), torch.zeros(shape))
    assert loss.item() == 0 and loss.requires_grad


@pytest.mark.parametrize('cross_entropy_weight', [0.0, 0.5])
@pytest.mark.parametrize('weights', [None, torch.ones(B, K)])
def test_an_empty_target_is_no_annotation(cross_entropy_weight, weights):
    """Stock codecs leave the target of a joint that is not annotated at 0, whatever its weight."""
    output, target = heatmaps(), dense(dots())
    target[1, 2] = 0
    loss = EMDHeatmapLoss(cross_entropy_weight=cross_entropy_weight, reduction='none')
    loss.keep_last_step = True
    value = loss(output, target, weights)
    assert value[1, 2] == 0 and (value > 0).sum() == B * K - 1
    gradient = gradient_of(value.sum(), output)
    assert (gradient[1, 2] == 0).all() and gradient.isfinite().all()
    assert not loss.last_step.valid[1, 2] and loss.last_step.dots.isfinite().all()


@pytest.mark.parametrize('weight', [-1.0, float('nan')])
def test_weights_that_make_no_sense_are_refused(weight):
    weights = torch.ones(B, K)
    weights[2, 1] = weight
    with pytest.raises(ValueError, match=f'target_weights must not be negative or NaN, got \\[{weight}\\]'):
        EMDHeatmapLoss()(heatmaps(), dots(), weights)


@pytest.mark.parametrize('objective', ['shannon', 'product'])
def test_the_naive_variant_counts_from_the_cell_that_holds_the_dot(objective):
    target = dots()
    loss = EMDHeatmapLoss(objective=objective, subpixel=False)
    assert not loss.options.unbiased
    output = heatmaps()
    assert torch.equal(loss(output, target), loss(output, (target + 0.5).floor()))


@pytest.mark.parametrize('cross_entropy_weight', [0.0, 0.5])
@pytest.mark.parametrize('form', ['coordinates', 'dense'])
@pytest.mark.parametrize('spoilt', ['map', 'target', 'both'])
def test_what_a_joint_without_weight_holds_does_not_matter(cross_entropy_weight, form, spoilt):
    output, target = torch.randn(B, K, H, W), dots()
    target = dense(target) if form == 'dense' else target
    weights = torch.ones(B, K)
    weights[1, 2] = 0
    loss = EMDHeatmapLoss(cross_entropy_weight=cross_entropy_weight)
    clean = output.clone().requires_grad_()
    expected = loss(clean, target, weights)
    if spoilt != 'target':
        output[1, 2, 3, 3] = float('nan')
    if spoilt != 'map':
        target = target.clone()
        target[1, 2] = float('nan')
    output.requires_grad_()
    value = loss(output, target, weights)
    assert torch.allclose(value, expected, rtol=1e-6)
    assert torch.allclose(gradient_of(value, output), gradient_of(expected, clean), atol=1e-7)


def test_a_map_that_is_not_finite_shows_in_the_loss():
    """So that loss scaling can skip the step."""
    output = torch.randn(B, K, H, W)
    output[0, 1] = float('inf')
    each = EMDHeatmapLoss(reduction='none', cross_entropy_weight=0.1)(output, dots())
    assert each[0, 1].isnan() and each.isnan().sum() == 1
    assert EMDHeatmapLoss()(output, dots()).isnan()


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_and_autocast_compute_in_float32(dtype):
    output, coordinates = torch.randn(B, K, H, W).to(dtype).requires_grad_(), dots()
    loss = EMDHeatmapLoss(cross_entropy_weight=0.5)
    expected = loss(output.detach().float(), coordinates)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        for target in (coordinates, dense(coordinates)):
            value = loss(output, target)
            assert value.dtype == torch.float32
            assert torch.allclose(value, expected, rtol=1e-5)
    gradient = gradient_of(value, output)
    assert gradient.dtype == dtype and gradient.isfinite().all()


def test_cross_entropy_is_added():
    output, target, weights = heatmaps(), dots(), torch.rand(B, K)
    plain, both, half, default, blurred = (
        EMDHeatmapLoss(reduction='none', **options) for options in (
            dict(cross_entropy_weight=0.0), dict(cross_entropy_weight=0.7), dict(cross_entropy_weight=0.5), {},
            dict(cross_entropy_blur=1.0))
    )
    log_masses = build_supplier('softmax').log_masses(output)
    expected = plain(output, target, weights) - 0.7 * weights * (dense(target) * log_masses).sum((-2, -1))
    assert torch.allclose(both(output, target, weights), expected, rtol=1e-5)
    spread = cross_entropy(output.flatten(0, 1), target.flatten(0, 1), build_supplier('softmax'), 1.0).view(B, K)
    expected = plain(output, target, weights) + 0.5 * weights * spread
    assert torch.allclose(blurred(output, target, weights), expected, rtol=1e-5)
    assert torch.equal(default(output, target, weights), half(output, target, weights))


@pytest.mark.parametrize(('objective', 'supplier', 'unbiased', 'weight'), [
    ('product', 'softmax', True, 0.5), ('shannon', 'softplus', False, 0.5), ('product', 'relu', True, 0.0),
    ('sharp', 'relu_surrogate', False, 0.0)])
def test_defaults_follow_what_exists(objective, supplier, unbiased, weight):
    """Unbiased demanders where there are any, a cross-entropy where it is finite."""
    loss = EMDHeatmapLoss(objective=objective, supplier=supplier)
    assert loss.options.unbiased is unbiased and loss.options.cross_entropy_weight == weight


def test_epsilon_from_the_letters_of_the_paper():
    """epsilon = 1 / (lambda g)."""
    output, target = heatmaps(), dots()
    by_letters = EMDHeatmapLoss(entropic_lambda=1, cell_size=4)
    assert by_letters.options.epsilon == 0.25
    assert torch.equal(by_letters(output, target), EMDHeatmapLoss(epsilon=0.25)(output, target))
    assert EMDHeatmapLoss(entropic_lambda=2, cell_size=4).options.epsilon == 0.125


def test_the_setting_of_the_paper():
    """Eq. 5: a sum over joints, a mean over pictures, of what 1000 Sinkhorn iterations leave of <C, p>."""
    paper = EMDHeatmapLoss(
        entropic_lambda=1, cell_size=4, objective='shannon', supplier='relu', solver='sinkhorn', num_iters=1000,
        ground_distance='euclidean', reduction='sum'
    )
    output, target = heatmaps(), dots()
    how = EMDOptions(0.25, 'shannon', 'relu', ground_distance='euclidean')
    expected = emd(output.flatten(0, 1), target.flatten(0, 1), how).cost.sum() / B
    assert torch.allclose(paper(output, target), expected, rtol=1e-5)


def test_trains_maps_to_the_dots():
    output = torch.zeros(B, K, H, W, requires_grad=True)
    """Down to the transport cost alone: with a blurred cross-entropy beside it the best square is not the place to look."""
    target, loss = dots(), EMDHeatmapLoss(supplier='softplus', ground_distance='euclidean', cross_entropy_weight=0.0)
    optimiser = torch.optim.Adam([output], lr=0.1)
    for _ in range(150):
        optimiser.zero_grad()
        loss(output, target).backward()
        optimiser.step()
    found = decode_square(build_supplier('softplus')(output.detach()))[0]
    assert (found - target).norm(dim=-1).max() < 0.1


def test_the_default_trains_maps_that_the_default_decoder_reads():
    output = torch.zeros(B, K, H, W, requires_grad=True)
    target, loss = dots(), EMDHeatmapLoss()
    optimiser = torch.optim.Adam([output], lr=0.02)
    for _ in range(400):
        optimiser.zero_grad()
        loss(output, target).backward()
        optimiser.step()
    found = read_heatmap(output.detach(), loss.options.supplier, 2.0).dots
    assert (found - target).norm(dim=-1).max() < 0.1


def test_the_last_step_is_kept_on_request_only():
    output, target = heatmaps(), dots()
    loss = EMDHeatmapLoss()
    loss(output, target)
    assert loss.last_step is None
    loss.keep_last_step = True
    weights = (torch.arange(B * K).view(B, K) % 3).float()
    loss(output, dense(target), weights)
    step = loss.last_step
    assert torch.equal(step.heatmaps, output.detach()) and not step.heatmaps.requires_grad
    assert torch.equal(step.valid, weights > 0)
    assert torch.allclose(step.dots[step.valid], target[step.valid], atol=1e-5)
    assert step.marginal_error.shape == (B, K) and step.marginal_error.max() < 1e-5


def test_it_has_no_parameters_or_state():
    assert not EMDHeatmapLoss().state_dict()


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(reduction='median'), r"reduction must be one of \('mean', 'sum', 'none'\), got 'median'"),
        (dict(objective='dull'), "objective must be one of .* got 'dull'"),
        (dict(supplier='gelu'), "supplier must be one of .* got 'gelu'"),
        (dict(supplier=dict(type='softplus', beta=1)), "supplier 'softplus' does not take these options"),
        (dict(solver='adam'), "solver must be one of .* got 'adam'"),
        (dict(subpixel='yes'), "subpixel must be True or False, got 'yes'"),
        (dict(use_target_weight=None), 'use_target_weight must be True or False, got None'),
        (dict(backend='Triton'), "backend must be one of .* got 'Triton'"),
        (dict(ground_distance='taxi'), "ground_distance must be one of .* got 'taxi'"),
        (dict(ground_distance=dict(type='saturated', scale=0)), 'scale must be a positive finite number of heatmap cells, got 0'),
        (dict(epsilon=0), 'epsilon must be a positive finite number of heatmap cells, got 0'),
        (dict(epsilon=-0.5), 'epsilon must be .* got -0.5'),
        (dict(epsilon='small'), "epsilon must be .* got 'small'"),
        (dict(num_iters=0), 'num_iters must be a positive integer, got 0'),
        (dict(loss_weight=-1), 'loss_weight must be a finite number >= 0, got -1'),
        (dict(cross_entropy_weight=float('nan')), 'cross_entropy_weight must be a finite number >= 0, got nan'),
        (dict(cross_entropy_weight=1, supplier='relu'), "cross_entropy_weight must be 0 with supplier 'relu'"),
        (dict(unbiased=True), "unbiased demanders exist for objective='product' only"),
        (dict(epsilon=1, entropic_lambda=1, cell_size=4), 'epsilon must be left out when entropic_lambda and cell_size are given'),
        (dict(entropic_lambda=1), 'entropic_lambda and cell_size must be given together, got 1 and None'),
        (dict(entropic_lambda=0, cell_size=4), 'entropic_lambda must be a positive finite number, got 0'),
        (dict(entropic_lambda=1, cell_size='4'), "cell_size must be a positive finite number, got '4'"),
    ],
    ids=str,
)
def test_bad_options_are_named(options, message):
    # the default objective is not the subject here
    with pytest.raises(ValueError, match=message):
        EMDHeatmapLoss(**{'objective': 'shannon', **options})


def test_unknown_options_are_named():
    with pytest.raises(TypeError, match='sharpnes'):
        EMDHeatmapLoss(sharpnes=3)


@pytest.mark.parametrize(
    ('output', 'target', 'weights', 'message'),
    [
        ((K, H, W), (K, 2), None, r'output must have shape \(B, K, H, W\) .* got \(4, 7, 5\)'),
        ((B, K, H, W), (B, K - 1, 2), None, r'target must have the shape of output, .* or \(B, K, 2\) = .* got \(3, 3, 2\)'),
        ((B, K, H, W), (B, K, W, H), None, r'target must have the shape of output, .* got \(3, 4, 5, 7\)'),
        ((B, K, H, W), (B, K, 3), None, r'target must .* got \(3, 4, 3\)'),
        ((B, K, H, W), (B, K, 2), (B, K - 1), r'target_weights must have shape \(B, K\) = \(3, 4\), got \(3, 3\)'),
        ((B, K, H, W), (B, K, 2), (B, K, 2), r'target_weights must have shape .* got \(3, 4, 2\)'),
        ((B, K, 1, W), (B, K, 2), None, r'output must have .* at least 2 x 2 cells'),
    ],
)
def test_shapes_must_fit(output, target, weights, message):
    weights = None if weights is None else torch.ones(weights)
    with pytest.raises(ValueError, match=message):
        EMDHeatmapLoss()(torch.zeros(output), torch.zeros(target), weights)


def test_coordinates_of_a_joint_that_counts_must_be_finite():
    target = dots()
    target[0, 0, 1] = float('nan')
    for weights in (None, torch.ones(B, K)):
        with pytest.raises(ValueError, match='target must be finite for every joint of positive weight'):
            EMDHeatmapLoss()(heatmaps(), target, weights)


# ----------------------------------------------------------------------------------------------------------- torch.compile
def loss_and_inputs(dense: bool = False, **options):
    """A loss, a map that asks for a gradient, targets, and weights one of which is 0; B, K, H, W all different."""
    output = torch.randn(2, 3, 9, 7).requires_grad_()
    target = torch.rand((2, 3, 9, 7) if dense else (2, 3, 2)) * 6
    weights = torch.tensor([[1.0, 0.0, 1.0], [0.5, 1.0, 1.0]])
    return EMDHeatmapLoss(epsilon=0.5, objective='product', **options), output, target, weights


def value_and_gradient(loss, output, target, weights):
    value = loss(output, target, weights)
    gradient, = torch.autograd.grad(value, output)
    return value.detach(), gradient


def compile_loss(loss, **options):
    """One graph, or several where this torch cannot be told that the distance is one operator."""
    if not hasattr(torch, 'compile'):
        pytest.skip('this torch has no torch.compile')
    torch._dynamo.reset()
    return torch.compile(loss, fullgraph=HAS_CUSTOM_OPERATORS, **options)


@pytest.mark.parametrize('dense', [False, True])
def test_torch_compile_takes_the_loss_as_one_graph(dense):
    loss, *inputs = loss_and_inputs(dense=dense)
    compiled = compile_loss(loss, backend='aot_eager')
    torch.testing.assert_close(value_and_gradient(compiled, *inputs), value_and_gradient(loss, *inputs), rtol=1e-6, atol=1e-7)


@pytest.mark.slow
def test_torch_compile_with_its_own_backend():
    loss, *inputs = loss_and_inputs(cross_entropy_weight=0.5)
    compiled = compile_loss(loss)
    torch.testing.assert_close(value_and_gradient(compiled, *inputs), value_and_gradient(loss, *inputs), rtol=1e-5, atol=1e-6)


def test_the_example_in_the_docstring():
    import doctest

    from hdm_mmpose.components import emd_heatmap_loss

    result = doctest.testmod(emd_heatmap_loss, extraglobs={'torch': torch})
    assert result.failed == 0 and result.attempted == 6
