"""The validation losses: their Gaussian is MMPose's, and their means are over annotated joints inside the map."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mmengine.dataset import pseudo_collate
from mmengine.structures import InstanceData
from mmpose.codecs import MSRAHeatmap, UDPHeatmap
from mmpose.registry import HOOKS, MODELS
from mmpose.structures import PoseDataSample

from hdm_mmpose.components import DotAnnotationCodec, SubPixelDecoder
from hdm_mmpose.components.validation_loss_hook import (
    annotated_loader,
    decoder_alignment,
    gaussian_heatmaps,
    predictions,
)

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


def test_alignment_is_read_from_the_decoder():
    assert decoder_alignment(MSRAHeatmap(INPUT, HEATMAP, sigma=2)) == 'msra'
    assert decoder_alignment(UDPHeatmap(INPUT, HEATMAP, sigma=2)) == 'udp'
    assert decoder_alignment(DotAnnotationCodec(INPUT, HEATMAP, alignment='udp')) == 'udp'
    assert decoder_alignment(SubPixelDecoder(INPUT, HEATMAP)) == 'center'
    with pytest.raises(ValueError, match='alignment must be given for a decoder of type object'):
        decoder_alignment(object())


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
    for number, (place, seen) in enumerate(zip(points, visible, strict=True)):
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

    loss = MODELS.build(emd | {'reduction': 'none'})
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
