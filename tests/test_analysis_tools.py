"""The analysis tools on two small trainings on drawn figures, with the validation losses logged every epoch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from hdm_mmpose.components import DotAnnotationCodec
from tools.analysis_tools import check_theorem, compare_heatmaps, loss_vs_metric, trained_model

ROOT = Path(__file__).resolve().parent.parent

EPOCHS = 4
CONFIG = """
_base_ = ['{base}']
train_cfg = dict(max_epochs={epochs}, val_interval=1)
custom_hooks = [*_base_.custom_hooks, dict(type='ValidationLossHook')]
train_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(data_root='{data}/'))
val_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(data_root='{data}/'))
test_dataloader = val_dataloader
val_evaluator = [
    dict(type='CocoMetric', ann_file='{data}/annotations/person_keypoints_val2017.json'), dict(type='EPE', prefix='pixel')]
test_evaluator = val_evaluator
"""


@pytest.fixture(scope='module')
def trained(tmp_path_factory) -> dict[str, Path]:
    """Work directories of the Gaussian baseline and of ours."""
    folder = tmp_path_factory.mktemp('analysis')
    command = [sys.executable, ROOT / 'tools/dataset_converters/make_demo_data.py', '--out', folder / 'data', '--train', 16, '--val', 4]
    subprocess.run(list(map(str, command)), check=True, capture_output=True)
    return {name: train(folder, name) for name in ('mse', 'hdm')}


def train(folder: Path, name: str) -> Path:
    (base,) = ROOT.glob(f'configs/demo/td-hm_res18_{name}-*.py')
    config = folder / f'{name}.py'
    config.write_text(CONFIG.format(base=base, epochs=EPOCHS, data=folder / 'data'))
    command = [sys.executable, str(ROOT / 'tools' / 'train.py'), str(config), '--work-dir', str(folder / f'run_{name}')]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return folder / f'run_{name}'


# ------------------------------------------------------------------------------------------------------ loss_vs_metric


def test_hook_logs_both_losses_every_epoch(trained):
    for folder in trained.values():
        for loss in ('loss_mse', 'loss_emd'):
            epochs = loss_vs_metric.read_log(folder, loss, 'pixel/EPE')
            assert list(epochs) == list(range(1, EPOCHS + 1))
            assert all(0 < value < 100 for value, _ in epochs.values())


def test_plot_and_rank_correlation(trained, tmp_path):
    words = [str(trained['mse']), str(trained['hdm']), '--losses', 'mse', 'emd', '--metric', 'coco/AP', '--out', str(tmp_path)]
    panels = loss_vs_metric.main([*words, '--first', '2'])
    assert cv2.imread(str(tmp_path / 'loss_vs_metric.png')).shape[1] > 1000
    stored = json.loads((tmp_path / 'loss_vs_metric.json').read_text())
    for panel in (*panels.values(), *stored.values()):
        assert [int(epoch) for epoch in panel['epochs']] == [2, 3, 4] and panel['count'] == 3
        assert -1 <= panel['spearman'] <= 1 or np.isnan(panel['spearman'])
    assert list(stored) == ['run_mse: mse', 'run_hdm: emd']


def test_summary_by_hand():
    epochs = {1: (4.0, 10.0), 2: (3.0, 30.0), 3: (2.0, 20.0), 4: (2.5, 5.0)}
    found = loss_vs_metric.summary(epochs)
    assert found['spearman'] == pytest.approx(spearmanr([4, 3, 2, 2.5], [10, 30, 20, 5]).statistic)
    assert (found['loss_fell'], found['metric_fell_with_it'], found['count']) == (2, 1, 4)
    falling = {epoch: (10 - epoch, epoch) for epoch in range(1, 8)}
    assert loss_vs_metric.summary(falling)['spearman'] == pytest.approx(-1)
    with pytest.raises(SystemExit, match='at least 3 epochs'):
        loss_vs_metric.summary({1: (1, 1), 2: (2, 2)})


def test_numbers_that_would_cover_each_other_are_left_out():
    epochs = {1: (0, 0), 2: (5, 0), 3: (20, 0), 4: (30, 0), 5: (40, 0)}
    assert loss_vs_metric.apart(epochs, lambda place: place) == [1, 5, 3]
    assert loss_vs_metric.apart({1: (0, 0), 2: (1, 0)}, lambda place: place) == [1]


def test_a_repeated_epoch_counts_as_it_was_last(tmp_path):
    for name, value in (('20260101_000000', 1.0), ('20260102_000000', 2.0)):
        (tmp_path / name / 'vis_data').mkdir(parents=True)
        lines = [{'loss': 3.0, 'step': 10}, {'loss_emd': value, 'PCK': 50.0, 'step': 2}]
        (tmp_path / name / 'vis_data' / 'scalars.json').write_text('\n'.join(map(json.dumps, lines)))
    assert loss_vs_metric.read_log(tmp_path, 'loss_emd', 'PCK') == {2: (2.0, 50.0)}
    with pytest.raises(SystemExit, match='logged are: PCK, loss, loss_emd, step'):
        loss_vs_metric.read_log(tmp_path, 'loss_mse', 'PCK')


# ---------------------------------------------------------------------------------------------------- compare_heatmaps


def test_heatmaps_are_drawn_for_the_joints_chosen_by_error(trained, tmp_path):
    """The heatmap shown is the one the place was read from: its best square, mapped back, is the printed place."""
    words = [str(trained['mse']), str(trained['hdm']), '--number', '3', '--limit', '4', '--out', str(tmp_path)]
    chosen = compare_heatmaps.main([*words, '--titles', 'Gaussian', 'ours'])
    assert len(chosen) == 3 and len({each.index for each in chosen}) == 3
    picture = cv2.imread(str(tmp_path / 'heatmaps_improved.png'))
    assert picture.shape[0] > 600 and picture.std() > 10
    numbers = json.loads((tmp_path / 'heatmaps_improved.json').read_text())
    codec = DotAnnotationCodec((96, 128), (24, 32), alignment='center', supplier='softmax')
    for each, entry in zip(chosen, numbers):
        assert [prediction['model'] for prediction in entry['predictions']] == ['Gaussian', 'ours']
        for prediction in each.predictions:
            assert prediction.heatmap.shape == (32, 24)
            assert prediction.pixels == pytest.approx(np.linalg.norm(np.subtract(prediction.point, each.truth)))
        left, top, right, bottom = each.crop
        point = codec.decode(each.predictions[1].heatmap[None])[0][0, 0]
        # stride 4; cell centres lie in the middle of their 4 x 4 pixels in 'center', on their first pixel in MMPose's own
        np.testing.assert_allclose(each.predictions[1].cells[1], (point + 0.5) / 4 - 0.5, atol=1e-3)
        for prediction, offset in zip(each.predictions, (0, 0.5)):
            truth = (np.array(each.truth) - (left, top)) / (right - left, bottom - top) * (96, 128)
            np.testing.assert_allclose(prediction.cells[0], (truth + offset) / 4 - offset, atol=1e-3)
        place = point / (96, 128) * (right - left, bottom - top) + (left, top)
        np.testing.assert_allclose(place, each.predictions[1].point, atol=0.01)


def joint(index: int, first: float, second: float) -> compare_heatmaps.Joint:
    predictions = [compare_heatmaps.Prediction((0, 0), 9.0, error) for error in (first, second)]
    return compare_heatmaps.Joint(index, 0, 'nose', '', (0, 0), (0, 0, 1, 1), predictions)


def test_choices_by_hand():
    found = [joint(0, .5, .1), joint(0, .9, .4), joint(1, .3, .3), joint(2, .1, .8), joint(3, .2, .2), joint(4, .6, .5)]
    chosen = {how: [found.index(each) for each in compare_heatmaps.choose(found, how, 3)] for how in compare_heatmaps.CHOICES}
    assert chosen == {'improved': [1, 5, 2], 'worst': [3, 5, 1], 'typical': [3, 1, 4]}


def test_overall_says_how_all_joints_are():
    found = [joint(0, 1, 2), joint(0, 5, 3), joint(1, 4, 4)]
    for each in found:
        for prediction in each.predictions:
            prediction.pixels = 10 * prediction.relative
    assert compare_heatmaps.overall(found) == 'median errors over all: 40.00 and 30.00 px, the second is nearer on 33%'


def test_an_unknown_joint_is_refused(trained, tmp_path):
    words = [str(trained['mse']), str(trained['hdm']), '--limit', '1', '--out', str(tmp_path)]
    with pytest.raises(SystemExit, match='--joints must be among'):
        compare_heatmaps.main([*words, '--joints', 'tail'])


# ------------------------------------------------------------------------------------------------------- check_theorem


def test_theorem_holds_on_real_predictions_where_its_proof_holds(trained, tmp_path):
    report = check_theorem.main([str(trained['mse']), '--out', str(tmp_path)])
    assert json.loads((tmp_path / 'theorem.json').read_text()) == report
    assert report['snapped']['difference'] == pytest.approx(0, abs=1e-9)
    assert report['snapped']['joints'] > 20
    for case in ('sub-pixel Gaussian', 'bilinear dot'):
        assert abs(report[case]['difference']) > 0.01
        assert report[case]['difference'] == pytest.approx(report[case]['expected_difference'], abs=1e-9)


@pytest.mark.parametrize('case', list(check_theorem.CASES))
def test_identity_and_its_gap_on_random_maps(case):
    torch.manual_seed(1)
    points = torch.rand(7, 2, dtype=torch.float64) * torch.tensor([11.0, 8.0])
    pred = torch.randn(7, 9, 12, dtype=torch.float64)
    dot, gauss = check_theorem.targets(points, (9, 12), 1.7)[case]
    assert torch.allclose(dot.sum((-2, -1)), torch.ones(7, dtype=torch.float64))
    terms = check_theorem.terms(pred, dot, gauss)
    right = terms['gauss'] + 2 * terms['pred_gauss'] - 2 * terms['pred_dot'] - terms['between']
    assert torch.allclose(terms['dot'] - right, 2 * terms['gap'])
    gap = terms['gap'].abs()
    assert (gap < 1e-12).all() if case == 'snapped' else (gap > 1e-4).all()


# ------------------------------------------------------------------------------------------------------- trained_model


def test_best_checkpoint_is_taken_and_missing_ones_are_named(tmp_path):
    with pytest.raises(SystemExit, match='must hold the one config'):
        trained_model.find(tmp_path)
    (tmp_path / 'config.py').write_text('')
    with pytest.raises(SystemExit, match='holds no checkpoint'):
        trained_model.find(tmp_path)
    (tmp_path / 'epoch_2.pth').write_text('')
    (tmp_path / 'last_checkpoint').write_text('/elsewhere/epoch_2.pth')
    assert trained_model.find(tmp_path) == (tmp_path / 'config.py', tmp_path / 'epoch_2.pth')
    torch.save({}, tmp_path / 'best_coco_AP_epoch_1.pth')
    assert trained_model.find(tmp_path)[1].name == 'best_coco_AP_epoch_1.pth'
    assert trained_model.find(tmp_path / 'epoch_2.pth')[1].name == 'epoch_2.pth'
    assert trained_model.title_of(Path('work/some/seed-1')) == 'some'


def test_a_model_is_loaded_without_the_person_boxes(tmp_path, monkeypatch):
    """The tools look at annotated boxes; the file of detections, which the config names, need not be there."""
    dataset = dict(type='CocoDataset', data_root=f'{tmp_path}/', ann_file='a.json', data_prefix=dict(img='img/'), bbox_file='gone.json')
    (tmp_path / 'config.py').write_text(f'val_dataloader = dict(dataset={dataset!r})')
    for name in ('a.json', 'epoch_2.pth'):
        (tmp_path / name).write_text('')
    (tmp_path / 'last_checkpoint').write_text('epoch_2.pth')
    monkeypatch.setattr(trained_model, 'init_fitting_model', lambda config, weights, device: (weights, device))
    with pytest.raises(SystemExit, match='img/'):
        trained_model.load(tmp_path)
    (tmp_path / 'img').mkdir()
    model, config = trained_model.load(tmp_path, device='cuda')
    assert model == (str(tmp_path / 'epoch_2.pth'), 'cuda') and 'bbox_file' not in config.val_dataloader.dataset


@pytest.mark.parametrize(('there', 'device'), [(True, 'cuda'), (False, 'cpu')])
def test_the_device_is_the_gpu_where_there_is_one(there, device, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: there)
    for tool, words in ((check_theorem, ['run', '--out', 'x']), (compare_heatmaps, ['one', 'other', '--out', 'x'])):
        assert tool._arguments(words).device == device
        assert tool._arguments([*words, '--device', 'cpu']).device == 'cpu'
