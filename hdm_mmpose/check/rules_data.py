"""Rules of ``--data``: what came out of a data set against what its file holds."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from .data import ReadDataset, first, list_ids, read_json
from .finding import Finding, data_rule, error, plural, warning
from .parts import type_name


def people(data: ReadDataset) -> list[dict]:
    """Annotations with joints of any kind."""
    return [each for each in data.listed('annotations') if any(key.endswith('kpts') or key == 'keypoints' for key in each)]


def read_ids(data: ReadDataset) -> list[Any]:
    """Annotation ids of the samples, those of all persons of a picture one by one."""
    ids = [entry.get('id') for entry in data.entries]
    return [each for entry in ids for each in (entry if isinstance(entry, (list, tuple, np.ndarray)) else [entry])]


@data_rule(
    'annotation ids',
    {
        'repeated-ids': 'annotation or picture ids that repeat: a picture is paired with the joints of another one',
        'mixed-up': "samples that pair a picture with another picture's joints",
    },
)
def rule_ids(data: ReadDataset) -> Iterator[Finding]:
    """Ids that name one thing."""
    for key in ('annotations', 'images'):
        counts = Counter(str(each.get('id')) for each in data.listed(key))
        repeated = [name for name, number in counts.items() if number > 1]
        if repeated:
            yield error(
                'repeated-ids',
                data.where,
                f'{data.path}: {len(repeated)} ids stand at several {key} (id {first(repeated)})',
                'an id of its own for each, counted through the whole file',
            )
            return
    names = {str(image.get('id')): str(image.get('file_name')) for image in data.listed('images')}
    wrong = [
        entry
        for entry in data.entries
        if isinstance(entry.get('img_path'), str)
        and str(entry.get('img_id')) in names
        and not entry['img_path'].endswith(names[str(entry['img_id'])])
    ]
    if wrong:
        yield error(
            'mixed-up',
            data.where,
            f'{data.path}: {len(wrong)} of {plural(len(data.entries), "sample")} pair a picture with joints of '
            f'another (id {first([str(entry.get("id")) for entry in wrong])})',
            'look at ids and image_ids of the file',
        )


@data_rule(
    'persons that take part',
    {'no-persons': 'no annotation of the file takes part', 'left-out': 'annotated persons that the data set class leaves out'},
)
def rule_left_out(data: ReadDataset) -> Iterator[Finding]:
    """How many annotations take part, and why the others do not."""
    if data.built is None or data.from_boxes:
        return
    persons = people(data)
    taken = {str(each) for each in read_ids(data)}
    pictures = {str(person.get('id')): str(person.get('image_id')) for person in persons}
    if any(
        pictures.get(str(entry.get('id'))) != str(entry.get('img_id')) for entry in data.entries if not isinstance(entry.get('id'), list)
    ):
        return  # a class that numbers its samples itself, such as two hands of a person: who is who cannot be told
    out = [person for person in persons if str(person.get('id')) not in taken]
    reasons = Counter(reason_of(data, person) for person in out)
    counted = '; '.join(f'{number} {reason}' for reason, number in reasons.most_common())
    if not data.entries:
        yield error(
            'no-persons',
            data.where,
            f'{type_name(data.cfg)} takes none of {plural(len(persons), "annotated person")} of {data.path}'
            + (f': {counted}' if counted else ''),
            'repair what stands there, or look at how the split was made',
        )
        return
    surprising = [person for person in out if visible(person)]
    if surprising and persons:
        yield warning(
            'left-out',
            data.where,
            f'{type_name(data.cfg)} leaves out {len(out)} of {plural(len(persons), "annotated person")} of '
            f'{data.path}: {counted}; with visible joints {list_ids(surprising)}',
            'repair what stands there, if they are to be learnt',
        )


def reason_of(data: ReadDataset, person: dict) -> str:
    """Why MMPose leaves an annotation out, in words that follow a number."""
    image = next((each for each in data.listed('images') if str(each.get('id')) == str(person.get('image_id'))), None)
    if image is None:
        return 'belong to a picture that the file does not list'
    if type(image.get('id')) is not type(person.get('image_id')):
        return 'name their picture by text where its id is a number, or the other way round'
    box = person.get('bbox')
    if box is None:
        return 'have no bbox'
    if person.get('iscrowd'):
        return 'are crowds (iscrowd)'
    if person.get('num_keypoints') == 0 or not visible(person):
        return 'have no joint (num_keypoints or all visibilities are 0)'
    width, height = image.get('width', math.inf), image.get('height', math.inf)
    inner = [min(box[0] + box[2], width - 1) - max(box[0], 0), min(box[1] + box[3], height - 1) - max(box[1], 0)]
    if min(inner) <= 0:
        return 'have a box without area, or outside the picture'
    return 'for a reason of the class'


@data_rule(
    'joints',
    {
        'joint-count': 'another number of joints than the data set has',
        'not-finite': 'a visible joint that is not finite',
        'all-outside': 'persons with all joints outside the picture',
    },
)
def rule_joints(data: ReadDataset) -> Iterator[Finding]:
    """Number and place of the joints that the class hands on."""
    known = (getattr(data.built, 'metainfo', None) or {}).get('num_keypoints')
    samples = [entry for entry in data.entries if isinstance(entry.get('keypoints'), np.ndarray) and not data.from_boxes]
    for count in sorted({entry['keypoints'].shape[1] for entry in samples} - {known}) if known else []:
        bad = [entry for entry in samples if entry['keypoints'].shape[1] == count]
        yield error(
            'joint-count',
            data.where,
            f'{data.path}: {ids_of(bad)} with {count} joints, the data set has {known}',
            'use the data set class that fits, or correct the file',
        )
    bad = [entry for entry in samples if not np.isfinite(seen_points(entry)).all()]
    if bad:
        yield error(
            'not-finite',
            data.where,
            f'{data.path}: {ids_of(bad)} with a visible joint that is not finite',
            'set the visibility of such joints to 0',
        )
    sizes = {str(image.get('id')): (image.get('width', math.inf), image.get('height', math.inf)) for image in data.listed('images')}
    bad = [entry for entry in samples if str(entry.get('img_id')) in sizes and outside(seen_points(entry), sizes[str(entry['img_id'])])]
    if bad:
        yield warning(
            'all-outside',
            data.where,
            f'{data.path}: {ids_of(bad)} with all joints outside the picture: nothing is learnt',
            'look at the unit and origin of the coordinates',
        )


def seen_points(entry: dict) -> np.ndarray:
    """(n, 2) visible joints of a sample."""
    seen = np.asarray(entry.get('keypoints_visible', np.ones(entry['keypoints'].shape[:2])))
    return entry['keypoints'][(seen if seen.ndim == 2 else seen[..., 0]) > 0][:, :2]


def outside(points: np.ndarray, size: tuple[float, float]) -> bool:
    """Whether there are points (n, 2), all finite, and none lies in a picture of (width, height)."""
    return len(points) > 0 and bool(np.isfinite(points).all()) and not ((points >= 0) & (points <= np.array(size))).all(-1).any()


def visible(person: dict) -> list[tuple[float, float]]:
    """(x, y) of the annotated joints whose visibility is not 0."""
    values = person.get('keypoints')
    return [(x, y) for x, y, seen in zip(values[::3], values[1::3], values[2::3]) if seen] if isinstance(values, list) else []


def ids_of(entries: list[dict]) -> str:
    """How many samples, and the first annotation ids."""
    return f'{plural(len(entries), "annotation")} (id {first([str(entry.get("id")) for entry in entries])})'


@data_rule(
    'boxes',
    {
        'box-format': 'boxes that look like x1, y1, x2, y2 where x, y, width, height are read',
        'boxes-dropped': "boxes of a detector that MMPose leaves out: it takes category 1",
        'boxes-elsewhere': "a detector's boxes for other pictures than the annotated ones",
    },
)
def rule_boxes(data: ReadDataset) -> Iterator[Finding]:
    """Boxes of the annotations, and of a detector."""
    images = {str(image.get('id')): image for image in data.listed('images')}
    yield from check_format(data, data.path, [each for each in data.listed('annotations') if four(each.get('bbox'))], images)
    if not data.from_boxes:
        return
    path = data.cfg['bbox_file']
    try:
        boxes = [each for each in read_json(path) or [] if isinstance(each, dict)]
    except ValueError:  # building has failed for it, and said so
        return
    yield from check_format(data, path, [each for each in boxes if four(each.get('bbox'))], images)
    dropped = [box for box in boxes if box.get('category_id') != 1]
    if data.built is not None and len(data.entries) < len(boxes):
        say = warning if data.entries else error
        yield say(
            'boxes-dropped',
            data.where,
            f'{path}: {len(boxes) - len(data.entries)} of {plural(len(boxes), "box").replace("boxs", "boxes")} are '
            f'left out, {len(dropped)} for their category_id ({first(sorted({str(box.get("category_id")) for box in dropped}))})',
            'category_id=1 in every box of a person',
        )
    annotated = {str(person.get('image_id')) for person in people(data)}
    boxed = {str(box.get('image_id')) for box in boxes}
    if annotated and len(annotated & boxed) < 0.5 * len(annotated):
        yield warning(
            'boxes-elsewhere',
            data.where,
            f'{path} has boxes for {len(annotated & boxed)} of {plural(len(annotated), "picture")} with annotated persons',
            'take the boxes that were detected in these pictures',
        )


def four(box: Any) -> bool:
    """Whether a box is four numbers or more."""
    return isinstance(box, (list, tuple)) and len(box) >= 4 and all(isinstance(value, (int, float)) for value in box[:4])


def check_format(data: ReadDataset, path: str, entries: list[dict], images: dict[str, dict]) -> Iterator[Finding]:
    """Boxes that reach far out of their pictures as x, y, width, height, and lie in them as two corners."""
    known = [(each['bbox'], images[str(each.get('image_id'))]) for each in entries if str(each.get('image_id')) in images]
    known = [(box, image) for box, image in known if image.get('width') and image.get('height')]
    out = [
        1
        for (x, y, w, h), image in ((box[:4], image) for box, image in known)
        if x + w > 1.1 * image['width'] or y + h > 1.1 * image['height']
    ]
    corners = all(
        x1 <= x2 <= image['width'] + 1 and y1 <= y2 <= image['height'] + 1
        for (x1, y1, x2, y2), image in ((box[:4], image) for box, image in known)
    )
    if len(out) > 0.1 * len(known):
        say = error if corners else warning
        yield say(
            'box-format',
            data.where,
            f'{path}: {len(out)} of {len(known)} boxes reach out of their pictures'
            + (' as x, y, width, height, and none as x1, y1, x2, y2' if corners else ''),
            'write boxes as x, y, width, height, in pixels',
        )


@data_rule('categories', {'no-categories': 'a file without categories, which evaluation needs'})
def rule_categories(data: ReadDataset) -> Iterator[Finding]:
    """The list of categories."""
    if people(data) and not data.listed('categories'):
        yield error('no-categories', data.where, f'{data.path} has no categories, which evaluation needs', 'add the category of persons')


@data_rule('pictures', {'no-picture': 'pictures that are not there', 'empty-picture': 'pictures that are empty files'})
def rule_pictures(data: ReadDataset) -> Iterator[Finding]:
    """Pictures that are not there, or are empty files."""
    paths = dict.fromkeys(path for entry in data.entries for path in paths_of(entry) if '://' not in path)
    sizes = {path: size(path) for path in paths}
    for rule, wrong, text, repair in (
        ('no-picture', lambda bytes_there: bytes_there is None, 'are not there', 'put them there, or correct data_prefix'),
        ('empty-picture', lambda bytes_there: bytes_there == 0, 'are empty files', 'copy them again'),
    ):
        bad = matching(sizes, wrong)
        if bad:
            yield error(rule, data.where, f'{len(bad)} of {plural(len(sizes), "picture")} {text}: {first(bad)}', repair)


def matching(sizes: dict[str, int | None], wrong: Callable[[int | None], bool]) -> list[str]:
    """Paths whose size is wrong."""
    return [path for path, bytes_there in sizes.items() if wrong(bytes_there)]


def paths_of(entry: dict) -> list[str]:
    """Pictures of a sample."""
    paths = [entry.get('img_path'), *(entry.get('img_paths') or [])]
    return [path for path in paths if isinstance(path, str)]


def size(path: str) -> int | None:
    """Bytes in a file, or None if it does not exist."""
    try:
        return os.path.getsize(path)
    except OSError:
        return None
