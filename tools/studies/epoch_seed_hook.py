"""A hook that makes an interrupted run draw what a run without a stop draws."""

from __future__ import annotations

import numpy as np
from mmengine.hooks import Hook
from mmengine.runner import Runner, set_random_seed
from mmpose.registry import HOOKS


@HOOKS.register_module()
class EpochSeedHook(Hook):
    """Seeds Python, NumPy and torch from the run's seed and the epoch: MMEngine's checkpoints do not keep their states."""

    def before_train_epoch(self, runner: Runner) -> None:
        set_random_seed(int(np.random.SeedSequence([runner.seed, runner.epoch]).generate_state(1)[0]))
