"""MPII counts pixels from 1: with the step in the training pipeline, perfect predictions are judged perfect."""

from __future__ import annotations

import json

import numpy as np
import pytest
from mmpose.datasets import MpiiDataset
from mmpose.evaluation.metrics import MpiiPCKAccuracy
from mmpose.registry import TRANSFORMS

import hdm_mmpose.components  # noqa: F401  (registers the step)


def test_joints_move_by_one_pixel_and_the_original_stays():
    points = np.array([[[1.0, 1.0], [10.5, 20.0]]])
    results = TRANSFORMS.build({'type': 'MpiiPixelOrigin'})({'keypoints': points, 'other': 1})
    np.testing.assert_array_equal(results['keypoints'], [[[0, 0], [9.5, 19]]])
    np.testing.assert_array_equal(points, [[[1, 1], [10.5, 20]]])
    assert results['other'] == 1


@pytest.mark.parametrize('step', [True, False])
def test_what_a_perfect_network_scores(tmp_path, step):
    """Without the step a network that answers its training targets is one pixel off, which a small head shows."""
    joints = np.random.default_rng(0).uniform(20, 200, (16, 2)).round(1)
    person = {'image': '1.jpg', 'center': [110, 110], 'scale': 1.0, 'joints': joints.tolist(), 'joints_vis': [1] * 16}
    (tmp_path / 'mpii.json').write_text(json.dumps([person]))
    dataset = MpiiDataset(ann_file='mpii.json', data_root=f'{tmp_path}/', data_mode='topdown', lazy_init=False)
    target = dataset.get_data_info(0)['keypoints']
    if step:
        target = TRANSFORMS.build({'type': 'MpiiPixelOrigin'})({'keypoints': target})['keypoints']
    metric = MpiiPCKAccuracy(thr=0.5)
    metric.process([], [{
        'gt_instances': {'keypoints': joints[None], 'keypoints_visible': np.ones((1, 16)), 'head_size': np.array([[2.0]])},
        'pred_instances': {'keypoints': target}}])
    assert metric.evaluate(1)['PCK'] == (100 if step else 0)
