"""``python -m hdm_mmpose check CONFIG --data``: what is wrong in the annotation files a config reads.

MMPose meets these in the middle of a training, in a worker process, or not at all. Only COCO's format is read; pictures are
looked for and must hold something, but are not opened.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from typing import Any

from mmengine.config import Config
from mmpose.utils import register_all_modules

from .finding import Finding, error, plural, warning
from .parts import declared_joints, read_parts

SHOWN = 5  # how many of the faulty ones are named


def check_data(cfg: Config | dict) -> list[Finding]:
    """Look through the annotation files of all data sets of a merged config.

    Args:
        cfg: as read by ``Config.fromfile``; not changed.
    """
    register_all_modules()
    parts = read_parts(cfg.to_dict() if isinstance(cfg, Config) else cfg)
    # A config's own joint count is the one after KeypointConverter, which the file does not have.
    return [finding for where, dataset, _ in parts.datasets for finding in check_dataset(where, dataset, declared_joints(dataset))]


def check_dataset(where: str, dataset: dict, joints: int | None) -> Iterator[Finding]:
    """Findings in one data set; ``joints`` is the number its meta information declares."""
    boxes = dataset.get('bbox_file')
    if boxes and not os.path.exists(boxes):
        yield error('no-boxes', where, f'{boxes} does not exist', 'put the file there, or bbox_file=None for the annotated boxes')
    try:
        yield from check_annotations(where, dataset, joints)
    except (AttributeError, IndexError, KeyError, TypeError) as problem:
        yield error('format', where, f'{annotation_file(dataset)} is not as COCO writes it: {type(problem).__name__}: {problem}',
                    'compare it with https://cocodataset.org/#format-data')


def annotation_file(dataset: dict) -> str:
    """Path of a data set's annotation file, as MMPose joins it."""
    return os.path.join(dataset.get('data_root') or '', dataset.get('ann_file') or '')


def check_annotations(where: str, dataset: dict, joints: int | None) -> Iterator[Finding]:
    """Findings in the annotation file and the pictures of one data set; ``joints`` as in :func:`check_dataset`."""
    path = annotation_file(dataset)
    try:
        with open(path, encoding='utf-8') as file:
            content = json.load(file)
    except OSError as problem:
        yield error('no-annotations', where, f'{path} cannot be read: {problem.strerror}', 'put the file there, or correct the path')
        return
    except ValueError as problem:
        yield error('not-json', where, f'{path} is not JSON: {problem}', 'write the file again')
        return
    if not isinstance(content, dict):  # MPII's format and others
        return
    missing = [key for key in ('images', 'annotations', 'categories') if not content.get(key)]
    if 'categories' in missing:
        yield error('no-categories', where, f'{path} has no categories, which evaluation needs', 'add the category of persons')
    persons = [person for person in content.get('annotations') or [] if person.get('keypoints')]
    if not persons or 'images' in missing:
        yield error('no-persons', where, f'{path} has no person with joints', 'look at how the split was made')
        return
    yield from check_persons(where, path, persons, joints, {image['id']: image for image in content['images']})
    seen = {person.get('image_id') for person in persons}  # of the others MMPose reads only what a detector's boxes name
    yield from check_pictures(where, dataset, [image for image in content['images'] if dataset.get('bbox_file') or image['id'] in seen])


def check_persons(where: str, path: str, persons: list[dict], joints: int | None, images: dict[Any, dict]) -> Iterator[Finding]:
    """Findings in the annotated persons: joint counts, coordinates, boxes; ``images`` by id."""
    counts = sorted({len(person['keypoints']) // 3 for person in persons} - {joints}) if joints else []
    for count in counts:
        bad = [person for person in persons if len(person['keypoints']) // 3 == count]
        yield error('joint-count', where, f'{path}: {list_annotations(bad)} with {count} joints, the data set has {joints}',
                    'use the data set class that fits, or correct the file')
    bad = [person for person in persons if not all(finite(joint) for joint in visible(person))]
    if bad:
        yield error('not-finite', where, f'{path}: {list_annotations(bad)} with a visible joint that is not finite',
                    'set the visibility of such joints to 0')
    bad = [person for person in persons if 'bbox' not in person or not (person['bbox'][2] > 0 and person['bbox'][3] > 0)]
    if bad:
        yield warning('bad-box', where, f'{path}: {list_annotations(bad)} without a box of positive size; MMPose leaves them out',
                      'correct the boxes: x, y, width, height')
    bad = [person for person in persons if visible(person) and person.get('image_id') in images
           and not any(inside(joint, images[person['image_id']]) for joint in visible(person))]
    if bad:
        yield warning('all-outside', where, f'{path}: {list_annotations(bad)} with all joints outside the picture: nothing is learnt',
                      'look at the unit and origin of the coordinates')


def check_pictures(where: str, dataset: dict, images: list[dict]) -> Iterator[Finding]:
    """Pictures that are not there, or are empty files."""
    folder = os.path.normpath(os.path.join(dataset.get('data_root') or '', (dataset.get('data_prefix') or {}).get('img', '')))
    sizes = {image['file_name']: size(os.path.join(folder, image['file_name'])) for image in images}
    absent = [name for name, bytes_there in sizes.items() if bytes_there is None]
    if absent:
        yield error('no-picture', where, f'{len(absent)} of {len(images)} pictures are not in {folder}: {first(absent)}',
                    'put them there, or correct data_prefix')
    empty = [name for name, bytes_there in sizes.items() if bytes_there == 0]
    if empty:
        yield error('empty-picture', where, f'{len(empty)} of {len(images)} pictures in {folder} are empty files: {first(empty)}',
                    'copy them again')


def size(path: str) -> int | None:
    """Bytes in a file, or None if it does not exist."""
    try:
        return os.path.getsize(path)
    except OSError:
        return None


def visible(person: dict) -> list[tuple[float, float]]:
    """(x, y) of the joints whose visibility is not 0."""
    values = person['keypoints']
    return [(x, y) for x, y, seen in zip(values[::3], values[1::3], values[2::3]) if seen]


def finite(joint: tuple[float, float]) -> bool:
    """Whether both coordinates, x and y, are finite numbers."""
    return all(isinstance(value, (int, float)) and math.isfinite(value) for value in joint)


def inside(joint: tuple[float, float], image: dict) -> bool:
    """Whether a joint (x, y), in pixels, lies in its picture; one that is not finite is not judged, nor a side that is not known."""
    return not finite(joint) or (0 <= joint[0] <= image.get('width', math.inf) and 0 <= joint[1] <= image.get('height', math.inf))


def list_annotations(persons: list[dict]) -> str:
    """How many, and the first of them."""
    return f'{plural(len(persons), "annotation")} (id {first([str(person.get("id")) for person in persons])})'


def first(names: list[str]) -> str:
    """The first ``SHOWN`` names, and whether there are more."""
    return ', '.join(names[:SHOWN]) + (', ...' if len(names) > SHOWN else '')
