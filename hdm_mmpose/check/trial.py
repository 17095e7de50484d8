"""One training step and one prediction of made-up or real persons, with the config's own pipelines and head.

MMPose is asked instead of its rules being repeated: transforms and head are built and run. Of the rest of the network only the
shapes of its features are needed, which the meta device gives without memory or arithmetic where torch has one.
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from mmengine.dataset import Compose, pseudo_collate
from mmengine.logging import MMLogger
from mmengine.model import revert_sync_batchnorm
from mmpose.models.pose_estimators.base import BasePoseEstimator
from mmpose.registry import MODELS, TRANSFORMS
from torch import Tensor
from torch.overrides import TorchFunctionMode

from hdm_mmpose.features import without_memory

from .parts import class_of, meta_of, type_name, walk

PICTURE = (120, 160)  # width, height in pixels of a made-up picture
PERSONS = 2
HANDED_ON = ('dataset_name', 'upper_body_ids', 'lower_body_ids', 'flip_pairs', 'dataset_keypoint_weights', 'flip_indices',
             'skeleton_links')  # what a data set of MMPose adds to each person


class Unknown(Exception):
    """It cannot be told without running the whole thing."""


class _NumbersOnCPU(TorchFunctionMode):
    """Constructors ask ``linspace`` for numbers (drop path rates), which the meta device does not have."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = dict(kwargs or {})
        if func is torch.linspace:
            options.setdefault('device', 'cpu')
        return func(*args, **options)


class _Built:
    """The estimator that was built last on the meta device, and what it gave: some take a minute."""

    key: str = ''
    estimator: Any = None
    given: dict[tuple, Any] = {}

    @classmethod
    def ask(cls, model: dict, method: str, shape: tuple[int, ...]) -> Any:
        if repr(model) != cls.key:
            cls.key = ''  # building may fail
            cls.estimator = revert_sync_batchnorm(MODELS.build(copy.deepcopy(model))).eval()
            cls.key, cls.given = repr(model), {}
        if (method, shape) not in cls.given:
            cls.given[method, shape] = getattr(cls.estimator, method)(torch.empty(shape))
        return cls.given[method, shape]


def on_meta_device(model: dict, channels: int, input_size: tuple[int, int], method: str) -> Any:
    """What a method of the estimator (``_forward``, ``extract_feat``) gives for one picture, on the meta device.

    Args:
        model: config of the estimator.
        channels: C of the picture.
        input_size: (w, h) in pixels.
        method: its name.

    Raises:
        Unknown: the estimator is none of MMPose's kind, does not run on the meta device, or needs a package that is not there.
        Exception: whatever the model itself raises.
    """
    for part in walk(model, 'model'):
        scope, _, name = str(part.cfg.get('type', '')).rpartition('.')
        if scope and isinstance(part.cfg['type'], str) and MODELS.get(f'{scope}.{name}') is None:
            raise Unknown(f'{scope} is not installed')
    built = class_of(model, MODELS)
    if not (isinstance(built, type) and issubclass(built, BasePoseEstimator)):
        raise Unknown(f'{type_name(model)} is no estimator of MMPose')
    with without_memory(), _NumbersOnCPU(), torch.no_grad():
        try:
            return _Built.ask(model, method, (1, channels, input_size[1], input_size[0]))
        except (RuntimeError, NotImplementedError) as problem:
            if any(word in str(problem) for word in ('meta', 'CPU tensor')):
                raise Unknown(str(problem)) from problem
            raise


def channels_of(model: dict) -> int:
    """Channels of the pictures that a model takes, as its backbone's ``in_channels`` says."""
    channels = (model.get('backbone') or {}).get('in_channels', 3) if isinstance(model.get('backbone'), dict) else 3
    return channels if isinstance(channels, int) else 3


def features(model: dict, inputs: Tensor) -> tuple[Tensor, ...]:
    """Random features of the shapes that backbone and neck give for ``inputs`` (B, C, h, w)."""
    found = on_meta_device(model, inputs.shape[1], (inputs.shape[3], inputs.shape[2]), 'extract_feat')
    return _random(found, len(inputs))


def _random(value: Any, batch: int) -> Any:
    if isinstance(value, (list, tuple)):
        return type(value)(_random(each, batch) for each in value)
    return torch.randn(batch, *value.shape[1:]) if isinstance(value, Tensor) else value


def pipeline_of(dataset: dict) -> list[dict]:
    """The steps a sample of a data set goes through: those of the first one inside, then the wrappers' own."""
    several = dataset.get('datasets')
    inner = several[0] if isinstance(several, (list, tuple)) and several else dataset.get('dataset')
    steps = list(dataset.get('pipeline') or [])
    return [*pipeline_of(inner), *steps] if isinstance(inner, dict) else steps


def innermost(dataset: dict) -> dict:
    """The first data set inside wrappers."""
    several = dataset.get('datasets')
    inner = several[0] if isinstance(several, (list, tuple)) and several else dataset.get('dataset')
    return innermost(inner) if isinstance(inner, dict) else dataset


def compose(steps: list[dict]) -> Compose:
    """A pipeline from what is written; a name that is not registered raises KeyError."""
    return Compose([TRANSFORMS.build(copy.deepcopy(step)) if isinstance(step, dict) else step for step in steps])


def persons(dataset: dict, channels: int, seed: int = 0) -> Iterator[dict]:
    """What a data set of MMPose hands to its pipeline, made up: a picture of noise, joints inside a box, all visible."""
    meta = meta_of(innermost(dataset))
    rng = np.random.default_rng(seed)
    for index in range(PERSONS):
        corner, size = rng.uniform(5, 20, 2), np.array(PICTURE) - 40
        points = corner + rng.uniform(0.1, 0.9, (meta['num_keypoints'], 2)) * size
        flat = np.concatenate([points, np.full((len(points), 1), 2.0)], 1).flatten().tolist()
        raw = dict(id=index + 1, image_id=index + 1, category_id=1, bbox=[*corner.tolist(), *size.tolist()], keypoints=flat,
                   num_keypoints=len(points), area=float(size.prod()), iscrowd=0)
        yield dict(
            {key: copy.deepcopy(meta[key]) for key in HANDED_ON}, img=rng.integers(0, 256, (PICTURE[1], PICTURE[0], channels), np.uint8),
            img_id=index + 1, img_path='made up', id=index + 1, category_id=np.array(1), iscrowd=0, area=np.float32(size.prod()),
            segmentation=None, raw_ann_info=raw, num_keypoints=len(points), bbox_score=np.ones(1, np.float32),
            bbox=np.concatenate([corner, corner + size])[None].astype(np.float32), keypoints=points[None].astype(np.float32),
            keypoints_visible=np.ones((1, len(points)), np.float32))


def batch_of(samples: list[dict]) -> tuple[Tensor, list]:
    """Inputs (B, C, h, w) and data samples of what a pipeline packed."""
    batch = pseudo_collate(samples)
    return torch.stack([torch.as_tensor(each) for each in batch['inputs']]), batch['data_samples']


def training_losses(model: dict, samples: list[dict]) -> dict:
    """The losses of the model's head for packed samples and random features."""
    inputs, data_samples = batch_of(samples)
    head = revert_sync_batchnorm(MODELS.build(copy.deepcopy(model['head']))).train()
    return head.loss(features(model, inputs), data_samples, train_cfg=copy.deepcopy(model.get('train_cfg') or {}))


def predictions_of(model: dict, samples: list[dict]) -> list:
    """What the model's head predicts for packed samples and random features, without flip test."""
    inputs, data_samples = batch_of(samples)
    head = revert_sync_batchnorm(MODELS.build(copy.deepcopy(model['head']))).eval()
    test_cfg = dict(copy.deepcopy(model.get('test_cfg') or {}), flip_test=False)
    with torch.no_grad():
        found = head.predict(features(model, inputs), data_samples, test_cfg=test_cfg)
    return found[0] if isinstance(found, tuple) else found


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """What data sets and evaluators print and log is not shown."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
