"""Which loss a hook watches: the one that the training calls."""

from __future__ import annotations

from typing import Any

from .emd_heatmap_loss import EMDHeatmapLoss
from .predictions import unwrap_model


class WatchedLoss:
    """The ``EMDHeatmapLoss`` whose last step a hook looks at.

    A model may hold several: one per stage, of which the last is decoded, or a teacher's, which is never called. All are asked
    to keep their last step; the last one that has any is the one that is watched.

    Args:
        head (str, optional): dotted name of the part of the model whose losses count, such as ``architecture.head``.
            Default: the whole model.
    """

    def __init__(self, head: str | None = None) -> None:
        self.head = head
        self._losses: list[EMDHeatmapLoss] = []
        self._told = False

    def start(self, model: Any) -> None:
        """Ask the losses of a model, wrapped or not, to keep their last step.

        Raises:
            ValueError: the model has no such part, or that has no ``EMDHeatmapLoss``.
        """
        parts = dict(unwrap_model(model).named_modules())
        if self.head is not None and self.head not in parts:
            heads = [name for name in parts if name.rpartition('.')[2] == 'head']
            raise ValueError(f'head must be a part of the model such as {heads}, got {self.head!r}')
        self._losses = [module for module in parts[self.head or ''].modules() if isinstance(module, EMDHeatmapLoss)]
        if not self._losses:
            raise ValueError('this hook watches EMDHeatmapLoss, but the model has none: remove the hook')
        for loss in self._losses:
            loss.keep_last_step = True

    def called(self, logger: Any) -> EMDHeatmapLoss | None:
        """The loss that was called in this step, or None, which the log is told once."""
        losses = [loss for loss in self._losses if loss.last_step is not None]
        if not losses and self._losses and not self._told:
            self._told = True
            logger.warning(f'none of the {len(self._losses)} EMDHeatmapLoss that the hook watches was called: nothing is logged or drawn. '
                           'If the model has several heads, name the one that is trained: head=... This is said once.')
        return losses[-1] if losses else None

    def stop(self) -> None:
        """Let go of the last step."""
        for loss in self._losses:
            loss.keep_last_step, loss.last_step = False, None
