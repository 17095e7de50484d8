"""SupplierAgreementHook: in whatever model the head sits, loss and decoder must read maps alike."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.model import MMDistributedDataParallel
from mmpose.registry import KEYPOINT_CODECS, MODELS
from mmpose.utils import register_all_modules
from torch import nn

from hdm_mmpose.components import SupplierAgreementHook
from hdm_mmpose.components.supplier_agreement_hook import disagreements
from tests.tiny_training import RECIPE

SIZES = dict(input_size=(96, 128), heatmap_size=(24, 32))


def head(loss: object, decoder: str | dict | None, kind: str = 'SubPixelDecoder', head_type: str = 'HeatmapHead',
         **options) -> nn.Module:
    register_all_modules()
    codec = dict(type=kind, supplier=decoder, **SIZES) if decoder else dict(type='MSRAHeatmap', sigma=2, **SIZES)
    return MODELS.build(dict(type=head_type, in_channels=8, out_channels=3, deconv_out_channels=None, loss=loss,
                             decoder=codec, **options))


def emd(supplier: str | dict) -> dict:
    return dict(type='EMDHeatmapLoss', supplier=supplier)


def runner_of(model: nn.Module) -> SimpleNamespace:
    said = []
    return SimpleNamespace(model=model, said=said, logger=SimpleNamespace(warning=said.append))


@pytest.mark.parametrize('kind', ['SubPixelDecoder', 'DotAnnotationCodec'])
@pytest.mark.parametrize('stage', ['before_train', 'before_val', 'before_test'])
def test_disagreement_stops_the_run(kind: str, stage: str) -> None:
    with pytest.raises(ValueError, match='trains suppliers softplus of sharpness 5, the decoder .* reads relu'):
        getattr(SupplierAgreementHook(), stage)(runner_of(head(emd('softplus'), 'relu', kind)))


@pytest.mark.parametrize(('trained', 'read'), [
    ('softplus', 'softplus'), ('softplus', dict(type='softplus', sharpness=5.0)), ('relu_surrogate', 'relu'),
    (dict(type='softmax', sharpness=2), dict(type='softmax', sharpness=2.0))])
def test_agreement_passes(trained: object, read: object) -> None:
    assert list(disagreements(head(emd(trained), read))) == []


def test_sharpness_counts() -> None:
    assert len(list(disagreements(head(emd('softplus'), dict(type='softplus', sharpness=3.0))))) == 1


def test_of_several_stages_the_last_is_decoded() -> None:
    losses = [emd('relu'), emd('softplus')]
    model = head(losses, 'softplus', head_type='CPMHead', num_stages=2)
    assert list(disagreements(model)) == []
    assert len(list(disagreements(head(losses[::-1], 'softplus', head_type='CPMHead', num_stages=2)))) == 1


def test_head_inside_a_head_and_a_wrapper() -> None:
    inner = dict(type='HeatmapHead', in_channels=8, out_channels=3, deconv_out_channels=None, loss=emd('softplus'),
                 decoder=dict(type='SubPixelDecoder', supplier='relu', **SIZES))
    register_all_modules()
    model = nn.ModuleDict(dict(head=MODELS.build(dict(type='VisPredictHead', pose_cfg=inner))))
    (problem,) = disagreements(nn.Sequential(model))
    assert 'head.pose_head' in problem


def test_distributed_wrapper(tmp_path) -> None:
    torch.distributed.init_process_group('gloo', init_method=f'file://{tmp_path}/store', rank=0, world_size=1)
    try:
        model = nn.ModuleDict(dict(head=head(emd('softplus'), 'relu')))
        assert len(list(disagreements(MMDistributedDataParallel(model)))) == 1
    finally:
        torch.distributed.destroy_process_group()


def test_other_losses_and_decoders_are_not_its_business() -> None:
    assert list(disagreements(head(dict(type='KeypointMSELoss'), 'relu'))) == []
    assert list(disagreements(head(emd('softplus'), None))) == []


def test_warns_if_told_to() -> None:
    runner = runner_of(head(emd('softplus'), 'relu'))
    SupplierAgreementHook(action='warn').before_train(runner)
    assert len(runner.said) == 1
    with pytest.raises(ValueError, match='action must be one of'):
        SupplierAgreementHook(action='ignore')


def test_our_recipe_agrees() -> None:
    register_all_modules()
    cfg = Config.fromfile(RECIPE)
    assert list(disagreements(MODELS.build(cfg.model))) == []
    KEYPOINT_CODECS.build(cfg.codec)
