"""A hook that lets the loss's epsilon descend during training."""

from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpose.registry import HOOKS

from hdm_mmpose import checks

from .emd_heatmap_loss import EMDHeatmapLoss


@HOOKS.register_module()
class EpsilonScheduleHook(Hook):
    """Anneals epsilon: geometrically from ``start`` to ``end`` over the first part of training, then constant.

    A large epsilon smooths the transport cost, a small one makes its minimum sharp. The value depends on the iteration alone,
    so a resumed run goes on where it was. It applies to every ``EMDHeatmapLoss`` of the model, and what the loss was built
    with counts no more. ``torch.compile`` compiles nothing anew for it.

    Args:
        start (float): epsilon at the first iteration, in heatmap cells.
        end (float): epsilon after the descent, in heatmap cells.
        until (float): share of all iterations that the descent takes, in (0, 1]. Default: 0.75.

    Raises:
        ValueError: an argument out of range, or a model without ``EMDHeatmapLoss``.
    """

    priority = 'NORMAL'

    def __init__(self, start: float, end: float, until: float = 0.75) -> None:
        self.start = checks.positive('start', start, 'heatmap cells')
        self.end = checks.positive('end', end, 'heatmap cells')
        self.until = checks.positive('until', until)
        if self.until > 1:
            raise ValueError(f'until must lie in (0, 1], got {until!r}')
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
            loss.options = loss.options.replace(epsilon=epsilon)

    def after_train_epoch(self, runner: Runner) -> None:
        """Say where it is."""
        runner.logger.info(f'epsilon is {self._losses[0].options.epsilon:.4g} cells')

    def epsilon(self, progress: float) -> float:
        """Epsilon at a share ``progress`` in [0, 1] of the training."""
        share = min(progress / self.until, 1.0)
        return self.start ** (1 - share) * self.end**share
