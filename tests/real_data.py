"""Where the real pictures for tests are, and the options that make a recipe read them.

The pictures are no part of this repository: tests that need them skip with a reason where they are absent.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
DATA = REPOSITORY.parent / 'shared' / 'data'
COCO = DATA / 'coco_mini'
MPII = DATA / 'mpii_sample'

needs_coco = pytest.mark.skipif(not COCO.is_dir(), reason=f'needs pictures of COCO in {COCO}')
needs_mpii = pytest.mark.skipif(not MPII.is_dir(), reason=f'needs pictures of MPII in {MPII}')


def coco_options(folder: Path, persons: int = 4) -> dict:
    """Options that train and evaluate a COCO recipe on a few persons.

    Args:
        folder: where an annotation file of these persons is written; scores only make sense against the persons seen.
        persons: how many persons are trained on, and evaluated.
    """
    truth = few_persons(COCO / 'annotations' / 'person_keypoints_val2017.json', folder, persons)
    options = {'train_dataloader.dataset.indices': persons, 'test_evaluator.ann_file': str(truth)}
    options.update({'val_evaluator.ann_file': str(truth), 'train_dataloader.dataset.data_root': f'{COCO}/'})
    for loader in ('val_dataloader', 'test_dataloader'):
        options.update({f'{loader}.dataset.data_root': f'{COCO}/', f'{loader}.dataset.ann_file': str(truth)})
        options[f'{loader}.dataset.bbox_file'] = None
    return options


def few_persons(annotations: Path, folder: Path, persons: int) -> Path:
    """An annotation file with the first ``persons`` that have joints, and their pictures."""
    content = json.loads(annotations.read_text())
    chosen = [each for each in content['annotations'] if each.get('num_keypoints')][:persons]
    images = {each['image_id'] for each in chosen}
    content.update({'annotations': chosen, 'images': [each for each in content['images'] if each['id'] in images]})
    path = folder / 'person_keypoints_few.json'
    path.write_text(json.dumps(content))
    return path


def mpii_options(folder: Path) -> dict:
    """Options that train and evaluate an MPII recipe on the five sample pictures.

    Args:
        folder: where a head-box file for the five persons is written, from their head joints.
    """
    from scipy.io import savemat

    people = json.loads((MPII / 'test_mpii.json').read_text())
    # MPII's head boxes: (2, 2, persons), the two corners; joints 8 and 9 are upper neck and head top
    corners = np.array([[person['joints'][8], person['joints'][9]] for person in people])
    savemat(folder / 'head_boxes.mat', {'headboxes_src': corners.transpose(1, 2, 0)})
    options = {}
    for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        options.update({f'{loader}.dataset.data_root': f'{MPII}/', f'{loader}.dataset.ann_file': 'test_mpii.json'})
        options[f'{loader}.dataset.data_prefix.img'] = './'
    for loader in ('val_dataloader', 'test_dataloader'):
        options[f'{loader}.dataset.headbox_file'] = str(folder / 'head_boxes.mat')
    return options


def small_options(batch: int = 2) -> dict:
    """Options that fit a recipe on a CPU: small batches, no worker processes, no backbone to fetch."""
    options = {'model.backbone.init_cfg': None}
    for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        options.update({f'{loader}.num_workers': 0, f'{loader}.persistent_workers': False, f'{loader}.batch_size': batch})
    return options


def arguments(options: dict) -> list[str]:
    """The options as ``--cfg-options`` takes them."""
    return ['--cfg-options', *(f'{key}={value}' for key, value in options.items())]
