"""Dot annotations as heatmap targets: the demanders of the paper's Eq. 4, written into a dense map."""

from __future__ import annotations

import numpy as np
from mmpose.registry import KEYPOINT_CODECS

from hdm_mmpose.checks import true_or_false

from .sub_pixel_decoder import SubPixelDecoder

# (x, y) offsets of the four demanders from the upper left one.
SQUARE = np.array([[0, 0], [1, 0], [0, 1], [1, 1]])


@KEYPOINT_CODECS.register_module()
class DotAnnotationCodec(SubPixelDecoder):
    """Represent each keypoint by the four cells around it (paper Sec. 3.2); read it back as :class:`SubPixelDecoder` does.

    The masses of the four cells are bilinear (Eq. 4): they sum to 1 and their centroid is the dot, so nothing of an
    annotation is lost, however coarse the heatmap.

    Note:

        - instance number: N, which must be 1: two dots in one map have no common centroid
        - keypoint number: K
        - input size: [w, h], heatmap size: [W, H]

    Encoded:

        - heatmaps (np.ndarray): (K, H, W) float32, each map summing to 1, or all zero
        - keypoint_weights (np.ndarray): (N, K) float32, the visibility where there is a dot in the map, 0 elsewhere

    Where a dot lies, in cells (cell centres at integers; see :class:`Alignment` for the conversion):

    ===================================  ==================================================================
    on a cell centre                     that cell has mass 1
    on the line between two centres      two cells share the mass; on a corner of cells, four get 1/4 each
    up to half a cell beyond the         counts, clamped to the outermost centres; in pixels see below
    outermost centres
    further outside                      empty map, weight 0
    visibility 0                         empty map, weight 0; coordinates are not looked at and may be NaN
    NaN or infinite and visible          ValueError
    ===================================  ==================================================================

    The input itself reaches from ``-0.5`` to ``w - 0.5``, the edges of its outermost pixels.  With stride ``s = w / W``
    (and alike in y) a dot counts

    ==========  ============================================  ====================================================
    alignment   for x, in input pixels                        192 pixels, 48 cells
    ==========  ============================================  ====================================================
    ``center``  from ``-0.5`` to ``w - 0.5``                  -0.5 to 191.5: exactly the input
    ``msra``    from ``-s / 2`` to ``w - s / 2``              -2 to 190: also left of it, and not at its right edge
    ``udp``     from ``-t / 2`` to ``w - 1 + t / 2``          -2.03 to 193.03: also beyond both edges
                with ``t = (w - 1) / (W - 1)``
    ==========  ============================================  ====================================================

    Args:
        input_size: (w, h) of the network input in pixels.
        heatmap_size: (W, H) of the heatmap in cells, at least 2 x 2.  Strides may differ between the axes.
        subpixel: False gives the naive variant of the paper's Tab. 4: mass 1 at the centre of the cell that holds the
            dot.  A dot half-way between two centres belongs to the larger one.
        alignment: ``'center'`` or ``'msra'`` with ``TopdownAffine()``, ``'udp'`` with ``TopdownAffine(use_udp=True)``.
        supplier: supplier rule for decoding, see :class:`SubPixelDecoder`.  Must be the loss's.
        score: ``'mass'`` or ``'max'``, see :class:`SubPixelDecoder`.
        blur: standard deviation in cells of the blur before decoding, 0 for the square, see :class:`SubPixelDecoder`.
    """

    label_mapping_table = dict(keypoint_weights='keypoint_weights')
    field_mapping_table = dict(heatmaps='heatmaps')

    def __init__(self,
                 input_size: tuple[int, int],
                 heatmap_size: tuple[int, int],
                 subpixel: bool = True,
                 alignment: str = 'center',
                 supplier: str | dict = 'softmax',
                 score: str = 'mass',
                 blur: float = 2.) -> None:
        super().__init__(input_size, heatmap_size, alignment, supplier, score, blur)
        self.subpixel = true_or_false('subpixel', subpixel)

    def encode(self, keypoints: np.ndarray, keypoints_visible: np.ndarray | None = None) -> dict:
        """Encode the keypoints of one instance into dot maps.

        Args:
            keypoints: (1, K, 2) in input pixels, x then y.
            keypoints_visible: (1, K); above 0 means visible, and becomes the weight.  None: all 1.

        Returns:
            dict:
            - heatmaps (np.ndarray): (K, H, W) float32
            - keypoint_weights (np.ndarray): (1, K) float32
        """
        keypoints, visible = _checked_keypoints(keypoints, keypoints_visible)
        width, height = self.heatmap_size
        last = np.array([width - 1, height - 1])
        seen = visible > 0
        dots = self.alignment.to_cells(np.where(seen[:, None], keypoints, 0))
        weights = np.where(seen & self.alignment.holds(dots), visible, 0).astype(np.float32)
        heatmaps = np.zeros((len(dots), height, width), dtype=np.float32)
        cells, masses = (_bilinear if self.subpixel else _nearest)(np.clip(dots, 0, last), last)
        drawn = (weights > 0).nonzero()[0]
        heatmaps[drawn[:, None], cells[drawn, :, 1], cells[drawn, :, 0]] = masses[drawn]
        return dict(heatmaps=heatmaps, keypoint_weights=weights[None])


def _bilinear(dots: np.ndarray, last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eq. 4 with g = 1 cell: cells (K, 4, 2), x then y, and masses (K, 4) of dots (K, 2) inside the map."""
    corner = np.minimum(dots.astype(np.int64), last - 1)
    right = dots - corner
    left = 1 - right
    mass_x = np.stack([left[:, 0], right[:, 0]], -1)
    mass_y = np.stack([left[:, 1], right[:, 1]], -1)
    return corner[:, None] + SQUARE, (mass_y[:, :, None] * mass_x[:, None, :]).reshape(-1, 4)


def _nearest(dots: np.ndarray, last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The cell that holds each dot: cells (K, 1, 2), x then y, and masses (K, 1)."""
    return (dots + 0.5).astype(np.int64)[:, None], np.ones((len(dots), 1))


def _checked_keypoints(keypoints: np.ndarray, visible: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates (K, 2) and visibilities (K,) of the one instance."""
    keypoints = np.asarray(keypoints)
    if keypoints.ndim != 3 or keypoints.shape[0] != 1 or keypoints.shape[2] != 2:
        raise ValueError(f'keypoints must have shape (N, K, 2) with N = 1, got {keypoints.shape}')
    visible = np.ones(keypoints.shape[:2], np.float32) if visible is None else np.asarray(visible)
    if visible.shape != keypoints.shape[:2]:
        raise ValueError(f'keypoints_visible must have shape (N, K) = {keypoints.shape[:2]}, got {visible.shape}')
    keypoints, visible = keypoints[0], visible[0]
    if np.isnan(visible).any():
        raise ValueError(f'keypoints_visible must not be NaN, but is for keypoints {np.isnan(visible).nonzero()[0]}')
    bad = ~np.isfinite(keypoints).all(-1) & (visible > 0)
    if bad.any():
        raise ValueError(f'keypoints must be finite where visible, but keypoints {bad.nonzero()[0].tolist()} are '
                         f'{keypoints[bad].tolist()}')
    return keypoints, visible
