"""Leeds Sports Pose Extended from its public archive to COCO format, with a fixed split.

    python tools/dataset_converters/convert_lspet.py ARCHIVE --out data/lspet

ARCHIVE holds ``joints.mat`` and ``images/im00001.jpg`` ... as published by S. Johnson and M. Everingham ("Learning Effective
Human Pose Estimation from Inaccurate Annotation", CVPR 2011). Written are ``annotations/{train,val,test}.json`` and
``train/00002.jpg`` ...: 5,000 persons to learn from, 1,000 to choose by, 1,226 for the end. The archive has no official
split; ``configs/lspet/split.json`` lists the picture numbers of this one.

The 14 joints are put into CrowdPose's order, so that MMPose's ``CrowdPoseDataset`` reads the result. The box is that of the
annotated joints, an eighth of its size plus 8 pixels wider on each side, cut at the picture's border.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import loadmat

SPLIT = Path(__file__).resolve().parents[2] / 'configs' / 'lspet' / 'split.json'
LSP_JOINTS = (
    'right_ankle', 'right_knee', 'right_hip', 'left_hip', 'left_knee', 'left_ankle', 'right_wrist', 'right_elbow',
    'right_shoulder', 'left_shoulder', 'left_elbow', 'left_wrist', 'neck', 'top_head')
CROWDPOSE_JOINTS = (
    'left_shoulder', 'right_shoulder', 'left_elbow', 'right_elbow', 'left_wrist', 'right_wrist', 'left_hip', 'right_hip',
    'left_knee', 'right_knee', 'left_ankle', 'right_ankle', 'top_head', 'neck')
ORDER = [LSP_JOINTS.index(name) for name in CROWDPOSE_JOINTS]


def convert(archive: Path, out: Path, split: dict[str, list[int]]) -> None:
    """Write annotations and pictures of every part of the split.

    Args:
        archive: folder with ``joints.mat`` and ``images/``.
        out: folder to write to.
        split: picture numbers, counted from 1, by name of the part.

    Raises:
        ValueError: joints of an unexpected shape, or fewer of them than the split needs.
        FileNotFoundError: a picture of the split is missing.
    """
    joints = read_joints(archive / 'joints.mat')
    needed = max(number for numbers in split.values() for number in numbers)
    if needed > len(joints):
        raise ValueError(f'{archive / "joints.mat"} must hold at least {needed} persons, got {len(joints)}')
    (out / 'annotations').mkdir(parents=True, exist_ok=True)
    for part, numbers in split.items():
        (out / part).mkdir(exist_ok=True)
        images, annotations = [], []
        for number in numbers:
            source = archive / 'images' / f'im{number:05d}.jpg'
            with Image.open(source) as picture:
                size = picture.size
            name = f'{number:05d}.jpg'
            shutil.copyfile(source, out / part / name)
            images.append({'id': number, 'file_name': name, 'width': size[0], 'height': size[1]})
            annotations.append(annotation(number, joints[number - 1], size))
        write(out / 'annotations' / f'{part}.json', images, annotations)
        print(f'{part}: {len(images)} persons')


def read_joints(file: Path) -> np.ndarray:
    """(N, 14, 3) joints in the archive's order: x, y in pixels, and 1 where annotated.

    Raises:
        ValueError: the file's ``joints`` is not (14, 3, N), as published.
    """
    joints = np.asarray(loadmat(str(file))['joints'], dtype=float)
    if joints.ndim != 3 or joints.shape[:2] != (14, 3):
        raise ValueError(f"'joints' in {file} must have shape (14, 3, N), got {joints.shape}")
    return joints.transpose(2, 0, 1)


def annotation(number: int, joints: np.ndarray, size: tuple[int, int]) -> dict:
    """One person in COCO format.

    Args:
        number: picture number.
        joints: (14, 3) in the archive's order.
        size: (w, h) of the picture.
    """
    joints = joints[ORDER]
    known = joints[:, 2] > 0
    keypoints = np.where(known[:, None], np.round(joints, 3), 0)
    keypoints[:, 2] = 2 * known
    left, top, right, bottom = box(joints[known, :2], size)
    return {
        'id': number, 'image_id': number, 'category_id': 1, 'keypoints': [number_of(v) for v in keypoints.ravel()],
        'num_keypoints': int(known.sum()), 'bbox': [round(v, 2) for v in (left, top, right - left, bottom - top)],
        'area': round((right - left) * (bottom - top), 2), 'iscrowd': 0}


def box(points: np.ndarray, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of a person's box."""
    low, high = points.min(0), points.max(0)
    margin = (high - low) / 8 + 8
    low, high = np.maximum(low - margin, 0), np.minimum(high + margin, size)
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])


def number_of(value: float) -> int | float:
    """Whole numbers without a point."""
    return int(value) if value == int(value) else float(value)


def write(file: Path, images: list[dict], annotations: list[dict]) -> None:
    info = {
        'description': "Leeds Sports Pose Extended, CrowdPose's joint order", 'source': 'Johnson & Everingham, CVPR 2011'}
    category = {'id': 1, 'name': 'person', 'keypoints': list(CROWDPOSE_JOINTS), 'skeleton': []}
    file.write_text(json.dumps({'info': info, 'images': images, 'annotations': annotations, 'categories': [category]}))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('archive', type=Path, help='folder with joints.mat and images/')
    parser.add_argument('--out', type=Path, default=Path('data/lspet'), help='folder to write to (default: data/lspet)')
    args = parser.parse_args(argv)
    convert(args.archive, args.out, json.loads(SPLIT.read_text()))


if __name__ == '__main__':
    main()
