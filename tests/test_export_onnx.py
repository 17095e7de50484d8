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
    assert build_supplier(rule) != module.model.head.decoder.supplier
    other = lively(model_config(supplier=rule))
    other.load_state_dict(module.state_dict())
    assert tool.compare(other, path, tool.random_crops(8, (96, 128), [])).pixels > 1e-2


@pytest.mark.parametrize(('change', 'error'), [
    ({}, ''), ({'ties': 2}, ''), ({'ties': 3}, '3 of 200 joints are decided'), ({'ties': 200}, '200 of 200 joints'),
    ({'joints': 20, 'ties': 1}, ''), ({'joints': 20, 'ties': 2}, '2 of 20 joints'), ({'beyond': 1}, '1 of 200 joints differ')], ids=str)
def test_joints_beyond_tolerance_and_the_share_of_ties_fail(change: dict, error: str, tmp_path: Path, monkeypatch, capsys) -> None:
    """And the exit status says so."""
    fine = dict(crops=10, joints=200, ties=0, pixels=5e-5, score=5e-5, open_pixels=1e-5, open_score=1e-6, beyond=0)
    comparison = tool.Comparison(**{**fine, **change})
    monkeypatch.setattr(tool, 'compare', lambda *_: comparison)
    monkeypatch.setattr(tool, 'init_fitting_model', lambda *_: lively(model_config()).model)
    monkeypatch.setattr(tool, 'export', lambda module, size, path: path.write_text('graph'))
    assert main(monkeypatch, 'CONFIG', 'CHECKPOINT', '--out', tmp_path / 'model.onnx') == bool(error)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith('error: ')]
    assert [line.startswith(f'error: {error}') for line in lines] == [True] * bool(error)


def main(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, 'argv', ['export_onnx.py', *map(str, arguments)])
    return tool.main()


def test_a_graph_of_which_every_joint_is_a_tie_fails(exported: tuple[tool.Exportable, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    module, path = exported
    monkeypatch.setattr(tool, 'left_open', lambda decoder, maps, error: (torch.ones(maps.shape[:2]), torch.ones(maps.shape[:2])))
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
    assert comparison.beyond == 17 and np.isnan(comparison.pixels) and comparison.faults()


def test_gaussian_decoder_is_refused_with_the_way_out() -> None:
    cfg = model_config()
    cfg['head']['decoder'] = dict(type='MSRAHeatmap', input_size=(96, 128), heatmap_size=(24, 32), sigma=1)
    with pytest.raises(ValueError, match='must be SubPixelDecoder'):
        tool.Exportable(MODELS.build(cfg))


def test_what_rounding_leaves_open_follows_the_map() -> None:
    decoder = tool.Exportable(MODELS.build(model_config(supplier='relu', blur=0))).decoder
    maps = torch.zeros(1, 17, 32, 24, dtype=torch.float64)
    maps[..., 5, 6] = 1  # one place
    maps[:, 3, 20, 15] = 1  # and a second that is as good
    maps[:, 4, 20, 15] = 0.999  # and a second that is not
    pixels, _ = tool.left_open(decoder, maps, torch.zeros(1, 17, dtype=torch.float64))
    assert (pixels > tool.JUMP)[0].nonzero().flatten().tolist() == [3]
    moved = [tool.left_open(decoder, maps, torch.full((1, 17), error, dtype=torch.float64))[0][0, 0] for error in (1e-4, 1e-2)]
    assert 20 < moved[1] / moved[0] < 500, 'a map that is less exact may differ more'


def test_a_network_that_has_hardly_learnt_is_exported_honestly(tmp_path: Path) -> None:
    """As MMPose initialises it: maps without a peak, of which float32 leaves more than 1e-4 px open."""
    register_all_modules()
    module = tool.Exportable(MODELS.build(model_config())).eval()
    tool.export(module, (96, 128), tmp_path / 'model.onnx')
    comparison = tool.compare(module, tmp_path / 'model.onnx', tool.random_crops(9, (96, 128), []))
    print(comparison)
    assert comparison.beyond == 0


@pytest.mark.parametrize('channels', [1, 4])
def test_other_numbers_of_channels(channels: int, tmp_path: Path) -> None:
    cfg = model_config()
    cfg['backbone']['in_channels'] = channels
    cfg['data_preprocessor'] = dict(type='PoseDataPreprocessor', mean=[100.0], std=[50.0])
    module = tool.Exportable(MODELS.build(cfg)).eval()
    tool.export(module, (96, 128), tmp_path / 'model.onnx')
    crops = tool.random_crops(3, (96, 128), [], channels)
    assert crops.shape == (3, channels, 128, 96)
    assert tool.compare(module, tmp_path / 'model.onnx', crops).beyond == 0
    picture = np.zeros((200, 200, 3), np.uint8)
    assert tool.random_crops(2, (96, 128), [picture], channels).shape == (2, channels, 128, 96)


def test_a_head_that_predicts_visibility_too(tmp_path: Path) -> None:
    cfg = model_config()
    cfg['head'] = dict(type='VisPredictHead', pose_cfg=cfg['head'])
    module = lively(cfg)
    tool.export(module, (96, 128), tmp_path / 'model.onnx')
    check(module, tmp_path / 'model.onnx', tool.random_crops(5, (96, 128), []))


class Pools(torch.nn.Module):
    """What ONNX cannot express: pooling to a size that is no divisor."""

    def __init__(self, module: tool.Exportable) -> None:
        super().__init__()
        self.module, self.channels = module, 3

    def forward(self, crops: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        pooled = torch.nn.functional.adaptive_avg_pool2d(crops, (7, 5))
        return self.module(torch.nn.functional.interpolate(pooled, crops.shape[-2:]))


def test_an_operator_that_onnx_lacks_is_one_sentence(exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(tool.NotExpressible, match='adaptive_avg_pool2d') as refusal:
        tool.export(Pools(exported[0]), (96, 128), tmp_path / 'model.onnx')
    assert len(str(refusal.value).splitlines()) == 1 and len(str(refusal.value)) < 400
    monkeypatch.setattr(tool, 'init_fitting_model', lambda *_: exported[0].model)
    export = tool.export
    monkeypatch.setattr(tool, 'export', lambda module, *rest: export(Pools(module), *rest))
    with pytest.raises(SystemExit, match='^error: ONNX cannot express .*adaptive_avg_pool2d'):
        main(monkeypatch, 'CONFIG', 'CHECKPOINT', '--out', tmp_path / 'model.onnx')


def test_weights_of_another_model_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({'state_dict': MODELS.build(model_config(head=dict(out_channels=9))).state_dict()}, tmp_path / '9.pth')
    with pytest.raises(SystemExit, match=r'9.pth does not hold the weights of this model: .*head.final_layer.weight is \(9, '):
        main(monkeypatch, DEMO, tmp_path / '9.pth', '--out', tmp_path / 'model.onnx')
    assert not (tmp_path / 'model.onnx').exists()


def test_bad_arguments_are_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / 'pictures').mkdir()
    (tmp_path / 'pictures' / 'a.jpg').write_text('no picture')
    cases = [(['--out', tmp_path], 'must name a file, got the folder'),
             (['--out', tmp_path / 'm.onnx', '--pictures', tmp_path / 'pictures'], '1 of 1 files .* are no pictures: a.jpg'),
             (['--out', tmp_path / 'm.onnx', '--pictures', tmp_path / 'gone'], 'gone'), (['--out', tmp_path / 'm.onnx'], 'no.pth')]
    for arguments, text in cases:
        with pytest.raises(SystemExit, match=f'^error: .*{text}'):
            main(monkeypatch, DEMO, tmp_path / 'no.pth', *arguments)
