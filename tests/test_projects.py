"""Six small projects in the manner of real ones: from the swap block, doing what `check` says, their life runs.

An own head with its own loss (cattle), an own data set class without a skeleton and an own transform (satellite), an own hook
(surgery), an own metric that only the training script imports (hip), a config in pure Python style (cephalogram), and a pipeline
without ``TopdownAffine`` (robot).
"""

from __future__ import annotations

import re
import sys
import uuid
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip('mmpose', reason='projects are of MMPose')

from mmengine.config import Config  # noqa: E402
from mmengine.runner import Runner  # noqa: E402
from mmpose.registry import MODELS  # noqa: E402

from hdm_mmpose.check.command import check_file  # noqa: E402
from tests.test_swap import BLOCKS, LAZY  # noqa: E402
from tests.tiny_training import LOADERS, draw, train  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
(GAUSSIAN,) = (ROOT / 'configs' / 'demo').glob('*_mse-*.py')
SIZES = {'(192, 256)': '(96, 128)', '(48, 64)': '(24, 32)'}
PROJECTS = {  # what the command finds on the swap block: errors, and what could not be checked
    'cattle': set(),
    'satellite': set(),
    'surgery': set(),
    'hip': {'not-registered'},
    'cephalogram': set(),
    'robot': set(),
}


@pytest.fixture(scope='module')
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw(tmp_path_factory.mktemp('drawn') / 'data', train=4, val=2)


def sized(block: str) -> str:
    for old, new in SIZES.items():
        block = block.replace(old, new)
    return block


def swapped(name: str, folder: Path) -> Path:
    """The project's config: its recipe and the block of docs/swap.md, as printed but for the sizes."""
    path = folder / 'mine.py'
    if name == 'cephalogram':
        if not hasattr(Config, '_is_lazy_import'):
            pytest.skip('MMEngine before 0.8 has no configs in pure Python style')
        lines = [f'{key} = {value!r}' for key, value in Config.fromfile(GAUSSIAN).to_dict().items()]
        (folder / 'my_recipe.py').write_text('from mmpose.models import ResNet\n' + '\n'.join(lines))
        path.write_text(sized(LAZY['loss-codec-decoder']))
    else:
        recipe = ROOT / 'tests' / 'projects' / name / 'recipe.py'
        path.write_text(re.sub(r"'mmpose::[^']+'", repr(str(recipe)), sized(BLOCKS['loss-codec-decoder'])))
    return path


def options(data: Path) -> list[str]:
    annotations = data / 'annotations' / 'person_keypoints_val2017.json'
    found = [f'{loader}.dataset.data_root={data}/' for loader in LOADERS]
    return found + [f'{split}_evaluator.0.ann_file={annotations}' for split in ('val', 'test')]


def findings(path: Path, changes: list[str], capsys: pytest.CaptureFixture) -> tuple[int, set[str], str]:
    """Exit status, rules with an error, and what was printed."""
    capsys.readouterr()
    status = check_file(str(path), changes, data=True)
    printed = capsys.readouterr().out
    return status, set(re.findall(r'^error: .*?rule:   ([\w-]+)$', printed, re.M | re.S)), printed


@pytest.mark.parametrize('name', [
    pytest.param(name, marks=[] if name in ('satellite', 'hip') else pytest.mark.slow) for name in PROJECTS])
def test_a_project_lives_after_the_swap(name: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = swapped(name, tmp_path)
    changes = [change for change in options(data) if name != 'hip' or 'evaluator' not in change]
    if name == 'hip':
        sys.modules.pop('tests.projects.hip.things', None)
    status, errors, printed = findings(path, changes, capsys)
    assert errors == PROJECTS[name] and status == int(bool(errors)), printed
    if name == 'hip':  # the repair, word for word, with the module's name
        repair = re.search(r'custom_imports = dict\(.*allow_failed_imports=False\)', printed)[0]
        text = re.sub(r'custom_imports = dict\(.*?allow_failed_imports=False\)\n', '', path.read_text(), flags=re.S)
        path.write_text(text + repair.replace('<its module>', 'tests.projects.hip.things'))
        status, errors, printed = findings(path, changes, capsys)
        assert (status, errors) == (0, set()), printed
    if name == 'robot':
        assert 'not checked: no TopdownAffine' in printed
    live(path, dict(change.split('=', 1) for change in changes), tmp_path / 'run')


def config(path: Path, changes: dict, folder: Path, epochs: int) -> Config:
    cfg = Config.fromfile(path)
    run = uuid.uuid4().hex  # MMEngine gives out logger and visualiser by name
    small = {'work_dir': str(folder), 'experiment_name': run, 'visualizer.name': run, 'train_cfg.max_epochs': epochs,
             'train_cfg.val_interval': 1, 'model.backbone.base_channels': 8, 'model.head.in_channels': 64, 'default_scope': 'mmpose'}
    for loader in LOADERS:
        small.update({f'{loader}.batch_size': 4, f'{loader}.num_workers': 0, f'{loader}.persistent_workers': False})
    cfg.merge_from_dict({**changes, **small})
    return cfg


def live(path: Path, changes: dict, folder: Path) -> None:
    """Training with validation, a test of its checkpoint, resuming, and export."""
    train(config(path, changes, folder, 1))
    checkpoint = folder / 'epoch_1.pth'
    assert checkpoint.is_file()
    cfg = config(path, changes, folder, 1)
    cfg.load_from = str(checkpoint)
    metrics = Runner.from_cfg(cfg).test()
    assert metrics and all(np.isfinite(value) for value in metrics.values())
    cfg = config(path, changes, folder, 2)
    cfg.resume = True
    assert train(cfg).epoch == 2
    export(cfg, folder / 'epoch_2.pth', folder)


def export(cfg: Config, checkpoint: Path, folder: Path) -> None:
    for package in ('onnx', 'onnxruntime'):
        pytest.importorskip(package, reason='all but the export has run; that needs onnx and onnxruntime')
    sys.path.insert(0, str(ROOT / 'tools'))
    import export_onnx as tool
    from mmengine.runner import load_checkpoint

    model = MODELS.build(cfg.model)
    load_checkpoint(model, str(checkpoint), map_location='cpu')
    torch.nn.init.normal_(model.head.final_layer.weight, std=0.3)  # two steps leave maps so flat that rounding decides where joints are
    module = tool.Exportable(model).eval()
    tool.export(module, (96, 128), folder / 'model.onnx')
    assert tool.compare(module, folder / 'model.onnx', tool.random_crops(3, (96, 128), [])).beyond == 0
