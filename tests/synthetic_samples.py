"""Persons made up for a config: random pictures and joints that go through the config's own pipelines."""

from __future__ import annotations

import numpy as np
from mmengine.dataset import Compose, pseudo_collate
from mmpose.datasets.datasets.utils import parse_pose_metainfo
from mmpose.registry import DATASETS, TRANSFORMS

PICTURE = (160, 200)  # width, height in pixels
# What random augmentation does is not what these samples are for, and it moves joints out of the picture.
LEFT_OUT = ('LoadImage', 'RandomFlip', 'RandomHalfBody', 'RandomBBoxTransform', 'PhotometricDistortion')


def innermost(dataset: dict) -> dict:
    """The data set inside wrappers, with the pipeline that is run after its own."""
    inner = dataset.get('datasets')
    return dict(innermost(inner[0]), pipeline=[*inner[0].pipeline, *dataset.pipeline]) if inner else dataset


def samples(cfg: dict, loader: str = 'train_dataloader', count: int = 2, seed: int = 0) -> dict:
    """A batch as the loader of a config would give it: ``inputs`` and ``data_samples``.

    Args:
        cfg: merged config.
        loader: whose pipeline is run.
        count: number of persons; every fifth joint is not annotated.
        seed: of pictures and joints.
    """
    dataset = innermost(cfg[loader].dataset)
    meta = parse_pose_metainfo(dict(dataset.get('metainfo') or DATASETS.get(dataset['type']).METAINFO))
    run = Compose([TRANSFORMS.build(dict(step, **PACK) if step['type'] == 'PackPoseInputs' else dict(step))
                   for step in dataset['pipeline'] if step['type'] not in LEFT_OUT])
    rng = np.random.default_rng(seed)
    return pseudo_collate([run(person(meta, rng)) for _ in range(count)])


PACK = dict(pack_transformed=True)


def person(meta: dict, rng: np.random.Generator) -> dict:
    """What a data set hands to its pipeline."""
    joints = meta['num_keypoints']
    left, top = rng.uniform(5, 20, 2)
    right, bottom = PICTURE[0] - rng.uniform(5, 20), PICTURE[1] - rng.uniform(5, 20)
    points = rng.uniform((left, top), (right, bottom), (joints, 2)).astype(np.float32)
    visible = (np.arange(joints) % 5 != 4).astype(np.float32)
    return dict(
        {key: meta[key] for key in ('upper_body_ids', 'lower_body_ids', 'flip_pairs', 'flip_indices',
                                    'dataset_keypoint_weights', 'sigmas')},
        img=rng.integers(0, 256, (PICTURE[1], PICTURE[0], 3), dtype=np.uint8), img_shape=PICTURE[::-1],
        ori_shape=PICTURE[::-1], img_path='made up', id=0, img_id=0, category_id=1, iscrowd=0, area=1.0,
        bbox=np.array([[left, top, right, bottom]], np.float32), bbox_score=np.ones(1, np.float32),
        keypoints=points[None], keypoints_visible=visible[None], num_keypoints=int(visible.sum()))
