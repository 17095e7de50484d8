"""Faces with 68 landmarks from their public archive to COCO format, with a fixed split by person.

    python tools/dataset_converters/convert_faces68.py ARCHIVE --out data/faces68

ARCHIVE is a checkout of github.com/udacity/P1_Facial_Keypoints (MIT; commit 6e55adc), frames of the YouTube Faces data set
(Wolf, Hassner & Maoz, CVPR 2011): ``data/training_frames_keypoints.csv`` and ``data/test_frames_keypoints.csv`` with the frames
in ``data/training/`` and ``data/test/``. Its own split has the same people on both sides. This one has 230 people with 2,811
faces to learn from, 41 with 507 to choose by and 38 with 451 for the end; ``configs/faces68/split.json`` names a face by its number
here and the first eight digits of a hash of its landmarks. Frames that it does not name are left out.

Written are ``annotations/{train,val,test}.json`` and ``train/00000.jpg`` ... The landmarks are in the order of MMPose's 300W data
set. A picture is the landmarks' box with a margin of 0.35 of its longer side, cut at the frame's border and reduced to
192 pixels where it is larger; the frames' landmarks are whole pixels.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import math
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

SPLIT = Path(__file__).resolve().parents[2] / 'configs' / 'faces68' / 'split.json'
LANDMARKS = 68
MARGIN = 0.35  # of the landmarks' longer side
LONGEST = 192  # pixels


def convert(archive: Path, out: Path, split: dict[str, dict[str, str]]) -> None:
    """Write annotations and pictures of every part of the split.

    Args:
        archive: folder that holds ``data/``.
        out: folder to write to.
        split: by name of the part, ``landmark_hash`` of a face by its number.

    Raises:
        ValueError: a row without 68 landmarks, faces of the split that the archive lacks, or a person in two parts.
    """
    wanted = defaultdict(list)  # in the order of their numbers: a few frames were annotated alike
    for part, faces in split.items():
        for number, mark in faces.items():
            wanted[mark].append((part, int(number)))
    found = {}
    for picture, landmarks in frames(archive / 'data'):
        if wanted[landmark_hash(landmarks)]:
            found[wanted[landmark_hash(landmarks)].pop(0)] = picture, landmarks
    missing = sorted(number for places in wanted.values() for _, number in places)
    if missing:
        raise ValueError(f'{archive} must hold every face of the split, but lacks {missing[:5]} ({len(missing)})')
    people = numbered_people(found)
    (out / 'annotations').mkdir(parents=True, exist_ok=True)
    for part in split:
        (out / part).mkdir(exist_ok=True)
        images, annotations = [], []
        for (_, number), (picture, landmarks) in sorted(each for each in found.items() if each[0][0] == part):
            face, points = cut(Image.open(picture).convert('RGB'), landmarks)
            name = f'{part}/{number - 1:05d}.jpg'
            face.save(out / name, quality=95)
            images.append({
                'id': number, 'file_name': name, 'width': face.width, 'height': face.height, 'person': people[person_of(picture)]})
            annotations.append(annotation(number, points))
        write(out / 'annotations' / f'{part}.json', images, annotations)
        print(f'{part}: {len(images)} faces of {len({image["person"] for image in images})} people')


def frames(folder: Path) -> Iterator[tuple[Path, np.ndarray]]:
    """Picture file and (68, 2) landmarks, x and y in its pixels, of every row of the archive.

    Raises:
        ValueError: a row that holds other than 136 coordinates.
    """
    for part in ('training', 'test'):
        with (folder / f'{part}_frames_keypoints.csv').open(newline='') as stream:
            rows = csv.reader(stream)
            next(rows)
            for name, *values in rows:
                if len(values) != 2 * LANDMARKS:
                    raise ValueError(f'{name} in {stream.name} must have {2 * LANDMARKS} coordinates, got {len(values)}')
                yield folder / part / name, np.array(values, dtype=float).reshape(LANDMARKS, 2)


def landmark_hash(landmarks: np.ndarray) -> str:
    """What ``split.json`` knows a face by: a hash of its landmarks, counted from the first."""
    offsets = (landmarks - landmarks[0]).round().astype(int)
    return hashlib.sha1(','.join(map(str, offsets.ravel())).encode()).hexdigest()[:8]


def person_of(picture: Path) -> str:
    """``Ed_Smart`` of ``Ed_Smart_30.jpg``: video and frame follow the name."""
    return re.sub(r'_\d+$', '', picture.stem)


def numbered_people(found: dict[tuple[str, int], tuple[Path, np.ndarray]]) -> dict[str, int]:
    """A number for each person.

    Raises:
        ValueError: somebody is in two parts.
    """
    parts = defaultdict(set)
    for (part, _), (picture, _) in found.items():
        parts[person_of(picture)].add(part)
    torn = sorted(name for name, where in parts.items() if len(where) > 1)
    if torn:
        raise ValueError(f'the split must keep each person in one part, but {torn[:5]} are in several ({len(torn)})')
    return {name: number for number, name in enumerate(sorted(parts))}


def cut(frame: Image.Image, landmarks: np.ndarray) -> tuple[Image.Image, np.ndarray]:
    """A face's picture, and its (68, 2) landmarks in it, pixel centres at integers."""
    low, high = landmarks.min(0), landmarks.max(0)
    margin = math.ceil(MARGIN * (high - low).max())
    left, top = (int(v) for v in np.maximum(low - margin, 0))
    right, bottom = (int(v) for v in np.minimum(high + margin, frame.size))
    face, points = frame.crop((left, top, right, bottom)), landmarks - (left, top)
    before = np.array(face.size)
    if before.max() > LONGEST:
        face = face.resize([round(side * LONGEST / before.max()) for side in before.tolist()], Image.LANCZOS)
        points = (points + 0.5) * face.size / before - 0.5
    return face, points.round(2)


def annotation(number: int, points: np.ndarray) -> dict:
    """One face in COCO format; its box is that of the landmarks."""
    low, high = points.min(0), points.max(0)
    keypoints = np.concatenate([points, np.full((LANDMARKS, 1), 2)], 1)
    return {
        'id': number, 'image_id': number, 'category_id': 1, 'iscrowd': 0, 'num_keypoints': LANDMARKS,
        'area': round(float(np.prod(high - low)), 2), 'bbox': [round(float(v), 2) for v in (*low, *(high - low))],
        'keypoints': [int(v) if v == int(v) else float(v) for v in keypoints.ravel()]}


def write(file: Path, images: list[dict], annotations: list[dict]) -> None:
    info = {'description': "faces with 68 landmarks, 300W's order", 'source': 'udacity/P1_Facial_Keypoints'}
    category = {'id': 1, 'name': 'face', 'keypoints': [str(k) for k in range(LANDMARKS)], 'skeleton': []}
    file.write_text(json.dumps({'info': info, 'images': images, 'annotations': annotations, 'categories': [category]}))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('archive', type=Path, help='checkout of the repository')
    parser.add_argument('--out', type=Path, default=Path('data/faces68'), help='folder to write to (default: data/faces68)')
    args = parser.parse_args(argv)
    convert(args.archive, args.out, json.loads(SPLIT.read_text()))


if __name__ == '__main__':
    main()
