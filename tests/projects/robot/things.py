"""A project on an assembly robot: its own cut of the input, without MMPose's affine transform."""

from __future__ import annotations

import cv2
import numpy as np
from mmcv.transforms import BaseTransform
from mmpose.registry import TRANSFORMS


@TRANSFORMS.register_module()
class CutOut(BaseTransform):
    """Cuts the box out, which is filled with black where it leaves the picture, and resizes it."""

    def __init__(self, input_size: tuple) -> None:
        self.input_size = input_size

    def transform(self, results: dict) -> dict:
        center, scale = results['bbox_center'][0], results['bbox_scale'][0]
        size = np.array(self.input_size, np.float32)
        stretch = size / scale
        shift = size / 2 - center * stretch
        results['img'] = cv2.warpAffine(results['img'], np.column_stack([np.diag(stretch), shift]).astype(np.float32), self.input_size)
        results['transformed_keypoints'] = results['keypoints'] * stretch + shift
        results.update(input_size=self.input_size, input_center=center, input_scale=scale)
        return results
