"""MMPose's own launchers with our ``custom_imports`` alone, and configs that an old MMEngine wrote.

``mim train mmpose CONFIG`` starts the same file, ``mmpose/.mim/tools/train.py``, from wherever it is called.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

pytest.importorskip('mmpose', reason='the launchers are MMPose\'s')

from mmengine.config import Config  # noqa: E402
from mmpose.registry import MODELS  # noqa: E402
from mmpose.utils import register_all_modules  # noqa: E402

from hdm_mmpose.check import check_config  # noqa: E402
from tests.tiny_training import draw, loss_curve  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
STOCK = Path(find_spec('mmpose').origin).parent / '.mim' / 'tools'
DUMPED = ROOT / 'tests' / 'data' / 'configs' / 'swap_dumped_by_mmengine_0.7.1.py'
(SWAP,) = re.findall(r'<!-- config: loss-codec-decoder -->\n```python\n(.*?)```', (ROOT / 'docs' / 'swap.md').read_text(), re.S)
pytestmark = pytest.mark.skipif(not (STOCK / 'train.py').is_file(), reason='this MMPose is installed without its tools')


@pytest.fixture(scope='module')
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw(tmp_path_factory.mktemp('drawn data') / 'data', train=3, val=1)


def options(data: Path, epochs: int) -> dict:
    """The config on a few drawn persons and a network of a few channels."""
    changes = {
        'model.backbone': dict(type='ResNet', depth=18, base_channels=8, init_cfg=None), 'model.head.in_channels': 64,
        'train_cfg.max_epochs': epochs, 'train_cfg.val_interval': 1, 'default_hooks.logger.interval': 1,
        'default_hooks.checkpoint.interval': 1, 'randomness.seed': 3, 'env_cfg.dist_cfg.backend': 'gloo'}
    for part in ('train', 'val', 'test'):
        loader = f'{part}_dataloader'
        changes.update({f'{loader}.batch_size': 2, f'{loader}.num_workers': 0, f'{loader}.persistent_workers': False,
                        f'{loader}.dataset.data_root': str(data)})
        if part != 'train':
            changes.update({f'{loader}.dataset.bbox_file': None,
                            f'{part}_evaluator.ann_file': f'{data}/annotations/person_keypoints_val2017.json'})
    return changes


def config_on(data: Path, folder: Path, config: str | Path, epochs: int = 1) -> Path:
    """A config file that extends another one by :func:`options`."""
    if isinstance(config, str):
        (folder / 'swap.py').write_text(config)
        config = folder / 'swap.py'
    read = Config.fromfile(config)
    changes = options(data, epochs)
    backbone = changes.pop('model.backbone')
    read.merge_from_dict(changes)
    read.model.backbone = backbone
    path = folder / f'small_{epochs}.py'
    read.dump(str(path))
    return path


def launch(launcher: Path, *words: object, folder: Path) -> str:
    """Run a launcher somewhere else, with the plug-in importable as if it were installed."""
    env = dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS='1')
    done = subprocess.run([sys.executable, '-W', 'ignore', str(launcher), *map(str, words)], capture_output=True, text=True, cwd=folder,
                          env=env, timeout=300)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return done.stdout + done.stderr


def test_stock_launchers_train_test_and_resume_the_swap(data: Path, tmp_path: Path):
    """docs/swap.md as printed; and our own launcher takes the same steps."""
    config, longer = config_on(data, tmp_path, SWAP), config_on(data, tmp_path, SWAP, epochs=2)
    launch(STOCK / 'train.py', config, '--work-dir', tmp_path / 'stock', folder=tmp_path)
    launch(ROOT / 'tools' / 'train.py', config, '--work-dir', tmp_path / 'ours', folder=tmp_path)
    losses = loss_curve(tmp_path / 'stock')
    assert len(losses) > 2 and losses == loss_curve(tmp_path / 'ours')
    told = launch(STOCK / 'test.py', config, tmp_path / 'stock' / 'epoch_1.pth', '--work-dir', tmp_path / 'test', folder=tmp_path)
    assert 'coco/AP' in told
    told = launch(STOCK / 'train.py', longer, '--work-dir', tmp_path / 'stock', '--resume', folder=tmp_path)
    assert f'resumed epoch: 1, iter: {len(losses)}' in told and (tmp_path / 'stock' / 'epoch_2.pth').is_file()
    assert len(loss_curve(tmp_path / 'stock')) == 2 * len(losses)


def test_a_config_dumped_by_mmengine_0_7_agrees_and_builds(tmp_path: Path):
    register_all_modules()
    (tmp_path / 'swap.py').write_text(SWAP)
    old, new = Config.fromfile(DUMPED), Config.fromfile(tmp_path / 'swap.py')
    assert not [finding for finding in check_config(old) if finding.level == 'error']
    assert old.codec == new.codec and old.custom_imports == new.custom_imports
    assert {key: value for key, value in old.model.head.loss.items() if key != '_scope_'} == new.model.head.loss
    old.model.backbone.init_cfg = None
    model = MODELS.build(old.model)
    assert type(model.head.loss_module).__name__ == 'EMDHeatmapLoss' and type(model.head.decoder).__name__ == 'DotAnnotationCodec'


def test_a_config_dumped_by_mmengine_0_7_trains(data: Path, tmp_path: Path):
    launch(STOCK / 'train.py', config_on(data, tmp_path, DUMPED), '--work-dir', tmp_path / 'run', folder=tmp_path)
    assert (tmp_path / 'run' / 'epoch_1.pth').is_file() and len(loss_curve(tmp_path / 'run')) > 2
