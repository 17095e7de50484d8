"""kill -9 at the worst moments, then resume: nothing is lost but the unfinished step."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import hdm_mmpose.components  # noqa: F401  (lets the safe loader read checkpoints)
from tests.tiny_training import loss_curve

pytestmark = pytest.mark.faults
ROOT = Path(__file__).resolve().parents[2]
SCRIPT = Path(__file__).with_name('interrupted.py')
ITERATIONS, KILLED = 6, 4


def command(data: Path, work_dir: Path, kept: int = 3, moment: str = 'never', at: int = 0) -> dict:
    arguments = [data, work_dir, ITERATIONS, kept, moment, at]
    return dict(args=[sys.executable, str(SCRIPT), *map(str, arguments)], text=True, cwd=work_dir.parent,
                env=dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS='1'))


def run(*arguments, **options) -> subprocess.CompletedProcess:
    return subprocess.run(**command(*arguments, **options), capture_output=True, timeout=300)


@pytest.fixture(scope='module')
def unbroken(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, float]:
    """Loss by iteration of a run that nothing happens to."""
    folder = tmp_path_factory.mktemp('unbroken') / 'run'
    done = run(drawn, folder)
    assert done.returncode == 0, done.stderr[-2000:]
    curve = loss_curve(folder)
    assert list(curve) == list(range(1, ITERATIONS + 1))
    return curve


def resume(drawn: Path, folder: Path, kept: int = 3, moment: str = 'never') -> int:
    """Finish the run; the iteration it went on from."""
    done = run(drawn, folder, kept, moment)
    assert done.returncode == 0, done.stderr[-2000:]
    return int(re.search(r'resumed epoch: \d+, iter: (\d+)', done.stdout + done.stderr)[1])


def same(curve: dict[int, float], unbroken: dict[int, float]) -> bool:
    return curve.keys() == unbroken.keys() and all(curve[i] == pytest.approx(unbroken[i], rel=1e-6) for i in unbroken)


@pytest.mark.parametrize(('moment', 'kept'), [('forward', 3), ('writing', 3), ('writing', 1)])
def test_killed_by_itself(moment: str, kept: int, drawn: Path, tmp_path: Path, unbroken: dict, saw: Callable) -> None:
    folder = tmp_path / 'run'
    killed = run(drawn, folder, kept, moment, KILLED)
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
    half = folder / f'iter_{KILLED}.pth'
    assert half.exists() == (moment == 'writing')
    if moment == 'writing':
        with pytest.raises(Exception, match='PytorchStreamReader|zip archive'):
            torch.load(half)
    assert resume(drawn, folder, kept) == KILLED - 1
    assert same(loss_curve(folder), unbroken)
    place = {'forward': f'in the forward pass of step {KILLED}', 'writing': f'while the checkpoint of step {KILLED} is written'}
    saw(f'kill -9 {place[moment]} (max_keep_ckpts={kept}), then resume', 'only the unfinished step is lost',
        f'resumed from step {KILLED - 1}; all {ITERATIONS} losses equal the unbroken run\'s')


def test_killed_while_the_best_is_written(drawn: Path, tmp_path: Path, saw: Callable) -> None:
    folder = tmp_path / 'run'
    killed = run(drawn, folder, 1, 'best', KILLED)
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
    before, half, last = (folder / f'best_number_iter_{i}.pth' for i in (KILLED - 1, KILLED, ITERATIONS))
    with pytest.raises(Exception, match='PytorchStreamReader|zip archive'):
        torch.load(half)
    assert torch.load(before)['state_dict']
    assert resume(drawn, folder, 1, 'improving') == KILLED
    assert torch.load(last)['state_dict'] and not before.exists()
    saw(f'kill -9 while the best checkpoint after step {KILLED} is written (max_keep_ckpts=1), then resume',
        'the best one before is still there until there is a better one',
        f'that of step {KILLED - 1} loads; resumed from step {KILLED}, that of step {ITERATIONS} has taken its place')


def test_killed_from_outside(drawn: Path, tmp_path: Path, unbroken: dict, saw: Callable) -> None:
    folder = tmp_path / 'run'
    process = subprocess.Popen(**command(drawn, folder, 3, 'waiting', KILLED), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    for line in process.stdout:
        if line.strip() == 'waiting':
            break
    process.kill()
    assert process.wait(timeout=60) == -signal.SIGKILL
    assert resume(drawn, folder) == KILLED - 1
    assert same(loss_curve(folder), unbroken)
    saw(f'kill -9 from outside between steps {KILLED - 1} and {KILLED}, then resume', 'only the unfinished step is lost',
        f'resumed from step {KILLED - 1}; all {ITERATIONS} losses equal the unbroken run\'s')
