"""TransportMonitorHook: the numbers, when they are measured, and what it leaves behind."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.hooks import LoggerHook
from torch import nn

from hdm_mmpose.components import DotAnnotationCodec, EMDHeatmapLoss, TransportMonitorHook
from hdm_mmpose.components import transport_monitor_hook as module
from tests.tiny_training import draw, scalars, tiny_config, train

STRIDE, WIDTH, HEIGHT = 4, 9, 11


def one_hot(points: torch.Tensor) -> torch.Tensor:
    """(B, K, H, W) maps with all mass in one cell, from integer points (B, K, 2)."""
    maps = torch.zeros(*points.shape[:2], HEIGHT, WIDTH)
    return maps.flatten(2).scatter(2, (points[..., 1] * WIDTH + points[..., 0])[..., None], 1.0).view_as(maps)


def step_of(loss: EMDHeatmapLoss, *inputs: torch.Tensor):
    loss.keep_last_step = True
    loss(*inputs)
    return loss.last_step


def test_distance_is_what_mass_travels_in_input_pixels() -> None:
    generator = torch.Generator().manual_seed(0)
    dots, predicted = (torch.stack([torch.randint(0, size, (3, 5), generator=generator) for size in (WIDTH, HEIGHT)], -1)
                       for _ in range(2))
    weights = (torch.arange(15).view(3, 5) % 4 > 0).float()
    step = step_of(EMDHeatmapLoss(supplier='relu'), one_hot(predicted), dots.float(), weights)
    joints, distance, dead, _, error = module.measure(step, EMDHeatmapLoss(supplier='relu').options, WIDTH * STRIDE).tolist()
    wanted = STRIDE * ((dots - predicted).double().norm(dim=-1) * weights).sum()
    # relu lets no gradient into empty cells: all mass in one wrong cell stays there
    assert joints == weights.sum() and dead == ((dots != predicted).any(-1) * weights).sum() > 0 and error < 1e-5
    assert distance == pytest.approx(float(wanted), rel=1e-5)


def test_distance_does_not_depend_on_what_is_minimised() -> None:
    maps, dots = torch.randn(2, 3, HEIGHT, WIDTH), torch.rand(2, 3, 2) * 8
    measured = []
    for options in (dict(unbiased=True), dict(
            unbiased=False, ground_distance=dict(type='saturated', scale=1.5), cross_entropy_weight=2.0, loss_weight=9.0)):
        loss = EMDHeatmapLoss(epsilon=0.25, objective='product', **options)
        measured.append(module.measure(step_of(loss, maps, dots), loss.options, WIDTH * STRIDE))
    assert measured[0][1] == measured[1][1]


@pytest.mark.parametrize('epsilon', [2.0, 1.0, 0.25, 0.05])
def test_a_perfect_map_is_no_distance_away_whatever_epsilon_the_loss_has(epsilon: float) -> None:
    dots = torch.rand(3, 5, 2, generator=torch.Generator().manual_seed(1)) * torch.tensor([WIDTH - 1.0, HEIGHT - 1.0])
    encoded = [DotAnnotationCodec((WIDTH, HEIGHT), (WIDTH, HEIGHT)).encode(each[None].numpy())['heatmaps'] for each in dots]
    loss = EMDHeatmapLoss(epsilon=epsilon, supplier='relu', solver='sinkhorn', num_iters=1)
    joints, distance, dead, _, _ = module.measure(step_of(loss, torch.tensor(np.array(encoded)), dots), loss.options, WIDTH * STRIDE)
    assert distance / joints < 1e-3 * STRIDE and dead == 0


def test_distance_is_that_of_the_exact_plan_and_does_not_move_with_epsilon() -> None:
    maps, dots = torch.randn(2, 3, HEIGHT, WIDTH), torch.rand(2, 3, 2) * 8
    coarse, fine = (module.measure(step_of(loss, maps, dots), loss.options, None)[1]
                    for loss in (EMDHeatmapLoss(epsilon=2.0), EMDHeatmapLoss(epsilon=0.1)))
    assert coarse == fine


def test_maps_without_gradient_are_counted_whatever_the_rule() -> None:
    """All mass in one cell: softmax of sharpness 20 has no slope there, unless the cell is the dot's; a small peak has."""
    place = torch.tensor([[[2, 3], [2, 3], [7, 9], [2, 3]]])
    maps = one_hot(place) * torch.tensor([2.0, 2.0, 2.0, 0.3])[None, :, None, None]
    dots = torch.tensor([[[7.0, 9.0], [2.0, 3.0], [2.2, 3.4], [7.0, 9.0]]])
    for supplier, wanted in (('softmax', 2), ('softplus', 0)):
        loss = EMDHeatmapLoss(supplier=supplier)
        assert module.measure(step_of(loss, maps, dots), loss.options, None)[2] == wanted
    half = step_of(EMDHeatmapLoss(), maps.half(), dots)
    assert module.measure(half, EMDHeatmapLoss().options, None)[2] == 2


def test_measuring_leaves_no_gradient_behind() -> None:
    maps, loss = torch.randn(1, 2, HEIGHT, WIDTH, requires_grad=True), EMDHeatmapLoss()
    measured = module.measure(step_of(loss, maps, torch.ones(1, 2, 2)), loss.options, None)
    assert not measured.requires_grad and not loss.last_step.heatmaps.requires_grad and maps.grad is None


def test_dead_maps_are_counted() -> None:
    maps = torch.rand(4, 5, HEIGHT, WIDTH)
    maps[0, :3] = -1
    weights = torch.ones(4, 5)
    weights[0, 0] = 0  # dead, but does not count
    for supplier, wanted in (('relu', 2), ('relu_surrogate', 0), ('softplus', 0)):
        loss = EMDHeatmapLoss(supplier=supplier)
        step = step_of(loss, maps, torch.ones(4, 5, 2), weights)
        assert module.measure(step, loss.options, None)[2] == wanted


def runner_of(model: nn.Module, interval: int = 3) -> SimpleNamespace:
    hub = SimpleNamespace(logged={})
    hub.update_scalar = hub.logged.__setitem__
    said: list[str] = []
    logger = SimpleNamespace(said=said, warning=said.append)
    return SimpleNamespace(
        model=model, hooks=[LoggerHook(interval=interval)], message_hub=hub, train_dataloader=[None] * 8, logger=logger)


def test_measures_only_when_a_line_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(module, 'measure', lambda *_: asked.append(index) or torch.tensor([2.0, 8.0, 1.0, 0.0, 0.5]).double())
    loss = EMDHeatmapLoss()
    runner, hook = runner_of(nn.Sequential(loss)), TransportMonitorHook()
    hook.before_train(runner)
    for index in range(8):
        loss(torch.rand(1, 2, HEIGHT, WIDTH), torch.ones(1, 2, 2))
        hook.after_train_iter(runner, index, dict(inputs=[torch.zeros(3, 44, 36)]))
    assert asked == [2, 5, 7]  # every third, and the last of the epoch
    assert runner.message_hub.logged == {'train/transport_px': 4.0, 'train/dead_maps': 0.5, 'train/marginal_error': 0.5}
    hook.after_train(runner)
    assert loss.last_step is None and not loss.keep_last_step


def test_a_solver_that_falls_short_is_said_once() -> None:
    loss = EMDHeatmapLoss(epsilon=0.05, supplier='relu', solver='sinkhorn', num_iters=1)
    runner, hook = runner_of(loss, interval=1), TransportMonitorHook()
    hook.before_train(runner)
    for step in range(2):
        loss(one_hot(torch.tensor([[[2, 3]]])) + one_hot(torch.tensor([[[3, 3]]])), torch.tensor([[[2.9, 3.0]]]))
        hook.after_train_iter(runner, step)
    (said,) = runner.logger.said
    assert "('sinkhorn', epsilon = 0.05 heatmap cells) left a marginal error of" in said


def test_nothing_is_logged_where_no_joint_counts() -> None:
    loss = EMDHeatmapLoss()
    runner, hook = runner_of(loss, interval=1), TransportMonitorHook()
    hook.before_train(runner)
    loss(torch.rand(1, 2, HEIGHT, WIDTH), torch.ones(1, 2, 2), torch.zeros(1, 2))
    hook.after_train_iter(runner, 0, dict(inputs=[torch.zeros(3, 44, 36)]))
    assert runner.message_hub.logged == {}


@pytest.mark.parametrize('interval', [0, -1, 2.5, True])
def test_bad_interval_is_refused(interval: object) -> None:
    with pytest.raises(ValueError, match='interval must be a positive integer'):
        TransportMonitorHook(interval=interval)


def test_model_without_the_loss_is_refused() -> None:
    with pytest.raises(ValueError, match='the model has none'):
        TransportMonitorHook().before_train(runner_of(nn.Linear(1, 1)))


def test_numbers_stand_next_to_the_loss_in_a_real_log(tmp_path: Path) -> None:
    cfg = tiny_config(draw(tmp_path / 'data'), tmp_path / 'run', default_hooks__logger__interval=2)
    cfg.custom_hooks = [dict(type='TransportMonitorHook')]
    train(cfg)
    lines = [line for line in scalars(tmp_path / 'run') if 'loss' in line]
    assert lines and all({'transport_px', 'dead_maps', 'marginal_error'} <= line.keys() for line in lines)
    for line in lines:
        assert 10 < line['transport_px'] < 160  # untrained: anywhere in 128 x 96 pixels
        assert line['dead_maps'] == 0 and line['marginal_error'] < 1e-4


def test_targets_that_nobody_looked_at_are_said_once() -> None:
    """On a GPU the loss does not look: a dot that is not finite, and a dense target with negative cells only (dot NaN, not valid)."""
    loss = EMDHeatmapLoss()
    runner, hook = runner_of(loss, interval=1), TransportMonitorHook()
    hook.before_train(runner)
    loss(torch.rand(1, 3, HEIGHT, WIDTH), torch.ones(1, 3, 2))
    dots = torch.tensor([[[1.0, 1.0], [float('nan'), 1.0], [float('nan'), float('nan')]]])
    loss.last_step = loss.last_step._replace(dots=dots, valid=torch.tensor([[True, True, False]]))
    for step in range(2):
        hook.after_train_iter(runner, step)
    (said,) = runner.logger.said
    assert said.startswith('2 targets of joints with positive weight were not finite') and said.endswith('This is said once.')
    assert runner.message_hub.logged['train/transport_px'] > 0
