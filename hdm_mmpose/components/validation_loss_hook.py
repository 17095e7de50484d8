"""A hook that logs the two losses of the paper's comparison on the validation set."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from mmpose.registry import HOOKS, MODELS
from torch import Tensor
from torch.utils.data import DataLoader

from .alignment import Alignment

DECODER_ALIGNMENTS = {'MSRAHeatmap': 'msra', 'UDPHeatmap': 'udp'}


@HOOKS.register_module()
class ValidationLossHook(Hook):
    """Logs, after each validation epoch, MSE to Gaussian heatmaps and the transport cost of the same predictions.

    The paper's supplement B (Fig. 2) compares how each of them goes together with the metric;
    ``tools/analysis_tools/loss_vs_metric.py`` draws it from the log. Both are means over the annotated joints: ``val/loss_mse`` of the
    mean over the cells of the squared difference, ``val/loss_emd`` of the loss named by ``emd``: by default the transport
    cost ``<C, p>`` alone, in heatmap cells. They are measured on the annotated boxes, without flip test, with the weights
    the metric was measured with. In heads with stages it is the last stage that is measured.

    MSE of a network trained by distribution matching means little: its heatmaps have no scale.

    Args:
        emd (dict, optional): options of ``EMDHeatmapLoss``; ``reduction`` is ignored. A cross-entropy is part of the
            number unless ``cross_entropy_weight`` is 0. Default: ``dict(cross_entropy_weight=0.0)``.
        sigma (float, optional): standard deviation of the Gaussian in cells. Default: the one of the head's decoder,
            2 if it has none.
        alignment (str, optional): how input pixels map to cells. Default: as the head's decoder does.

    Raises:
        TypeError: before training or validation, a head that gives no heatmaps.
        ValueError: before training or validation, a decoder whose alignment is not known and not given.
    """

    # Before EMAHook (49) puts the trained weights back, so that metric and losses belong to the same weights.
    priority = 'HIGH'

    def __init__(self, emd: dict | None = None, sigma: float | None = None, alignment: str | None = None) -> None:
        emd = {'cross_entropy_weight': 0.0} if emd is None else emd
        self.emd = MODELS.build({'type': 'EMDHeatmapLoss', **emd, 'reduction': 'none'})
        self.sigma = sigma
        self.alignment = alignment
        self._loader: DataLoader | None = None

    def before_train(self, runner: Runner) -> None:
        """Refuse what cannot be measured before an epoch is spent on it."""
        refuse_without_heatmaps(bare(runner.model), self.alignment)

    def before_val(self, runner: Runner) -> None:
        """Build the loader of the annotated boxes, once."""
        if self._loader is None:
            refuse_without_heatmaps(bare(runner.model), self.alignment)
            self._loader = runner.build_dataloader(annotated_loader(runner.cfg.val_dataloader), seed=runner.seed)

    @torch.no_grad()
    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Measure both losses and log them as ``val/loss_mse`` and ``val/loss_emd``."""
        model = bare(runner.model)
        assert self._loader is not None  # before_val has run
        totals = torch.zeros(3, dtype=torch.float64, device=next(model.parameters()).device)
        for heatmaps, dots, weights in predictions(model, self._loader, self.alignment):
            size = heatmaps.shape[-2], heatmaps.shape[-1]
            target = gaussian_heatmaps(dots, size, self.sigma or decoder_sigma(model))
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


def bare(model: Any) -> Any:
    """The estimator inside a wrapper for several processes, or the estimator."""
    return model.module if is_model_wrapper(model) else model


@torch.no_grad()
def refuse_without_heatmaps(model: Any, alignment: str | None = None) -> None:
    """Raise for an estimator that :func:`predictions` cannot use, found on an empty picture.

    Raises:
        TypeError: the head has no decoder of heatmaps, or gives something else.
        ValueError: the decoder's alignment is not known, and ``alignment`` is None.
    """
    decoder = getattr(model.head, 'decoder', None)
    if not hasattr(decoder, 'heatmap_size'):
        raise TypeError(f'ValidationLossHook needs a head whose decoder reads heatmaps, got {type(decoder).__name__} '
                        f'in {type(model.head).__name__}: remove the hook')
    aligned_with(decoder, alignment)
    width, height = decoder.input_size
    picture = next(model.parameters()).new_zeros(1, 3, height, width)
    training = model.training
    model.eval()
    decoded_heatmaps(model(picture, None, mode='tensor'))
    model.train(training)


def decoded_heatmaps(output: Any) -> Tensor:
    """The heatmaps (B, K, H, W) that are decoded: the last of several stages, or the ones beside another output.

    Raises:
        TypeError: there are none.
    """
    outputs = output if isinstance(output, (list, tuple)) else [output]
    maps = [each for each in outputs if isinstance(each, Tensor) and each.dim() == 4]
    if not maps:
        raise TypeError(f'the head must give heatmaps (B, K, H, W) or a list of them, one per stage, got {outline(output)}: '
                        'remove ValidationLossHook')
    return maps[-1]


def outline(output: Any) -> str:
    """What a head gave, in words: types and shapes."""
    if isinstance(output, (list, tuple)):
        return f'{type(output).__name__} of {", ".join(map(outline, output)) or "nothing"}'
    return str(tuple(output.shape)) if isinstance(output, Tensor) else type(output).__name__


def annotated_loader(loader: dict) -> dict:
    """The validation loader on annotated boxes, its pipeline handing on the joints in input pixels.

    Args:
        loader (dict): config of a loader whose pipeline ends with ``PackPoseInputs``.
    """
    loader = copy.deepcopy(loader)
    dataset = loader['dataset']
    dataset.pop('bbox_file', None)
    pipeline = [*dataset['pipeline'][:-1], {**dataset['pipeline'][-1], 'pack_transformed': True}]
    if dataset['type'] == 'MpiiDataset':
        pipeline.insert(1, {'type': 'MpiiPixelOrigin'})
    dataset['pipeline'] = pipeline
    return loader


def predictions(
    model: Any, loader: DataLoader, alignment: str | None = None
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """What a top-down heatmap model predicts on annotated boxes, without flip test.

    Args:
        model: the estimator, in evaluation mode; of its stages the last counts.
        loader (DataLoader): built from ``annotated_loader``.
        alignment (str, optional): how input pixels map to cells. Default: as the head's decoder does.

    Yields:
        heatmaps (B, K, H, W); dots in cells (B, K, 2), x then y; weights (B, K), 1 where the joint is annotated and
        inside the map or at most half a cell outside, else 0.
    """
    aligned = aligned_with(model.head.decoder, alignment)
    for batch in loader:
        data = model.data_preprocessor(batch, training=False)
        heatmaps = decoded_heatmaps(model(data['inputs'], data['data_samples'], mode='tensor')).float()
        instances = [sample.gt_instances for sample in data['data_samples']]
        points = torch.stack([torch.as_tensor(each.transformed_keypoints[0]) for each in instances]).to(heatmaps)
        visible = torch.stack([torch.as_tensor(each.keypoints_visible[0]) for each in instances]).to(heatmaps)
        dots = aligned.to_cells(points)
        size = dots.new_tensor([heatmaps.shape[-1], heatmaps.shape[-2]])
        inside = ((dots >= -0.5) & (dots <= size - 0.5)).all(-1)
        yield heatmaps, dots, ((visible > 0) & inside).to(heatmaps)


def aligned_with(decoder: Any, alignment: str | None) -> Alignment:
    """Where the cells that a decoder reads lie in the input, as it has it or as ``alignment`` says."""
    return Alignment(alignment or decoder_alignment(decoder), decoder.input_size, decoder.heatmap_size)


def decoder_alignment(decoder: object) -> str:
    """Name of the alignment a head's decoder uses: ours by its attribute, MMPose's two heatmap codecs by their type."""
    own = getattr(decoder, 'alignment', None)
    if own is not None:
        return getattr(own, 'name', own)
    known = DECODER_ALIGNMENTS.get(type(decoder).__name__)
    if known is None:
        raise ValueError(
            f'alignment must be given for a decoder of type {type(decoder).__name__}: '
            f"it is known for {', '.join(DECODER_ALIGNMENTS)} and this package's decoders"
        )
    return known


def decoder_sigma(model: Any) -> float:
    """Standard deviation, in cells, of the Gaussian the head's decoder was made for; MMPose's 2 if it has none."""
    return float(getattr(model.head.decoder, 'sigma', 2.0))


def gaussian_heatmaps(dots: Tensor, size: tuple[int, int], sigma: float, snapped: bool = True) -> Tensor:
    """Gaussian heatmaps as MMPose's ``MSRAHeatmap`` draws them: peak 1, cut off beyond 3 sigma.

    Args:
        dots (Tensor): centres in cells, (..., 2), x then y.
        size (tuple[int, int]): H and W.
        sigma (float): standard deviation in cells.
        snapped (bool): whether the peak is moved to the nearest cell centre (the paper's Gaussian, whose value at the
            dot's cell is 1), or stays at the dot and is not cut off (DARK's, ``unbiased=True``).

    Returns:
        Tensor: (..., H, W).
    """
    height, width = size
    centres = torch.floor(dots + 0.5) if snapped else dots
    dx = torch.arange(width, device=dots.device, dtype=dots.dtype) - centres[..., 0, None]
    dy = torch.arange(height, device=dots.device, dtype=dots.dtype) - centres[..., 1, None]
    columns, rows = (torch.exp(-d.square() / (2 * sigma**2)) for d in (dx, dy))
    if snapped:
        columns, rows = columns * (dx.abs() <= 3 * sigma), rows * (dy.abs() <= 3 * sigma)
    return rows[..., :, None] * columns[..., None, :]
