"""The files that the benchmarks take: COCO's server json with its zip, MPII's mat and json."""

from __future__ import annotations

import json
import math
import pickle
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

COCO_KEYPOINTS = 17
MPII_KEYPOINTS = 16
# MPII's own files count pixels from 1 (Matlab)
MPII_ORIGIN = 1.0


def coco_server_zip(results: Path, info: Path, name: str, folder: Path, most: int | None = None) -> Path:
    """Check test-dev results, write them under the name COCO's server asks for with scores in [0, 1], and zip them.

    Args:
        results: json written by ``CocoMetric`` with ``format_only``.
        info: ``image_info_test-dev2017.json``, whose images are the only ones allowed.
        name: name of the method; underscores become dashes, since the server splits at them.
        folder: where to write.
        most: largest number of entries, the number of person boxes.

    Returns:
        The zip, holding the json without folders.

    Raises:
        ValueError: what the server would refuse.
    """
    entries = json.loads(results.read_text())
    images = {image['id'] for image in json.loads(info.read_text())['images']}
    check_coco_entries(entries, images, most)
    stem = f'person_keypoints_test-dev2017_{name.replace("_", "-")}_results'
    kept = ('image_id', 'category_id', 'keypoints', 'score')
    # A Gaussian model's scores, box times height of the map, may exceed 1: divided, which keeps their order.
    highest = max(1.0, *(entry['score'] for entry in entries))
    text = json.dumps([{**{key: entry[key] for key in kept}, 'score': entry['score'] / highest} for entry in entries])
    (folder / f'{stem}.json').write_text(text)
    path = folder / f'{stem}.zip'
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f'{stem}.json', text)
    return path


def check_coco_entries(entries: list[dict], images: Iterable[int], most: int | None = None) -> None:
    """Raise a ValueError naming the first entry that COCO's server would refuse."""
    images = set(images)
    if not isinstance(entries, list) or not entries:
        raise ValueError(f'results must be a list of at least one entry, got {type(entries).__name__} of {len(entries)}')
    if most is not None and len(entries) > most:
        raise ValueError(f'results must hold at most one entry per person box, {most}, got {len(entries)}')
    for index, entry in enumerate(entries):
        fault = _coco_fault(entry, images)
        if fault:
            raise ValueError(f'entry {index} of the results: {fault}')


def _coco_fault(entry: dict, images: set[int]) -> str:
    if entry.get('image_id') not in images:
        return f'image_id must be one of the {len(images)} images of the set, got {entry.get("image_id")!r}'
    if entry.get('category_id') != 1:
        return f'category_id must be 1, got {entry.get("category_id")!r}'
    keypoints = entry.get('keypoints', [])
    if len(keypoints) != 3 * COCO_KEYPOINTS or not all(map(_finite, keypoints)):
        return f'keypoints must be {3 * COCO_KEYPOINTS} finite numbers, got {len(keypoints)}: {keypoints}'
    score = entry.get('score')
    if not _finite(score) or score < 0:
        return f'score must be a finite number of 0 or more, got {score!r}'
    return ''


def _finite(value: object) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def mpii_predictions(dump: Path, folder: Path) -> tuple[Path, Path]:
    """Write predictions on MPII as the benchmark's tools read them.

    ``predictions.mat`` holds ``preds`` (N, 16, 2), x then y in pixels counted from 1, in the order of the annotation
    file; ``predictions.json`` the same per person, with scores and the picture's name.

    Args:
        dump: pickle written by ``tools/test.py --dump``.
        folder: where to write.

    Raises:
        ValueError: samples missing, repeated, or not of 16 joints.
    """
    from scipy.io import savemat

    samples = sorted(pickle.loads(dump.read_bytes()), key=lambda sample: sample['id'])
    ids = [sample['id'] for sample in samples]
    if ids != list(range(len(ids))):
        raise ValueError(f'{dump} must hold every person once, got ids {ids[:3]}...{ids[-3:]} for {len(ids)} samples')
    points = np.stack([np.asarray(sample['pred_instances']['keypoints'])[0] for sample in samples]) + MPII_ORIGIN
    scores = np.stack([np.asarray(sample['pred_instances']['keypoint_scores'])[0] for sample in samples])
    if points.shape[1:] != (MPII_KEYPOINTS, 2):
        raise ValueError(f'{dump} must hold {MPII_KEYPOINTS} joints of x and y, got {points.shape[1:]}')
    mat, text = folder / 'predictions.mat', folder / 'predictions.json'
    savemat(mat, {'preds': points.astype(np.float64), 'scores': scores.astype(np.float64)})
    people = [
        {'image': Path(sample['img_path']).name, 'joints': joints.tolist(), 'scores': score.tolist()}
        for sample, joints, score in zip(samples, points, scores)
    ]
    text.write_text(json.dumps(people))
    return mat, text
