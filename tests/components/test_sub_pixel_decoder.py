"""The decoder as MMPose's heads call it."""

import inspect
import io
import pickle
import types
import warnings

import numpy as np
import pytest
import torch
from mmpose.models.heads.base_head import BaseHead
from mmpose.registry import KEYPOINT_CODECS, MODELS

from hdm_mmpose.components import SubPixelDecoder
from hdm_mmpose.decoding import decode_blurred_mode, decode_square
from hdm_mmpose.transport.suppliers import SUPPLIERS, build_supplier

INPUT, HEATMAP = (56, 72), (14, 9)  # W x H; strides 4 and 8
W, H = HEATMAP
B, K = 3, 5


def decoder(**options):
    return KEYPOINT_CODECS.build(dict(type='SubPixelDecoder', input_size=INPUT, heatmap_size=HEATMAP, **options))


def heatmaps(seed=0):
    return torch.randn(B, K, H, W, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize('supplier', [*sorted(SUPPLIERS), dict(type='softplus', sharpness=2.)], ids=str)
def test_batch_decode_reads_the_distribution_of_the_rule(supplier):
    maps = heatmaps()
    dots, mass = decode_square(build_supplier(supplier)(maps.double()))
    keypoints, scores = decoder(supplier=supplier, blur=0).batch_decode(maps)
    expected = (dots.numpy() + .5) * np.array(INPUT) / HEATMAP - .5
    np.testing.assert_allclose(np.concatenate(keypoints), expected, atol=1e-4)
    np.testing.assert_allclose(np.concatenate(scores), mass, atol=1e-6)


@pytest.mark.parametrize('blur', [.5, 2, 4.])
def test_with_a_blur_it_reads_the_blurred_mode(blur):
    maps = heatmaps()
    dots, share = decode_blurred_mode(build_supplier('softmax')(maps.double()), blur)
    unit = decoder(supplier='softmax', blur=blur)
    expected = (dots.numpy() + .5) * np.array(INPUT) / HEATMAP - .5
    for keypoints, scores in (unit.batch_decode(maps), unit.decode_tensor(maps)):
        np.testing.assert_allclose(np.reshape(keypoints, (B, K, 2)), expected, atol=1e-3)
        np.testing.assert_allclose(np.reshape(scores, (B, K)), share, atol=1e-5)


def test_what_mmpose_wants():
    keypoints, scores = decoder().batch_decode(heatmaps())
    assert decoder().support_batch_decoding
    assert len(keypoints) == len(scores) == B and isinstance(keypoints, list) and isinstance(scores, list)
    assert all(type(k) is np.ndarray and k.shape == (1, K, 2) and k.dtype == np.float32 for k in keypoints)
    assert all(type(s) is np.ndarray and s.shape == (1, K) and s.dtype == np.float32 for s in scores)
    assert all((s >= 0).all() and (s <= 1).all() for s in scores)


def test_keypoints_of_different_samples_share_no_memory_with_the_heatmaps():
    """MMPose maps back in place."""
    maps = heatmaps()
    before = maps.clone()
    keypoints, _ = decoder().batch_decode(maps)
    second = keypoints[1].copy()
    keypoints[0] += 1000
    np.testing.assert_array_equal(keypoints[1], second)
    assert torch.equal(maps, before)


def test_through_the_stock_head():
    head = types.SimpleNamespace(decoder=decoder())
    instances = BaseHead.decode(head, heatmaps())
    keypoints, scores = decoder().batch_decode(heatmaps())
    assert len(instances) == B
    for instance, points, score in zip(instances, keypoints, scores):
        np.testing.assert_array_equal(instance.keypoints, points)
        np.testing.assert_array_equal(instance.keypoint_scores, score)


def test_as_the_only_replaced_part_of_a_stock_head():
    config = dict(type='SubPixelDecoder', input_size=INPUT, heatmap_size=HEATMAP, alignment='msra', supplier='relu',
                  score='max')
    head = MODELS.build(dict(type='HeatmapHead', in_channels=4, out_channels=K, deconv_out_channels=None, decoder=config))
    with torch.no_grad():
        predictions = head.predict((torch.randn(B, 4, H, W), ), [None] * B, test_cfg={})
    assert len(predictions) == B and predictions[0].keypoints.shape == (1, K, 2)


def test_one_sample_numpy_or_torch():
    maps = heatmaps()
    keypoints, scores = decoder().batch_decode(maps)
    for sample in (maps[1], maps[1].numpy(), maps[1].numpy()[:, ::-1, ::-1].copy()[:, ::-1, ::-1]):
        points, score = decoder().decode(sample)
        np.testing.assert_array_equal(points, keypoints[1])
        np.testing.assert_array_equal(score, scores[1])
    np.testing.assert_array_equal(np.stack(decoder().batch_decode(maps.numpy())[0]), np.stack(keypoints))


@pytest.mark.parametrize('alignment', ['msra', 'udp', 'center'])
def test_units(alignment):
    """One full cell at (5, 6): its place in input pixels as MMPose expects it."""
    maps = torch.zeros(1, 1, H, W)
    maps[0, 0, 6, 5] = 1
    expected = {'msra': (5 * 4, 6 * 8), 'center': (5.5 * 4 - .5, 6.5 * 8 - .5), 'udp': (5 / 13 * 56, 6 / 8 * 72)}[alignment]
    keypoints, _ = decoder(alignment=alignment, supplier='relu').decode(maps[0])
    np.testing.assert_allclose(keypoints[0, 0], expected, rtol=1e-6)


def test_scores():
    maps = torch.zeros(4, H, W)
    maps[0, 2:4, 3:5] = 1.5
    maps[1, 2, 3] = maps[1, 7, 9] = .25
    maps[2, 5, 5] = .75
    maps[3] = -1
    mass, peak, near = (
        decoder(supplier='relu', **options).decode(maps)[1] for options in (dict(blur=0), dict(score='max'), dict(blur=2)))
    np.testing.assert_allclose(mass, [[1, .5, 1, 0]])
    np.testing.assert_allclose(peak, [[1, .25, .75, 0]])
    of_four = (1 + 2 * np.exp(-1 / 8) + np.exp(-2 / 8)) / 4
    np.testing.assert_allclose(near, [[of_four, .5 * (1 + np.exp(-61 / 8)), 1, 0]], rtol=1e-5)


@pytest.mark.parametrize('score', ['mass', 'max'])
@pytest.mark.parametrize('supplier', sorted(SUPPLIERS))
def test_never_nan(supplier, score):
    """Dead and broken maps give the cell of their maximum and score 0; the others are not disturbed."""
    maps = heatmaps()
    maps[0, 0] = -2
    maps[0, 0, 3, 4] = -1
    maps[1, 1] = torch.nan
    maps[1, 2, 7, 8] = torch.nan
    maps[2, 0, 0, 13] = torch.inf
    maps[2, 1] = -torch.inf
    unit = decoder(supplier=supplier, score=score, alignment='msra')
    keypoints, scores = (np.concatenate(values) for values in unit.batch_decode(maps))
    assert np.isfinite(keypoints).all() and np.isfinite(scores).all()
    broken = {(1, 1): (0, 0), (1, 2): (8, 7), (2, 0): (13, 0), (2, 1): (0, 0)}
    if supplier.startswith('relu'):
        broken[0, 0] = (4, 3)
    for place, (x, y) in broken.items():
        assert scores[place] == 0 and keypoints[place].tolist() == [4 * x, 8 * y]
    usual = np.concatenate(unit.batch_decode(heatmaps())[0])
    for place in np.ndindex(B, K):
        if place not in broken and place != (0, 0):
            np.testing.assert_allclose(keypoints[place], usual[place], atol=1e-4)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
def test_dtypes_of_mixed_precision(dtype):
    maps = heatmaps().to(dtype)
    keypoints, scores = decoder().batch_decode(maps)
    expected, shares = decoder().batch_decode(maps.float())
    np.testing.assert_allclose(np.stack(keypoints), np.stack(expected), atol=1e-4)
    np.testing.assert_allclose(np.stack(scores), np.stack(shares), atol=1e-6)
    assert keypoints[0].dtype == scores[0].dtype == np.float32


def test_maps_that_still_hang_on_a_graph():
    maps = heatmaps().requires_grad_()
    attached, detached = decoder().batch_decode(maps * 1)[0], decoder().batch_decode(maps.detach())[0]
    np.testing.assert_array_equal(np.stack(attached), np.stack(detached))


class Exportable(torch.nn.Module):

    def __init__(self, **options):
        super().__init__()
        self.decoder = decoder(**options)

    def forward(self, maps):
        return self.decoder.decode_tensor(maps)


def with_dead_and_broken(maps):
    maps = maps.clone()
    maps[0, 0] = -1 - torch.linspace(0, 1, H * W).view(H, W)  # not flat: where rounding decides, two ways need not agree
    maps[0, 1, 3, 3] = torch.nan
    return maps


@pytest.mark.parametrize('supplier', sorted(SUPPLIERS))
def test_decode_tensor_is_batch_decode(supplier):
    maps = with_dead_and_broken(heatmaps())
    keypoints, scores = decoder(supplier=supplier).decode_tensor(maps)
    batch, shares = decoder(supplier=supplier).batch_decode(maps)
    assert keypoints.shape == (B, K, 2) and scores.shape == (B, K)
    np.testing.assert_allclose(keypoints, np.concatenate(batch), atol=1e-4)
    np.testing.assert_allclose(scores, np.concatenate(shares), atol=1e-6)


@pytest.mark.parametrize('supplier', sorted(SUPPLIERS))
@pytest.mark.parametrize('how', ['export', 'trace'])
def test_export(supplier, how):
    """A graph made from one batch decodes another one, of another size."""
    module = Exportable(supplier=supplier)
    if how == 'export':
        if not hasattr(torch, 'export') or 'dynamic_shapes' not in inspect.signature(torch.export.export).parameters:
            pytest.skip('this torch cannot export with sizes left open')
        shapes = ({0: torch.export.Dim('batch', min=2, max=64)}, )
        graph = torch.export.export(module, (heatmaps(), ), dynamic_shapes=shapes).module()
    else:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', torch.jit.TracerWarning)
            graph = torch.jit.trace(module, heatmaps())
    other = with_dead_and_broken(torch.cat([heatmaps(1), heatmaps(2)]))
    for traced, eager in zip(graph(other), module(other)):
        torch.testing.assert_close(traced, eager)


@pytest.mark.parametrize('supplier', sorted(SUPPLIERS))
def test_onnx(supplier):
    onnxruntime = pytest.importorskip('onnxruntime', reason='onnxruntime is not installed')
    pytest.importorskip('onnx', reason='onnx is not installed')
    module, file = Exportable(supplier=supplier), io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        by_tracing = {'dynamo': False} if 'dynamo' in inspect.signature(torch.onnx.export).parameters else {}
        torch.onnx.export(module, (heatmaps(), ), file, input_names=['heatmaps'], dynamic_axes={'heatmaps': {0: 'batch'}},
                          opset_version=17, **by_tracing)
    session = onnxruntime.InferenceSession(file.getvalue(), providers=['CPUExecutionProvider'])
    other = torch.cat([heatmaps(1), heatmaps(2)])
    other[0, 0] = -1
    for exported, eager in zip(session.run(None, {'heatmaps': other.numpy()}), module(other)):
        np.testing.assert_allclose(exported, eager, atol=1e-4)


def test_encode_names_who_encodes():
    with pytest.raises(NotImplementedError, match='DotAnnotationCodec'):
        decoder().encode(np.zeros((1, K, 2)))


def test_pickles():
    """Codecs travel to data-loading processes."""
    copy = pickle.loads(pickle.dumps(decoder(supplier=dict(type='softmax', sharpness=2.))))
    assert copy.supplier == build_supplier(dict(type='softmax', sharpness=2.)) and copy.alignment == decoder().alignment


@pytest.mark.parametrize(('call', 'error', 'message'), [
    (lambda unit: unit.batch_decode(torch.zeros(K, H, W)), ValueError,
     r'batch_encoded must have shape \(B, K, H, W\), got \(5, 9, 14\)'),
    (lambda unit: unit.decode(torch.zeros(B, K, H, W)), ValueError,
     r'encoded must have shape \(K, H, W\), got \(3, 5, 9, 14\)'),
    (lambda unit: unit.batch_decode(torch.zeros(B, K, W, H)), ValueError,
     r'batch_encoded must have H x W = 9 x 14 \(heatmap_size=\(14, 9\)\), got shape \(3, 5, 14, 9\)'),
    (lambda unit: unit.decode_tensor(torch.zeros(B, K, H, W + 1)), ValueError, r'heatmaps must have H x W = 9 x 14'),
    (lambda unit: unit.batch_decode(torch.zeros(B, K, H, W, dtype=torch.long)), TypeError,
     r'batch_encoded must be .* got torch.int64'),
    (lambda unit: unit.decode([[1.]]), TypeError, r'encoded must be a floating-point tensor or array of heatmaps, got list'),
])
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call(decoder())


@pytest.mark.parametrize(('options', 'message'), [
    (dict(alignment='corner'), r"alignment must be one of .* got 'corner'"),
    (dict(supplier='tanh'), r"supplier must be one of .* got 'tanh'"),
    (dict(supplier=dict(type='softplus', sharpness=0)), r'sharpness must be a positive'),
    (dict(score='mean'), r"score must be one of \('mass', 'max'\), got 'mean'"),
    (dict(blur=-1), r'blur must be a finite number >= 0, got -1'),
    (dict(blur=True), r'blur must be a finite number .* got True'),
    (dict(blur='2'), r"blur must be a finite number .* got '2'"),
])
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        SubPixelDecoder(INPUT, HEATMAP, **options)
