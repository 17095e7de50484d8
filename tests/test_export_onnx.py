"""tools/export_onnx.py: one graph from crop to keypoints that says what PyTorch says, for any batch size."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip('onnx', reason='exporting needs onnx')
onnxruntime = pytest.importorskip('onnxruntime', reason='comparing needs onnxruntime')

from mmengine.config import Config  # noqa: E402
from mmpose.registry import MODELS  # noqa: E402
from mmpose.utils import register_all_modules  # noqa: E402

import hdm_mmpose.components  # noqa: E402,F401  (registers our parts)
from hdm_mmpose.transport import build_supplier  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / 'tools'))
import export_onnx as tool  # noqa: E402

(DEMO,) = (ROOT / 'configs' / 'demo').glob('*_hdm-*.py')
STAGES = dict(type='CPMHead', num_stages=1)


def model_config(head: dict | None = None, **decoder: object) -> dict:
    cfg = Config.fromfile(DEMO).model.to_dict()
    cfg['head']['decoder'].update(decoder)
    if head is not None:
        cfg['head'].update(head)
    return cfg


def lively(cfg: dict) -> tool.Exportable:
    """A network whose maps differ from place to place, as those of a trained one."""
    register_all_modules()
    model = MODELS.build(cfg)
    for parameter in model.head.parameters():
        if parameter.dim() == 4:
            torch.nn.init.normal_(parameter, std=0.3)
    model.train()
    with torch.no_grad():
        for _ in range(3):  # running statistics
            model._forward(torch.randn(4, 3, 128, 96))
    return tool.Exportable(model).eval()


@pytest.fixture(scope='module')
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[tool.Exportable, Path]:
    module, path = lively(model_config()), tmp_path_factory.mktemp('onnx') / 'model.onnx'
    tool.export(module, (96, 128), path)
    return module, path


def check(module: tool.Exportable, path: Path, crops: np.ndarray) -> None:
    comparison = tool.compare(module, path, crops)
    print(comparison)
    assert comparison.crops == len(crops) and comparison.joints == len(crops) * 17
    assert comparison.faults() == [] and comparison.score <= 1e-5


def test_graph_says_what_pytorch_says(exported: tuple[tool.Exportable, Path]) -> None:
    check(*exported, tool.random_crops(24, (96, 128), []))


@pytest.mark.slow
def test_graph_says_what_pytorch_says_on_200_crops(exported: tuple[tool.Exportable, Path], shared_data: Path) -> None:
    check(*exported, tool.random_crops(200, (96, 128), tool.read_pictures(str(shared_data / 'mpii_sample'))))


def test_graph_says_what_the_model_predicts(exported: tuple[tool.Exportable, Path]) -> None:
    """Normalisation and channel order are in the graph: the same as MMPose's own preprocessing of the same picture."""
    module, path = exported
    crops = tool.random_crops(3, (96, 128), [], seed=1)
    inputs = module.model.data_preprocessor(dict(inputs=[torch.from_numpy(crop) for crop in crops], data_samples=[]))['inputs']
    with torch.no_grad():
        wanted, scores = module.model.head.decoder.batch_decode(module.model._forward(inputs))
    session = onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])
    got, certainty = session.run(['keypoints', 'scores'], {'crops': crops})
    np.testing.assert_allclose(got, np.concatenate(wanted), atol=1e-4)
    np.testing.assert_allclose(certainty, np.concatenate(scores), atol=1e-5)


@pytest.mark.parametrize('cfg', [
    model_config(supplier='relu', alignment='udp', blur=0), model_config(supplier='softmax', alignment='msra', score='max', blur=1.5),
    model_config(head=STAGES)], ids=['relu-udp-square', 'softmax-msra-max-blur', 'stages'])
def test_other_rules_and_heads(cfg: dict, tmp_path: Path) -> None:
    module = lively(cfg)
    tool.export(module, (96, 128), tmp_path / 'model.onnx')
    check(module, tmp_path / 'model.onnx', tool.random_crops(9, (96, 128), []))


def test_a_changed_graph_is_noticed(exported: tuple[tool.Exportable, Path]) -> None:
    module, path = exported
    rule = dict(type='softmax', sharpness=2.0)
    assert build_supplier(rule) != module.model.head.decoder.decoder.supplier
    other = lively(model_config(supplier=rule))
    other.load_state_dict(module.state_dict())
    assert tool.compare(other, path, tool.random_crops(8, (96, 128), [])).pixels > 1e-2


@pytest.mark.parametrize(('change', 'error'), [
    ({}, ''), ({'ties': 2}, ''), ({'ties': 3}, '3 of 200 joints'), ({'ties': 200}, '200 of 200 joints'),
    ({'joints': 20, 'ties': 1}, ''), ({'joints': 20, 'ties': 2}, '2 of 20 joints'), ({'pixels': 2e-4}, 'keypoints differ'),
    ({'pixels': float('nan')}, 'keypoints differ'), ({'score': 2e-4}, 'scores differ'), ({'score': float('nan')}, 'scores differ')],
    ids=str)
def test_keypoints_scores_and_the_share_of_ties_are_judged(change: dict, error: str, tmp_path: Path, monkeypatch, capsys) -> None:
    """And the exit status says so."""
    comparison = tool.Comparison(**{**dict(crops=10, joints=200, ties=0, pixels=5e-5, score=5e-5), **change})
    monkeypatch.setattr(tool, 'compare', lambda *_: comparison)
    monkeypatch.setattr(tool, 'init_model', lambda *_, device: lively(model_config()).model)
    monkeypatch.setattr(tool, 'export', lambda module, size, path: path.write_text('graph'))
    monkeypatch.setattr(sys, 'argv', ['export_onnx.py', 'CONFIG', 'CHECKPOINT', '--out', str(tmp_path / 'model.onnx')])
    assert tool.main() == bool(error)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith('error: ')]
    assert [line.startswith(f'error: {error}') for line in lines] == [True] * bool(error)


def test_a_graph_of_which_every_joint_is_a_tie_fails(exported: tuple[tool.Exportable, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    module, path = exported
    monkeypatch.setattr(tool, 'TOLERANCE', -1.0)  # everything differs
    monkeypatch.setattr(tool, 'decided_by_rounding', lambda decoder, maps: torch.ones(maps.shape[:2], dtype=torch.bool))
    comparison = tool.compare(module, path, tool.random_crops(2, (96, 128), []))
    assert comparison.ties == comparison.joints == 34 and any('34 of 34 joints' in fault for fault in comparison.faults())


def test_nan_out_of_the_graph_is_not_forgotten(exported: tuple[tool.Exportable, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    session = onnxruntime.InferenceSession(str(exported[1]), providers=['CPUExecutionProvider'])

    class Broken:
        def run(self, outputs: list[str], inputs: dict) -> list[np.ndarray]:
            found = session.run(outputs, inputs)
            return [each * np.nan for each in found] if len(inputs['crops']) == 1 else found

    monkeypatch.setattr(onnxruntime, 'InferenceSession', lambda *_, **__: Broken())
    comparison = tool.compare(*exported, tool.random_crops(3, (96, 128), []))
    assert [fault.split()[0] for fault in comparison.faults()] == ['keypoints', 'scores']


def test_gaussian_decoder_is_refused_with_the_way_out() -> None:
    cfg = model_config()
    cfg['head']['decoder'] = dict(type='MSRAHeatmap', input_size=(96, 128), heatmap_size=(24, 32), sigma=1)
    with pytest.raises(ValueError, match='must be SubPixelDecoder'):
        tool.Exportable(MODELS.build(cfg))


def test_joints_that_rounding_decides_are_told_from_others() -> None:
    decoder = tool.Exportable(MODELS.build(model_config(supplier='relu', blur=0))).model.head.decoder
    maps = torch.zeros(1, 17, 32, 24)
    maps[..., 5, 6] = 1  # one place
    maps[:, 3, 20, 15] = 1  # and a second that is as good
    maps[:, 4, 20, 15] = 0.999  # and a second that is not
    assert tool.decided_by_rounding(decoder, maps)[0].nonzero().flatten().tolist() == [3]
