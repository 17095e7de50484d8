"""Read keypoints from heatmaps: with the square rule of the paper's Sec. 3.4, or at the mode after a blur."""

from __future__ import annotations

import numpy as np
import torch
from mmpose.codecs.base import BaseKeypointCodec
from mmpose.registry import KEYPOINT_CODECS
from torch import Tensor

from hdm_mmpose.checks import not_negative, one_of
from hdm_mmpose.decoding import DecodedJoints, read_heatmap
from hdm_mmpose.transport.suppliers import build_supplier

from .alignment import Alignment

SCORES = ('mass', 'max')


@KEYPOINT_CODECS.register_module()
class SubPixelDecoder(BaseKeypointCodec):
    """Decode each heatmap to the sub-pixel place of its mass.

    The raw map is first read as masses, through the supplier rule that the loss trained it with.  Then, with ``blur=0``,
    the square of four neighbouring cells that holds the most is taken, and its centre of mass is the keypoint (paper Sec.
    3.4); with a ``blur`` the keypoint is where most of the mass is near (``decoding/mode.py``), which is the better
    reading of maps that are not sharp.  Either gives a dot's own four masses back as the dot.  Usable alone as ``decoder=``
    of any stock heatmap head, on an existing checkpoint too::

        decoder=dict(type='SubPixelDecoder', input_size=(288, 384), heatmap_size=(72, 96),
                     alignment='msra', supplier='relu', score='max')    # what an MSRAHeatmap model was trained with

    Note:

        - batch size: B
        - keypoint number: K
        - input size: [w, h], heatmap size: [W, H]

    Never NaN: a map without a usable distribution (empty under the supplier rule, or not finite) gives the cell of its
    maximum with score 0.  Minus infinity means "no mass here" and is fine.

    Args:
        input_size: (w, h) of the network input in pixels.
        heatmap_size: (W, H) of the heatmap in cells, at least 2 x 2.
        alignment: ``'center'``, ``'udp'`` or ``'msra'``: where cells lie in the input (see :class:`Alignment`).  Must be
            the one the model was trained with.
        supplier: supplier rule, by name or ``dict(type=name, sharpness=...)``.  Must be the loss's.
        score: what a keypoint's confidence is; in [0, 1] either way.

            - ``'mass'``: the share of the map's mass inside the square, or around the blurred mode.  The EMD loss does not
              change when the heatmap is scaled (``relu``), so with it the height of a map means nothing, and its
              concentration does.
            - ``'max'``: the maximum of the raw map, clamped to [0, 1], as MMPose's codecs have it: for models trained
              with MSE towards a Gaussian of height 1.

            ``CocoMetric`` multiplies the box's score by the mean of the joint scores above 0.2 and ranks detections by
            the product: the choice moves AP without moving a keypoint.
        blur: 0 for the square, or the standard deviation in heatmap cells of the blur whose mode is taken.
    """

    def __init__(self,
                 input_size: tuple[int, int],
                 heatmap_size: tuple[int, int],
                 alignment: str = 'center',
                 supplier: str | dict = 'softmax',
                 score: str = 'mass',
                 blur: float = 2.) -> None:
        super().__init__()
        self.alignment = Alignment(alignment, input_size, heatmap_size)
        self.supplier = build_supplier(supplier)
        self.score = one_of('score', score, SCORES)
        self.blur = not_negative('blur', blur)

    @property
    def input_size(self) -> tuple[int, int]:
        """(w, h) in pixels."""
        return self.alignment.input_size

    @property
    def heatmap_size(self) -> tuple[int, int]:
        """(W, H) in cells."""
        return self.alignment.heatmap_size

    def encode(self, keypoints: np.ndarray, keypoints_visible: np.ndarray | None = None) -> dict:
        """Not what a decoder is for: raises NotImplementedError that names the codec which encodes."""
        raise NotImplementedError(
            "SubPixelDecoder only decodes: use dict(type='DotAnnotationCodec', ...) with the same sizes and alignment, or "
            "the encoder the model was trained with, in GenerateTarget")

    def decode(self, encoded: np.ndarray | Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Decode the heatmaps of one sample.

        Args:
            encoded: (K, H, W) raw heatmaps, numpy or torch on any device.

        Returns:
            tuple:
            - keypoints (np.ndarray): (1, K, 2) float32, x then y, in input pixels
            - scores (np.ndarray): (1, K) float32 in [0, 1]

        Examples:
            A map of 16 x 12 cells at stride 4, all of its mass between two cells:

            >>> decoder = SubPixelDecoder(input_size=(48, 64), heatmap_size=(12, 16), supplier='relu', blur=0)
            >>> heatmaps = torch.zeros(1, 16, 12)
            >>> heatmaps[0, 7, 4:6] = torch.tensor([3.0, 1.0])
            >>> keypoints, scores = decoder.decode(heatmaps)
            >>> keypoints.tolist(), scores.tolist()
            ([[[18.5, 29.5]]], [[1.0]])
        """
        encoded = _as_tensor('encoded', encoded, rank=3)
        keypoints, scores = self.batch_decode(encoded[None])
        return keypoints[0], scores[0]

    def batch_decode(self, batch_encoded: np.ndarray | Tensor) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Decode a batch on the device it is on; one copy to the host at the end.

        Args:
            batch_encoded: (B, K, H, W) raw heatmaps, numpy or torch on any device.

        Returns:
            tuple:
            - batch_keypoints (list[np.ndarray]): B times (1, K, 2) float32, x then y, in input pixels
            - batch_scores (list[np.ndarray]): B times (1, K) float32 in [0, 1]
        """
        heatmaps = _as_tensor('batch_encoded', batch_encoded, rank=4)
        self._check_size('batch_encoded', heatmaps)
        with torch.no_grad():
            keypoints, scores = self._finish(read_heatmap(heatmaps, self.supplier, self.blur))
            decoded = torch.cat([keypoints, scores[..., None]], -1).float().cpu().numpy()[:, None]
        return list(decoded[..., :2].copy()), list(decoded[..., 2].copy())

    def decode_tensor(self, heatmaps: Tensor) -> tuple[Tensor, Tensor]:
        """Decode with tensor operations only: for export (``torch.export``, ONNX), tracing and CUDA graphs.

        Args:
            heatmaps: (B, K, H, W) raw heatmaps.

        Returns:
            keypoints (B, K, 2), x then y, in input pixels, and scores (B, K) in [0, 1]; on the input's device.
        """
        _check_rank('heatmaps', heatmaps, 4)
        self._check_size('heatmaps', heatmaps)
        return self._finish(read_heatmap(heatmaps, self.supplier, self.blur, traceable=True))

    def _finish(self, decoded: DecodedJoints) -> tuple[Tensor, Tensor]:
        score = decoded.share if self.score == 'mass' else decoded.peak.to(decoded.share.dtype).clamp(0, 1)
        return self.alignment.to_codec_output(decoded.dots), score

    def _check_size(self, argument: str, heatmaps: Tensor) -> None:
        width, height = self.heatmap_size
        if heatmaps.shape[-2:] != (height, width):
            raise ValueError(f'{argument} must have H x W = {height} x {width} (heatmap_size=({width}, {height})), '
                             f'got shape {tuple(heatmaps.shape)}')


def _as_tensor(argument: str, heatmaps: np.ndarray | Tensor, rank: int) -> Tensor:
    if isinstance(heatmaps, np.ndarray):
        heatmaps = torch.from_numpy(np.ascontiguousarray(heatmaps))
    _check_rank(argument, heatmaps, rank)
    return heatmaps


def _check_rank(argument: str, heatmaps: Tensor, rank: int) -> None:
    if not isinstance(heatmaps, Tensor) or not heatmaps.is_floating_point():
        found = heatmaps.dtype if isinstance(heatmaps, Tensor) else type(heatmaps).__name__
        raise TypeError(f'{argument} must be a floating-point tensor or array of heatmaps, got {found}')
    if heatmaps.dim() != rank:
        raise ValueError(f'{argument} must have shape {"(B, K, H, W)" if rank == 4 else "(K, H, W)"}, '
                         f'got {tuple(heatmaps.shape)}')
