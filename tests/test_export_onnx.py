"""tools/export_onnx.py: one graph from crop to keypoints that says what PyTorch says, for any batch size."""

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
    assert comparison.ties <= 0.01 * comparison.joints, 'too many joints were left out for the comparison to mean anything'
    assert comparison.pixels <= 1e-4 and comparison.score <= 1e-5


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
