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
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from mmengine.utils import ProgressBar

GENERATOR_VERSION = 1
PICTURE_SIZE = (256, 192)  # w, h in pixels
SPLITS = ('train', 'val')
SUBPIXEL_BITS = 8
OVERSAMPLING = 4
MIN_JOINTS_IN_PICTURE = 9

JOINTS = (
    'nose', 'left_eye', 'right_eye', 'left_ear', 'right_ear', 'left_shoulder', 'right_shoulder', 'left_elbow',
    'right_elbow', 'left_wrist', 'right_wrist', 'left_hip', 'right_hip', 'left_knee', 'right_knee', 'left_ankle',
    'right_ankle')
# Pairs of 1-based joint numbers, as COCO lists them.
SKELETON = (
    (16, 14), (14, 12), (17, 15), (15, 13), (12, 13), (6, 12), (7, 13), (6, 7), (6, 8), (7, 9), (8, 10), (9, 11),
    (2, 3), (1, 2), (1, 3), (2, 4), (3, 5), (4, 6), (5, 7))
# Colours b, g, r of the seams of a puppet, the same on the left and on the right.
SEAMS = {
    'shoulder': (30, 130, 245), 'elbow': (40, 235, 240), 'wrist': (60, 200, 60), 'hip': (230, 215, 40),
    'knee': (235, 90, 40), 'ankle': (215, 50, 215)}


# ------------------------------------------------------------------------------------------------------------ drawing


class Canvas:
    """A picture drawn `OVERSAMPLING` times too large and averaged down, with a map of who owns each pixel.

    Args:
        background: uint8 BGR picture (H, W, 3).
    """

    def __init__(self, background: np.ndarray):
        height, width = background.shape[:2]
        self.size = (width, height)
        large = (width * OVERSAMPLING, height * OVERSAMPLING)
        self.colours = cv2.resize(background, large, interpolation=cv2.INTER_LINEAR)
        self.owners = np.zeros((height, width), np.uint16)

    def hull(self, centres: np.ndarray, radii: np.ndarray, colour: tuple, owner: int = 0) -> None:
        """Fill the convex hull of discs: one gives a disc, two a limb, four a torso.

        Args:
            centres: (n, 2) x, y in picture pixels.
            radii: (n,) in picture pixels.
            colour: b, g, r in 0...255.
            owner: number written into `owners` where the hull lies.
        """
        large = (centres + 0.5) * OVERSAMPLING - 0.5
        _fill(self.colours, large, radii * OVERSAMPLING, colour, cv2.LINE_AA)
        _fill(self.owners, centres, radii, owner, cv2.LINE_8)

    def picture(self) -> np.ndarray:
        """The uint8 BGR picture (H, W, 3)."""
        return cv2.resize(self.colours, self.size, interpolation=cv2.INTER_AREA)


def _fill(array: np.ndarray, centres: np.ndarray, radii: np.ndarray, value, line_type: int) -> None:
    centres, radii = to_fixed_point(centres), to_fixed_point(radii)
    if len(centres) == 1:
        cv2.circle(array, centres[0].tolist(), int(radii[0]), value, cv2.FILLED, line_type, SUBPIXEL_BITS)
        return
    angles = np.arange(16) * (2 * np.pi / 16)
    rims = centres[:, None] + radii[:, None, None] * np.stack([np.cos(angles), np.sin(angles)], -1)
    outline = cv2.convexHull(np.rint(rims).astype(np.int32).reshape(-1, 2))
    cv2.fillConvexPoly(array, outline, value, line_type, SUBPIXEL_BITS)


def to_fixed_point(values: np.ndarray) -> np.ndarray:
    """Round pixels to whole numbers of 1/256 pixel (int32)."""
    return np.rint(np.asarray(values) * (1 << SUBPIXEL_BITS)).astype(np.int32)


def draw_background(rng: np.random.Generator) -> np.ndarray:
    """A blotchy background (H, W, 3), uint8 BGR."""
    width, height = PICTURE_SIZE
    coarse = rng.uniform(50, 200) + rng.normal(0, 10, 3) + rng.normal(0, 28, (4, 5, 1)) + rng.normal(0, 12, (4, 5, 3))
    fine = rng.normal(0, 11, (24, 32, 1)) + rng.normal(0, 5, (24, 32, 3))
    smooth = sum(cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC) for noise in (coarse, fine))
    return np.clip(smooth, 0, 255).astype(np.uint8)


def draw_clutter(canvas: Canvas, rng: np.random.Generator) -> None:
    """Boxes, poles and discs that look a little like limbs and joints but belong to nobody."""
    extent = np.array(PICTURE_SIZE)
    for _ in range(rng.integers(6, 16)):
        corners = rng.integers(1, 5)
        centres = rng.uniform(-0.1, 1.1, 2) * extent + rng.normal(0, 22, (corners, 2))
        canvas.hull(centres, rng.uniform(1.5, 7, corners), _any_colour(rng))


def draw_obstacle(canvas: Canvas, rng: np.random.Generator) -> None:
    """A pole in front of everybody."""
    middle = rng.uniform(0.1, 0.9, 2) * PICTURE_SIZE
    offset = rng.normal(0, 40, 2)
    canvas.hull(np.stack([middle - offset, middle + offset]), rng.uniform(2.5, 6, 2), _any_colour(rng))


def expose(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What a camera adds: a little blur, a change of brightness and contrast, grain."""
    picture = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.2, 0.7)).astype(np.float32)
    picture = (picture - 128) * rng.uniform(0.8, 1.1) + 128 + rng.uniform(-15, 15)
    picture += rng.uniform(2, 7) * rng.standard_normal(picture.shape, np.float32)
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


def _any_colour(rng: np.random.Generator) -> tuple:
    return tuple(np.clip(rng.uniform(25, 230) + rng.normal(0, 45, 3), 0, 255).tolist())


# ------------------------------------------------------------------------------------------------------------ posing


@dataclass(frozen=True)
class Part:
    """A convex hull of discs on a body.

    Attributes:
        centres: (n, 3) in units of the torso length: x right, y down, z towards the viewer, hips' middle at 0.
        radii: (n,) in the same unit.
        colour: b, g, r.
        depth: larger is drawn later; it is z, with an offset that puts skin over bone.
        joint: number of the joint this disc marks, or -1.
    """

    centres: np.ndarray
    radii: np.ndarray
    colour: tuple
    depth: float
    joint: int = -1


@dataclass(frozen=True)
class Figure:
    """One posed person.

    Attributes:
        parts: in drawing order, far to near.
        joints: (17, 3) in units of the torso length, axes as in `Part`.
    """

    parts: tuple[Part, ...]
    joints: np.ndarray


@dataclass(frozen=True)
class Frame:
    """Three unit vectors of a turned body: to its own left, upwards, and where it looks."""

    left: np.ndarray
    up: np.ndarray
    front: np.ndarray


def make_frame(yaw: float, lean: float) -> Frame:
    """Frame of a body turned by `yaw` from facing the viewer and leaning forward by `lean`, both in radians."""
    left = np.array([np.cos(yaw), 0.0, -np.sin(yaw)])
    level = np.array([np.sin(yaw), 0.0, np.cos(yaw)])
    upright = np.array([0.0, -1.0, 0.0])
    up = np.cos(lean) * upright + np.sin(lean) * level
    return Frame(left, up, np.cos(lean) * level - np.sin(lean) * upright)


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


def _bend(direction: np.ndarray, towards: np.ndarray, angle: float) -> np.ndarray:
    """Turn a unit vector by `angle` towards another vector."""
    across = towards - towards @ direction * direction
    return np.cos(angle) * direction + np.sin(angle) * _unit(across)


def pose_arm(rng: np.random.Generator, shoulder: np.ndarray, body: Frame, outwards: np.ndarray) -> list[np.ndarray]:
    """Elbow, wrist and finger tips of an arm that starts at `shoulder`."""
    raised = np.radians(rng.choice([rng.uniform(5, 45), rng.uniform(5, 150)]))
    swing = np.radians(rng.uniform(-30, 60))
    upper = _bend(-body.up, np.cos(swing) * outwards + np.sin(swing) * body.front, raised)
    inwards = 0.7 * body.front + 0.6 * body.up - 0.3 * outwards + rng.normal(0, 0.3, 3)
    lower = _bend(upper, inwards, np.radians(rng.uniform(5, 125)))
    elbow = shoulder + rng.uniform(0.55, 0.65) * upper
    wrist = elbow + rng.uniform(0.48, 0.58) * lower
    return [elbow, wrist, wrist + 0.15 * lower]


def pose_leg(rng: np.random.Generator, hip: np.ndarray, body: Frame, outwards: np.ndarray) -> list[np.ndarray]:
    """Knee, ankle and toes of a leg that starts at `hip`."""
    down = np.array([0.0, 1.0, 0.0])
    lifted = np.radians(rng.choice([rng.normal(8, 18), rng.uniform(0, 85)], p=[0.8, 0.2]))
    upper = _bend(_bend(down, outwards, np.radians(rng.uniform(-4, 24))), body.front, lifted)
    lower = _bend(upper, -body.front, np.radians(rng.uniform(0, 25) + 0.7 * max(0.0, np.degrees(lifted))))
    knee = hip + rng.uniform(0.76, 0.86) * upper
    ankle = knee + rng.uniform(0.74, 0.84) * lower
    return [knee, ankle, ankle + 0.2 * _unit(body.front + 0.4 * lower)]


def pose_face(head: np.ndarray, radius: float, gaze: Frame) -> np.ndarray:
    """Nose, eyes and ears (5, 3) on a head."""
    along = np.array([  # left, up, front, in head radii
        [0.0, -0.12, 1.0], [0.42, 0.22, 0.82], [-0.42, 0.22, 0.82], [1.05, 0.02, 0.0], [-1.05, 0.02, 0.0]])
    return head + radius * along @ np.stack([gaze.left, gaze.up, gaze.front])


def sample_figure(rng: np.random.Generator) -> Figure:
    """A person in a random pose and random clothes."""
    yaw = rng.choice([rng.normal(0, 0.5), rng.uniform(-np.pi, np.pi)], p=[0.9, 0.1])
    body = make_frame(yaw, rng.normal(0.05, 0.15))
    gaze = make_frame(yaw + np.clip(rng.normal(0, 0.35), -0.9, 0.9), rng.normal(0.05, 0.15))
    joints = np.zeros((len(JOINTS), 3))
    neck, head_radius = body.up, rng.uniform(0.24, 0.29)
    head = neck + 0.2 * body.up + 1.05 * head_radius * gaze.up
    joints[:5] = pose_face(head, head_radius, gaze)
    hands, toes = [], []
    for side, sign in enumerate((1, -1)):
        outwards = sign * body.left
        joints[5 + side] = neck - 0.04 * body.up + rng.uniform(0.34, 0.4) * outwards
        joints[7 + side], joints[9 + side], hand = pose_arm(rng, joints[5 + side], body, outwards)
        joints[11 + side] = rng.uniform(0.19, 0.23) * outwards
        joints[13 + side], joints[15 + side], toe = pose_leg(rng, joints[11 + side], body, outwards)
        hands.append(hand)
        toes.append(toe)
    parts = dress(rng, joints, (head, head_radius), (hands, toes), body, gaze)
    return Figure(tuple(sorted(parts, key=lambda part: part.depth)), joints)


def dress(rng, joints, head_disc, tips, body: Frame, gaze: Frame) -> list[Part]:
    """Parts of a person: trunk, head, limbs, and one disc for each joint."""
    colours = sample_clothes(rng)
    trunk = joints[[5, 6, 11, 12]]
    depth = trunk[:, 2].mean()
    parts = [
        Part(trunk, np.array([0.16, 0.16, 0.17, 0.17]), colours['shirt'], depth),
        Part(trunk[2:], np.array([0.17, 0.17]), colours['trousers'], depth + 0.01)]
    if body.front[2] > 0:  # a shirt has buttons on one side only
        chest = 0.75 * body.up + 0.16 * body.front
        belly = 0.25 * body.up + 0.16 * body.front
        parts.append(Part(np.stack([chest, belly]), np.array([0.06, 0.03]), colours['buttons'], depth + 0.02))
    parts += dress_head(colours, *head_disc, body, gaze)
    parts += dress_limbs(colours, joints, *tips)
    parts += mark_joints(rng, colours, joints)
    return [replace(part, colour=_shade(part, rng)) for part in parts]


def sample_clothes(rng: np.random.Generator) -> dict[str, tuple]:
    """Colours (b, g, r) of what a person is and wears."""
    shirt, trousers = np.array(_any_colour(rng)), np.array(_any_colour(rng))
    skin = np.array([120, 160, 215]) * rng.uniform(0.45, 1.1) + rng.normal(0, 8, 3)
    return {
        'shirt': tuple(shirt), 'trousers': tuple(trousers), 'skin': tuple(skin),
        'sleeve': tuple(shirt) if rng.random() < 0.6 else tuple(skin),
        'buttons': tuple(255 - shirt), 'shoes': _any_colour(rng),
        'hair': tuple(np.array([30, 55, 90]) * rng.uniform(0.2, 1.6) + rng.normal(0, 10, 3))}


def dress_head(colours: dict, head: np.ndarray, radius: float, body: Frame, gaze: Frame) -> list[Part]:
    """Neck, head, and the hair at the back of it."""
    hair = head - 0.35 * radius * gaze.front + 0.2 * radius * gaze.up
    return [
        Part(np.stack([body.up, head]), np.array([0.1, 0.1]), colours['skin'], body.up[2] - 0.02),
        Part(head[None], np.array([radius]), colours['skin'], head[2]),
        Part(hair[None], np.array([0.95 * radius]), colours['hair'], head[2] - 0.2 * gaze.front[2])]


def dress_limbs(colours: dict, joints: np.ndarray, hands: list, toes: list) -> list[Part]:
    """Two segments and an end for each arm and leg."""
    parts = []
    for side in range(2):
        shoulder, elbow, wrist, hip, knee, ankle = joints[5 + side::2]
        for start, end, radii, colour, offset in (
                (hip, knee, (0.17, 0.12), 'trousers', -0.03), (knee, ankle, (0.12, 0.09), 'trousers', -0.02),
                (ankle, toes[side], (0.09, 0.06), 'shoes', -0.01), (shoulder, elbow, (0.13, 0.1), 'shirt', 0.03),
                (elbow, wrist, (0.1, 0.075), 'sleeve', 0.04), (wrist, hands[side], (0.07, 0.06), 'skin', 0.03)):
            depth = 0.5 * (start[2] + end[2]) + offset
            parts.append(Part(np.stack([start, end]), np.array(radii), colours[colour], depth))
    return parts


def mark_joints(rng: np.random.Generator, colours: dict, joints: np.ndarray) -> list[Part]:
    """A disc at each joint: features of the face, and the seams of a puppet, more or less in the colours of `SEAMS`."""
    parts = []
    face = {'nose': (70, 70, 190), 'eye': (45, 35, 30), 'ear': 0.7 * np.array(colours['skin'])}
    radii = {'nose': 0.065, 'eye': 0.055, 'ear': 0.075}
    lift = {'shoulder': 0.18, 'elbow': 0.24, 'hip': 0.2, 'knee': 0.2}
    for number, (joint, name) in enumerate(zip(joints, JOINTS)):
        feature = name.split('_')[-1]
        colour = np.array(face.get(feature) if feature in face else SEAMS[feature]) + rng.normal(0, 22, 3)
        radius, depth = radii.get(feature, 0.085), joint[2] + lift.get(feature, 0.1)
        parts.append(Part(joint[None], np.array([radius]), tuple(colour), depth, number))
    return parts


def _shade(part: Part, rng: np.random.Generator) -> tuple:
    """Colour of a part: lighter when near, darker when far, never quite the same."""
    light = 1 + 0.3 * np.clip(part.depth / 0.5, -1, 1) + rng.normal(0, 0.05)
    return tuple(np.clip(np.array(part.colour) * light, 0, 255).tolist())


# ----------------------------------------------------------------------------------------------------------- pictures


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


# ----------------------------------------------------------------------------------------------------------- the set


def make_split(folder: Path, split: str, pictures: int, seed: int, progress: ProgressBar) -> None:
    """Write the pictures and the annotation file of one split."""
    images, annotations = [], []
    (folder / f'{split}2017').mkdir(parents=True)
    for index in range(pictures):
        picture, persons = make_picture(seed, SPLITS.index(split), index)
        name = f'{index + 1:012d}.jpg'
        path = folder / f'{split}2017' / name
        if not cv2.imwrite(str(path), picture, [cv2.IMWRITE_JPEG_QUALITY, 95]):
            raise OSError(f'cannot write {path}')
        images.append({'id': index + 1, 'file_name': name, 'width': PICTURE_SIZE[0], 'height': PICTURE_SIZE[1]})
        for person in persons:
            annotations.append({'id': len(annotations) + 1, 'image_id': index + 1, **person})
        progress.update()
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
    progress = ProgressBar(train + val)
    for split, pictures in zip(SPLITS, (train, val)):
        make_split(unfinished, split, pictures, seed, progress)
    print()
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
