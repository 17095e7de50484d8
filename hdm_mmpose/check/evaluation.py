"""``--data``: a training step and an evaluation with the real files, before a training spends an epoch on them.

The evaluator gets the annotated joints as predictions, and then joints that lie elsewhere: it must be able to measure both, and to
tell them apart.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from mmengine.evaluator import Evaluator
from mmengine.structures import InstanceData
from mmpose.registry import DATASETS

from .finding import Finding, error, unchecked, warning
from .parts import ConfigParts, type_name
from .rules_metrics import evaluators, monitored
from .rules_output import place
from .trial import Unknown, quietly, training_losses

SAMPLES = 300  # persons that are evaluated
STEP = 4  # persons of a training step
ELSEWHERE = 500  # pixels that the other joints lie away

MEANINGS = {
    'real-step': 'a training step with the real data fails',
    'absent-joints': 'joints with an empty target and a weight above 0',
    'real-evaluation': 'the evaluator fails on the data, as it would after the first epoch',
    'blind-evaluator': "the evaluator gives right and wrong joints the same numbers: it compares with another file's",
    'monitored-now': 'a monitored metric that the evaluator did not give',
    'not-tried': 'a step or an evaluation that could not be tried',
}


def try_data(parts: ConfigParts) -> dict[str, list[Finding]]:
    """What goes wrong in a training step and in the evaluations, by what was tried."""
    tried = {'a training step with the real data': list(try_training(parts))}
    for split in ('val', 'test'):
        if evaluators(parts.cfg, split) and isinstance((parts.cfg.get(f'{split}_dataloader') or {}).get('dataset'), dict):
            tried[f'the evaluation of {split}'] = list(try_evaluation(parts, split))
    return tried


def try_training(parts: ConfigParts) -> Iterator[Finding]:
    """Real persons go through the pipeline of training, and their targets through the head."""
    where, model = 'train_dataloader', parts.cfg.get('model') or {}
    cfg = (parts.cfg.get(where) or {}).get('dataset')
    if not cfg or not parts.losses:
        return
    try:
        with quietly():
            dataset = DATASETS.build(copy.deepcopy(cfg))
            samples = [dataset[index] for index in np.linspace(0, len(dataset) - 1, STEP).astype(int)]
            training_losses(model, samples)
    except Unknown as problem:
        yield unchecked('not-tried', where, f'a training step: {problem}', 'one iteration of training')
        return
    except Exception as problem:  # whatever a class raises is what the user wants to read
        yield error(
            'real-step',
            where,
            f'a training step with {STEP} of its persons fails {place(problem)}: {type(problem).__name__}: {problem}',
            'correct what the message names',
        )
        return
    absent = sum(empty_targets(sample['data_samples']) for sample in samples)
    if absent:
        yield warning(
            'absent-joints',
            where,
            f'{absent} joints of {STEP} persons have an empty target and a weight above 0: this loss learns '
            'nothing of them, and their scores mean nothing',
            'VisPredictHead learns who is there (docs/swap.md, "Absent joints")',
        )


def empty_targets(sample: Any) -> int:
    """Joints with an empty heatmap and a positive weight."""
    maps = getattr(getattr(sample, 'gt_fields', None), 'heatmaps', None)
    weights = getattr(getattr(sample, 'gt_instance_labels', None), 'keypoint_weights', None)
    if not isinstance(maps, torch.Tensor) or weights is None or maps.dim() != 3:
        return 0
    weights = torch.as_tensor(weights).reshape(-1, len(maps))[-1]
    return int(((maps.flatten(1) <= 0).all(1) & (weights > 0)).sum())


def try_evaluation(parts: ConfigParts, split: str) -> Iterator[Finding]:
    """The evaluator measures the annotated joints, and joints elsewhere."""
    where, metrics = f'{split}_evaluator', evaluators(parts.cfg, split)
    if any(metric.cfg.get('format_only') for metric in metrics):
        return
    try:
        with quietly():
            dataset = DATASETS.build(without_pictures(parts.cfg[f'{split}_dataloader']['dataset']))
            count = min(len(dataset), SAMPLES)
            samples = [dataset[index]['data_samples'] for index in np.linspace(0, len(dataset) - 1, count).astype(int)]
            if any(np.asarray(sample.gt_instances.keypoints).max() <= 0 for sample in samples):  # boxes of a detector
                right = wrong = None
            else:
                indices = parts.test_cfg.get('output_keypoint_indices')
                right, wrong = (measure(metrics, dataset, samples, indices, shift) for shift in (0, ELSEWHERE))
    except Exception as problem:  # whatever a class raises is what the user wants to read
        yield error(
            'real-evaluation',
            where,
            f'{", ".join(metric.type for metric in metrics)} cannot measure the joints of '
            f'{split}_dataloader {place(problem)}: {type(problem).__name__}: {problem}',
            'correct what the message names, in the annotation file or in the config',
        )
        return
    if right is None:
        yield unchecked('not-tried', where, "the evaluation of a detector's boxes", 'a test of a checkpoint')
        return
    if right and wrong is not None and same(right, wrong):
        yield error(
            'blind-evaluator',
            where,
            f'{", ".join(metric.type for metric in metrics)} gives the annotated joints and joints {ELSEWHERE} px away the same numbers',
            "the data set's own annotation file for the evaluator, and joints that are visible",
        )
    if split == 'val':
        for spot, name in monitored(parts):
            hooked = any(hook.type == 'ValidationLossHook' for hook in parts.hooks) and name in ('loss_mse', 'loss_emd')
            if name != 'auto' and name not in right and not hooked:
                yield error('monitored-now', spot, f'{name!r} is none of {sorted(right)}', 'one of these')


def without_pictures(dataset: dict) -> dict:
    """A data set whose pipelines read no pictures: a blank one is enough for an evaluation."""
    dataset = copy.deepcopy(dataset)
    if isinstance(dataset.get('pipeline'), (list, tuple)):
        steps = [BlankPicture() if isinstance(step, dict) and type_name(step) == 'LoadImage' else step for step in dataset['pipeline']]
        dataset['pipeline'] = steps
    for inner in [*(dataset.get('datasets') or []), dataset.get('dataset')]:
        if isinstance(inner, dict):
            inner.update(without_pictures(inner))
    return dataset


class BlankPicture:
    """Stands in for ``LoadImage``."""

    def __call__(self, results: dict) -> dict:
        points, box = results.get('keypoints'), results.get('bbox')
        corner = max([float(np.nanmax(each)) for each in (points, box) if each is not None and np.size(each)] or [1.0])
        side = int(np.clip(np.nan_to_num(corner), 1, 2000)) + 1
        results.update(img=np.zeros((side, side, 3), np.uint8), img_shape=(side, side), ori_shape=(side, side))
        return results


def measure(metrics: list, dataset: Any, samples: list, indices: Any, shift: float) -> dict:
    """What evaluators say of the annotated joints, moved by ``shift`` pixels."""
    evaluator = Evaluator([copy.deepcopy(metric.cfg) for metric in metrics])
    evaluator.dataset_meta = copy.deepcopy(dataset.metainfo)
    for sample in samples:
        sample, truth = copy.deepcopy(sample), sample.gt_instances
        points = np.array(truth.keypoints, np.float32)[..., :2] + shift
        points = points if indices is None else points[:, indices]
        sample.pred_instances = InstanceData(
            keypoints=points,
            keypoint_scores=np.ones(points.shape[:2], np.float32),
            keypoints_visible=np.ones(points.shape[:2], np.float32),
            bboxes=truth.bboxes,
            bbox_scores=truth.get('bbox_scores', np.ones(len(points), np.float32)),
        )
        evaluator.process([sample], [{}])
    return evaluator.evaluate(len(samples))


def same(one: dict, other: dict) -> bool:
    """Whether two sets of numbers are equal."""
    return all(np.allclose(one[name], other[name], equal_nan=True) for name in one if isinstance(one[name], (int, float, np.number)))
