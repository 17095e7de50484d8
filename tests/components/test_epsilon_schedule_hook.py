"""EpsilonScheduleHook: the values, which losses they reach, and what it refuses."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from hdm_mmpose.components.emd_heatmap_loss import EMDHeatmapLoss
from hdm_mmpose.components.epsilon_schedule_hook import EpsilonScheduleHook
from hdm_mmpose.features import HAS_CUSTOM_OPERATORS


def runner_of(model, iteration=0, iterations=100):
    return SimpleNamespace(model=model, iter=iteration, max_iters=iterations)


def test_descends_geometrically_and_stays():
    hook = EpsilonScheduleHook(start=2.0, end=0.125, until=0.8)
    assert hook.epsilon(0) == pytest.approx(2)
    assert hook.epsilon(0.4) == pytest.approx(0.5)
    assert hook.epsilon(0.8) == hook.epsilon(1.0) == pytest.approx(0.125)


@pytest.mark.skipif(not HAS_CUSTOM_OPERATORS, reason='this torch compiles around the loss')
def test_a_compiled_loss_stays_compiled():
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    loss, hook = EMDHeatmapLoss(), EpsilonScheduleHook(start=2.0, end=0.1)
    hook.before_train(runner_of(loss))
    compiled = torch.compile(loss, backend='eager')
    for iteration in range(40):
        hook.before_train_iter(runner_of(None, iteration, 40), 0)
        compiled(torch.zeros(2, 3, 7, 6), torch.ones(2, 3, 2))
    assert torch._dynamo.utils.counters['stats']['unique_graphs'] == 1


def test_every_loss_of_the_model_follows_and_nothing_else_changes():
    model = nn.ModuleDict({
        'a': EMDHeatmapLoss(epsilon=1.0, objective='product', unbiased=True),
        'b': nn.ModuleList([EMDHeatmapLoss(supplier='relu')]),
        'c': nn.Linear(2, 2)})
    hook = EpsilonScheduleHook(start=4.0, end=1.0, until=1)
    hook.before_train(runner_of(model))
    hook.before_train_iter(runner_of(model, 50), 0)
    for loss in (model['a'], model['b'][0]):
        assert loss.options.epsilon == pytest.approx(2)
    assert (model['a'].options.objective, model['a'].options.unbiased) == ('product', True)
    assert model['b'][0].options.supplier.name == 'relu'


def test_the_loss_computes_with_it():
    torch.manual_seed(0)
    maps, dots = torch.randn(2, 3, 7, 6), torch.rand(2, 3, 2) * 4
    loss = EMDHeatmapLoss(epsilon=1.0)
    hook = EpsilonScheduleHook(start=0.5, end=0.25)
    hook.before_train(runner_of(nn.Sequential(loss)))
    hook.before_train_iter(runner_of(None, 99), 0)
    assert loss(maps, dots).item() == EMDHeatmapLoss(epsilon=0.25)(maps, dots).item()
    assert loss(maps, dots).item() != EMDHeatmapLoss(epsilon=1.0)(maps, dots).item()


@pytest.mark.parametrize(('options', 'name'), [
    ({'start': 0, 'end': 1}, 'start'), ({'start': 1, 'end': float('nan')}, 'end'), ({'start': 1, 'end': '1'}, 'end'),
    ({'start': 1, 'end': 1, 'until': 0}, 'until'), ({'start': 1, 'end': 1, 'until': 1.5}, 'until')])
def test_bad_arguments_are_named(options, name):
    with pytest.raises(ValueError, match=name):
        EpsilonScheduleHook(**options)


def test_a_model_without_the_loss_is_refused():
    with pytest.raises(ValueError, match='EMDHeatmapLoss'):
        EpsilonScheduleHook(1, 1).before_train(runner_of(nn.Linear(2, 2)))
