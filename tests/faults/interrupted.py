"""A training that may kill itself: ``interrupted.py DATA WORK_DIR ITERATIONS KEPT MOMENT ITERATION``.

It resumes if there is something to resume from. ``MOMENT`` is ``never``, ``forward`` (in the loss of that iteration),
``writing`` (half of that iteration's checkpoint is on the disk) or ``waiting`` (says so, and sleeps until it is killed).
"""

import os
import signal
import sys
import time
from pathlib import Path

from mmengine.fileio import LocalBackend
from mmengine.hooks import Hook
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
        elif self.moment == 'writing':
            LocalBackend.put = write_half
        elif self.moment == 'waiting':
            print('waiting', flush=True)
            time.sleep(600)


def write_half(self: LocalBackend, content: bytes, path: str) -> None:
    with open(path, 'wb') as file:
        file.write(content[:len(content) // 2])
    die()


def main(data: str, work_dir: str, iterations: str, kept: str, moment: str, iteration: str) -> None:
    cfg = by_iterations(tiny_config(Path(data), Path(work_dir), train_dataloader__num_workers=1), int(iterations))
    cfg.randomness = dict(seed=11)
    cfg.default_hooks.checkpoint.max_keep_ckpts = int(kept)
    cfg.resume = (Path(work_dir) / 'last_checkpoint').exists()
    runner = Runner.from_cfg(cfg)
    runner.register_hook(Interrupt(moment, int(iteration)))
    runner.train()


if __name__ == '__main__':
    main(*sys.argv[1:])
