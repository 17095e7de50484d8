"""``check CONFIG --data``: what MMPose's own data sets make of the files a config reads.

Each data set is built as MMPose builds it, and what came in is compared with what came out: every class that MMPose can read is
covered, those of others too. MMPose meets these faults in the middle of a training, in a worker process, or not at all.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import io
import json
import os
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from mmengine.config import Config
from mmpose.registry import DATASETS
from mmpose.utils import register_all_modules

from .evaluation import try_data
from .finding import DATA_RULES, Finding, error, merge_findings, run_rule
from .parts import ConfigParts, annotation_file, class_of, read_parts

SHOWN = 5  # how many of the faulty ones are named
IMAGE_KEYS = ('file_name', 'height', 'width')  # of COCO's format; all other keys that MMPose reads are the annotations'


@dataclass
class ReadDataset:
    """A data set as MMPose reads it, beside its file.

    Attributes:
        where: dotted path in the config.
        cfg: its dict.
        parts: those of the whole config.
        path: its annotation file, as MMEngine joins it.
        content: what the file holds, or None if it is no JSON.
        built: the data set, its pipeline left out, or None where building fails.
        entries: what it hands to its pipeline, one per sample; empty where building fails.
    """

    where: str
    cfg: dict
    parts: ConfigParts
    path: str
    content: Any = None
    built: Any = None
    entries: list[dict] = field(default_factory=list)

    def listed(self, key: str) -> list[dict]:
        """A list of dicts in the file (``images``, ``annotations``, ...); empty where there is none."""
        value = self.content.get(key) if isinstance(self.content, dict) else None
        return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []

    @property
    def from_boxes(self) -> bool:
        """Whether the samples are a detector's boxes, which have no joints."""
        return bool(self.cfg.get('bbox_file')) and bool(self.cfg.get('test_mode'))


def check_data(cfg: Config | dict) -> list[Finding]:
    """Look through the data of a merged config; findings as :func:`hdm_mmpose.check.check_config` gives them.

    Args:
        cfg: as read by ``Config.fromfile``; not changed.
    """
    return merge_findings(finding for findings in check_data_sets(cfg).values() for finding in findings)


def check_data_sets(cfg: Config | dict, sound: bool = True) -> dict[str, list[Finding]]:
    """What each rule finds in the data of a merged config, by what it compares; where the config is sound, data are tried too."""
    register_all_modules()
    parts = read_parts(cfg)
    found: dict[str, list[Finding]] = {'files': []}
    for where, dataset, _ in parts.datasets:
        data = ReadDataset(where, dataset, parts, annotation_file(dataset))
        problems = list(read(data))
        found['files'] += problems
        if data.content is None and data.built is None:
            continue
        for rule in DATA_RULES:
            found.setdefault(rule.subject, []).extend(run_rule(rule, data))
    if sound and not any(finding.level == 'error' for findings in found.values() for finding in findings):
        found.update(try_data(parts))
    return found


def read(data: ReadDataset) -> Iterator[Finding]:
    """Read the file and build the data set; findings where either fails."""
    boxes = data.cfg.get('bbox_file') if data.cfg.get('test_mode') else None
    missing = [
        (rule, path, repair)
        for rule, path, repair in (
            ('no-boxes', boxes, 'put the file there, or bbox_file=None for the annotated boxes'),
            ('no-annotations', data.path if data.cfg.get('ann_file') else '', 'put the file there, or correct the path'),
        )
        if isinstance(path, str) and path and '://' not in path and not os.path.exists(path)
    ]
    for rule, path, repair in missing:
        yield error(rule, data.where, f'{path} does not exist', repair)
    if missing:
        return
    try:
        data.content = read_json(data.path)
    except ValueError as problem:
        yield error('not-json', data.where, f'{data.path} is not JSON: {problem}', 'write the file again')
        return
    try:
        data.built = build(data.cfg)
        data.entries = [data.built.get_data_info(index) for index in range(len(data.built))]
    except Exception as problem:  # a class may raise anything
        yield from why_not_read(data, problem)


def read_json(path: str) -> Any:
    """What a ``.json`` file holds; None for any other."""
    if not path.endswith('.json') or not os.path.isfile(path):
        return None
    with open(path, encoding='utf-8') as file:
        return json.load(file)


def build(cfg: dict) -> Any:
    """A data set without its pipeline, as MMPose builds it; what it prints is not shown."""
    cfg = {**copy.deepcopy(cfg), 'pipeline': []}
    takes = inspect.signature(class_of(cfg, DATASETS)).parameters
    if 'serialize_data' in takes or any(each.kind is each.VAR_KEYWORD for each in takes.values()):
        cfg['serialize_data'] = False  # an empty list cannot be serialised
    with contextlib.redirect_stdout(io.StringIO()):
        return DATASETS.build(cfg)


def why_not_read(data: ReadDataset, problem: Exception) -> Iterator[Finding]:
    """A finding that names file, entries and repair."""
    while str(problem).strip('"').startswith('class `') and isinstance(problem.__context__, Exception):
        problem = problem.__context__  # an older MMEngine raises anew what a constructor raised
    kind = getattr(class_of(data.cfg, DATASETS), '__name__', data.cfg.get('type'))
    entries = faulty_boxes(data) if data.from_boxes else faulty_entries(data, problem)
    what = f'{kind} cannot read {data.path}: {type(problem).__name__}: {problem}'
    if isinstance(problem, KeyError) and problem.args and not data.from_boxes:
        key = problem.args[0]
        lacking = [each for each in data.listed('images' if key in IMAGE_KEYS else 'annotations') if key not in each]
        if entries and lacking:
            entries = lacking
        what = f'{kind} reads {key!r}, which {list_ids(entries) if entries else "an entry"} of {data.path} lacks'
    elif entries:
        what = f'{kind} cannot read {list_ids(entries)} of {data.path}: {type(problem).__name__}: {problem}'
    if data.from_boxes:
        what = f'{kind} cannot read the boxes of {data.cfg["bbox_file"]}: {type(problem).__name__}: {problem}'
        what += (
            f'; {len(entries)} of them name a picture that {data.path} lacks, or have no score, category_id or bbox '
            f'(image_id {first([repr(box.get("image_id")) for box in entries])})'
            if entries
            else ''
        )
    yield error('not-read', data.where, what, 'correct these entries of the file, or use the data set class that reads its format')


def faulty_entries(data: ReadDataset, problem: Exception) -> list[dict]:
    """The entries of the file that a data set class was reading when it failed; all that fail alike, where it reads one by one."""
    frames = [frame.f_locals for frame, _ in traceback.walk_tb(problem.__traceback__)]
    entry = next(
        (
            names[name]
            for names in reversed(frames)
            for name in ('ann', 'raw_ann_info', 'anno', 'det', 'img')
            if isinstance(names.get(name), dict)
        ),
        None,
    )
    parse = next((names['self'] for names in frames if hasattr(names.get('self'), 'parse_data_info')), None)
    images = {str(image.get('id')): image for image in data.listed('images')}
    failing = []
    for annotation in data.listed('annotations') if parse is not None else []:
        image = dict(images.get(str(annotation.get('image_id')), {}), img_path='', img_id=annotation.get('image_id'))
        try:
            parse.parse_data_info(dict(raw_ann_info=copy.deepcopy(annotation), raw_img_info=image))
        except type(problem):
            failing.append(annotation)
        except Exception:  # another fault, which will be said once this one is repaired
            continue
    return failing or ([entry] if entry else [])


def faulty_boxes(data: ReadDataset) -> list[dict]:
    """Boxes of a detector that lack a key, or name a picture that the annotation file does not list."""
    boxes = read_json(data.cfg['bbox_file'])
    pictures = {image.get('id') for image in data.listed('images')}
    return (
        [
            box
            for box in boxes
            if isinstance(box, dict) and (not {'category_id', 'image_id', 'bbox', 'score'} <= box.keys() or box['image_id'] not in pictures)
        ]
        if isinstance(boxes, list)
        else []
    )


def list_ids(entries: list[dict], what: str = 'annotation') -> str:
    """How many, and the first of them."""
    noun = what if any('image_id' in each or what != 'annotation' for each in entries) else 'entry'
    number = f'{len(entries)} {noun}' if len(entries) == 1 else f'{len(entries)} {noun[:-1] + "ie" if noun.endswith("y") else noun}s'
    return f'{number} (id {first([str(each.get("id")) for each in entries])})'


def first(names: list[str]) -> str:
    """The first ``SHOWN`` names, and whether there are more."""
    return ', '.join(names[:SHOWN]) + (', ...' if len(names) > SHOWN else '')
