"""Checkpoints, pickles and configs of one stack under another: other Pythons, torches, numpys and MMEngines.

``data/checkpoints`` holds what ``toy_training.py`` wrote under the stacks in the files' names.
"""

from __future__ import annotations

import io
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip('mmengine', reason='checkpoints are written by MMEngine')

from mmengine.logging import HistoryBuffer  # noqa: E402

from hdm_mmpose import compat  # noqa: E402
from hdm_mmpose.features import loads_safely  # noqa: E402

HERE = Path(__file__).parent
TOY = HERE / 'toy_training.py'
CHECKPOINTS = sorted((HERE / 'data' / 'checkpoints').glob('*.pth'))


@pytest.fixture(autouse=True)
def helped() -> None:
    compat.apply()


def toy(python: str, root: Path, *arguments: str | Path) -> str:
    """Output of ``toy_training.py``, which must succeed."""
    env = dict(os.environ, PYTHONPATH=str(root), OMP_NUM_THREADS='1')
    done = subprocess.run([python, '-W', 'ignore', str(TOY), *map(str, arguments)], capture_output=True, text=True, env=env, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_there_are_checkpoints_of_both_ends_of_the_range():
    names = ' '.join(path.stem for path in CHECKPOINTS)
    assert 'torch1.13' in names and 'torch2.11' in names and 'numpy1' in names and 'numpy2' in names
    assert sum(path.stat().st_size for path in CHECKPOINTS) < 100_000


@pytest.mark.parametrize('path', CHECKPOINTS, ids=lambda path: path.stem)
def test_everything_in_it_loads_by_default(path: Path):
    """As MMEngine calls it: through the safe loader where torch has one on."""
    saved = torch.load(path, map_location='cpu')
    assert saved['meta']['epoch'] == 2
    sigmas, colors = saved['meta']['dataset_meta']['sigmas'], saved['meta']['dataset_meta']['keypoint_colors']
    assert sigmas.dtype == np.float32 and sigmas.shape == (17, ) and (sigmas == np.float32(.05)).all()
    assert colors.dtype == np.uint8 and colors.shape == (17, 3) and not colors.any()
    scalars = saved['message_hub']['log_scalars']
    for name in ('train/loss', 'train/lr', 'val/error'):
        assert isinstance(scalars[name], HistoryBuffer)
        assert np.isfinite(scalars[name].data[0]).all()
    best = saved['message_hub']['runtime_info']['best_score']
    assert isinstance(best, float) and np.isfinite(best)
    assert saved['state_dict']['line.weight'].isfinite().all()


@pytest.mark.parametrize('path', CHECKPOINTS, ids=lambda path: path.stem)
def test_a_training_goes_on_from_it(path: Path, root: Path, tmp_path: Path):
    """Weights, optimiser, schedules, averaged weights and logged scalars."""
    told = toy(sys.executable, root, tmp_path, 'none', path)
    assert 'resumed epoch: 2, iter: 8' in told and 'rank 0 of 1: epoch 3' in told
    after, before = torch.load(tmp_path / 'epoch_3.pth'), torch.load(path)
    (old, ), (new, ) = (list(each['optimizer']['state'].values())[:1] for each in (before, after))
    assert float(new['step']) == float(old['step']) + 4
    history = len(before['message_hub']['log_scalars']['train/loss'].data[0])
    assert len(after['message_hub']['log_scalars']['train/loss'].data[0]) == history + 4


NUMPY_VALUES = [np.float64(1.5), np.int64(-7), np.bool_(True), np.float32(.1), np.arange(6, dtype=np.uint8).reshape(2, 3),
                np.zeros((0, 2)), np.array(2.5)]


@pytest.mark.parametrize('module', ['numpy.core', 'numpy._core'])
@pytest.mark.parametrize('value', NUMPY_VALUES, ids=repr)
def test_numbers_pickled_by_either_numpy(module: str, value):
    """The old format of ``torch.save`` holds the names as text, so that the other numpy's file can be made by replacing them."""
    file = io.BytesIO()
    torch.save({'value': value}, file, _use_new_zipfile_serialization=False)
    written = re.sub(rb'c(numpy\._?core)\.', b'c' + module.encode() + b'.', file.getvalue())
    assert module.encode() in written
    loaded = torch.load(io.BytesIO(written))['value']
    assert type(loaded) is type(value) and loaded.dtype == value.dtype
    np.testing.assert_array_equal(loaded, value)
    plain = re.sub(rb'c(numpy\._?core)\.', b'c' + module.encode() + b'.', pickle.dumps(value, protocol=2))
    np.testing.assert_array_equal(pickle.loads(plain), value)


def test_numpy_still_says_which_it_is():
    """Other libraries ask for ``numpy._core`` to tell numpy 2 from 1."""
    script = '''
import importlib.util
before = importlib.util.find_spec('numpy._core') is None
from hdm_mmpose import compat
compat.let_numpy_names_find_each_other()
assert (importlib.util.find_spec('numpy._core') is None) == before
'''
    subprocess.run([sys.executable, '-c', script], check=True, timeout=120, env=dict(os.environ, PYTHONPATH=str(HERE.parent)))


def test_a_loader_that_is_not_safe_by_default_stays_as_it_is(monkeypatch):
    monkeypatch.setattr(compat, 'loads_safely', lambda: False)
    monkeypatch.setattr(torch.serialization, 'add_safe_globals', lambda _: pytest.fail('patched'), raising=False)
    load = torch.load
    compat.allow_mmengine_checkpoints.__wrapped__()
    assert torch.load is load


# --------------------------------------------------------------------------------------------- with the other stack itself
@pytest.fixture(scope='module')
def other_python(root: Path) -> str:
    """The Python of the oldest stack, or, where the oldest stack runs these tests, of the newest."""
    name = '.venv-oldest' if loads_safely() else '.venv'
    python = Path(os.environ.get('OTHER_STACK', root / name / 'bin' / 'python'))
    if not python.is_file():
        pytest.skip(f'the other stack is not here: neither {name} (`make test-oldest` makes the oldest) nor OTHER_STACK=python')
    return str(python)


def test_checkpoints_go_there_and_back(other_python: str, root: Path, tmp_path: Path):
    """Two epochs there, a third here, and the other way round."""
    for first, second, folder in ((other_python, sys.executable, 'there'), (sys.executable, other_python, 'here')):
        toy(first, root, tmp_path / folder, 'none')
        told = toy(second, root, tmp_path / f'{folder}_and_on', 'none', tmp_path / folder / 'epoch_2.pth')
        assert 'resumed epoch: 2, iter: 8' in told and 'rank 0 of 1: epoch 3' in told
