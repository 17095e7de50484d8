"""A project on satellites: a data set class of its own, without a skeleton, and a transform of its own."""

from __future__ import annotations

import numpy as np
from mmcv.transforms import BaseTransform
from mmpose.datasets.datasets.base import BaseCocoStyleDataset
from mmpose.registry import DATASETS, TRANSFORMS


@DATASETS.register_module()
class SatelliteDataset(BaseCocoStyleDataset):
    METAINFO: dict = dict(
        dataset_name='satellite', paper_info={}, skeleton_info={}, joint_weights=[1.0] * 17, sigmas=[0.05] * 17,
        keypoint_info={index: dict(name=f'corner_{index}', id=index, color=[255, 0, 0], type='', swap='') for index in range(17)})

    def get_data_info(self, idx: int) -> dict:
        return dict(super().get_data_info(idx), sun=np.float32(0.8))


@TRANSFORMS.register_module()
class SunOut(BaseTransform):
    """Reads a key that only the data set above gives."""

    def transform(self, results: dict) -> dict:
        results['img'] = (results['img'] * results['sun']).astype(np.uint8)
        return results
