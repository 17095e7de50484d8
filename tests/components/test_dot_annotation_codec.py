"""Dots to maps: Eq. 4, the border, what cannot be seen, and MMPose's pipeline around it."""

import numpy as np
import pytest
import torch
from mmpose.registry import KEYPOINT_CODECS, TRANSFORMS

from hdm_mmpose.components import DotAnnotationCodec, SubPixelDecoder
from hdm_mmpose.components.alignment import ALIGNMENTS
from hdm_mmpose.transport import centroid, dot_demanders, naive_demander

INPUT, HEATMAP = (56, 72), (14, 9)  # W x H; strides 4 and 8
W, H = HEATMAP


def codec(**options):
    return KEYPOINT_CODECS.build(dict(type='DotAnnotationCodec', input_size=INPUT, heatmap_size=HEATMAP, **options))


def pixels_of(cells, alignment):
    """Input pixels (1, K, 2) of cells (K, 2); written out, not by the code under test."""
    cells, size, maps = np.asarray(cells, dtype=np.float64), np.array(INPUT), np.array(HEATMAP)
    return {'msra': cells * size / maps,
            'udp': cells * (size - 1) / (maps - 1),
            'center': (cells + .5) * size / maps - .5}[alignment][None]


def test_encode_by_hand():
    encoded = codec(alignment='msra').encode(np.array([[[5., 12.]]]), np.ones((1, 1)))  # cell (1.25, 1.5)
    expected = np.zeros((1, H, W), dtype=np.float32)
    expected[0, 1, 1] = expected[0, 2, 1] = .375
    expected[0, 1, 2] = expected[0, 2, 2] = .125
    np.testing.assert_array_equal(encoded['heatmaps'], expected)
    np.testing.assert_array_equal(encoded['keypoint_weights'], [[1]])
    assert encoded['heatmaps'].dtype == encoded['keypoint_weights'].dtype == np.float32


@pytest.mark.parametrize('alignment', ALIGNMENTS)
@pytest.mark.parametrize('subpixel', [True, False])
def test_the_maps_hold_the_demanders_of_the_loss(alignment, subpixel):
    cells = np.random.uniform(0, [W - 1, H - 1], (200, 2))
    heatmaps = codec(alignment=alignment, subpixel=subpixel).encode(pixels_of(cells, alignment))['heatmaps']
    demanders = (dot_demanders if subpixel else naive_demander)(torch.from_numpy(cells), (H, W))
    expected = np.zeros((200, H, W))
    for joint in range(200):
        for (x, y), mass in zip(demanders.position[joint].long(), demanders.mass[joint]):
            expected[joint, y, x] += mass
    np.testing.assert_allclose(heatmaps, expected, atol=1e-6)
    np.testing.assert_allclose(heatmaps.sum((1, 2)), 1, atol=1e-6)
    wanted = cells if subpixel else np.floor(cells + .5)
    np.testing.assert_allclose(centroid(torch.from_numpy(heatmaps).double()), wanted, atol=1e-6)


@pytest.mark.parametrize('alignment', ALIGNMENTS)
@pytest.mark.parametrize(('cell', 'masses'), [
    ((3, 4), {(3, 4): 1}),  # a centre
    ((3.5, 4), {(3, 4): .5, (4, 4): .5}),  # an edge of a cell
    ((3, 4.5), {(3, 4): .5, (3, 5): .5}),
    ((3.5, 4.5), {(3, 4): .25, (4, 4): .25, (3, 5): .25, (4, 5): .25}),  # a corner
    ((0, 0), {(0, 0): 1}),
    ((W - 1, H - 1), {(W - 1, H - 1): 1}),
    ((-.4, 4), {(0, 4): 1}),  # within half a cell of the border: clamped
    ((W - .6, -.4), {(W - 1, 0): 1}),
    ((2.25, H - .6), {(2, H - 1): .75, (3, H - 1): .25}),
    ((-.6, 4), {}),  # outside
    ((3, H - .4), {}),
    ((-1000, 1e9), {}),
], ids=str)
def test_special_places(alignment, cell, masses):
    encoded = codec(alignment=alignment).encode(pixels_of([cell], alignment))
    expected = np.zeros((H, W))
    for (x, y), mass in masses.items():
        expected[y, x] = mass
    np.testing.assert_allclose(encoded['heatmaps'][0], expected, atol=1e-6)
    assert encoded['keypoint_weights'].tolist() == [[float(bool(masses))]]


def test_the_border_of_the_picture_belongs_to_it():
    """Exactly half a cell out is in; under ``center`` that is the edge of the picture."""
    corners = np.array([[[-.5, -.5], [INPUT[0] - .5, INPUT[1] - .5], [-.51, 5], [5, INPUT[1] - .49]]])
    assert codec().encode(corners)['keypoint_weights'].tolist() == [[1, 1, 0, 0]]


@pytest.mark.parametrize(('alignment', 'counts', 'outside'), [
    ('center', (-.5, 191.5), (-.51, 191.51)),
    ('msra', (-2, -1.9, 190), (-2.01, 190.01, 190.5, 191)),  # 190.5 and 191 lie in the input
    ('udp', (-2.03, -1.9, 193, 193.03), (-2.04, 193.04)),
])
def test_pixels_at_the_border_that_count(alignment, counts, outside):
    """The table in the class: stride 4 as the recipes have it."""
    points = np.array([[[x, 30] for x in counts + outside]])
    weights = DotAnnotationCodec((192, 64), (48, 16), alignment=alignment).encode(points)['keypoint_weights']
    assert weights.tolist() == [[1] * len(counts) + [0] * len(outside)]


@pytest.mark.parametrize(('cell', 'holder'), [
    ((3.49, 4.51), (3, 5)), ((3.5, 4.5), (4, 5)), ((-.5, 0), (0, 0)), ((W - .5, H - .5), (W - 1, H - 1)), ((0, .5), (0, 1)),
], ids=str)
def test_the_naive_variant_rounds_half_way_dots_up(cell, holder):
    heatmap = codec(subpixel=False, alignment='msra').encode(pixels_of([cell], 'msra'))['heatmaps'][0]
    assert heatmap[holder[1], holder[0]] == 1 and heatmap.sum() == 1


def test_weights_and_what_cannot_be_seen():
    keypoints = np.array([[[5., 5], [np.nan, np.inf], [20, 30], [500, 3], [8, 8]]])
    encoded = codec().encode(keypoints, np.array([[1, 0, .25, 1, -1]]))
    assert encoded['keypoint_weights'].tolist() == [[1, 0, .25, 0, 0]]
    np.testing.assert_allclose(encoded['heatmaps'].sum((1, 2)), [1, 0, 1, 0, 0], atol=1e-6)


def test_the_input_is_left_alone():
    keypoints, visible = np.array([[[5., np.nan], [900, 3]]], np.float32), np.array([[0., 1]], np.float32)
    before = keypoints.copy(), visible.copy()
    codec().encode(keypoints, visible)
    np.testing.assert_array_equal(keypoints, before[0])
    np.testing.assert_array_equal(visible, before[1])


@pytest.mark.parametrize(('keypoints', 'visible', 'message'), [
    (np.zeros((2, 5, 2)), None, r'keypoints must have shape \(N, K, 2\) with N = 1, got \(2, 5, 2\)'),
    (np.zeros((5, 2)), None, r'keypoints must have shape .* got \(5, 2\)'),
    (np.zeros((1, 5, 3)), None, r'keypoints must have shape .* got \(1, 5, 3\)'),
    (np.zeros((1, 5, 2)), np.ones((1, 4)), r'keypoints_visible must have shape \(N, K\) = \(1, 5\), got \(1, 4\)'),
    (np.array([[[1, 2], [np.nan, 2]]]), None,
     r'keypoints must be finite where visible, but keypoints \[1\] are \[\[nan, 2.0\]\]'),
    (np.array([[[1, 2], [1, -np.inf]]]), np.ones((1, 2)), r'keypoints must be finite where visible, but keypoints \[1\]'),
    (np.zeros((1, 2, 2)), np.array([[1, np.nan]]), r'keypoints_visible must not be NaN, but is for keypoints \[1\]'),
])
def test_bad_input(keypoints, visible, message):
    with pytest.raises(ValueError, match=message):
        codec().encode(keypoints, visible)


@pytest.mark.parametrize(('options', 'message'), [
    (dict(alignment='UDP'), r"alignment must be one of .* got 'UDP'"),
    (dict(subpixel='yes'), r"subpixel must be True or False, got 'yes'"),
    (dict(supplier='sigmoid'), r"supplier must be one of .* got 'sigmoid'"),
    (dict(score='sum'), r"score must be one of \('mass', 'max'\), got 'sum'"),
])
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        DotAnnotationCodec(INPUT, HEATMAP, **options)


@pytest.mark.parametrize('alignment', ['msra', 'center'])
def test_encode_and_decode(alignment):
    """What comes back is what went in; the naive variant is off by up to half a cell, and no more."""
    keypoints = pixels_of(np.random.uniform(0, [W - 1, H - 1], (200, 2)), alignment)
    exact = codec(alignment=alignment, supplier='relu')
    decoded, scores = exact.decode(exact.encode(keypoints)['heatmaps'])
    assert decoded.shape == (1, 200, 2) and scores.shape == (1, 200)
    np.testing.assert_allclose(decoded, keypoints, atol=1e-4)
    assert (scores > .85).all() and (scores <= 1).all()
    square = codec(alignment=alignment, supplier='relu', blur=0)
    decoded, scores = square.decode(square.encode(keypoints)['heatmaps'])
    np.testing.assert_allclose(decoded, keypoints, atol=1e-4)
    np.testing.assert_allclose(scores, 1, atol=1e-6)
    naive = codec(alignment=alignment, supplier='relu', subpixel=False)
    off = np.abs(naive.decode(naive.encode(keypoints)['heatmaps'])[0] - keypoints)
    assert (off <= np.array(INPUT) / HEATMAP / 2 + 1e-4).all() and (off.max((0, 1)) > .45 * np.array(INPUT) / HEATMAP).all()


def test_batch_decode_is_the_decoders():
    whole = codec(supplier='softmax', score='max', alignment='udp')
    assert whole.support_batch_decoding
    heatmaps = torch.randn(2, 3, H, W)
    alone = SubPixelDecoder(INPUT, HEATMAP, 'udp', 'softmax', 'max')
    for batch, wanted in ((whole.batch_decode(heatmaps), alone.batch_decode(heatmaps)),
                          (whole.decode_tensor(heatmaps), alone.decode_tensor(heatmaps))):
        np.testing.assert_array_equal(np.stack(batch[0]), np.stack(wanted[0]))
        np.testing.assert_array_equal(np.stack(batch[1]), np.stack(wanted[1]))


@pytest.mark.parametrize('multiple', [False, True])
def test_generate_target_and_pack(multiple):
    """The stock transforms take the fields over: heatmaps to ``gt_fields``, weights to ``gt_instance_labels``."""
    encoder = dict(type='DotAnnotationCodec', input_size=INPUT, heatmap_size=HEATMAP)
    results = dict(img=np.zeros((INPUT[1], INPUT[0], 3), np.uint8),
                   transformed_keypoints=np.array([[[5., 5], [7, 90], [0, 0]]]),
                   keypoints_visible=np.array([[1, 1, 0]], np.float32),
                   dataset_keypoint_weights=np.array([2, 1, 1], np.float32))
    generate = TRANSFORMS.build(dict(type='GenerateTarget', encoder=[encoder] if multiple else encoder,
                                     use_dataset_keypoint_weights=not multiple))
    sample = TRANSFORMS.build(dict(type='PackPoseInputs'))(generate(results))['data_samples']
    assert sample.gt_fields.heatmaps.shape == (3, H, W) and sample.gt_fields.heatmaps.dtype == torch.float32
    weights = sample.gt_instance_labels.keypoint_weights
    assert weights.reshape(1, 3).tolist() == [[1 if multiple else 2, 0, 0]] and weights.dtype == torch.float32
