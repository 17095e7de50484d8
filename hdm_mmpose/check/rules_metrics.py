"""Rules: what evaluators read, what is monitored, and what thresholds of scores mean."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from mmpose.datasets.datasets.base import BaseCocoStyleDataset
from mmpose.registry import DATASETS, METRICS

from .finding import Finding, config_rule, error, unchecked, warning
from .parts import ConfigParts, Part, annotation_file, class_of, meta_of

SCORE_HOOKS = {'PoseVisualizationHook': 'kpt_thr'}


@config_rule(
    'evaluators',
    {
        'evaluator-file': "the evaluator's annotation file is another than the data set's",
        'evaluator-joints': "the pipeline converts joints, the evaluator's file holds the unconverted ones",
    },
)
def rule_evaluators(parts: ConfigParts) -> Iterator[Finding]:
    """Files that evaluators read against those that the data sets read."""
    for split in ('val', 'test'):
        sets = [(where, dataset, joints) for where, dataset, joints in parts.datasets if where.startswith(f'{split}_')]
        for metric in evaluators(parts.cfg, split):
            path = metric.cfg.get('ann_file')
            read = {real_path(dataset) for _, dataset, _ in sets if dataset.get('ann_file')}
            if isinstance(path, str) and len(read) == 1 and os.path.realpath(path) not in read and not metric.cfg.get('format_only'):
                yield error(
                    'evaluator-file',
                    metric.where,
                    f'{metric.type} reads {path}, the data set {annotation_file(sets[0][1])}',
                    'the same file in both',
                )
            for where, dataset, joints in sets:
                own = meta_joints(dataset)
                if metric.type.startswith('Coco') and own and joints and own != joints and not metric.cfg.get('gt_converter'):
                    yield error(
                        'evaluator-joints',
                        metric.where,
                        f'{where} hands on {joints} joints, the annotations that {metric.type} compares them with hold {own}',
                        'gt_converter=dict(num_keypoints=..., mapping=...) of the pipeline',
                    )


def evaluators(cfg: dict, split: str) -> list[Part]:
    """The metrics of ``val_evaluator`` or ``test_evaluator``, written as one, as a list or inside an Evaluator."""
    where, written = f'{split}_evaluator', cfg.get(f'{split}_evaluator')
    if isinstance(written, dict) and 'metrics' in written:
        where, written = f'{where}.metrics', written['metrics']
    members = {f'{where}[{i}]': each for i, each in enumerate(written)} if isinstance(written, (list, tuple)) else {where: written}
    return [Part(place, each) for place, each in members.items() if isinstance(each, dict) and 'type' in each]


def real_path(dataset: dict) -> str:
    return os.path.realpath(annotation_file(dataset))


def meta_joints(dataset: dict) -> int | None:
    """Joints in the annotation file of a COCO-style data set, as its meta information says, or None."""
    built = class_of(dataset, DATASETS)
    try:
        return int(meta_of(dataset)['num_keypoints']) if isinstance(built, type) and issubclass(built, BaseCocoStyleDataset) else None
    except Exception:  # a rule of its own says what is wrong with it
        return None


@config_rule(
    'monitored metrics',
    {
        'no-such-metric': '`save_best`, early stopping or the schedule monitors a metric that no evaluator gives',
        'metric-names': 'a monitored metric of an evaluator whose names are not known before it has run',
    },
)
def rule_monitored(parts: ConfigParts) -> Iterator[Finding]:
    """What is monitored against what is measured."""
    metrics = evaluators(parts.cfg, 'val')
    if not metrics:
        return
    given = [given_names(metric) for metric in metrics]
    known = sorted({name for names in given if names for name in names})
    if any(hook.type == 'ValidationLossHook' for hook in parts.hooks):
        known += ['loss_mse', 'loss_emd']
    for where, name in monitored(parts):
        if name in known or name == 'auto':
            continue
        if all(names is not None for names in given):
            yield error(
                'no-such-metric', where, f'{name!r} is given by none of {", ".join(metric.type for metric in metrics)}', f'one of {known}'
            )
        else:
            yield unchecked('metric-names', where, f'whether an evaluator gives {name!r}', 'look into the log of the first validation')


def monitored(parts: ConfigParts) -> Iterator[tuple[str, Any]]:
    """Where a metric is monitored, and its name."""
    checkpoint = (parts.cfg.get('default_hooks') or {}).get('checkpoint') or {}
    best = checkpoint.get('save_best') if isinstance(checkpoint, dict) else None
    for name in best if isinstance(best, (list, tuple)) else [best] if best else []:
        yield 'default_hooks.checkpoint.save_best', name
    schedules = parts.cfg.get('param_scheduler') or []
    schedules = schedules if isinstance(schedules, (list, tuple)) else [schedules]
    places = [*parts.hooks, *(Part(f'param_scheduler[{index}]', each) for index, each in enumerate(schedules) if isinstance(each, dict))]
    for part in places:
        if part.type in ('EarlyStoppingHook',) or part.type.startswith('ReduceOnPlateau'):
            yield f'{part.where}.monitor', part.cfg.get('monitor')
        if part.type == 'CheckpointHook' and part.cfg.get('save_best'):
            yield f'{part.where}.save_best', part.cfg['save_best']


COCO_NAMES = ('AP', 'AP .5', 'AP .75', 'AP (M)', 'AP (L)', 'AR', 'AR .5', 'AR .75', 'AR (M)', 'AR (L)')
CROWD_NAMES = ('AP', 'AP .5', 'AP .75', 'AR', 'AR .5', 'AR .75', 'AP(E)', 'AP(M)', 'AP(H)')
MPII_NAMES = (*(f'{part} PCK' for part in ('Head', 'Shoulder', 'Elbow', 'Wrist', 'Hip', 'Knee', 'Ankle')), 'PCK', 'PCK@0.1')
PCK_NAMES = {'bbox': 'PCK', 'head': 'PCKh', 'torso': 'tPCK'}


def given_names(metric: Part) -> list[str] | None:
    """Names under which one of MMPose's metrics gives its numbers, or None if that is not known."""
    built = class_of(metric.cfg, METRICS)
    if not getattr(built, '__module__', '').startswith('mmpose.'):
        return None
    if metric.type in ('CocoMetric', 'CocoWholeBodyMetric'):
        names: tuple[str, ...] = CROWD_NAMES if metric.cfg.get('iou_type') == 'keypoints_crowd' else COCO_NAMES
    elif metric.type == 'PCKAccuracy':
        items = metric.cfg.get('norm_item', 'bbox')
        names = tuple(PCK_NAMES.get(item, item) for item in ([items] if isinstance(items, str) else items))
    elif metric.type == 'MpiiPCKAccuracy':
        names = MPII_NAMES
    elif metric.type in ('NME', 'EPE', 'AUC'):
        names = (metric.type,)
    else:
        return None
    prefix = metric.cfg.get('prefix') or getattr(built, 'default_prefix', None)
    return [f'{prefix}/{name}' if prefix else name for name in names]


@config_rule('thresholds of scores', {'threshold': 'a threshold for scores that was chosen for the height of Gaussian maps'})
def rule_thresholds(parts: ConfigParts) -> Iterator[Finding]:
    """Thresholds that are written down, for scores that mean another thing."""
    if not parts.losses or not any(codec.ours for codec in parts.decoders):
        return
    score = next(codec.option('score') for codec in parts.decoders if codec.ours)
    places = [(metric, 'keypoint_score_thr') for split in ('val', 'test') for metric in evaluators(parts.cfg, split)]
    drawers = [Part(f'default_hooks.{key}', each) for key, each in (parts.cfg.get('default_hooks') or {}).items() if isinstance(each, dict)]
    places += [(hook, SCORE_HOOKS[hook.type]) for hook in [*parts.hooks, *drawers] if hook.type in SCORE_HOOKS]
    for part, option in places:
        drawn = part.type in SCORE_HOOKS and part.cfg.get('enable')
        if (option in part.cfg and part.cfg[option] > 0) or drawn:
            value = part.get(option, METRICS) if part.type not in SCORE_HOOKS else part.cfg.get(option, 0.3)
            yield warning(
                'threshold',
                f'{part.where}.{option}',
                f'{option}={value}: scores of score={score!r} are the share of mass near the '
                'joint, not the height of a Gaussian; joints outside the picture often exceed it',
                'choose it on your validation set (docs/swap.md, "Scores and thresholds"), or 0 for every joint',
            )
