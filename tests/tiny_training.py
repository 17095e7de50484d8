"""A real training that takes seconds: the demo recipe on a few drawn pictures, batches of four, no worker processes."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

from mmengine.config import Config
from mmengine.runner import Runner

from tools.dataset_converters.make_demo_data import make_data

ROOT = Path(__file__).resolve().parent.parent
(RECIPE,) = (ROOT / 'configs' / 'demo').glob('*_hdm-*.py')
LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')


def draw(folder: Path, train: int = 12, val: int = 4) -> Path:
    """Draw pictures into a folder and return it."""
    make_data(folder, train, val, seed=3)
    return folder


def tiny_config(data: Path, work_dir: Path, **options) -> Config:
    """The recipe on the data in a folder.

    Args:
        data: made by ``draw``.
        work_dir: where the run writes.
        options: further changes; ``__`` stands for the dot in a key.
    """
    cfg = Config.fromfile(RECIPE)
    run = uuid.uuid4().hex  # MMEngine gives out logger and visualiser by name: another run, another name
    small: dict = {'work_dir': str(work_dir), 'experiment_name': run, 'visualizer.name': run}
    for loader in LOADERS:
        small.update({f'{loader}.dataset.data_root': f'{data}/', f'{loader}.batch_size': 4, f'{loader}.num_workers': 0,
                  f'{loader}.persistent_workers': False})
    for evaluator in ('val_evaluator', 'test_evaluator'):
        small[f'{evaluator}.0.ann_file'] = f'{data}/annotations/person_keypoints_val2017.json'
    small.update({'train_cfg.max_epochs': 1, 'train_cfg.val_interval': 100, 'model.backbone.base_channels': 8,
              'model.head.in_channels': 64, 'default_hooks.logger.interval': 1, 'visualizer.vis_backends.0.type': 'LocalVisBackend'})
    cfg.merge_from_dict({**small, **{key.replace('__', '.'): value for key, value in options.items()}})
    return cfg


def by_iterations(cfg: Config, iterations: int) -> Config:
    """The same, counted in iterations, with a checkpoint after each: what an interrupted run can go on from."""
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=iterations, val_interval=10**6)
    cfg.param_scheduler = [dict(type='LinearLR', begin=0, end=10, start_factor=0.1, by_epoch=False)]
    cfg.train_dataloader.sampler = dict(type='InfiniteSampler', shuffle=True)
    cfg.default_hooks.checkpoint = dict(type='CheckpointHook', interval=1, by_epoch=False, max_keep_ckpts=3)
    cfg.log_processor = dict(by_epoch=False, window_size=1)
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    return cfg


def train(cfg: Config) -> Runner:
    runner = Runner.from_cfg(cfg)
    runner.train()
    return runner


def scalars(work_dir: Path) -> list[dict]:
    """The lines of the scalar logs of all runs in a work directory, oldest run first."""
    paths = sorted(work_dir.glob('*/vis_data/scalars.json'), key=lambda path: path.stat().st_mtime)
    return [json.loads(line) for path in paths for line in path.read_text().splitlines()]


def loss_curve(work_dir: Path) -> dict[int, float]:
    """Logged loss by iteration; of an iteration that was run twice, the later one."""
    return {line['step']: line['loss'] for line in scalars(work_dir) if 'loss' in line}
