"""A project on hip ultrasound: a metric of its own, which the project's training script imports, not its config."""

from __future__ import annotations

import numpy as np
from mmengine.evaluator import BaseMetric
from mmpose.registry import METRICS


@METRICS.register_module()
class HipError(BaseMetric):
    default_prefix = 'hip'

    def process(self, data_batch, data_samples) -> None:
        for sample in data_samples:
            points = np.asarray(sample['pred_instances']['keypoints'])[..., :2]
            self.results.append(float(np.abs(points - sample['gt_instances']['keypoints']).mean()))

    def compute_metrics(self, results: list) -> dict:
        return {'error': float(np.mean(results))}
