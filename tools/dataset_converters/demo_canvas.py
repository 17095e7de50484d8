"""What the demo data are drawn on: a canvas with sub-pixel discs, and what stands around the figures."""

from __future__ import annotations

import cv2
import numpy as np

PICTURE_SIZE = (256, 192)  # w, h in pixels
SUBPIXEL_BITS = 8
OVERSAMPLING = 4


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
        canvas.hull(centres, rng.uniform(1.5, 7, corners), any_colour(rng))


def draw_obstacle(canvas: Canvas, rng: np.random.Generator) -> None:
    """A pole in front of everybody."""
    middle = rng.uniform(0.1, 0.9, 2) * PICTURE_SIZE
    offset = rng.normal(0, 40, 2)
    canvas.hull(np.stack([middle - offset, middle + offset]), rng.uniform(2.5, 6, 2), any_colour(rng))


def expose(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What a camera adds: a little blur, a change of brightness and contrast, grain."""
    picture = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.2, 0.7)).astype(np.float32)
    picture = (picture - 128) * rng.uniform(0.8, 1.1) + 128 + rng.uniform(-15, 15)
    picture += rng.uniform(2, 7) * rng.standard_normal(picture.shape, np.float32)
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


def any_colour(rng: np.random.Generator) -> tuple:
    """A colour b, g, r."""
    return tuple(np.clip(rng.uniform(25, 230) + rng.normal(0, 45, 3), 0, 255).tolist())
