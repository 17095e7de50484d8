"""MPII counts pixels from 1; pictures in memory count from 0."""

from __future__ import annotations

from mmcv.transforms import BaseTransform
from mmpose.registry import TRANSFORMS

MPII_ORIGIN = 1.0


@TRANSFORMS.register_module()
class MpiiPixelOrigin(BaseTransform):
    """Moves MPII's joints to pixels counted from 0, for training pipelines.

    MMPose 1.3.2's ``MpiiDataset`` converts the person's centre but not the joints (its 0.x did both), while
    ``MpiiPCKAccuracy`` adds 1 to the predictions: a network trained on the joints as they are is judged one pixel off in x
    and y. With this step in the training pipeline the network predicts pixels counted from 0, which is what the metric
    takes. It has no place in a validation pipeline, whose joints the metric reads as the file has them.

    Remove when: ``MpiiDataset`` of the oldest supported MMPose converts the joints itself.
    """

    def transform(self, results: dict) -> dict:
        """Shift ``keypoints``, (1, K, 2), x then y, in pixels of the picture."""
        results['keypoints'] = results['keypoints'] - MPII_ORIGIN
        return results
