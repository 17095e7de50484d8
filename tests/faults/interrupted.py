"""A training that may kill itself: ``interrupted.py DATA WORK_DIR ITERATIONS KEPT MOMENT ITERATION``.

It resumes if there is something to resume from. ``MOMENT`` is ``never``, ``forward`` (in the loss of that iteration),
``writing`` (half of that iteration's checkpoint is on the disk), ``best`` (half of the best checkpoint after that iteration is)
or ``waiting`` (says so, and sleeps until it is killed). ``best`` and ``improving``, which is ``never`` otherwise, validate after
each iteration, and every validation is better than the one before.
"""

from __future__ import annotations

import copy
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.fileio import LocalBackend
from mmengine.hooks import Hook
from mmengine.logging import MessageHub
from mmengine.registry import METRICS
from mmengine.runner import Runner

from hdm_mmpose.components import EMDHeatmapLoss
from tests.tiny_training import by_iterations, tiny_config


def die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Interrupt(Hook):
    def __init__(self, moment: str, iteration: int) -> None:
        self.moment, self.iteration = moment, iteration

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None = None) -> None:
        if runner.iter + 1 != self.iteration:
            return
        if self.moment == 'forward':
            for module in runner.model.modules():
                if isinstance(module, EMDHeatmapLoss):
                    module.register_forward_hook(die)
        elif self.moment in ('writing', 'best'):
            LocalBackend.put = dying(LocalBackend.put, 'best_' if self.moment == 'best' else '')
        elif self.moment == 'waiting':
            print('waiting', flush=True)
            time.sleep(600)


def dying(put: Callable, name: str) -> Callable:
    """``put`` that writes half of a file whose name begins so, and dies."""

    def write_half(self: LocalBackend, content: bytes, path: str) -> None:
        if not Path(path).name.startswith(name):
            return put(self, content, path)
        with open(path, 'wb') as file:
            file.write(content[:len(content) // 2])
        die()

    return write_half


@METRICS.register_module()
class Improving(BaseMetric):
    """The number of the iteration."""

    def process(self, data_batch: object, data_samples: list) -> None:
        self.results += data_samples

    def compute_metrics(self, results: list) -> dict:
        return {'number': float(MessageHub.get_current_instance().get_info('iter'))}


def validating(cfg: Config, whole: Config) -> Config:
    """The config with a validation after each iteration, on the data of the whole one."""
    cfg.train_cfg.val_interval = 1
    cfg.val_cfg, cfg.val_dataloader, cfg.val_evaluator = dict(), whole.val_dataloader, dict(type='mmengine.Improving')
    cfg.default_hooks.checkpoint.update(save_best='number', rule='greater')
    return cfg


def main(data: str, work_dir: str, iterations: str, kept: str, moment: str, iteration: str) -> None:
    whole = tiny_config(Path(data), Path(work_dir), train_dataloader__num_workers=1)
    cfg = by_iterations(copy.deepcopy(whole), int(iterations))
    cfg = validating(cfg, whole) if moment in ('best', 'improving') else cfg
    cfg.randomness = dict(seed=11)
    cfg.default_hooks.checkpoint.max_keep_ckpts = int(kept)
    cfg.resume = (Path(work_dir) / 'last_checkpoint').exists()
    runner = Runner.from_cfg(cfg)
    runner.register_hook(Interrupt(moment, int(iteration)))
    runner.train()


if __name__ == '__main__':
    main(*sys.argv[1:])
