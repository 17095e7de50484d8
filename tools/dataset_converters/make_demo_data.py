"""Draw a small COCO-format data set of jointed figures whose joints are known exactly.

    python tools/dataset_converters/make_demo_data.py --out data/demo --train 900 --val 150 --seed 0

writes

    data/demo/annotations/person_keypoints_{train,val}2017.json
    data/demo/{train,val}2017/000000000001.jpg ...
    data/demo/manifest.json                      the arguments, and that the set is complete

Pixel convention: pixel centres are at integers, x to the right, y down. A joint at (x, y) is drawn as a disc whose
centroid in the picture is (x, y). Joints lie on a grid of 1/256 pixel, which is what OpenCV draws with (`shift=8`), so
the JSON holds the numbers that were drawn, without rounding.

Figures are posed in three dimensions and turned about the vertical axis. What is nearer to the viewer covers what is
further away and is lighter. Left and right are told apart as in photographs, by the face, the shirt front and the shade
of the far limbs: cues that survive mirroring, so that flip augmentation and flip testing stay valid.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from mmengine.utils import track_iter_progress

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from tools.dataset_converters.demo_canvas import (  # noqa: E402
    PICTURE_SIZE,
    SUBPIXEL_BITS,
    Canvas,
    draw_background,
    draw_clutter,
    draw_obstacle,
    expose,
    to_fixed_point,
)
from tools.dataset_converters.demo_figure import JOINTS, Figure, sample_figure  # noqa: E402

GENERATOR_VERSION = 1
SPLITS = ('train', 'val')
MIN_JOINTS_IN_PICTURE = 9
# Pairs of 1-based joint numbers, as COCO lists them.
SKELETON = (
    (16, 14), (14, 12), (17, 15), (15, 13), (12, 13), (6, 12), (7, 13), (6, 7), (6, 8), (7, 9), (8, 10), (9, 11),
    (2, 3), (1, 2), (1, 3), (2, 4), (3, 5), (4, 6), (5, 7))


@dataclass(frozen=True)
class Person:
    """A figure placed in a picture.

    Attributes:
        figure: the posed figure.
        origin: (2,) where the hips' middle goes, x, y in pixels.
        unit: length of the torso in pixels.
        roll: turn within the picture in radians.
    """

    figure: Figure
    origin: np.ndarray
    unit: float
    roll: float

    def to_pixels(self, points: np.ndarray) -> np.ndarray:
        """Project (n, 3) figure coordinates to (n, 2) pixels x, y on the grid of 1/256 pixel."""
        turn = np.array([[np.cos(self.roll), np.sin(self.roll)], [-np.sin(self.roll), np.cos(self.roll)]])
        return to_fixed_point(self.origin + self.unit * points[:, :2] @ turn) / (1 << SUBPIXEL_BITS)

    @property
    def joints(self) -> np.ndarray:
        """(17, 2) x, y in pixels, exactly as drawn."""
        return self.to_pixels(self.figure.joints)


def is_inside(points: np.ndarray) -> np.ndarray:
    """Which of (n, 2) pixels x, y lie in the picture, between the outermost pixel centres."""
    return ((points >= 0) & (points <= np.array(PICTURE_SIZE) - 1)).all(-1)


def sample_person(rng: np.random.Generator, others: list[Person]) -> Person:
    """A person that is mostly inside the picture and does not stand on somebody else's place."""
    width, height = PICTURE_SIZE
    while True:
        unit = rng.uniform(26, 50)
        origin = np.array([rng.uniform(0.08, 0.92) * width, rng.uniform(0.3, 0.72) * height])
        apart = all(abs(origin[0] - other.origin[0]) > 0.55 * (unit + other.unit) for other in others)
        if not apart and rng.random() < 0.95:  # now and then persons do overlap
            continue
        person = Person(sample_figure(rng), origin, unit, np.clip(rng.normal(0, 0.16), -0.5, 0.5))
        if is_inside(person.joints).sum() >= MIN_JOINTS_IN_PICTURE:
            return person


def draw_person(canvas: Canvas, person: Person, number: int) -> np.ndarray:
    """Draw a person; pixels of joint k are owned by 1 + 18 * number + k.

    Returns:
        bool (H, W), the whole silhouette, also where somebody nearer covers it later.
    """
    before, first = canvas.owners, 1 + (len(JOINTS) + 1) * number
    canvas.owners = np.zeros_like(before)
    for part in person.figure.parts:
        owner = first + (part.joint if part.joint >= 0 else len(JOINTS))
        canvas.hull(person.to_pixels(part.centres), part.radii * person.unit, part.colour, owner)
    silhouette = canvas.owners > 0
    canvas.owners = np.where(silhouette, canvas.owners, before)
    return silhouette


def visibility(canvas: Canvas, joints: np.ndarray, number: int) -> np.ndarray:
    """COCO flags (17,): 2 if the pixel at the joint shows its disc, 1 if something covers it, 0 outside the picture."""
    inside = is_inside(joints)
    columns, rows = np.rint(np.where(inside[:, None], joints, 0)).astype(int).T
    own = 1 + (len(JOINTS) + 1) * number + np.arange(len(JOINTS))
    return np.where(inside, 1 + (canvas.owners[rows, columns] == own), 0)


def annotate(joints: np.ndarray, flags: np.ndarray, silhouette: np.ndarray) -> dict:
    """COCO annotation of a person; `joints` repeats the exact x, y of all 17, inside the picture or not."""
    rows, columns = np.nonzero(silhouette.any(1))[0], np.nonzero(silhouette.any(0))[0]
    box = [columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1]
    keypoints = np.concatenate([joints * (flags > 0)[:, None], flags[:, None]], 1)
    return {
        'category_id': 1, 'iscrowd': 0, 'area': int(silhouette.sum()), 'bbox': [int(value) for value in box],
        'num_keypoints': int((flags > 0).sum()), 'joints': joints.tolist(),
        'keypoints': [int(value) if i % 3 == 2 else float(value) for i, value in enumerate(keypoints.ravel())]}


def make_picture(seed: int, split: int, index: int) -> tuple[np.ndarray, list[dict]]:
    """Draw one picture; it depends on nothing but the three numbers.

    Returns:
        uint8 BGR (H, W, 3), and the annotations of its persons.
    """
    rng = np.random.default_rng([seed, split, index])
    canvas = Canvas(draw_background(rng))
    draw_clutter(canvas, rng)
    persons: list[Person] = []
    for _ in range(rng.choice([1, 2, 3, 4], p=[0.2, 0.4, 0.3, 0.1])):
        persons.append(sample_person(rng, persons))
    silhouettes = [draw_person(canvas, person, number) for number, person in enumerate(persons)]
    if rng.random() < 0.3:
        draw_obstacle(canvas, rng)
    annotations = []
    for number, (person, silhouette) in enumerate(zip(persons, silhouettes)):
        annotations.append(annotate(person.joints, visibility(canvas, person.joints, number), silhouette))
    return expose(canvas.picture(), rng), annotations


def with_progress(what: str, count: int) -> Iterator[int]:
    """Numbers from 0, with a bar on a terminal and now and then a line elsewhere."""
    if sys.stdout.isatty():
        yield from track_iter_progress(range(count))
        return
    for number in range(count):
        yield number
        if (number + 1) % max(1, -(-count // 4)) == 0 or number + 1 == count:
            print(f'    {what}: {number + 1} of {count} pictures', flush=True)


def make_split(folder: Path, split: str, pictures: int, seed: int) -> None:
    """Write the pictures and the annotation file of one split."""
    images, annotations = [], []
    (folder / f'{split}2017').mkdir(parents=True)
    for index in with_progress(split, pictures):
        picture, persons = make_picture(seed, SPLITS.index(split), index)
        name = f'{index + 1:012d}.jpg'
        path = folder / f'{split}2017' / name
        if not cv2.imwrite(str(path), picture, [cv2.IMWRITE_JPEG_QUALITY, 95]):
            raise OSError(f'cannot write {path}')
        images.append({'id': index + 1, 'file_name': name, 'width': PICTURE_SIZE[0], 'height': PICTURE_SIZE[1]})
        for person in persons:
            annotations.append({'id': len(annotations) + 1, 'image_id': index + 1, **person})
    person = {'id': 1, 'name': 'person', 'supercategory': 'person', 'keypoints': JOINTS, 'skeleton': SKELETON}
    info = {'description': 'drawn figures with exact joints', 'version': str(GENERATOR_VERSION)}
    (folder / 'annotations').mkdir(exist_ok=True)
    (folder / 'annotations' / f'person_keypoints_{split}2017.json').write_text(json.dumps(
        {'info': info, 'licenses': [], 'categories': [person], 'images': images, 'annotations': annotations}))


def read_manifest(folder: Path) -> dict | None:
    """The manifest of a complete set, or None."""
    path = folder / 'manifest.json'
    return json.loads(path.read_text()) if path.is_file() else None


def make_data(out: str | Path, train: int, val: int, seed: int) -> bool:
    """Write the data set unless it is there already; an interrupted call leaves nothing at `out`.

    Args:
        out: folder of the data set. A set made with other arguments is replaced; anything else is left alone.
        train: number of training pictures.
        val: number of held-out pictures.
        seed: non-negative; the same numbers give the same files.

    Returns:
        True if it was written, False if it was there.

    Raises:
        ValueError: a number is out of range.
        FileExistsError: `out` holds something that this generator did not write.
    """
    for name, value, least in (('train', train, 1), ('val', val, 1), ('seed', seed, 0)):
        if value < least:
            raise ValueError(f'{name} must be at least {least}, got {value}')
    out = Path(out)
    wanted = {'generator_version': GENERATOR_VERSION, 'train': train, 'val': val, 'seed': seed}
    if read_manifest(out) == wanted:
        return False
    if out.exists() and read_manifest(out) is None:
        raise FileExistsError(f'{out} exists and has no manifest.json of this generator: choose another --out')
    unfinished = out.with_name(out.name + '.unfinished')
    shutil.rmtree(unfinished, ignore_errors=True)
    for split, pictures in zip(SPLITS, (train, val)):
        make_split(unfinished, split, pictures, seed)
    (unfinished / 'manifest.json').write_text(json.dumps(wanted))
    if out.exists():
        shutil.rmtree(out)
    unfinished.rename(out)
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description='Draw a COCO-format data set of jointed figures.')
    parser.add_argument('--out', default='data/demo', help='folder to write (default: %(default)s)')
    parser.add_argument('--train', type=int, default=900, help='training pictures (default: %(default)s)')
    parser.add_argument('--val', type=int, default=150, help='held-out pictures (default: %(default)s)')
    parser.add_argument('--seed', type=int, default=0, help='default: %(default)s')
    args = parser.parse_args()
    print(f'Drawing {args.train} training and {args.val} held-out pictures into {args.out} ...', flush=True)
    try:
        written = make_data(args.out, args.train, args.val, args.seed)
    except (ValueError, FileExistsError) as error:
        parser.error(str(error))
    print('done' if written else 'already there')


if __name__ == '__main__':
    main()
