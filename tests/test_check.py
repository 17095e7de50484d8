"""``python -m hdm_mmpose check``: every rule finds its planted fault, and finds nothing where there is none."""

from __future__ import annotations

import copy
import functools
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

pytest.importorskip('mmpose', reason='the command checks configs of MMPose')

from mmengine.config import Config  # noqa: E402
from mmpose.registry import MODELS  # noqa: E402

from hdm_mmpose.__main__ import main  # noqa: E402
from hdm_mmpose.check import check_config, command  # noqa: E402
from hdm_mmpose.check.command import resolve_path  # noqa: E402
from hdm_mmpose.check.finding import CONFIG_RULES, DATA_RULES, Finding, Rule, error  # noqa: E402
from hdm_mmpose.check.parts import ConfigParts  # noqa: E402
from hdm_mmpose.check.rules_agree import written_supplier  # noqa: E402
from hdm_mmpose.check.table import FILES, MEANINGS, with_table  # noqa: E402
from hdm_mmpose.components.supplier_agreement_hook import disagree  # noqa: E402
from hdm_mmpose.transport import SUPPLIERS, build_supplier  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
(DEMO,) = (ROOT / 'configs' / 'demo').glob('*_hdm-*.py')
OURS = sorted(path for path in ROOT.glob('configs/[!_]*/*.py') if '_hdm' in path.name)
# One per dataset and one with another backbone; `make test-all` looks at all.
SOME = ['td-hm_hrnet-w32_hdm-8xb64-210e_mpii-256x256.py', 'td-hm_hrformer-base_hdm-paper-8xb32-210e_coco-256x192.py',
        'cspnext-m_hdm-8xb256-210e_coco-256x192.py']
COCO = 'mmpose::body_2d_keypoint/topdown_heatmap/coco'

ALL_RULES = [*CONFIG_RULES, *DATA_RULES]

GAUSSIAN = dict(type='MSRAHeatmap', input_size=(96, 128), heatmap_size=(24, 32), sigma=1)
UDP = dict(type='UDPHeatmap', input_size=(96, 128), heatmap_size=(24, 32), sigma=1)


@functools.lru_cache(maxsize=None)
def read(path: Path) -> Config:
    return Config.fromfile(path)


def demo() -> dict:
    """A config of this package in which everything agrees."""
    return copy.deepcopy(read(DEMO).to_dict())


def stock(text: str, folder: Path) -> dict:
    path = folder / 'config.py'
    path.write_text(text)
    return Config.fromfile(path).to_dict()


def found(cfg: dict) -> dict[str, str]:
    """Level of each rule that found something."""
    return {finding.rule: finding.level for finding in check_config(cfg)}


def step(cfg: dict, loader: str, kind: str) -> dict:
    """A step of a pipeline."""
    return next(each for each in cfg[loader]['dataset']['pipeline'] if each['type'] == kind)


def encode_with(cfg: dict, codec: dict) -> None:
    step(cfg, 'train_dataloader', 'GenerateTarget')['encoder'] = codec


# ---------------------------------------------------------------------------------------------- planted disagreements


def decoder_supplier(cfg: dict) -> None:
    cfg['model']['head']['decoder']['supplier'] = 'relu'


def decoder_sharpness(cfg: dict) -> None:
    cfg['model']['head']['decoder']['supplier'] = dict(type='softplus', sharpness=3.0)


def flipped_and_shifted(cfg: dict) -> None:
    cfg['model']['test_cfg']['shift_heatmap'] = True


def gaussian_flipped_unshifted(cfg: dict) -> None:
    encode_with(cfg, GAUSSIAN)
    cfg['model']['head']['decoder'] = GAUSSIAN


def udp_crop_in_one_pipeline(cfg: dict) -> None:
    step(cfg, 'val_dataloader', 'TopdownAffine')['use_udp'] = True


def codec_alone(cfg: dict) -> None:
    cfg['codec'] = dict(cfg['codec'], supplier='relu')


def decoder_forgotten(cfg: dict) -> None:
    cfg['model']['head']['decoder'] = UDP


def loss_alone(cfg: dict) -> None:
    encode_with(cfg, GAUSSIAN)
    cfg['model']['head']['decoder'] = cfg['codec'] = GAUSSIAN


def score_max(cfg: dict) -> None:
    cfg['model']['head']['decoder']['score'] = 'max'


def encoder_alignment(cfg: dict) -> None:
    step(cfg, 'train_dataloader', 'GenerateTarget')['encoder']['alignment'] = 'msra'


def encoder_size(cfg: dict) -> None:
    step(cfg, 'train_dataloader', 'GenerateTarget')['encoder']['heatmap_size'] = (48, 64)


def encoder_in_switched_pipeline(cfg: dict) -> None:
    pipeline = copy.deepcopy(cfg['train_dataloader']['dataset']['pipeline'])
    cfg['custom_hooks'] = [dict(type='PipelineSwitchHook', switch_epoch=5, switch_pipeline=pipeline)]
    pipeline[-2]['encoder']['alignment'] = 'udp'


def encoder_in_combined_dataset(cfg: dict) -> None:
    inner = copy.deepcopy(cfg['train_dataloader']['dataset'])
    inner['pipeline'][-2]['encoder']['alignment'] = 'udp'
    cfg['train_dataloader']['dataset'] = dict(
        type='CombinedDataset', metainfo=dict(from_file='configs/_base_/datasets/coco.py'), datasets=[inner], pipeline=[])


def encoder_supplier(cfg: dict) -> None:
    step(cfg, 'train_dataloader', 'GenerateTarget')['encoder']['supplier'] = 'relu'


def crop_size(cfg: dict) -> None:
    step(cfg, 'test_dataloader', 'TopdownAffine')['input_size'] = (192, 256)


def combined_offsets(cfg: dict) -> None:
    encode_with(cfg, dict(UDP, heatmap_type='combined'))


def combined_flip(cfg: dict) -> None:
    cfg['model']['test_cfg']['flip_mode'] = 'udp_combined'


def nothing_imported(cfg: dict) -> None:
    del cfg['custom_imports']


def delete_in_list(cfg: dict) -> None:
    cfg['train_dataloader']['dataset']['pipeline'][-2]['encoder']['_delete_'] = True


def unknown_supplier(cfg: dict) -> None:
    cfg['model']['head']['loss']['supplier'] = 'sigmoid'


def unknown_option(cfg: dict) -> None:
    cfg['model']['head']['loss']['lambd'] = 1


def misspelt_type(cfg: dict) -> None:
    cfg['model']['head']['decoder']['type'] = 'SubpixelDecoder'


def misspelt_loss(cfg: dict) -> None:
    cfg['model']['head']['loss']['type'] = 'EMDHeatMapLoss'


def loss_by_name(cfg: dict) -> None:
    cfg['model']['head']['loss'] = 'EMDHeatmapLoss'


def loss_in_a_list(cfg: dict) -> None:
    cfg['model']['head']['loss'] = [cfg['model']['head']['loss']]


def misspelt_hook(cfg: dict) -> None:
    cfg['custom_hooks'] = [dict(type='TransportMonitoringHook')]


def unknown_hook_option(cfg: dict) -> None:
    cfg['custom_hooks'] = [dict(type='HeatmapPictureHook', every=100)]


def hook_without_loss(cfg: dict) -> None:
    nothing_of_ours(cfg)
    cfg['custom_hooks'] = [dict(type='TransportMonitorHook')]


def hook_not_imported(cfg: dict) -> None:
    hook_without_loss(cfg)
    del cfg['custom_imports']


def fragment(cfg: dict) -> None:
    del cfg['model']


def epsilon_twice(cfg: dict) -> None:
    cfg['model']['head']['loss'].update(epsilon=0.25, entropic_lambda=1, cell_size=4)


def lambda_without_unit(cfg: dict) -> None:
    cfg['model']['head']['loss'].update(entropic_lambda=1)


def bottom_up(cfg: dict) -> None:
    cfg['model']['type'] = 'BottomupPoseEstimator'


def associative_embedding(cfg: dict) -> None:
    head = cfg['model']['head']
    head.update(type='AssociativeEmbeddingHead', loss=dict(type='AssociativeEmbeddingLoss', keypoint_loss=head['loss']))


def simcc(cfg: dict) -> None:
    cfg['model']['head']['type'] = 'SimCCHead'


def wrapped(cfg: dict) -> None:
    head = cfg['model']['head']
    head['loss'] = dict(type='MultipleLossWrapper', losses=[head['loss']])


def coordinates(cfg: dict) -> None:
    head = cfg['model']['head']
    head.update(type='DSNTHead', loss=dict(type='MultipleLossWrapper', losses=[head['loss'], dict(type='SmoothL1Loss')]))


def normalised_maps(cfg: dict) -> None:
    head = cfg['model']['head']
    head.update(type='DSNTHead', loss=dict(type='MultipleLossWrapper', losses=[dict(type='SmoothL1Loss'), head['loss']]))


def visibility(cfg: dict) -> None:
    head = cfg['model']['head']
    inner = dict(head, loss=dict(type='KeypointMSELoss'))
    cfg['model']['head'] = dict(type='VisPredictHead', loss=head['loss'], pose_cfg=inner)


def wrong_cell(cfg: dict) -> None:
    cfg['model']['head']['loss'].update(entropic_lambda=1, cell_size=8)


def cost_in_cells(cfg: dict) -> None:
    cfg['model']['head']['loss'].update(entropic_lambda=1, cell_size=1)


def newton_iterations(cfg: dict) -> None:
    cfg['model']['head']['loss'].update(num_iters=1000)


def softmax_alone(cfg: dict) -> None:
    cfg['model']['head']['loss'] = dict(type='EMDHeatmapLoss', supplier='softmax', cross_entropy_weight=0)


def naive_codec_only(cfg: dict) -> None:
    encoder = step(cfg, 'train_dataloader', 'GenerateTarget')['encoder']
    encode_with(cfg, dict(encoder, subpixel=False))


def weights_ignored(cfg: dict) -> None:
    cfg['model']['head']['loss'].update(use_target_weight=False)


def head_of_another_stride(cfg: dict) -> None:
    for option in ('deconv_out_channels', 'deconv_kernel_sizes'):
        cfg['model']['head'][option] = cfg['model']['head'][option][:-1]


def another_joint_count(cfg: dict) -> None:
    cfg['model']['head']['out_channels'] = 14


def broken_model(cfg: dict) -> None:
    cfg['model']['head'].update(deconv_kernel_sizes=())


def long_cells(cfg: dict) -> None:
    for codec in (cfg['codec'], cfg['model']['head']['decoder'], step(cfg, 'train_dataloader', 'GenerateTarget')['encoder']):
        codec['heatmap_size'] = (24, 24)


def no_decoder(cfg: dict) -> None:
    cfg['model']['head']['decoder'] = None


def gaussian_read_as_dots(cfg: dict) -> None:
    encode_with(cfg, UDP)
    cfg['codec'] = UDP
    cfg['model']['head'].update(loss=dict(type='KeypointMSELoss'))
    cfg['model']['head']['decoder']['blur'] = 0
    cfg['model']['head']['decoder']['alignment'] = 'udp'
    for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        step(cfg, loader, 'TopdownAffine')['use_udp'] = True


def stages_differ(cfg: dict) -> None:
    head = cfg['model']['head']
    head.update(type='CPMHead', num_stages=2, loss=[dict(head['loss'], supplier=dict(type='softmax', sharpness=2.0)), head['loss']])


def gaussian_read_as_mass(cfg: dict) -> None:
    """The decoder alone, with its class defaults."""
    encode_with(cfg, GAUSSIAN)
    cfg['codec'] = GAUSSIAN
    sizes = {name: GAUSSIAN[name] for name in ('input_size', 'heatmap_size')}
    cfg['model']['head'].update(
        loss=dict(type='KeypointMSELoss', use_target_weight=True), decoder=dict(type='SubPixelDecoder', alignment='msra', **sizes))


def target_forgotten(cfg: dict) -> None:
    pipeline = cfg['train_dataloader']['dataset']['pipeline']
    pipeline.remove(step(cfg, 'train_dataloader', 'GenerateTarget'))


def encoder_forgotten(cfg: dict) -> None:
    del step(cfg, 'train_dataloader', 'GenerateTarget')['encoder']


def encoder_misspelt(cfg: dict) -> None:
    target = step(cfg, 'train_dataloader', 'GenerateTarget')
    target['encodr'] = target.pop('encoder')


def no_base(cfg: dict) -> None:
    """README's block on its own."""
    loss = cfg['model']['head']['loss']
    for name in list(cfg):
        if name not in ('custom_imports', 'model'):
            del cfg[name]
    cfg['model'] = dict(head=dict(loss=loss))


def nothing_of_ours(cfg: dict) -> None:
    gaussian_flipped_unshifted(cfg)
    cfg['codec'] = GAUSSIAN
    cfg['model']['head']['loss'] = dict(type='KeypointMSELoss', use_target_weight=True)


def meta(cfg: dict, loader: str = 'val_dataloader') -> dict:
    """Meta information of the demo, written out in a data set's own option."""
    from mmpose.datasets.datasets import CocoDataset

    written = Config.fromfile(resolve_path(f'mmpose::{CocoDataset.METAINFO["from_file"].partition("configs/")[2]}')).dataset_info
    cfg[loader]['dataset']['metainfo'] = copy.deepcopy(written.to_dict() if hasattr(written, 'to_dict') else dict(written))
    return cfg[loader]['dataset']['metainfo']


def short_sigmas(cfg: dict) -> None:
    meta(cfg)['sigmas'] = [0.05] * 14


def long_weights(cfg: dict) -> None:
    meta(cfg, 'train_dataloader')['joint_weights'] = [1.0] * 18
    step(cfg, 'train_dataloader', 'GenerateTarget')['use_dataset_keypoint_weights'] = True


def no_sigmas_and_nobody_who_reads_them(cfg: dict) -> None:
    """As MMPose's own faces have it."""
    meta(cfg)['sigmas'] = []
    meta(cfg, 'train_dataloader')['joint_weights'] = []
    cfg['val_evaluator'] = [dict(type='NME', norm_mode='keypoint_distance', keypoint_indices=[0, 1])]
    cfg['default_hooks']['checkpoint']['save_best'] = None


def swap_on_one_side(cfg: dict) -> None:
    meta(cfg, 'train_dataloader')['keypoint_info'][1]['swap'] = ''


def swap_in_a_circle(cfg: dict) -> None:
    meta(cfg, 'train_dataloader')['keypoint_info'][1]['swap'] = 'nose'


def swap_to_nobody(cfg: dict) -> None:
    meta(cfg, 'train_dataloader')['keypoint_info'][1]['swap'] = 'left_eey'


def joints_from_one(cfg: dict) -> None:
    info = meta(cfg)
    info['keypoint_info'] = {number + 1: each for number, each in info['keypoint_info'].items()}


def metainfo_as_text(cfg: dict) -> None:
    cfg['train_dataloader']['dataset']['metainfo'] = 'things.py'


def metainfo_of_no_file(cfg: dict) -> None:
    cfg['train_dataloader']['dataset']['metainfo'] = dict(from_file='gone/things.py')


def metainfo_without_a_part(cfg: dict) -> None:
    del meta(cfg)['sigmas']


def datasets_in_a_list(cfg: dict) -> None:
    cfg['train_dataloader']['dataset'] = [cfg['train_dataloader']['dataset']] * 2


def pipeline_in_a_dict(cfg: dict) -> None:
    cfg['val_dataloader']['dataset']['pipeline'] = dict(type='LoadImage')


def other_annotations(cfg: dict) -> None:
    cfg['val_evaluator'] = dict(type='CocoMetric', ann_file='data/other.json')


def metric_that_nobody_gives(cfg: dict) -> None:
    cfg['default_hooks']['checkpoint']['save_best'] = 'PCK'


def stopping_on_nothing(cfg: dict) -> None:
    cfg['custom_hooks'] = [dict(type='EarlyStoppingHook', monitor='loss_emd')]


def schedule_on_nothing(cfg: dict) -> None:
    cfg['param_scheduler'] = [dict(type='ReduceOnPlateauLR', monitor='coco/ap')]


def metric_of_ones_own(cfg: dict) -> None:
    cfg['val_evaluator'] = dict(type='KeypointPartitionMetric', metric=dict(type='CocoMetric'), partitions=dict(body=[0]))
    cfg['default_hooks']['checkpoint']['save_best'] = 'all/coco/AP'


def converter_for_the_pipeline_alone(cfg: dict) -> None:
    converter = dict(type='KeypointConverter', num_keypoints=3, mapping=[(0, 0), (5, 1), (6, 2)])
    for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        cfg[loader]['dataset']['pipeline'].insert(1, converter)
    cfg['model']['head']['out_channels'] = 3


def levels_for_one_stage(cfg: dict) -> None:
    target = step(cfg, 'train_dataloader', 'GenerateTarget')
    target.update(multilevel=True, encoder=[target['encoder']] * 3)


def one_level_for_stages(cfg: dict) -> None:
    head = cfg['model']['head']
    cfg['model']['head'] = dict(
        type='MSPNHead', num_stages=2, num_units=4, out_shape=(32, 24), loss=[head['loss']] * 8, decoder=head['decoder'])


def own_resize(cfg: dict) -> None:
    for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        steps = cfg[loader]['dataset']['pipeline']
        steps[steps.index(step(cfg, loader, 'TopdownAffine'))] = dict(type='BottomupResize', input_size=(96, 128))


def dsnt_codec(cfg: dict) -> None:
    encode_with(cfg, dict(type='IntegralRegressionLabel', input_size=(96, 128), heatmap_size=(24, 32), sigma=1))


def own_head(cfg: dict) -> None:
    cfg['model']['head']['type'] = 'CattleHead'


def own_hook_elsewhere(cfg: dict) -> None:
    cfg['default_hooks']['cattle'] = dict(type='CattleHook')


def own_things(cfg: dict) -> None:
    cfg['train_dataloader']['dataset']['type'] = 'CattleDataset'
    cfg['val_dataloader']['dataset']['pipeline'].insert(1, dict(type='CattleTransform'))
    cfg['test_evaluator'] = [dict(type='CattleMetric')]
    cfg['optim_wrapper']['optimizer']['type'] = 'CattleDescent'


def evaluator_without_type(cfg: dict) -> None:
    cfg['test_evaluator'] = [dict(prefix='pixel')]


def evaluator_with_a_wrong_option(cfg: dict) -> None:
    cfg['val_evaluator'] = [dict(type='EPE', prefx='pixel')]


def no_test_loop(cfg: dict) -> None:
    cfg['test_cfg'] = None


def optimiser_with_a_wrong_option(cfg: dict) -> None:
    cfg['optim_wrapper']['optimizer']['learning_rate'] = 1e-3


def epochs_in_letters(cfg: dict) -> None:
    cfg['train_cfg']['max_epochs'] = 'many'


def persistent_workers_without_workers(cfg: dict) -> None:
    cfg['val_dataloader'].update(num_workers=0, persistent_workers=True)


def schedule_with_a_wrong_option(cfg: dict) -> None:
    cfg['param_scheduler'] = [dict(type='LinearLR', start_factor=2.0, begin=0, end=10)]


def hook_with_a_wrong_option(cfg: dict) -> None:
    cfg['default_hooks']['logger']['intervall'] = 3


def checkpoint_that_is_gone(cfg: dict) -> None:
    cfg['load_from'] = 'gone.pth'


def threshold_of_heights(cfg: dict) -> None:
    cfg['val_evaluator'] = dict(type='CocoMetric', keypoint_score_thr=0.2)


def drawn_persons(cfg: dict) -> None:
    cfg['default_hooks']['visualization'] = dict(type='PoseVisualizationHook', enable=True)


PLANTED: list[tuple[Callable[[dict], None], str, str]] = [
    (decoder_supplier, 'supplier', 'error'),
    (decoder_sharpness, 'supplier', 'error'),
    (flipped_and_shifted, 'flip-shift', 'error'),
    (gaussian_flipped_unshifted, 'flip-shift', 'error'),
    (udp_crop_in_one_pipeline, 'crop-alignment', 'error'),
    (codec_alone, 'codec-not-used', 'error'),
    (decoder_forgotten, 'old-decoder', 'error'),
    (loss_alone, 'gaussian-decoder', 'warning'),
    (loss_alone, 'rounded-targets', 'warning'),
    (score_max, 'score', 'warning'),
    (encoder_alignment, 'alignment', 'error'),
    (encoder_size, 'size', 'error'),
    (encoder_in_switched_pipeline, 'alignment', 'error'),
    (encoder_in_combined_dataset, 'alignment', 'error'),
    (encoder_supplier, 'encoder-supplier', 'warning'),
    (crop_size, 'crop-size', 'error'),
    (combined_offsets, 'combined-offsets', 'error'),
    (combined_flip, 'flip-mode', 'error'),
    (nothing_imported, 'imports', 'error'),
    (delete_in_list, 'leftover-delete', 'error'),
    (unknown_supplier, 'does-not-build', 'error'),
    (unknown_option, 'does-not-build', 'error'),
    (misspelt_type, 'does-not-build', 'error'),
    (misspelt_loss, 'does-not-build', 'error'),
    (loss_by_name, 'not-a-dict', 'error'),
    (loss_in_a_list, 'loss-place', 'error'),
    (misspelt_hook, 'does-not-build', 'error'),
    (unknown_hook_option, 'does-not-build', 'error'),
    (hook_without_loss, 'hook-without-loss', 'error'),
    (hook_not_imported, 'imports', 'error'),
    (fragment, 'no-model', 'error'),
    (epsilon_twice, 'does-not-build', 'error'),
    (lambda_without_unit, 'does-not-build', 'error'),
    (bottom_up, 'refused-estimator', 'error'),
    (associative_embedding, 'refused-head', 'error'),
    (simcc, 'refused-head', 'error'),
    (wrapped, 'loss-place', 'error'),
    (coordinates, 'loss-place', 'error'),
    (visibility, 'loss-place', 'error'),
    (normalised_maps, 'paired-supplier', 'error'),
    (wrong_cell, 'cell-size', 'error'),
    (cost_in_cells, 'cell-size', 'warning'),
    (newton_iterations, 'num-iters', 'warning'),
    (weights_ignored, 'target-weight', 'warning'),
    (softmax_alone, 'stuck-maps', 'warning'),
    (naive_codec_only, 'naive-dots', 'warning'),
    (head_of_another_stride, 'output-size', 'error'),
    (another_joint_count, 'joints', 'error'),
    (broken_model, 'model', 'error'),
    (long_cells, 'square-cells', 'warning'),
    (no_decoder, 'no-decoder', 'error'),
    (gaussian_read_as_dots, 'gaussian-reading', 'warning'),
    (gaussian_read_as_mass, 'gaussian-reading', 'warning'),
    (target_forgotten, 'no-target', 'error'),
    (encoder_forgotten, 'no-target', 'error'),
    (encoder_misspelt, 'no-target', 'error'),
    (no_base, 'fragment', 'error'),
    (stages_differ, 'stage-supplier', 'warning'),
    (nothing_of_ours, 'unused', 'warning'),
    (short_sigmas, 'meta-length', 'error'),
    (long_weights, 'meta-length', 'error'),
    (swap_on_one_side, 'flip-pairs', 'error'),
    (swap_in_a_circle, 'flip-pairs', 'error'),
    (swap_to_nobody, 'metainfo', 'error'),
    (joints_from_one, 'joint-ids', 'error'),
    (metainfo_as_text, 'metainfo', 'error'),
    (metainfo_of_no_file, 'metainfo', 'error'),
    (metainfo_without_a_part, 'metainfo', 'error'),
    (datasets_in_a_list, 'dataset', 'error'),
    (pipeline_in_a_dict, 'dataset', 'error'),
    (other_annotations, 'evaluator-file', 'error'),
    (metric_that_nobody_gives, 'no-such-metric', 'error'),
    (stopping_on_nothing, 'no-such-metric', 'error'),
    (schedule_on_nothing, 'no-such-metric', 'error'),
    (metric_of_ones_own, 'metric-names', 'unchecked'),
    (converter_for_the_pipeline_alone, 'evaluator-joints', 'error'),
    (levels_for_one_stage, 'levels', 'error'),
    (one_level_for_stages, 'levels', 'error'),
    (own_resize, 'other-crop', 'unchecked'),
    (dsnt_codec, 'other-codec', 'unchecked'),
    (own_head, 'not-registered', 'error'),
    (own_hook_elsewhere, 'not-registered', 'error'),
    (evaluator_without_type, 'runner', 'error'),
    (evaluator_with_a_wrong_option, 'runner', 'error'),
    (no_test_loop, 'run-parts', 'error'),
    (optimiser_with_a_wrong_option, 'runner', 'error'),
    (epochs_in_letters, 'runner', 'error'),
    (persistent_workers_without_workers, 'runner', 'error'),
    (schedule_with_a_wrong_option, 'runner', 'error'),
    (hook_with_a_wrong_option, 'runner', 'error'),
    (checkpoint_that_is_gone, 'no-checkpoint', 'error'),
    (threshold_of_heights, 'threshold', 'warning'),
    (drawn_persons, 'threshold', 'warning'),
]


@pytest.mark.parametrize(('plant', 'rule', 'level'), PLANTED, ids=[f'{plant.__name__}-{rule}' for plant, rule, _ in PLANTED])
def test_planted_fault_is_found(plant: Callable[[dict], None], rule: str, level: str) -> None:
    cfg = demo()
    plant(cfg)
    assert found(cfg).get(rule) == level, found(cfg)


@pytest.mark.parametrize(('name', 'meant'), [('EMDHeatMapLoss', 'EMDHeatmapLoss'), ('TransportMonitoringHook', 'TransportMonitorHook')])
def test_misspelt_names_are_answered_with_the_right_one(name: str, meant: str) -> None:
    cfg = demo()
    (misspelt_loss if 'Loss' in name else misspelt_hook)(cfg)
    (finding,) = [finding for finding in check_config(cfg) if finding.rule == 'does-not-build']
    assert name in finding.what and meant in finding.what


def sizes_in_letters(cfg: dict) -> None:
    cfg['model']['head']['decoder']['heatmap_size'] = ['a', 'b']


def lambda_in_letters(cfg: dict) -> None:
    cfg['model']['head']['loss'].update(entropic_lambda='1', cell_size=2)


def crop_of_one_number(cfg: dict) -> None:
    step(cfg, 'test_dataloader', 'TopdownAffine')['input_size'] = 256


def supplier_in_a_list(cfg: dict) -> None:
    cfg['model']['head']['loss']['supplier'] = dict(type=['relu'])


@pytest.mark.parametrize(('plant', 'rule', 'text'), [
    (sizes_in_letters, 'does-not-build', "('a', 'b')|\\['a', 'b'\\]"),
    (lambda_in_letters, 'does-not-build', "entropic_lambda must be a positive finite number, got '1'"),
    (crop_of_one_number, 'crop-size', r'the crop is 256 pixels, the decoder expects \(96, 128\)'),
    (supplier_in_a_list, 'does-not-build', r"supplier must be one of .* got \{'type': \['relu'\]\}"),
])
def test_values_of_the_wrong_type_are_one_finding(plant: Callable[[dict], None], rule: str, text: str) -> None:
    cfg = demo()
    plant(cfg)
    (finding,) = check_config(cfg)
    assert finding.rule == rule and re.search(text, finding.what)


def test_simcc_is_refused_without_a_word_about_gaussians() -> None:
    """Its sigma is a pair."""
    cfg = Config.fromfile(resolve_path('mmpose::body_2d_keypoint/rtmpose/coco/rtmpose-s_8xb256-420e_coco-256x192.py')).to_dict()
    cfg['model']['head']['decoder'] = dict(type='SubPixelDecoder', input_size=(192, 256), heatmap_size=(48, 64), blur=0)
    assert found(cfg) == {'imports': 'error', 'refused-head': 'error'}


def test_a_rule_that_fails_is_a_finding_and_the_others_report(monkeypatch: pytest.MonkeyPatch) -> None:
    def rule_broken(parts: ConfigParts) -> Iterator[Finding]:
        yield error('before', 'here', 'found before it broke', '')
        raise ZeroDivisionError('no stride')

    monkeypatch.setattr(command, 'CONFIG_RULES', [Rule('a broken one', {}, rule_broken), *CONFIG_RULES])
    cfg = demo()
    decoder_supplier(cfg)
    findings = {finding.rule: finding for finding in check_config(cfg)}
    assert {'before', 'rule-failed', 'supplier'} <= findings.keys()
    assert findings['rule-failed'].level == 'error'
    assert findings['rule-failed'].what == 'rule_broken cannot read this config: ZeroDivisionError: no stride'


def test_what_does_not_build_is_not_compared() -> None:
    cfg = demo()
    cfg['model']['head']['decoder']['alignment'] = 'centre'
    assert found(cfg).keys() == {'does-not-build'}


def test_lists_that_nobody_reads_may_be_empty() -> None:
    cfg = demo()
    no_sigmas_and_nobody_who_reads_them(cfg)
    assert found(cfg) == {}


def test_hooks_of_others_are_not_built() -> None:
    cfg = demo()
    pipeline = cfg['train_dataloader']['dataset']['pipeline']
    cfg['custom_hooks'] = [
        dict(type='SyncBuffersHook'), dict(type='mmdet.PipelineSwitchHook', switch_epoch=3, switch_pipeline=list(pipeline))]
    assert found(cfg) == {}
    cfg['custom_hooks'][1]['switch_pipeline'] = [dict(type='LoadImage')]
    assert 'no-target' in found(cfg)


def test_nothing_is_found_where_all_agree() -> None:
    assert found(demo()) == {}


def test_surrogate_reads_as_relu() -> None:
    cfg = demo()
    # cross-entropy needs a rule under which every cell has mass
    cfg['model']['head']['loss'].update(supplier=dict(type='relu_surrogate', sharpness=2.0), cross_entropy_weight=0)
    for codec in (cfg['codec'], cfg['model']['head']['decoder'], step(cfg, 'train_dataloader', 'GenerateTarget')['encoder']):
        codec['supplier'] = 'relu'
    assert found(cfg) == {}


@pytest.mark.parametrize('spec', [*SUPPLIERS, dict(type='softmax', sharpness=3.5), dict(type='softplus', sharpness=0.5)], ids=str)
def test_repairs_write_a_rule_that_reads_alike(spec: str | dict) -> None:
    rule = build_supplier(spec)
    assert not disagree(rule, build_supplier(eval(written_supplier(rule))))  # as one pastes it into a config


def test_one_disagreement_is_one_finding_with_all_its_places() -> None:
    cfg = demo()
    for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        step(cfg, loader, 'TopdownAffine')['use_udp'] = True
    (finding,) = check_config(cfg)
    assert finding.rule == 'crop-alignment'
    assert [place.split('.')[0] for place in finding.where.split(', ')] == [
        'train_dataloader', 'val_dataloader', 'test_dataloader']


def test_the_config_is_not_changed() -> None:
    cfg = demo()
    before = copy.deepcopy(cfg)
    check_config(cfg)
    assert cfg == before


@pytest.mark.parametrize('path', [pytest.param(path, marks=[] if path.name in SOME else pytest.mark.slow) for path in OURS],
                         ids=lambda path: path.stem)
def test_our_configs_agree(path: Path) -> None:
    deliberate = {'cell-size'} if 'paper-cells' in path.name else set()
    assert {rule for rule, level in found(read(path)).items() if level != 'unchecked'} == deliberate


# MMPose 1.3.2's own recipes in which something does disagree: six that override `codec` alone and so are not UDP at all, and
# six that encode with UDP on crops without it.
NOT_UDP, CROP = {'codec-not-used', 'flip-shift'}, {'crop-alignment'}
STOCK_FAULTS = {
    'body_2d_keypoint': {'cspnext-m_udp_8xb64-210e_crowpose-256x192': CROP, 'cspnext-m_udp_8xb64-210e_mpii-256x256': CROP},
    'face_2d_keypoint': {},
    'fashion_2d_keypoint': {
        f'td-hm_hrnet-{size}-210e_deepfashion_{part}-256x192': NOT_UDP
        for size in ('w32_udp_8xb64', 'w48_udp_8xb32') for part in ('full', 'lower', 'upper')},
    'hand_2d_keypoint': {
        f'td-hm_hrnetv2-w18_udp-8xb64-210e_{name}-256x256': CROP for name in ('onehand10k', 'rhd2d')},
    'wholebody_2d_keypoint': {f'cspnext-{size}_udp_8xb64-210e_coco-wholebody-256x192': CROP for size in 'lm'},
}


@pytest.mark.slow
@pytest.mark.parametrize('kind', STOCK_FAULTS)
def test_stock_recipes(kind: str) -> None:
    """No false alarm on several hundred recipes of others, and their real faults found."""
    import mmpose

    folder = Path(mmpose.__file__).parent / '.mim' / 'configs' / kind / 'topdown_heatmap'
    alarms = {}
    for path in sorted(folder.glob('*/*.py')):
        errors = {rule for rule, level in found(Config.fromfile(path)).items() if level == 'error'}
        if errors:
            alarms[path.stem] = errors
    # one joint of DeepFashion2's meta information, vest_kpt9, names another than itself, and is named by none
    pairs = {path.stem: {'flip-pairs'} for path in folder.glob('deepfashion2/*.py')}
    assert alarms == {**STOCK_FAULTS[kind], **pairs}


def test_command_prints_findings_and_fails(capsys: pytest.CaptureFixture) -> None:
    assert main(['check', str(DEMO)]) == 0
    assert 'what was checked agrees\n' in capsys.readouterr().out
    options = ['model.head.decoder.supplier=relu', 'model.test_cfg.shift_heatmap=True']
    assert main(['check', str(DEMO), '--cfg-options', *options]) == 1
    printed = capsys.readouterr().out
    for text in ('model.head.decoder', 'repair: supplier=', ' in both', 'shift_heatmap=False', '2 errors, 1 warning\n',
                 '  disagree:    supplier rule, '):
        assert text in printed


def test_strict_fails_on_warnings(capsys: pytest.CaptureFixture) -> None:
    options = ['--cfg-options', 'model.head.decoder.score=max']
    assert main(['check', str(DEMO), *options]) == 0
    assert main(['check', str(DEMO), '--strict', *options]) == 1
    assert 'warning' in capsys.readouterr().out


@pytest.mark.parametrize('text', ['lr = 1 / 0', 'model = dict(', "_base_ = ['./missing.py']"],
                         ids=['raises', 'syntax', 'base'])
def test_unreadable_config_is_said_not_thrown(text: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / 'broken.py').write_text(text)
    assert main(['check', str(tmp_path / 'broken.py')]) == 1
    assert 'cannot be read' in capsys.readouterr().out


def test_option_without_a_value_is_said_not_thrown(capsys: pytest.CaptureFixture) -> None:
    assert main(['check', str(DEMO), '--cfg-options', 'model.test_cfg.flip_test']) == 1
    assert "--cfg-options must be KEY=VALUE, got 'model.test_cfg.flip_test'" in capsys.readouterr().out


def test_environment_without_mmpose_is_said_not_thrown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    for name in [name for name in sys.modules if name.partition('.check')[:2] == ('hdm_mmpose', '.check')]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, 'mmengine.config', None)  # importing it raises ModuleNotFoundError
    assert main(['check', str(DEMO)]) == 1
    assert 'check needs MMPose' in capsys.readouterr().out


def test_recipe_of_the_installed_mmpose_by_name(capsys: pytest.CaptureFixture) -> None:
    assert main(['check', f'{COCO}/td-hm_vipnas-mbv3_8xb64-210e_coco-256x192.py']) == 0
    assert 'none of EMDHeatmapLoss' in capsys.readouterr().out
    for absent in (f'{COCO}/no-such-recipe.py', 'no-such-package::recipe.py'):
        assert main(['check', absent]) == 1
        assert f'{absent} cannot be read' in capsys.readouterr().out


PURE_PYTHON = """
from mmpose.datasets import CocoDataset, GenerateTarget, LoadImage, PackPoseInputs, TopdownAffine
from mmpose.models import HeatmapHead, PoseDataPreprocessor, ResNet, TopdownPoseEstimator

from hdm_mmpose.components import DotAnnotationCodec, EMDHeatmapLoss, TransportMonitorHook

codec = dict(type=DotAnnotationCodec, input_size=(192, 256), heatmap_size=(48, 64), supplier='relu')
model = dict(
    type=TopdownPoseEstimator, data_preprocessor=dict(type=PoseDataPreprocessor), backbone=dict(type=ResNet, depth=18),
    head=dict(type=HeatmapHead, in_channels=512, out_channels=14, loss=dict(type=EMDHeatmapLoss, supplier='relu'), decoder=codec))
pipeline = [dict(type=LoadImage), dict(type=TopdownAffine, input_size=(192, 256)), dict(type=GenerateTarget, encoder=codec),
            dict(type=PackPoseInputs)]
train_dataloader = dict(dataset=dict(type=CocoDataset, pipeline=pipeline))
custom_hooks = [dict(type=TransportMonitorHook)]
"""


@pytest.mark.skipif('lazy_import' not in inspect.signature(Config.fromfile).parameters, reason='this MMEngine knows no such configs')
def test_configs_with_classes_for_names(tmp_path: Path) -> None:
    """MMEngine's newer configs import what they use, and need no custom_imports."""
    assert found_in_model(stock(PURE_PYTHON, tmp_path)) == {'joints': 'error'}
    cfg = stock(PURE_PYTHON.replace("loss=dict(type=EMDHeatmapLoss, supplier='relu')", 'loss=dict(type=EMDHeatmapLoss)'), tmp_path)
    assert found_in_model(cfg) == {'joints': 'error', 'supplier': 'error'}


def found_in_model(cfg: dict) -> dict[str, str]:
    """Without what a config of a few lines lacks: loops, optimiser, samplers."""
    return {rule: level for rule, level in found(cfg).items() if rule not in ('run-parts', 'runner')}


def test_every_name_that_is_not_registered_is_told() -> None:
    cfg = demo()
    own_things(cfg)
    told = {finding.what.partition(' ')[0]: finding for finding in check_config(cfg) if finding.rule == 'not-registered'}
    assert set(told) == {'CattleDataset', 'CattleTransform', 'CattleMetric', 'CattleDescent'}
    assert all("'hdm_mmpose.components'" in finding.repair for finding in told.values())


@MODELS.register_module(force=True)
class OwnDistiller(torch.nn.Module):
    """Student and teacher in one model, as MMRazor has them; no estimator of MMPose's kind."""


def test_student_and_teacher_are_not_checked_rather_than_refused() -> None:
    cfg = demo()
    teacher = copy.deepcopy(cfg['model'])
    cfg['model'] = dict(type='OwnDistiller', architecture=cfg['model'], teacher=teacher)
    findings = check_config(cfg)
    assert {finding.level for finding in findings} == {'unchecked'} and 'trial' in {finding.rule for finding in findings}


def test_watched_losses_of_the_hook_may_be_monitored() -> None:
    cfg = demo()
    cfg['custom_hooks'] = [dict(type='ValidationLossHook'), dict(type='EarlyStoppingHook', monitor='loss_emd')]
    assert found(cfg) == {}


def test_imports_that_a_config_replaces_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The literal block of docs/swap.md on a project that imports modules of its own."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / 'cattle_things.py').write_text('import mmpose')
    (tmp_path / 'base.py').write_text(f"_base_ = ['{DEMO}']\ncustom_imports = dict(imports=['cattle_things', 'hdm_mmpose.components'])")
    (tmp_path / 'mine.py').write_text("_base_ = ['base.py']\ncustom_imports = dict(imports=['hdm_mmpose.components'])")
    (finding,) = [finding for finding in check_config(Config.fromfile(tmp_path / 'mine.py')) if finding.level == 'error']
    assert finding.rule == 'lost-imports' and 'cattle_things' in finding.what
    assert finding.repair == "custom_imports = dict(imports=['hdm_mmpose.components', 'cattle_things'], allow_failed_imports=False)"


def test_findings_are_declared_once_and_files_are_short() -> None:
    """The table of docs/troubleshooting.md is made of the declarations."""
    names = [*FILES, *MEANINGS, *(name for rule in ALL_RULES for name in rule.meanings)]
    assert len(names) == len(set(names)) > 60
    source = {path: path.read_text() for path in (ROOT / 'hdm_mmpose' / 'check').glob('*.py')}
    used = {name for text in source.values() for name in re.findall(r"(?:error|warning|unchecked|say)\(\s*'([\w-]+)'", text)}
    assert used <= set(names), 'what is found is declared'
    whole = ''.join(source.values())
    assert all(whole.count(f"'{name}'") > 1 for name in names), 'what is declared can be found'
    page = ROOT / 'docs' / 'troubleshooting.md'
    assert with_table(page.read_text()) == page.read_text(), 'run python -m hdm_mmpose.check.table docs/troubleshooting.md'
    assert all(len(text.splitlines()) <= 300 for text in source.values())


LAZY_BASE = PURE_PYTHON.replace('out_channels=14', 'out_channels=17')
needs_lazy = pytest.mark.skipif(not hasattr(Config, '_is_lazy_import'), reason='MMEngine before 0.8 has no configs in pure Python style')


@needs_lazy
def test_names_in_quotes_in_a_config_of_pure_python_style(tmp_path: Path) -> None:
    text = LAZY_BASE.replace('from hdm_mmpose.components import DotAnnotationCodec, EMDHeatmapLoss, TransportMonitorHook\n', '')
    for name in ('DotAnnotationCodec', 'EMDHeatmapLoss', 'TransportMonitorHook'):
        text = text.replace(f'type={name}', f"type='{name}'")
    (tmp_path / 'config.py').write_text(text + "custom_imports = dict(imports=['hdm_mmpose.components'])\n")
    findings = {finding.rule: finding for finding in check_config(Config.fromfile(tmp_path / 'config.py'))}
    assert 'from hdm_mmpose.components import' in findings['lazy-imports'].repair
    (tmp_path / 'mine.py').write_text("_base_ = ['config.py']\nmodel = dict(head=dict(loss=dict(type='EMDHeatmapLoss')))")


@needs_lazy
def test_a_base_of_pure_python_style_in_an_old_config(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / 'config.py').write_text(LAZY_BASE)
    (tmp_path / 'mine.py').write_text("_base_ = ['config.py']\nmodel = dict(head=dict(loss=dict(type='EMDHeatmapLoss')))")
    assert main(['check', str(tmp_path / 'mine.py')]) == 1
    assert 'with read_base(): from ... import *' in capsys.readouterr().out
