"""The whole way, in MMPose's own code wherever it has any: a point annotated in the picture, the stock pipeline, our target,
the target taken for a perfect prediction, our decoder, and MMPose's mapping back to the picture.

Only the way as a whole can be right or wrong: MMPose's UDP mapping is wrong by (w - 1) / w by itself, and the decoder by the
inverse of that.
"""

import functools
import types

import numpy as np
import pytest
import torch
from mmengine.dataset import Compose
from mmpose.datasets import transforms  # noqa: F401  (registers MMPose's)
from mmpose.models.heads import HeatmapHead
from mmpose.models.pose_estimators import TopdownPoseEstimator
from mmpose.registry import KEYPOINT_CODECS, TRANSFORMS

import hdm_mmpose.components  # noqa: F401  (registers ours)
from hdm_mmpose.transport.suppliers import SUPPLIERS, build_supplier

INPUT, HEATMAP = (288, 384), (72, 96)  # (w, h) and (W, H)
PICTURE = (640, 480)  # (width, height)
BOXES, K = 1000, 3
FLIP_INDICES = [1, 0, 2]
ALIGNMENTS = [('msra', False), ('center', False), ('udp', True)]  # with the crop that each belongs to


def annotations():
    """Boxes (n, 4) x1 y1 x2 y2 of all sizes, and points (n, K, 2) in their padded surroundings."""
    generator = np.random.default_rng(0)
    size = np.exp(generator.uniform(np.log(20), np.log(400), (BOXES, 2)))
    centre = generator.uniform(0, PICTURE, (BOXES, 2))
    boxes = np.concatenate([centre - size / 2, centre + size / 2], -1).astype(np.float32)
    points = centre[:, None] + generator.uniform(-.6, .6, (BOXES, K, 2)) * size[:, None]
    return boxes, points.astype(np.float32)


def pipeline(encoder, use_udp, *extra):
    steps = [dict(type='GetBBoxCenterScale', padding=1.25), *extra,
             dict(type='TopdownAffine', input_size=INPUT, use_udp=use_udp),
             dict(type='GenerateTarget', encoder=encoder), dict(type='PackPoseInputs', pack_transformed=True)]
    return Compose([TRANSFORMS.build(step) for step in steps])


def run(alignment, use_udp, *extra):
    """Packed data samples of all annotations."""
    process, (boxes, points) = pipeline(codec_config(alignment), use_udp, *extra), annotations()
    picture = np.zeros((PICTURE[1], PICTURE[0], 1), np.uint8)
    return [process(dict(img=picture, img_shape=PICTURE[::-1], bbox=box[None].copy(), bbox_score=np.ones(1, np.float32),
                         keypoints=point[None].copy(), keypoints_visible=np.ones((1, K), np.float32),
                         flip_indices=FLIP_INDICES, dataset_keypoint_weights=np.ones(K, np.float32)))['data_samples']
            for box, point in zip(boxes, points)]


run_val_pipeline = functools.lru_cache(maxsize=3)(run)


def predict(decoder, heatmaps, samples, flipped=None, **test_cfg):
    """What a stock model makes of these heatmaps: points (n, K, 2) in the picture, by its own head and mapping."""
    head = types.SimpleNamespace(decoder=decoder, forward=lambda feats: feats)
    head.decode = types.MethodType(HeatmapHead.decode, head)
    feats = heatmaps if flipped is None else [heatmaps, flipped]
    instances = HeatmapHead.predict(head, feats, samples, test_cfg=dict(test_cfg, flip_test=flipped is not None))
    model = types.SimpleNamespace(test_cfg=test_cfg)
    results = TopdownPoseEstimator.add_pred_to_datasample(model, instances, None, samples)
    return np.concatenate([result.pred_instances.keypoints for result in results])


def targets(samples):
    assert all((sample.gt_instance_labels.keypoint_weights == 1).all() for sample in samples)
    return torch.stack([sample.gt_fields.heatmaps for sample in samples])


def codec_config(alignment):
    return dict(type='DotAnnotationCodec', input_size=INPUT, heatmap_size=HEATMAP, alignment=alignment)


def decoder_for(alignment, supplier='relu'):
    return KEYPOINT_CODECS.build(dict(type='SubPixelDecoder', input_size=INPUT, heatmap_size=HEATMAP, alignment=alignment,
                                      supplier=supplier))


def heatmap_with(masses, supplier):
    """A raw heatmap whose supplier distribution is ``masses``."""
    masses = masses.double()
    if supplier.startswith('relu'):
        return masses.float()
    raised = masses.log() if supplier == 'softmax' else masses.expm1().log()
    sharpness = build_supplier(supplier).sharpness
    return (raised / sharpness).clamp(min=-500 / sharpness).float()  # e^-500 is no mass


@pytest.mark.parametrize('mirrored', [False, True], ids=['', 'RandomFlip'])
@pytest.mark.parametrize(('alignment', 'use_udp'), ALIGNMENTS)
def test_a_point_comes_back_to_where_it_was_annotated(alignment, use_udp, mirrored):
    """A val pipeline (boxes of all sizes, no rotation), and the same of mirrored pictures."""
    flip = dict(type='RandomFlip', direction='horizontal', prob=1.)
    samples = run(alignment, use_udp, flip) if mirrored else run_val_pipeline(alignment, use_udp)
    expected = annotations()[1].astype(np.float64)
    if mirrored:
        expected = expected[:, FLIP_INDICES]
        expected[..., 0] = PICTURE[0] - 1 - expected[..., 0]
    points = predict(decoder_for(alignment), targets(samples), samples)
    assert np.abs(points - expected).max() < 1e-3


@pytest.mark.parametrize('supplier', sorted(SUPPLIERS))
@pytest.mark.parametrize(('alignment', 'use_udp'), ALIGNMENTS)
def test_under_every_supplier_rule(alignment, use_udp, supplier):
    samples = run_val_pipeline(alignment, use_udp)
    heatmaps = heatmap_with(targets(samples), supplier)
    points = predict(decoder_for(alignment, supplier), heatmaps, samples)
    assert np.abs(points - annotations()[1]).max() < 1e-3


@pytest.mark.parametrize(('alignment', 'use_udp'), ALIGNMENTS)
def test_rotated_and_scaled_crops(alignment, use_udp):
    """A train pipeline: MMPose never maps such predictions back, so this ends in the input picture."""
    samples = run(alignment, use_udp, dict(type='RandomBBoxTransform', shift_factor=.05, rotate_factor=80.))
    weights = np.stack([sample.gt_instance_labels.keypoint_weights[0].numpy() for sample in samples]) > 0
    expected = np.concatenate([sample.gt_instances.transformed_keypoints for sample in samples])
    heatmaps = torch.stack([sample.gt_fields.heatmaps for sample in samples])
    points = np.concatenate(decoder_for(alignment).batch_decode(heatmaps)[0])
    if use_udp:  # decoded for MMPose's mapping, see DotAnnotationCodec
        points = points * (np.array(INPUT) - 1) / INPUT
    stride = np.array(INPUT) / HEATMAP
    well_inside = (expected > stride).all(-1) & (expected < INPUT - 2 * stride).all(-1)
    assert weights[well_inside].all() and .5 < well_inside.mean() < 1
    assert np.abs(points - expected)[well_inside].max() < 1e-3


@pytest.mark.parametrize(('alignment', 'use_udp', 'shift_heatmap', 'bias'), [
    ('center', False, False, 0.),
    ('udp', True, False, 0.),
    ('msra', False, True, .50),  # the conventions that cannot be averaged, so that this test is known to see it
    ('msra', False, False, -1.49),
])
def test_flip_test(alignment, use_udp, shift_heatmap, bias):
    """A perfect model's heatmaps of the input and of the mirrored input, joined by the stock head; error in input pixels."""
    samples = run_val_pipeline(alignment, use_udp)
    codec = KEYPOINT_CODECS.build(codec_config(alignment))
    mirrored = []
    for sample in samples:
        points = sample.gt_instances.transformed_keypoints[:, FLIP_INDICES].copy()
        points[..., 0] = INPUT[0] - 1 - points[..., 0]  # what inputs.flip(-1) does
        mirrored.append(torch.from_numpy(codec.encode(points)['heatmaps']))
    points = predict(decoder_for(alignment), targets(samples), samples, torch.stack(mirrored), shift_heatmap=shift_heatmap)
    scale = np.stack([sample.metainfo['input_scale'] for sample in samples])[:, None]
    error = (points - annotations()[1]) * INPUT / scale
    assert error.mean((0, 1)) == pytest.approx([bias, 0], abs=.02)
    if not bias:
        assert np.abs(error).max() < .02
