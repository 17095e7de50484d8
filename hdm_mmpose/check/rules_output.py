"""Rules: what does the network really give, and do pipelines, head and metrics run?

These run MMPose's own code, and only where no earlier rule has found an error: one cause, one finding.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from typing import Any

from mmpose.models.heads.base_head import BaseHead
from mmpose.registry import DATASETS, MODELS, TRANSFORMS

from .finding import Finding, config_rule, error, unchecked
from .parts import ConfigParts, class_of, type_name
from .trial import Unknown, channels_of, compose, on_meta_device, persons, pipeline_of, predictions_of, training_losses

KNOWN_PACKAGES = ('mmpose', 'mmcv', 'mmengine', 'hdm_mmpose')


@config_rule('output of the network', {
    'model': 'the model does not build or run',
    'output-size': 'the network gives maps of another size than the decoder expects',
    'joints': 'the network gives another number of maps than the data set has joints',
    'output': 'an output of the network that cannot be told without running it'}, builds=1)
def rule_output(parts: ConfigParts) -> Iterator[Finding]:
    """What the network really gives, found without memory and arithmetic where torch can, else by running it once."""
    decoder = next((codec for codec in parts.decoders if codec.alignment and codec.size('input_size')), None)
    if decoder is None or not parts.cfg.get('model'):
        return
    size = decoder.size('input_size')
    assert size is not None
    try:
        shape = output_shape(parts.cfg['model'], size)
    except Unknown as problem:
        yield unchecked('output', 'model', f'size and number of the maps: {problem}', 'one iteration of training, with the decoder in view')
        return
    except Exception as problem:  # whatever a constructor raises is what the user wants to read
        yield error('model', 'model', f'the model does not build or run: {type(problem).__name__}: {problem}',
                    'correct the option that the message names')
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


def output_shape(model: dict, input_size: tuple[int, int]) -> tuple[int, int, int] | None:
    """(K, H, W) of the heatmaps that are decoded, or None if the output is not heatmaps.

    Args:
        model: config of the estimator.
        input_size: (w, h) in pixels.

    Raises:
        Unknown: the model does not run on the meta device, or needs a package that is not there.
        Exception: whatever the model itself raises.
    """
    output = on_meta_device(model, channels_of(model), input_size, '_forward')
    if isinstance(output, list):  # heads with stages: the last one is decoded
        output = output[-1]
    elif isinstance(output, tuple):  # heads with a second output
        output = next((each for each in output if each.dim() == 4), None)
    return None if output is None or output.dim() != 4 else tuple(output.shape[1:])


@config_rule('a training step and a prediction', {
    'training-step': 'a training step fails: the pipeline, the targets, the head or its loss',
    'prediction': 'a prediction fails: the pipeline of validation, the head or its decoder',
    'trial': 'own classes that made-up persons do not suit: `--data` tries the real ones'}, builds=2)
def rule_trial(parts: ConfigParts) -> Iterator[Finding]:
    """Made-up persons go through the pipelines of training and validation, and their targets through the head."""
    model = parts.cfg.get('model') or {}
    head = class_of(model.get('head') or {}, MODELS)
    if not (parts.losses or any(codec.ours for codec in parts.decoders)):
        return
    if not (isinstance(head, type) and issubclass(head, BaseHead)):
        yield unchecked('trial', 'model', f'a training step and a prediction: {type_name(model)} holds its head in a way of its own',
                        'one iteration of training')
        return
    for rule, loader, run in (('training-step', 'train_dataloader', training_losses), ('prediction', 'val_dataloader', predictions_of)):
        dataset = (parts.cfg.get(loader) or {}).get('dataset')
        if not dataset or (rule == 'training-step' and not parts.losses):
            continue
        try:
            steps = compose(pipeline_of(dataset))
            samples = [steps(person) for person in persons(dataset, channels_of(model))]
            run(model, samples)
        except Unknown as problem:
            yield unchecked('trial', loader, f'a {rule.replace("-", " ")}: {problem}', 'one iteration of training')
        except Exception as problem:  # whatever a class raises is what the user wants to read
            names = foreign(parts, dataset, problem)
            if names:
                yield unchecked('trial', loader, f'a {rule.replace("-", " ")} of made-up persons: {names} '
                                f'raised {type(problem).__name__}: {problem}', '--data, which takes the real ones')
            else:
                yield error(rule, loader, f'a {rule.replace("-", " ")} of made-up persons fails {place(problem)}: '
                            f'{type(problem).__name__}: {problem}', 'correct what the message names')


def foreign(parts: ConfigParts, dataset: dict, problem: Exception) -> str:
    """Classes of the project's own that a sample goes through before it fails, in words; empty if all are MMPose's."""
    cfgs = [*pipeline_of(dataset), parts.cfg['model']['head']]
    built = {type_name(cfg): class_of(cfg, TRANSFORMS) or class_of(cfg, MODELS) for cfg in cfgs if isinstance(cfg, dict)}
    built.update({type_name(each): class_of(each, DATASETS) for _, each, _ in parts.datasets})
    return ', '.join(name for name, kind in built.items() if package_of(kind) not in KNOWN_PACKAGES)


def package_of(kind: Any) -> str:
    """The package that a class comes from."""
    return getattr(kind, '__module__', '').partition('.')[0]


def place(problem: Exception) -> str:
    """Where an exception was raised: class and function, as far as the frames tell."""
    for frame, _ in reversed(list(traceback.walk_tb(problem.__traceback__))):
        owner = frame.f_locals.get('self')
        if package_of(type(owner)) in KNOWN_PACKAGES:
            return f'in {type(owner).__name__}.{frame.f_code.co_name}'
    return ''
