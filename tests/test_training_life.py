"""What happens to a training in real life: accumulation, averaging, compilation, determinism, scaled rates, resuming, half precision.

All on drawn pictures, a few iterations each, with the runner and the flags of MMEngine.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip('mmpose', reason="trainings are MMPose's")

from mmengine.config import Config  # noqa: E402
from mmengine.fileio import LocalBackend  # noqa: E402
from mmengine.hooks import CheckpointHook, Hook  # noqa: E402
from mmengine.runner import Runner  # noqa: E402
from mmpose.registry import MODELS  # noqa: E402
from mmpose.utils import register_all_modules  # noqa: E402

from hdm_mmpose.components import EMDHeatmapLoss, SubPixelDecoder, TransportMonitorHook  # noqa: E402
from hdm_mmpose.transport import emd  # noqa: E402
from tests.synthetic_samples import samples  # noqa: E402
from tests.tiny_training import RECIPE, by_iterations, draw, loss_curve, scalars, tiny_config, train  # noqa: E402

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')


@pytest.fixture(scope='module')
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw(tmp_path_factory.mktemp('drawn') / 'data')


class Watch(Hook):
    """Remembers a weight before the first and after every iteration."""

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        if not batch_idx:
            self.after_train_iter(runner, batch_idx)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        self.__dict__.setdefault('weights', []).append(runner.model.head.final_layer.weight.detach().clone())


def test_gradient_accumulation_steps_every_second_iteration(data: Path, tmp_path: Path) -> None:
    watch = Watch()
    runner = Runner.from_cfg(tiny_config(data, tmp_path, optim_wrapper__accumulative_counts=2))
    runner.register_hook(watch)
    runner.train()
    moved = [not torch.equal(old, new) for old, new in zip(watch.weights, watch.weights[1:])]
    assert moved == [index % 2 == 1 for index in range(len(moved))] and len(moved) >= 4


def test_averaged_weights_are_kept_and_saved(data: Path, tmp_path: Path) -> None:
    cfg = tiny_config(data, tmp_path)
    cfg.custom_hooks = [dict(type='EMAHook', momentum=0.1), dict(type='TransportMonitorHook')]
    runner = train(cfg)
    saved = torch.load(tmp_path / 'epoch_1.pth')
    averaged = saved['ema_state_dict']['module.head.final_layer.weight']
    assert averaged.isfinite().all()
    # CheckpointHook saves the averaged weights as the model's
    assert not torch.equal(saved['state_dict']['head.final_layer.weight'], runner.model.head.final_layer.weight)


def test_compiled_loss_and_decoder_say_the_same() -> None:
    torch._dynamo.reset()
    maps, dots = torch.randn(2, 3, 12, 9, requires_grad=True), torch.rand(2, 3, 2) * 8
    decoder = SubPixelDecoder(input_size=(36, 48), heatmap_size=(9, 12))
    loss = EMDHeatmapLoss()
    loss.keep_last_step = True
    wanted, read = loss(maps, dots), decoder.decode_tensor(maps)
    (slope,) = torch.autograd.grad(wanted, maps)
    got, got_read = (torch.compile(each, backend='eager')(*given) for each, given in
                     ((loss, (maps, dots)), (decoder.decode_tensor, (maps,))))
    (got_slope,) = torch.autograd.grad(got, maps)
    torch.testing.assert_close(got, wanted)
    torch.testing.assert_close(got_slope, slope)
    torch.testing.assert_close(got_read, read)
    assert torch.equal(loss.last_step.heatmaps, maps.detach())
    output = torch.compile(emd, backend='eager')(maps[0], dots[0], loss.options)
    assert [each.requires_grad for each in output] == [True, False, False, False, False]


@pytest.mark.slow
@pytest.mark.parametrize('backend', ['eager', 'inductor'])
def test_compiled_training_has_the_same_losses(backend: str, data: Path, tmp_path: Path) -> None:
    torch._dynamo.reset()
    curves = []
    for name, compiled in (('plain', False), ('compiled', dict(backend=backend))):
        cfg = by_iterations(tiny_config(data, tmp_path / name), 3)
        cfg.compile = compiled
        cfg.custom_hooks = [dict(type='TransportMonitorHook')]
        train(cfg)
        curves.append([line['loss'] for line in scalars(tmp_path / name)])
        assert all('transport_px' in line for line in scalars(tmp_path / name))
    assert len(curves[0]) == 3 and curves[1] == pytest.approx(curves[0], rel=1e-3)


@needs_cuda
def test_no_step_waits_for_the_device() -> None:
    """Loss, gradient and the hook that watches, between two lines of the log."""
    loss, hook = EMDHeatmapLoss(backend='torch').cuda(), TransportMonitorHook(interval=10)
    runner = SimpleNamespace(model=torch.nn.Sequential(loss), hooks=[], train_dataloader=[None] * 100)
    hook.before_train(runner)
    maps, dots = torch.randn(2, 17, 16, 12, device='cuda', requires_grad=True), torch.rand(2, 17, 2, device='cuda') * 11
    weights = torch.ones(2, 17, device='cuda')
    torch.cuda.set_sync_debug_mode('error')
    try:
        loss(maps, dots, weights).backward()
        hook.after_train_iter(runner, 0)
    finally:
        torch.cuda.set_sync_debug_mode('default')
    assert maps.grad.isfinite().all() and maps.grad.abs().sum() > 0


def test_deterministic_runs_are_equal_to_the_last_bit(data: Path, tmp_path: Path) -> None:
    weights = []
    try:
        for name in ('first', 'second'):
            cfg = by_iterations(tiny_config(data, tmp_path / name, randomness=dict(seed=1, deterministic=True)), 3)
            weights.append(torch.nn.utils.parameters_to_vector(train(cfg).model.parameters()))
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.equal(*weights)


def test_learning_rate_scales_with_the_batch(data: Path, tmp_path: Path) -> None:
    cfg = by_iterations(tiny_config(data, tmp_path, auto_scale_lr=dict(enable=True, base_batch_size=32)), 1)
    cfg.param_scheduler = None
    runner = train(cfg)
    assert runner.optim_wrapper.get_lr()['lr'][0] == pytest.approx(cfg.optim_wrapper.optimizer.lr * 4 / 32)


def test_resumed_training_goes_on_with_the_same_losses(data: Path, tmp_path: Path) -> None:
    """Augmentation included: its random numbers belong to the worker process, which runs through the past again."""
    for name, stops in (('unbroken', (5,)), ('resumed', (3, 5))):
        for stop in stops:
            cfg = by_iterations(tiny_config(data, tmp_path / name, train_dataloader__num_workers=1), stop)
            cfg.resume = stop != stops[0]
            cfg.randomness = dict(seed=7)
            train(cfg)
    unbroken, resumed = (loss_curve(tmp_path / name) for name in ('unbroken', 'resumed'))
    assert list(unbroken) == list(resumed) == [1, 2, 3, 4, 5]
    assert list(resumed.values()) == pytest.approx(list(unbroken.values()), rel=1e-6)


def files_of(save: Callable, cfg: Config, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What a training writes and removes, in order, with ``save`` for ``CheckpointHook``'s method."""
    events = []

    def noting(action: str, original: Callable) -> Callable:
        def note(backend: LocalBackend, *given: object) -> None:
            events.append((action, Path(str(given[-1])).name))
            original(backend, *given)
        return note

    monkeypatch.setattr(CheckpointHook, '_save_checkpoint_with_step', save)
    for action in ('put', 'remove'):
        monkeypatch.setattr(LocalBackend, action, noting(action, getattr(LocalBackend, action)))
    train(cfg)
    monkeypatch.undo()
    return events


def test_old_checkpoint_is_removed_after_the_new_one_is_written(data: Path, tmp_path: Path, monkeypatch) -> None:
    """With ``max_keep_ckpts=1`` there is always a whole one to resume from."""
    orders = {}
    ours = CheckpointHook._save_checkpoint_with_step
    for name, save in (('ours', ours), ('stock', ours.__wrapped__)):
        cfg = by_iterations(tiny_config(data, tmp_path / name), 2)
        cfg.default_hooks.checkpoint.max_keep_ckpts = 1
        orders[name] = files_of(save, cfg, monkeypatch)
    wanted = [('put', 'iter_1.pth'), ('put', 'iter_2.pth'), ('remove', 'iter_1.pth')]
    assert orders['ours'] == wanted
    assert orders['stock'] != wanted, 'this MMEngine writes before it removes: drop keep_checkpoint_until_the_next_is_written'


# ------------------------------------------------------------------------------------------------------- half precision


def model_and_batch() -> tuple[torch.nn.Module, dict]:
    register_all_modules()
    cfg = Config.fromfile(RECIPE)
    cfg.model.train_cfg = dict(compute_acc=True)  # MMPose's default: the head's accuracy sees the maps too
    model = MODELS.build(cfg.model)
    return model, model.data_preprocessor(samples(cfg, count=3), training=True)


def gradients(dtype: torch.dtype | None, device: str) -> tuple[float, torch.Tensor]:
    torch.manual_seed(0)
    model, batch = model_and_batch()
    model.to(device).train()
    model.data_preprocessor.to(device)
    batch['inputs'] = batch['inputs'].to(device)
    samples_on_device = [sample.to(device) for sample in batch['data_samples']]
    with torch.autocast(device, dtype=dtype or torch.bfloat16, enabled=dtype is not None):
        loss = model.loss(batch['inputs'], samples_on_device)['loss_kpt']
    loss.backward()
    return loss, torch.cat([parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None])


@pytest.mark.parametrize(('device', 'dtype'), [
    ('cpu', torch.bfloat16), pytest.param('cuda', torch.bfloat16, marks=needs_cuda),
    pytest.param('cuda', torch.float16, marks=needs_cuda)])
def test_autocast_leaves_the_loss_in_float32(device: str, dtype: torch.dtype) -> None:
    wanted, slope = gradients(None, device)
    loss, half = gradients(dtype, device)
    assert loss.dtype == torch.float32 and float(loss) == pytest.approx(float(wanted), rel=2e-2)
    assert half.isfinite().all()
    assert torch.nn.functional.cosine_similarity(half, slope, dim=0) > 0.8  # the network itself runs in half precision


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_heatmaps_in_half_precision(dtype: torch.dtype) -> None:
    """Predictions of an autocast network, which are half themselves: the loss of what they hold, exactly."""
    maps, dots = torch.randn(2, 3, 12, 9).to(dtype).requires_grad_(), torch.rand(2, 3, 2) * 8
    full = maps.detach().float().requires_grad_()
    loss, wanted = EMDHeatmapLoss()(maps, dots), EMDHeatmapLoss()(full, dots)
    loss.backward(), wanted.backward()
    assert loss.dtype == torch.float32 and torch.equal(loss, wanted)
    assert maps.grad.dtype == dtype
    assert torch.allclose(maps.grad.float(), full.grad, atol=torch.finfo(dtype).eps * float(full.grad.abs().max()))


@needs_cuda
@pytest.mark.parametrize('dtype', ['float16', 'bfloat16'])
def test_amp_training(dtype: str, data: Path, tmp_path: Path) -> None:
    cfg = by_iterations(tiny_config(data, tmp_path), 4)
    cfg.optim_wrapper.update(type='AmpOptimWrapper', dtype=dtype)
    cfg.model.train_cfg = dict(compute_acc=True)
    if dtype == 'float16':
        cfg.optim_wrapper.loss_scale = 'dynamic'
    runner = train(cfg)
    assert all(parameter.isfinite().all() for parameter in runner.model.parameters())
