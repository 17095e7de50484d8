"""Where a heatmap cell lies in the network's input: the one place that converts between the two.

Coordinates are x, y; sizes are (width, height) as in MMPose's configs.  Pixel and cell centres are at integers::

    input pixels, w = 8     0   1   2   3   4   5   6   7        stride w / W = 4
    cells, 'msra'           0               1                    u = x W / w
    cells, 'udp'            0                           1        u = x (W - 1) / (w - 1)
    cells, 'center'             . 0             1 .              u = (x + 0.5) W / w - 0.5   (centres at x = 1.5 and 5.5)

Flipping a picture maps x to w - 1 - x and flipping its heatmap maps u to W - 1 - u.  ``udp`` and ``center`` take the one
into the other, so predictions on both may be averaged (``shift_heatmap=False``); under ``msra`` the two are
``(w / W - 1)`` pixels apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

ALIGNMENTS = ('msra', 'udp', 'center')
# Of MMPose's own heatmap codecs. Megvii's cells begin, and do not have their centre, at x W / w: none of ours.
STOCK_ALIGNMENTS = {'MSRAHeatmap': 'msra', 'UDPHeatmap': 'udp', 'MegviiHeatmap': 'megvii'}

Array = TypeVar('Array', np.ndarray, Tensor)


@dataclass(frozen=True)
class Alignment:
    """How input pixels and heatmap cells lie on each other.

    ========== ============================== ===============================================
    name       belongs with                   returned by ``to_codec_output``
    ========== ============================== ===============================================
    ``msra``   ``TopdownAffine()``            the input pixel
    ``center`` ``TopdownAffine()``            the input pixel
    ``udp``    ``TopdownAffine(use_udp=True)`` ``u / (W - 1) * w``: MMPose maps predictions back by
                                              ``x / w * scale``, but UDP's crop is ``w - 1`` wide
    ========== ============================== ===============================================

    Args:
        name: one of ``ALIGNMENTS``.
        input_size: (w, h) of the network input in pixels, at least 2 x 2.
        heatmap_size: (W, H) of the heatmap in cells, at least 2 x 2.  The two strides w / W and h / H may differ.
    """

    name: str
    input_size: tuple[int, int]
    heatmap_size: tuple[int, int]

    def __post_init__(self) -> None:
        if self.name not in ALIGNMENTS:
            raise ValueError(f'alignment must be one of {ALIGNMENTS}, got {self.name!r}')
        object.__setattr__(self, 'input_size', _checked_size('input_size', self.input_size))
        object.__setattr__(self, 'heatmap_size', _checked_size('heatmap_size', self.heatmap_size))

    def to_cells(self, xy: Array) -> Array:
        """Cells of input pixels.

        Args:
            xy: (..., 2) input pixels, x then y; numpy (float64 comes back) or torch (its own dtype comes back).
        """
        return _affine(xy, *zip(*map(self._cells_per_axis, self.input_size, self.heatmap_size)))

    @classmethod
    def of_decoder(cls, decoder: Any, name: str | None = None) -> Alignment:
        """Where the cells that a decoder of heatmaps reads lie in the input.

        Args:
            decoder: one with ``input_size`` and ``heatmap_size``.
            name: which alignment, instead of the decoder's own.

        Raises:
            ValueError: no name given for a decoder whose alignment is not known.
        """
        name = name or decoder_alignment(decoder)
        if name is None:
            raise ValueError(f'alignment must be given for a decoder of type {type(decoder).__name__}: it is known for '
                             "MSRAHeatmap, UDPHeatmap and this package's decoders")
        return cls(name, decoder.input_size, decoder.heatmap_size)

    def holds(self, cells: Array) -> Array:
        """Which dots (..., 2), in cells, are inside the map or at most half a cell outside: bool (...).  NaN is not."""
        x, y = ((cells[..., axis] >= -0.5) & (cells[..., axis] <= size - 0.5) for axis, size in enumerate(self.heatmap_size))
        return x & y

    def to_codec_output(self, cells: Array) -> Array:
        """What a codec returns for cells: input pixels *as MMPose's mapping back to the image expects them* (see the table).

        Not the inverse of ``to_cells`` under ``udp``.

        Args:
            cells: (..., 2) heatmap cells, x then y; numpy or torch as for ``to_cells``.
        """
        return _affine(cells, *zip(*map(self._input_per_axis, self.input_size, self.heatmap_size)))

    def _cells_per_axis(self, pixels: int, cells: int) -> tuple[float, float]:
        """(factor, offset) from pixels to cells."""
        if self.name == 'udp':
            return (cells - 1) / (pixels - 1), 0.0
        factor = cells / pixels
        return factor, 0.5 * factor - 0.5 if self.name == 'center' else 0.0

    def _input_per_axis(self, pixels: int, cells: int) -> tuple[float, float]:
        """(factor, offset) from cells to the pixels that MMPose expects."""
        if self.name == 'udp':
            return pixels / (cells - 1), 0.0
        factor = pixels / cells
        return factor, 0.5 * factor - 0.5 if self.name == 'center' else 0.0


def decoder_alignment(decoder: Any) -> str | None:
    """Name of the alignment a decoder reads with: ours by its attribute, MMPose's by its type; None if it is none of ours."""
    own = getattr(decoder, 'alignment', None)
    name = getattr(own, 'name', own) or STOCK_ALIGNMENTS.get(type(decoder).__name__)
    return name if name in ALIGNMENTS else None


def _affine(xy: Array, factor: tuple[float, float], offset: tuple[float, float]) -> Array:
    if isinstance(xy, Tensor):
        # Python numbers only: a constant tensor would have to be copied to the device, which synchronises.
        return torch.stack([xy[..., axis] * factor[axis] + offset[axis] for axis in (0, 1)], dim=-1)
    return np.multiply(xy, factor, dtype=np.float64) + offset


def _checked_size(argument: str, size: Sequence[int]) -> tuple[int, int]:
    try:
        width, height = size
    except (TypeError, ValueError):
        raise ValueError(f'{argument} must be (width, height), got {size!r}') from None
    if not all(isinstance(side, Integral) and not isinstance(side, bool) and side >= 2 for side in (width, height)):
        raise ValueError(f'{argument} must be two integers (width, height) of at least 2, got {size!r}')
    return int(width), int(height)
