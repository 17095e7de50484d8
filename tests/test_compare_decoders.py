"""tools/compare_decoders.py on the demo's data: the numbers are MMPose's own, and an ONNX network's joints are told by name."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch
from mmengine.runner import Runner

from tests.tiny_training import draw, tiny_config
from tools import compare_decoders as tool

FEW = ['--suppliers', 'relu', 'softmax', '--blurs', '0', '2']


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """Config file and checkpoint of a network that has seen three batches, read by our codec."""
    folder = tmp_path_factory.mktemp('decoders')
    cfg = tiny_config(draw(folder / 'data'), folder / 'run')
    Runner.from_cfg(cfg).train()
    cfg.dump(folder / 'config.py')
    return folder / 'config.py', folder / 'run' / 'epoch_1.pth'


def test_the_configs_own_decoder_scores_what_mmpose_says(trained, tmp_path, capsys):
    config, checkpoint = trained
    page = tmp_path / 'page.md'
    page.write_text('<!-- begin decoders -->\n<!-- end decoders -->\n')
    cases = {case.name: case for case in tool.main([str(config), str(checkpoint), *FEW, '--markdown', str(page)])}
    said = capsys.readouterr().out
    assert len(cases) == 9 and not any('Heatmap' in name for name in cases), 'stock decoders read another alignment'
    rows = {line.split('|')[1].strip(): line.split('|')[2:-1] for line in page.read_text().splitlines() if line.startswith('|')}
    assert set(cases) < set(rows) and page.read_text().splitlines()[1] in said and 'Best by AP' in said

    cfg = tool.Config.fromfile(config)
    cfg.load_from, cfg.work_dir, cfg.experiment_name = str(checkpoint), str(tmp_path), 'again'
    cfg.visualizer.name = 'again'
    cfg.test_evaluator = [*cfg.test_evaluator, dict(type='EPE', prefix='pixels')]
    measured = Runner.from_cfg(cfg).test()
    own = rows["the config's own"]
    assert float(own[0]) == pytest.approx(100 * measured['coco/AP'], abs=.051)
    assert float(own[4]) == pytest.approx(measured['pixels/EPE'], abs=.0051)
    wanted = cases["the config's own"].points()
    equal = cases[f"softmax, blur {cfg.codec.get('blur', 2.0):g}, score mass"]
    np.testing.assert_allclose(equal.points(), wanted, atol=1e-3)


def test_warning_where_no_score_reaches_the_threshold():
    truth = tool.Truth(np.zeros((4, 2, 2)), np.ones((4, 2), bool), np.ones(4), None)

    def case(scores):
        made = tool.Case('a decoder', dict(type='MSRAHeatmap', input_size=(8, 8), heatmap_size=(4, 4), sigma=2.))
        made.predictions = [{'pred_instances': {'keypoint_scores': np.array([each])}} for each in scores]
        return made

    (warned,) = tool.warnings_for([case([[.3, 0]] * 4), case([[.1, .2], [.3, 0], [0, .3], [.9, .9]])], truth, .2)
    assert '25 % of the persons have no score above 0.2' in warned


@pytest.mark.parametrize(('alignment', 'stock'), [
    ('msra', ['MSRAHeatmap, quarter shift', 'MSRAHeatmap, unbiased (DARK)']), ('udp', ['UDPHeatmap'])])
def test_stock_decoders_where_they_fit(alignment, stock):
    sizes = dict(input_size=(32, 48), heatmap_size=(8, 12))
    own = dict(type='MSRAHeatmap' if alignment == 'msra' else 'UDPHeatmap', sigma=1.5, **sizes)
    cases = list(tool.cases_for(own, None, ['relu'], [2.], ['max']))
    assert [case.name for case in cases] == [*stock, 'relu, blur 2, score max'], 'the own decoder is one of them'
    assert cases[0].decoder.sigma == 1.5 and cases[-1].decoder.alignment.name == alignment


def test_a_decoder_whose_alignment_nobody_knows():
    own = dict(type='MegviiHeatmap', input_size=(32, 48), heatmap_size=(8, 12), kernel_size=(11, 11))
    with pytest.raises(SystemExit, match='--alignment must be given'):
        list(tool.cases_for(own, None, ['relu'], [2.], ['max']))
    assert len(list(tool.cases_for(own, 'msra', ['relu'], [2.], ['max']))) == 4


class Network(torch.nn.Module):
    """Heatmaps whose values say which channel they are."""

    def forward(self, crops):
        small = torch.nn.functional.avg_pool2d(crops.mean(1, keepdim=True), 4).sigmoid()
        return small + torch.arange(17.).view(1, 17, 1, 1)


def test_an_onnx_networks_joints_are_told_by_name(trained, tmp_path, capsys):
    pytest.importorskip('onnx', reason='exporting needs onnx')
    pytest.importorskip('onnxruntime', reason='the graph is run by onnxruntime')
    config, _ = trained
    path = tmp_path / 'network.onnx'
    legacy = {'dynamo': False} if 'dynamo' in inspect.signature(torch.onnx.export).parameters else {}
    torch.onnx.export(Network(), (torch.zeros(1, 3, 128, 96),), str(path), **legacy)
    cases = tool.main([str(config), str(path), '--suppliers', 'relu', '--blurs', '2', '--limit', '3'])
    assert all(len(case.predictions) == 3 for case in cases)
    assert '3 persons' in capsys.readouterr().out
    assert tool.channels_of(['right_ankle', 'top_head', 'left_shoulder'], 'CocoDataset') == [16, -1, 5]
    backbone = tool.OnnxHeatmaps(str(path), [16, -1, 5])
    (maps,) = backbone(torch.zeros(2, 3, 128, 96))
    assert maps.shape == (2, 3, 32, 24)
    assert maps[:, :, 0, 0].tolist() == [[16.5, 0, 5.5]] * 2


def test_joints_that_the_network_lacks_are_not_annotated():
    annotation = dict(id=1, keypoints=[1, 2, 2, 3, 4, 1, 5, 6, 0], num_keypoints=2)
    assert tool.without(annotation, np.array([True, False, False])) == dict(
        id=1, keypoints=[0, 0, 0, 3, 4, 1, 5, 6, 0], num_keypoints=1)
