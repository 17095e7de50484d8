"""A hook that logs the two losses of the paper's comparison on the validation set."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpose.registry import HOOKS, MODELS
from torch.utils.data import DataLoader

from .alignment import Alignment
from .predictions import (
    annotated_loader,
    decoded_heatmaps,
    decoder_of,
    decoder_sigma,
    estimator_in,
    gaussian_heatmaps,
    input_channels,
    predictions,
    unwrap_model,
)


@HOOKS.register_module()
class ValidationLossHook(Hook):
    """Measures, after each validation epoch, MSE to Gaussian heatmaps and the transport cost of the same predictions.

    The paper's supplement B (Fig. 2) compares how each of them goes together with the metric;
    ``tools/analysis_tools/loss_vs_metric.py`` draws it from the log. Both are means over the annotated joints: ``val/loss_mse`` of the
    mean over the cells of the squared difference, ``val/loss_emd`` of the loss named by ``emd``: by default the transport
    cost ``<C, p>`` alone, in heatmap cells. They are measured on the annotated boxes, without flip test, with the weights
    the metric was measured with. In heads with stages it is the last stage that is measured.

    Both join the metrics of the epoch as ``loss_mse`` and ``loss_emd``: ``CheckpointHook(save_best='loss_emd', rule='less')``,
    ``EarlyStoppingHook(monitor='loss_emd', rule='less')`` and ``ReduceOnPlateauLR(monitor='loss_emd')`` act on them.

    MSE of a network trained by distribution matching means little: its heatmaps have no scale.

    Args:
        emd (dict, optional): options of ``EMDHeatmapLoss``; ``reduction`` is ignored. A cross-entropy is part of the
            number unless ``cross_entropy_weight`` is 0. Default: ``dict(cross_entropy_weight=0.0)``.
        sigma (float, optional): standard deviation of the Gaussian in cells. Default: the one of the head's decoder,
            2 if it has none.
        alignment (str, optional): how input pixels map to cells. Default: as the head's decoder does.
        head (str, optional): dotted name of the head in a model that holds several, such as ``architecture.head`` of student
            and teacher. Default: the one that is trained.

    Raises:
        TypeError: before training or validation, a head that gives no heatmaps.
        ValueError: before training or validation, a decoder whose alignment is not known and not given.
    """

    # Before EMAHook (49) puts the trained weights back, so that metric and losses belong to the same weights.
    priority = 'HIGH'

    def __init__(
        self, emd: dict | None = None, sigma: float | None = None, alignment: str | None = None, head: str | None = None
    ) -> None:
        emd = {'cross_entropy_weight': 0.0} if emd is None else emd
        self.emd = MODELS.build({'type': 'EMDHeatmapLoss', **emd, 'reduction': 'none'})
        self.sigma = sigma
        self.alignment = alignment
        self.head = head
        self._loader: DataLoader | None = None

    def before_train(self, runner: Runner) -> None:
        """Refuse what cannot be measured before an epoch is spent on it."""
        refuse_without_heatmaps(runner.model, self.alignment, self.head)

    def before_val(self, runner: Runner) -> None:
        """Build the loader of the annotated boxes, once."""
        if self._loader is None:
            refuse_without_heatmaps(runner.model, self.alignment, self.head)
            self._loader = runner.build_dataloader(annotated_loader(runner.cfg.val_dataloader), seed=runner.seed)

    @torch.no_grad()
    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Measure both losses; they join ``metrics``, and the log as ``val/loss_mse`` and ``val/loss_emd``."""
        model = unwrap_model(runner.model)
        assert self._loader is not None  # before_val has run
        totals = torch.zeros(3, dtype=torch.float64, device=next(model.parameters()).device)
        for heatmaps, dots, weights in predictions(model, self._loader, self.alignment, self.head):
            size = heatmaps.shape[-2], heatmaps.shape[-1]
            target = gaussian_heatmaps(dots, size, self.sigma or decoder_sigma(model, self.head))
            mse = ((heatmaps - target) ** 2).mean(dim=(-2, -1))
            emd = self.emd(heatmaps, dots, weights)
            # chosen, not multiplied: the place of a joint that was not annotated may be NaN
            totals += torch.stack([mse[weights > 0].sum(), emd[weights > 0].sum(), weights.sum()])
        all_reduce(totals)
        mse_sum, emd_sum, joints = totals.tolist()
        if joints == 0:
            raise ValueError('the validation set must annotate at least one joint, got none')
        for name, value in (('loss_mse', mse_sum / joints), ('loss_emd', emd_sum / joints)):
            runner.message_hub.update_scalar(f'val/{name}', value)
            if metrics is not None:  # what later hooks monitor; RuntimeInfoHook has logged the others already
                metrics[name] = value


@torch.no_grad()
def refuse_without_heatmaps(model: Any, alignment: str | None = None, head: str | None = None) -> None:
    """Raise for a model that :func:`predictions` cannot use, found on an empty picture.

    Raises:
        TypeError: the head has no decoder of heatmaps, or gives something else.
        ValueError: the decoder's alignment is not known, and ``alignment`` is None; or ``head`` must be named.
    """
    model = estimator_in(model, head)
    decoder = decoder_of(getattr(model, 'head', None))
    if not hasattr(decoder, 'heatmap_size'):
        raise TypeError(f'ValidationLossHook needs a head whose decoder reads heatmaps, got {type(decoder).__name__} '
                        f"in {type(getattr(model, 'head', model)).__name__}: remove the hook")
    Alignment.of_decoder(decoder, alignment)
    width, height = decoder.input_size
    picture = next(model.parameters()).new_zeros(1, input_channels(model), height, width)
    training = model.training
    model.eval()
    decoded_heatmaps(model(picture, None, mode='tensor'))
    model.train(training)
