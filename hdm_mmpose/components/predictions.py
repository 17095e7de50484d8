"""What a top-down heatmap model predicts on annotated boxes, in one frame with the annotated dots.

``ValidationLossHook`` and the analysis tools read predictions from here.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from mmengine.model import is_model_wrapper
from torch import Tensor, nn
from torch.utils.data import DataLoader

from .alignment import Alignment


def unwrap_model(model: Any) -> Any:
    """The model inside a wrapper for several processes, or the model."""
    return model.module if is_model_wrapper(model) else model


def estimator_in(model: Any, head: str | None = None) -> Any:
    """The estimator that is trained: the model itself, or, where it holds several (student and teacher), one of them.

    Args:
        model: wrapped or not.
        head (str, optional): dotted name of the estimator's head in the model, such as ``architecture.head``. Default: the one
            estimator with parameters that are trained.

    Raises:
        ValueError: there is no such head, or several estimators are trained and none is named.
    """
    model = unwrap_model(model)
    holders = [(name, module) for name, module in model.named_modules() if isinstance(getattr(module, 'head', None), nn.Module)]
    known = {f'{name}.head'.lstrip('.'): module for name, module in holders}
    if head is not None:
        if head not in known:
            raise ValueError(f'head must be one of {sorted(known)}, got {head!r}')
        return known[head]
    if 'head' in known or not known:
        return model
    trained = {name: module for name, module in known.items() if any(weight.requires_grad for weight in module.parameters())}
    if len(trained) != 1:
        raise ValueError(f'head must be named where a model does not train exactly one, got None; it has {sorted(known)}')
    return next(iter(trained.values()))


def decoder_of(head: Any) -> Any:
    """What decodes the maps of a head: its decoder, or the one of the head inside it (``VisPredictHead``); None without one."""
    inner = [getattr(module, 'decoder', None) for module in head.modules()] if isinstance(head, nn.Module) else []
    return getattr(head, 'decoder', None) or next((decoder for decoder in inner if decoder is not None), None)


def input_channels(model: nn.Module) -> int:
    """Channels of the pictures that a network takes: those of its first convolution; 3 if it has none."""
    return next((module.in_channels for module in model.modules() if isinstance(module, nn.Conv2d)), 3)


def decoded_heatmaps(output: Any) -> Tensor:
    """The heatmaps (B, K, H, W) that are decoded: the last of several stages, or the ones beside another output.

    Raises:
        TypeError: there are none.
    """
    maps = [each for each in _flat(output) if isinstance(each, Tensor) and each.dim() == 4]
    if not maps:
        raise TypeError(f'the head must give heatmaps (B, K, H, W) or a list of them, one per stage, got {describe_output(output)}: '
                        'remove ValidationLossHook')
    return maps[-1]


def _flat(output: Any) -> Iterator[Any]:
    """Members of lists inside lists, one by one."""
    for each in output if isinstance(output, (list, tuple)) else [output]:
        yield from _flat(each) if isinstance(each, (list, tuple)) else [each]


def describe_output(output: Any) -> str:
    """What a head gave, in words: types and shapes."""
    if isinstance(output, (list, tuple)):
        return f'{type(output).__name__} of {", ".join(map(describe_output, output)) or "nothing"}'
    return str(tuple(output.shape)) if isinstance(output, Tensor) else type(output).__name__


def annotated_loader(loader: dict) -> dict:
    """The validation loader on annotated boxes, its pipelines handing on the joints in input pixels.

    Args:
        loader (dict): config of a loader with a pipeline that ends with ``PackPoseInputs``, be it of a data set inside another.
    """
    loader = copy.deepcopy(loader)
    _annotate(loader['dataset'])
    return loader


def _annotate(dataset: Any) -> None:
    """Change the config of a data set, and of those inside it, in place."""
    if not isinstance(dataset, dict):  # one that was built in code
        return
    for inner in [*(dataset.get('datasets') or []), dataset.get('dataset')]:
        _annotate(inner)
    dataset.pop('bbox_file', None)
    pipeline = list(dataset.get('pipeline') or [])
    if pipeline and _name(pipeline[-1]) == 'PackPoseInputs':
        pipeline[-1] = {**pipeline[-1], 'pack_transformed': True}
    if _name(dataset) == 'MpiiDataset':
        pipeline.insert(1, {'type': 'MpiiPixelOrigin'})
    if pipeline:
        dataset['pipeline'] = pipeline


def _name(cfg: dict) -> str:
    """Name of the class that a dict builds, which may be a string with a scope in front, or the class."""
    kind = cfg.get('type', '')
    return str(getattr(kind, '__name__', kind)).rpartition('.')[2]


def predictions(
    model: Any, loader: DataLoader, alignment: str | None = None, head: str | None = None
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """What a top-down heatmap model predicts on annotated boxes, without flip test.

    Args:
        model: the estimator, in evaluation mode; of its stages the last counts.
        loader (DataLoader): built from ``annotated_loader``.
        alignment (str, optional): how input pixels map to cells. Default: as the head's decoder does.
        head (str, optional): which head, as in :func:`estimator_in`.

    Yields:
        heatmaps (B, K, H, W); dots in cells (B, K, 2), x then y; weights (B, K), 1 where the joint is annotated and
        inside the map or at most half a cell outside, else 0.
    """
    estimator = estimator_in(model, head)
    aligned = Alignment.of_decoder(decoder_of(estimator.head), alignment)
    for batch in loader:
        data = model.data_preprocessor(batch, training=False)
        heatmaps = decoded_heatmaps(estimator(data['inputs'], data['data_samples'], mode='tensor')).float()
        instances = [sample.gt_instances for sample in data['data_samples']]
        points = torch.stack([torch.as_tensor(each.transformed_keypoints[0]) for each in instances]).to(heatmaps)
        # (K,), or (K, 2) after KeypointConverter: whether a joint is visible, and whether the data set has it at all
        seen = [torch.as_tensor(each.keypoints_visible[0]) for each in instances]
        visible = torch.stack([each if each.dim() == 1 else each.prod(-1) for each in seen]).to(heatmaps)
        dots = aligned.to_cells(points)
        yield heatmaps, dots, ((visible > 0) & aligned.holds(dots)).to(heatmaps)


def decoder_sigma(model: Any, head: str | None = None) -> float:
    """Standard deviation, in cells, of the Gaussian the head's decoder was made for; MMPose's 2 if it has none."""
    return float(getattr(decoder_of(estimator_in(model, head).head), 'sigma', 2.0))


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
