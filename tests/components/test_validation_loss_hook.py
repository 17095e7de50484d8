"""The validation losses: their Gaussian is MMPose's, and their means are over annotated joints inside the map."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.structures import InstanceData
from mmpose.codecs import MSRAHeatmap, SimCCLabel
from mmpose.registry import HOOKS, MODELS
from mmpose.structures import PoseDataSample
from mmpose.utils import register_all_modules

from hdm_mmpose.components import DotAnnotationCodec, EMDHeatmapLoss, SubPixelDecoder
from hdm_mmpose.components.predictions import (
    annotated_loader,
    decoder_of,
    estimator_in,
    gaussian_heatmaps,
    input_channels,
    predictions,
)
from tests.tiny_training import draw, scalars, tiny_config, train

INPUT, HEATMAP = (56, 40), (14, 10)  # w, h and W, H
JOINTS = 3


def random_points(count: int) -> np.ndarray:
    """(count, JOINTS, 2) input pixels away from the border, so that every codec weighs every joint 1."""
    return np.random.default_rng(3).uniform(6, [INPUT[0] - 6, INPUT[1] - 6], (count, JOINTS, 2))


@pytest.mark.parametrize('sigma', [1, 2, 3])
def test_snapped_gaussian_is_the_one_of_mmpose(sigma):
    codec = MSRAHeatmap(INPUT, HEATMAP, sigma=sigma)
    points = random_points(20)
    for each in points:
        wanted = codec.encode(each[None].astype(np.float32), np.ones((1, JOINTS), np.float32))['heatmaps']
        dots = torch.from_numpy(each) / 4  # alignment msra, stride 4
        np.testing.assert_allclose(gaussian_heatmaps(dots, HEATMAP[::-1], sigma).numpy(), wanted, atol=1e-6)


def test_unsnapped_gaussian_is_the_one_of_dark():
    codec = MSRAHeatmap(INPUT, HEATMAP, sigma=2, unbiased=True)
    each = random_points(1)[0]
    wanted = codec.encode(each[None].astype(np.float32), np.ones((1, JOINTS), np.float32))['heatmaps']
    drawn = gaussian_heatmaps(torch.from_numpy(each) / 4, HEATMAP[::-1], 2, snapped=False)
    np.testing.assert_allclose(drawn.numpy(), wanted, atol=1e-5)


def test_loader_reads_annotated_boxes_and_leaves_the_config_alone():
    pipeline = [{'type': 'LoadImage'}, {'type': 'TopdownAffine'}, {'type': 'PackPoseInputs'}]
    loader = {'dataset': {'type': 'CocoDataset', 'bbox_file': 'boxes.json', 'pipeline': pipeline}}
    changed = annotated_loader(loader)['dataset']
    assert 'bbox_file' not in changed and changed['pipeline'][-1] == {'type': 'PackPoseInputs', 'pack_transformed': True}
    assert loader['dataset']['bbox_file'] == 'boxes.json' and pipeline[-1] == {'type': 'PackPoseInputs'}
    loader['dataset']['type'] = 'MpiiDataset'
    assert [step['type'] for step in annotated_loader(loader)['dataset']['pipeline']][:2] == ['LoadImage', 'MpiiPixelOrigin']


class Answers(torch.nn.Module):
    """A model that answers with given heatmaps, whatever it sees."""

    def __init__(self, heatmaps: torch.Tensor, decoder) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.heatmaps, self.head = heatmaps, torch.nn.Module()
        self.head.decoder = decoder

    def data_preprocessor(self, batch: dict, training: bool) -> dict:
        assert not training
        return batch

    def forward(self, inputs, data_samples, mode: str) -> torch.Tensor:
        assert mode == 'tensor'
        return torch.stack([self.heatmaps[sample.number] for sample in data_samples])


def people(points: np.ndarray, visible: np.ndarray) -> list[dict]:
    found = []
    for number, (place, seen) in enumerate(zip(points, visible)):
        sample = PoseDataSample(metainfo={'number': number})
        sample.gt_instances = InstanceData(transformed_keypoints=place[None], keypoints_visible=seen[None])
        found.append({'inputs': torch.zeros(3, 4, 4), 'data_samples': sample})
    return found


class Recorder:
    """What a hook needs of a runner."""

    def __init__(self, model) -> None:
        self.model, self.logged, self.message_hub = model, {}, self

    def update_scalar(self, name: str, value: float) -> None:
        self.logged[name] = value


def run_hook(hook, model, samples: list[dict], batch: int) -> dict:
    hook._loader = [pseudo_collate(samples[start:start + batch]) for start in range(0, len(samples), batch)]
    runner = Recorder(model)
    hook.after_val_epoch(runner, metrics={})
    return runner.logged


@pytest.mark.parametrize('batch', [1, 2, 5])
def test_losses_are_means_over_the_joints_that_count(batch):
    points = random_points(5)
    visible = np.ones((5, JOINTS))
    visible[1, 2] = 0
    points[1, 2] = np.nan       # not annotated: must not be looked at
    points[2, 0] = [-30, 10]    # outside the crop
    heatmaps = torch.rand(5, JOINTS, HEATMAP[1], HEATMAP[0])
    model = Answers(heatmaps, DotAnnotationCodec(INPUT, HEATMAP, alignment='center'))
    emd = {'type': 'EMDHeatmapLoss', 'epsilon': 0.5, 'supplier': 'softplus'}
    hook = HOOKS.build({'type': 'ValidationLossHook', 'emd': emd, 'sigma': 1.5})
    logged = run_hook(hook, model, people(points, visible), batch)

    loss = MODELS.build({**emd, 'reduction': 'none'})
    mse, values = [], []
    for person in range(5):
        for joint in range(JOINTS):
            if (person, joint) in ((1, 2), (2, 0)):
                continue
            dot = torch.from_numpy((points[person, joint] + 0.5) / 4 - 0.5).float()
            heatmap = heatmaps[person, joint]
            values.append(float(loss(heatmap[None, None], dot[None, None])))
            x, y = np.floor(dot.numpy() + 0.5)
            rows, columns = np.mgrid[:HEATMAP[1], :HEATMAP[0]]
            gaussian = np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / (2 * 1.5 ** 2))
            gaussian *= (abs(rows - y) <= 4.5) & (abs(columns - x) <= 4.5)
            mse.append(((heatmap.numpy() - gaussian) ** 2).mean())
    assert logged['val/loss_emd'] == pytest.approx(np.mean(values), rel=1e-5)
    assert logged['val/loss_mse'] == pytest.approx(np.mean(mse), rel=1e-5)


def test_the_default_is_the_transport_cost_without_a_companion():
    points = random_points(2)
    dots = torch.from_numpy(points).float() / 4
    codec = DotAnnotationCodec(INPUT, HEATMAP, alignment='msra')
    exact = torch.stack([torch.from_numpy(codec.encode(each[None])['heatmaps']) for each in points])
    heatmaps = exact.clamp(min=1e-30).log() / 20  # what softmax of sharpness 20 reads as the four masses
    logged = run_hook(HOOKS.build({'type': 'ValidationLossHook'}), Answers(heatmaps, codec), people(points, np.ones((2, JOINTS))), 2)
    wanted = EMDHeatmapLoss(cross_entropy_weight=0)(heatmaps, dots)
    assert logged['val/loss_emd'] == pytest.approx(float(wanted), rel=1e-5)
    assert logged['val/loss_emd'] < 0.3 < 0.6 < float(EMDHeatmapLoss()(heatmaps, dots))


@pytest.mark.parametrize('path', sorted((Path(__file__).resolve().parents[2] / 'configs' / 'ablation').glob('*curve*.py')),
                         ids=lambda path: path.stem)
def test_configs_of_the_curves_log_the_transport_cost_alone(path):
    (hook,) = [each for each in Config.fromfile(path).custom_hooks if each['type'] == 'ValidationLossHook']
    assert HOOKS.build(hook).emd.options.cross_entropy_weight == 0


def tiny_cpm(stages: int = 3) -> torch.nn.Module:
    """MMPose's CPM, narrow: its head gives a list of maps, one per stage."""
    register_all_modules()
    codec = dict(type='MSRAHeatmap', input_size=(64, 48), heatmap_size=(8, 6), sigma=1)
    return MODELS.build(dict(
        type='TopdownPoseEstimator', data_preprocessor=dict(type='PoseDataPreprocessor'),
        backbone=dict(type='CPM', in_channels=3, out_channels=JOINTS, feat_channels=8, num_stages=stages),
        head=dict(type='CPMHead', in_channels=JOINTS, out_channels=JOINTS, num_stages=stages, deconv_out_channels=None,
                  final_layer=None, loss=dict(type='KeypointMSELoss'), decoder=codec)))


def test_of_heads_with_stages_the_last_is_measured():
    torch.manual_seed(0)
    model = tiny_cpm()
    hook = HOOKS.build({'type': 'ValidationLossHook'})
    hook.before_train(Recorder(model))
    assert model.training, 'looking at the output changes nothing'
    model.eval()
    samples = people(random_points(2), np.ones((2, JOINTS)))
    for sample in samples:
        sample['inputs'] = torch.randint(0, 256, (3, 48, 64), dtype=torch.uint8)
    (heatmaps, _, _), = predictions(model, [pseudo_collate(samples)])
    data = model.data_preprocessor(pseudo_collate(samples), training=False)
    stages = model(data['inputs'], data['data_samples'], mode='tensor')
    assert isinstance(stages, list) and len(stages) == 3
    torch.testing.assert_close(heatmaps, stages[-1])
    assert not torch.equal(stages[-1], stages[0])
    assert set(run_hook(hook, model, samples, 2)) == {'val/loss_mse', 'val/loss_emd'}


class Gives(torch.nn.Module):
    """A model whose head gives one thing, whatever it sees."""

    def __init__(self, output, decoder) -> None:
        super().__init__()
        self.weight, self.output, self.head = torch.nn.Parameter(torch.zeros(1)), output, torch.nn.Module()
        self.head.decoder = decoder

    def forward(self, inputs, data_samples, mode: str):
        assert inputs.shape == (1, 3, INPUT[1], INPUT[0]) and data_samples is None and mode == 'tensor'
        return self.output


class Told:
    """A decoder that nobody knows the alignment of."""

    input_size, heatmap_size = INPUT, HEATMAP


def test_what_cannot_be_measured_is_refused_before_training():
    maps, coordinates = torch.zeros(1, JOINTS, HEATMAP[1], HEATMAP[0]), torch.zeros(1, JOINTS, 2)
    gaussian = MSRAHeatmap(INPUT, HEATMAP, sigma=2)
    hook = HOOKS.build({'type': 'ValidationLossHook'})
    for accepted in (maps, [maps, maps], (coordinates, maps), (maps, coordinates)):
        hook.before_train(Recorder(Gives(accepted, gaussian)))
    for refused, words in ((coordinates, r'\(1, 3, 2\)'), ([coordinates] * 2, r'list of \(1, 3, 2\), \(1, 3, 2\)'),
                           ({'maps': maps}, 'dict'), ([], 'list of nothing')):
        for moment in (hook.before_train, hook.before_val):
            with pytest.raises(TypeError, match=rf'must give heatmaps \(B, K, H, W\) or a list of them.*got {words}'):
                moment(Recorder(Gives(refused, gaussian)))
    with pytest.raises(TypeError, match='a head whose decoder reads heatmaps, got SimCCLabel in Module'):
        hook.before_train(Recorder(Gives((coordinates, coordinates), SimCCLabel(INPUT))))
    with pytest.raises(ValueError, match='alignment must be given for a decoder of type Told'):
        hook.before_train(Recorder(Gives(maps, Told())))
    HOOKS.build({'type': 'ValidationLossHook', 'alignment': 'udp'}).before_train(Recorder(Gives(maps, Told())))


def test_a_perfect_prediction_has_no_mse():
    points = random_points(2)
    target = gaussian_heatmaps(torch.from_numpy(points).float() / 4, HEATMAP[::-1], 2)
    model = Answers(target, MSRAHeatmap(INPUT, HEATMAP, sigma=2))
    logged = run_hook(HOOKS.build({'type': 'ValidationLossHook'}), model, people(points, np.ones((2, JOINTS))), 2)
    assert logged['val/loss_mse'] == pytest.approx(0, abs=1e-12)


def test_nothing_annotated_is_said():
    model = Answers(torch.rand(1, JOINTS, HEATMAP[1], HEATMAP[0]), MSRAHeatmap(INPUT, HEATMAP, sigma=2))
    with pytest.raises(ValueError, match='must annotate at least one joint'):
        run_hook(HOOKS.build({'type': 'ValidationLossHook'}), model, people(random_points(1), np.zeros((1, JOINTS))), 1)


def test_dots_up_to_half_a_cell_outside_count():
    points = np.array([[[-0.6, 20.], [-0.4, 20.], [55.4, 39.4]]])  # the input ends at -0.5 and at 55.5, 39.5
    model = Answers(torch.rand(1, JOINTS, HEATMAP[1], HEATMAP[0]), DotAnnotationCodec(INPUT, HEATMAP, alignment='center'))
    (_, dots, weights), = predictions(model, [pseudo_collate(people(points, np.ones((1, JOINTS))))])
    np.testing.assert_allclose(dots[0], (points[0] + 0.5) / 4 - 0.5, rtol=1e-6)
    assert weights.tolist() == [[0.0, 1.0, 1.0]]


# ------------------------------------------------------------------------------------------------- runs of other kinds


@pytest.fixture(scope='module')
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw(tmp_path_factory.mktemp('drawn') / 'data', train=4, val=2)


def with_hook(data: Path, folder: Path, **options) -> Config:
    cfg = tiny_config(data, folder, train_cfg__val_interval=1, **options)
    cfg.custom_hooks = [dict(type='ValidationLossHook')]
    return cfg


def test_joints_that_a_converter_left_out_do_not_count():
    """After KeypointConverter visibility is (N, K, 2): visible, and whether the data set has the joint at all."""
    seen = np.ones((1, JOINTS, 2))
    seen[0, 0, 0], seen[0, 1, 1] = 0, 0
    model = Answers(torch.rand(1, JOINTS, HEATMAP[1], HEATMAP[0]), MSRAHeatmap(INPUT, HEATMAP, sigma=2))
    (_, _, weights), = predictions(model, [pseudo_collate(people(random_points(1), seen))])
    assert weights.tolist() == [[0.0, 0.0, 1.0]]


def test_sets_inside_a_set_are_read_on_annotated_boxes():
    inner = dict(type='CocoDataset', bbox_file='b.json', pipeline=[dict(type='LoadImage'), dict(type='PackPoseInputs')])
    bare = dict(type='mmpose.MpiiDataset', pipeline=[dict(type='LoadImage')])
    outer = dict(type='CombinedDataset', datasets=[inner, dict(type='RepeatDataset', dataset=bare)],
                 pipeline=[dict(type='PackPoseInputs', meta_keys=('id',))])
    changed = annotated_loader(dict(dataset=outer))['dataset']
    first, second = changed['datasets']
    assert 'bbox_file' not in first and first['pipeline'][-1] == dict(type='PackPoseInputs', pack_transformed=True)
    assert [step['type'] for step in second['dataset']['pipeline']] == ['LoadImage', 'MpiiPixelOrigin']
    assert changed['pipeline'] == [dict(type='PackPoseInputs', meta_keys=('id',), pack_transformed=True)]
    assert inner['bbox_file'] == 'b.json'


def test_a_concatenated_validation_set_is_measured(data, tmp_path):
    cfg = with_hook(data, tmp_path)
    once = dict(cfg.val_dataloader.dataset)
    cfg.val_dataloader.dataset = dict(type='ConcatDataset', datasets=[once, once], _scope_='mmengine')
    cfg.val_evaluator = dict(type='PCKAccuracy', thr=0.2)
    try:
        train(cfg)
    except ValueError as error:
        if 'ConcatDataset' in str(error) and 'ambiguous' in str(error):
            pytest.skip("this MMEngine's ConcatDataset cannot compare meta information with arrays, which MMPose's has")
        raise
    assert any('loss_emd' in line for line in scalars(tmp_path))


def test_a_converted_validation_set_is_measured(data, tmp_path):
    cfg = with_hook(data, tmp_path)
    converter = dict(type='KeypointConverter', num_keypoints=17, mapping=[(index, index) for index in range(16)])
    cfg.val_dataloader.dataset.pipeline.insert(1, converter)
    train(cfg)
    assert any('loss_emd' in line for line in scalars(tmp_path))


def test_other_hooks_act_on_the_losses(data, tmp_path):
    """Best checkpoint, early stopping and a falling rate: what people want a validation loss for."""
    cfg = with_hook(data, tmp_path, train_cfg__max_epochs=4, optim_wrapper__optimizer__lr=0.0)
    cfg.default_hooks.checkpoint = dict(type='CheckpointHook', interval=100, save_best='loss_emd', rule='less')
    cfg.custom_hooks += [dict(type='EarlyStoppingHook', monitor='loss_emd', rule='less', patience=1, strict=True)]
    cfg.param_scheduler = [dict(type='ReduceOnPlateauLR', monitor='loss_emd', rule='less', patience=0, by_epoch=True)]
    runner = train(cfg)
    assert list(tmp_path.glob('best_loss_emd_epoch_*.pth'))
    assert runner.epoch < 4, 'nothing improves at a rate of 0'


@pytest.mark.parametrize('channels', [1, 3, 4])
def test_pictures_of_any_number_of_channels(channels):
    register_all_modules()
    codec = dict(type='MSRAHeatmap', input_size=(64, 64), heatmap_size=(16, 16), sigma=1)
    model = MODELS.build(dict(
        type='TopdownPoseEstimator', backbone=dict(type='ResNet', depth=18, in_channels=channels),
        head=dict(type='HeatmapHead', in_channels=512, out_channels=JOINTS, loss=dict(type='KeypointMSELoss'), decoder=codec)))
    assert input_channels(model) == channels
    HOOKS.build({'type': 'ValidationLossHook'}).before_train(Recorder(model))


class Distiller(torch.nn.Module):
    """Student and teacher in one model, the teacher after the student and frozen, as MMRazor builds them."""

    def __init__(self, student, teacher, frozen: bool = True) -> None:
        super().__init__()
        self.architecture, self.teacher = student, teacher.requires_grad_(not frozen)

    def data_preprocessor(self, batch: dict, training: bool) -> dict:
        return batch


def test_of_student_and_teacher_the_one_that_is_trained_is_measured():
    student, teacher = tiny_cpm(), tiny_cpm()
    model = Distiller(student, teacher)
    assert estimator_in(model) is student and estimator_in(student) is student
    assert estimator_in(model, 'teacher.head') is teacher
    HOOKS.build({'type': 'ValidationLossHook'}).before_train(Recorder(model))
    with pytest.raises(ValueError, match="head must be named .* it has \\['architecture.head', 'teacher.head'\\]"):
        estimator_in(Distiller(student, teacher, frozen=False))
    with pytest.raises(ValueError, match="head must be one of .* got 'student.head'"):
        estimator_in(model, 'student.head')
    answers = Answers(torch.rand(2, JOINTS, HEATMAP[1], HEATMAP[0]), MSRAHeatmap(INPUT, HEATMAP, sigma=2))
    (found, _, _), = predictions(Distiller(answers, teacher), [pseudo_collate(people(random_points(2), np.ones((2, JOINTS))))])
    torch.testing.assert_close(found, answers.heatmaps)


def test_the_decoder_of_a_head_inside_a_head_is_found():
    register_all_modules()
    codec = dict(type='SubPixelDecoder', input_size=(64, 48), heatmap_size=(16, 12))
    inner = dict(type='HeatmapHead', in_channels=8, out_channels=JOINTS, deconv_out_channels=None,
                 loss=dict(type='EMDHeatmapLoss'), decoder=codec)
    head = MODELS.build(dict(type='VisPredictHead', pose_cfg=inner))
    assert isinstance(decoder_of(head), SubPixelDecoder) and decoder_of(head.pose_head) is decoder_of(head)
    assert decoder_of(torch.nn.Linear(1, 1)) is None
