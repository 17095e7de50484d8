"""Rules: what does the network really give?"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from mmengine.model import revert_sync_batchnorm
from mmpose.registry import MODELS
from torch.overrides import TorchFunctionMode

from hdm_mmpose.features import without_memory

from .finding import Finding, config_rule, error
from .parts import ConfigParts, type_name, walk
from .rules_build import rule_dicts, rule_leftovers, rule_parts


@config_rule('output of the network', {
    'model': 'the model does not build or run',
    'output-size': 'the network gives maps of another size than the decoder expects',
    'joints': 'the network gives another number of maps than the data set has joints'})
def rule_output(parts: ConfigParts) -> Iterator[Finding]:
    """What the network really gives, found without memory and arithmetic where torch can, else by running it once."""
    decoder = next((codec for codec in parts.decoders if codec.alignment and codec.size('input_size')), None)
    if decoder is None or any(any(rule(parts)) for rule in (rule_leftovers, rule_dicts, rule_parts)):
        return
    size = decoder.size('input_size')
    assert size is not None
    try:
        shape = output_shape(parts.cfg['model'], size)
    except UnknownShape:
        return
    except Exception as problem:  # whatever a constructor raises is what the user wants to read
        what = f'the model does not build or run: {type(problem).__name__}: {problem}'
        yield error('model', 'model', what, 'see the message')
        return
    if shape is None or decoder.combined:
        return
    joints, height, width = shape
    if decoder.size('heatmap_size') != (width, height):
        yield error('output-size', decoder.where,
                    f'for an input of {size} the model gives maps of (W, H) = {(width, height)}, not '
                    f'{decoder.size("heatmap_size")}', f'heatmap_size={(width, height)}, or another stride of the head')
    for where, dataset, known in parts.datasets:
        selected = parts.test_cfg.get('output_keypoint_indices') and not where.startswith('train')
        if known is not None and known != joints and not selected:
            yield error('joints', where, f'{type_name(dataset)} has {known} joints, the model gives {joints} maps',
                        f'out_channels={known} in the head, or the data set that belongs to it')


class UnknownShape(Exception):
    """The output of a model cannot be derived without running it."""


class _NumbersOnCPU(TorchFunctionMode):
    """Constructors ask ``linspace`` for numbers (drop path rates), which the meta device does not have."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = dict(kwargs or {})
        if func is torch.linspace:
            options.setdefault('device', 'cpu')
        return func(*args, **options)


def output_shape(model: dict, input_size: tuple[int, int]) -> tuple[int, int, int] | None:
    """(K, H, W) of the heatmaps that are decoded, or None if the output is not heatmaps.

    Args:
        model: config of the estimator.
        input_size: (w, h) in pixels.

    Raises:
        UnknownShape: the model does not run on the meta device, or needs a package that is not there.
        Exception: whatever the model itself raises.
    """
    for part in walk(model, 'model'):
        scope, _, name = str(part.cfg.get('type', '')).rpartition('.')
        if scope and MODELS.get(f'{scope}.{name}') is None:
            raise UnknownShape(f'{scope} is not installed')
    with without_memory(), _NumbersOnCPU(), torch.no_grad():
        try:
            network = revert_sync_batchnorm(MODELS.build(copy.deepcopy(model))).eval()
            output = network._forward(torch.empty(1, 3, input_size[1], input_size[0]))
        except (RuntimeError, NotImplementedError) as problem:
            if any(word in str(problem) for word in ('meta', 'CPU tensor')):
                raise UnknownShape(str(problem)) from problem
            raise
    if isinstance(output, list):  # heads with stages: the last one is decoded
        output = output[-1]
    elif isinstance(output, tuple):  # heads with a second output
        output = next((each for each in output if each.dim() == 4), None)
    return None if output is None or output.dim() != 4 else tuple(output.shape[1:])
