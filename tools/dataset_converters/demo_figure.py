"""The figures of the demo data: posed in three dimensions, turned about the vertical axis, and dressed."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from .demo_canvas import any_colour

JOINTS = (
    'nose', 'left_eye', 'right_eye', 'left_ear', 'right_ear', 'left_shoulder', 'right_shoulder', 'left_elbow',
    'right_elbow', 'left_wrist', 'right_wrist', 'left_hip', 'right_hip', 'left_knee', 'right_knee', 'left_ankle',
    'right_ankle')
# Colours b, g, r of the seams of a puppet, the same on the left and on the right.
SEAMS = {
    'shoulder': (30, 130, 245), 'elbow': (40, 235, 240), 'wrist': (60, 200, 60), 'hip': (230, 215, 40),
    'knee': (235, 90, 40), 'ankle': (215, 50, 215)}


@dataclass(frozen=True)
class BodyPart:
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
        joints: (17, 3) in units of the torso length, axes as in `BodyPart`.
    """

    parts: tuple[BodyPart, ...]
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


def dress(rng, joints, head_disc, tips, body: Frame, gaze: Frame) -> list[BodyPart]:
    """Parts of a person: trunk, head, limbs, and one disc for each joint."""
    colours = sample_clothes(rng)
    trunk = joints[[5, 6, 11, 12]]
    depth = trunk[:, 2].mean()
    parts = [
        BodyPart(trunk, np.array([0.16, 0.16, 0.17, 0.17]), colours['shirt'], depth),
        BodyPart(trunk[2:], np.array([0.17, 0.17]), colours['trousers'], depth + 0.01)]
    if body.front[2] > 0:  # a shirt has buttons on one side only
        chest = 0.75 * body.up + 0.16 * body.front
        belly = 0.25 * body.up + 0.16 * body.front
        parts.append(BodyPart(np.stack([chest, belly]), np.array([0.06, 0.03]), colours['buttons'], depth + 0.02))
    parts += dress_head(colours, *head_disc, body, gaze)
    parts += dress_limbs(colours, joints, *tips)
    parts += mark_joints(rng, colours, joints)
    return [replace(part, colour=_shade(part, rng)) for part in parts]


def sample_clothes(rng: np.random.Generator) -> dict[str, tuple]:
    """Colours (b, g, r) of what a person is and wears."""
    shirt, trousers = np.array(any_colour(rng)), np.array(any_colour(rng))
    skin = np.array([120, 160, 215]) * rng.uniform(0.45, 1.1) + rng.normal(0, 8, 3)
    return {
        'shirt': tuple(shirt), 'trousers': tuple(trousers), 'skin': tuple(skin),
        'sleeve': tuple(shirt) if rng.random() < 0.6 else tuple(skin),
        'buttons': tuple(255 - shirt), 'shoes': any_colour(rng),
        'hair': tuple(np.array([30, 55, 90]) * rng.uniform(0.2, 1.6) + rng.normal(0, 10, 3))}


def dress_head(colours: dict, head: np.ndarray, radius: float, body: Frame, gaze: Frame) -> list[BodyPart]:
    """Neck, head, and the hair at the back of it."""
    hair = head - 0.35 * radius * gaze.front + 0.2 * radius * gaze.up
    return [
        BodyPart(np.stack([body.up, head]), np.array([0.1, 0.1]), colours['skin'], body.up[2] - 0.02),
        BodyPart(head[None], np.array([radius]), colours['skin'], head[2]),
        BodyPart(hair[None], np.array([0.95 * radius]), colours['hair'], head[2] - 0.2 * gaze.front[2])]


def dress_limbs(colours: dict, joints: np.ndarray, hands: list, toes: list) -> list[BodyPart]:
    """Two segments and an end for each arm and leg."""
    parts = []
    for side in range(2):
        shoulder, elbow, wrist, hip, knee, ankle = joints[5 + side::2]
        for start, end, radii, colour, offset in (
                (hip, knee, (0.17, 0.12), 'trousers', -0.03), (knee, ankle, (0.12, 0.09), 'trousers', -0.02),
                (ankle, toes[side], (0.09, 0.06), 'shoes', -0.01), (shoulder, elbow, (0.13, 0.1), 'shirt', 0.03),
                (elbow, wrist, (0.1, 0.075), 'sleeve', 0.04), (wrist, hands[side], (0.07, 0.06), 'skin', 0.03)):
            depth = 0.5 * (start[2] + end[2]) + offset
            parts.append(BodyPart(np.stack([start, end]), np.array(radii), colours[colour], depth))
    return parts


def mark_joints(rng: np.random.Generator, colours: dict, joints: np.ndarray) -> list[BodyPart]:
    """A disc at each joint: features of the face, and the seams of a puppet, more or less in the colours of `SEAMS`."""
    parts = []
    face = {'nose': (70, 70, 190), 'eye': (45, 35, 30), 'ear': 0.7 * np.array(colours['skin'])}
    radii = {'nose': 0.065, 'eye': 0.055, 'ear': 0.075}
    lift = {'shoulder': 0.18, 'elbow': 0.24, 'hip': 0.2, 'knee': 0.2}
    for number, (joint, name) in enumerate(zip(joints, JOINTS)):
        feature = name.split('_')[-1]
        colour = np.array(face.get(feature) if feature in face else SEAMS[feature]) + rng.normal(0, 22, 3)
        radius, depth = radii.get(feature, 0.085), joint[2] + lift.get(feature, 0.1)
        parts.append(BodyPart(joint[None], np.array([radius]), tuple(colour), depth, number))
    return parts


def _shade(part: BodyPart, rng: np.random.Generator) -> tuple:
    """Colour of a part: lighter when near, darker when far, never quite the same."""
    light = 1 + 0.3 * np.clip(part.depth / 0.5, -1, 1) + rng.normal(0, 0.05)
    return tuple(np.clip(np.array(part.colour) * light, 0, 255).tolist())
