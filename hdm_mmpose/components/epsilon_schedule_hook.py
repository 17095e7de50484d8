"""A hook that lets the loss's epsilon descend during training."""

from __future__ import annotations

import dataclasses
import math

from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpose.registry import HOOKS

from .emd_heatmap_loss import EMDHeatmapLoss

# torch.compile makes a graph for each value, and gives up on a function after 8: its batch sizes and modes need some too.
STEPS = 4


@HOOKS.register_module()
class EpsilonScheduleHook(Hook):
    """Anneals epsilon: in geometric steps from ``start`` to ``end`` over the first part of training, then constant.

    A large epsilon smooths the transport cost, a small one makes its minimum sharp. It takes five values,
    ``start (end / start) ** (k / 4)``, each iteration the one that is nearest to a steady descent: every new value makes
    ``torch.compile`` compile the loss anew, and after a few it would stop compiling it at all. The value depends on the
    iteration alone, so a resumed run goes on where it was. It applies to every ``EMDHeatmapLoss`` of the model, and what
    the loss was built with counts no more.

    Args:
        start (float): epsilon at the first iteration, in heatmap cells.
        end (float): epsilon after the descent, in heatmap cells.
        until (float): share of all iterations that the descent takes, in (0, 1]. Default: 0.75.

    Raises:
        ValueError: an argument out of range, or a model without ``EMDHeatmapLoss``.
    """

    priority = 'NORMAL'

    def __init__(self, start: float, end: float, until: float = 0.75) -> None:
        for name, value in (('start', start), ('end', end)):
            if not (isinstance(value, (int, float)) and math.isfinite(value) and value > 0):
                raise ValueError(f'{name} must be a finite number > 0, got {value!r}')
        if not (isinstance(until, (int, float)) and 0 < until <= 1):
            raise ValueError(f'until must lie in (0, 1], got {until!r}')
        self.start = start
        self.end = end
        self.until = until
        self._losses: list[EMDHeatmapLoss] = []

    def before_train(self, runner: Runner) -> None:
        """Find the losses."""
        self._losses = [module for module in runner.model.modules() if isinstance(module, EMDHeatmapLoss)]
        if not self._losses:
            raise ValueError('EpsilonScheduleHook needs a model with EMDHeatmapLoss, got one without: remove the hook')

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None = None) -> None:
        """Set this iteration's epsilon."""
        epsilon = self.epsilon(runner.iter / runner.max_iters)
        for loss in self._losses:
            loss.options = dataclasses.replace(loss.options, epsilon=epsilon)

    def after_train_epoch(self, runner: Runner) -> None:
        """Say where it is."""
        runner.logger.info(f'epsilon is {self._losses[0].options.epsilon:.4g} cells')

    def epsilon(self, progress: float) -> float:
        """Epsilon at a share ``progress`` in [0, 1] of the training."""
        share = round(STEPS * min(progress / self.until, 1.0)) / STEPS
        return self.start ** (1 - share) * self.end**share
