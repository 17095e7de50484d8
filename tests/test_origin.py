"""Where results come from: the commit that tools write beside their numbers, and the checkpoint they take."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tools.benchmarks import measuring
from tools.reproduction import origin, state

ROOT = Path(__file__).resolve().parent.parent


def git(folder: Path, *words: str) -> str:
    who = ['-c', 'user.name=nobody', '-c', 'user.email=nobody@example.com']
    return subprocess.run(['git', *who, *words], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


def test_a_commit_is_named_the_same_by_every_tool(tmp_path, monkeypatch):
    assert measuring.commit is state.commit is origin.commit
    monkeypatch.setattr(origin, 'CHECKOUT', tmp_path)
    monkeypatch.setenv('GIT_CEILING_DIRECTORIES', str(tmp_path.parent))
    assert origin.commit() == 'unknown'
    git(tmp_path, 'init', '-q')
    (tmp_path / 'file').write_text('one')
    git(tmp_path, 'add', 'file')
    git(tmp_path, 'commit', '-q', '-m', 'one')
    (tmp_path / 'untracked').write_text('')
    assert origin.commit() == git(tmp_path, 'rev-parse', '--short=12', 'HEAD')
    (tmp_path / 'file').write_text('two')
    assert origin.commit() == git(tmp_path, 'rev-parse', '--short=12', 'HEAD') + '+'


def test_without_git_the_commit_is_unknown(tmp_path, monkeypatch):
    monkeypatch.setenv('PATH', str(tmp_path))
    assert origin.commit() == 'unknown'


def test_best_before_last_and_the_newest_of_the_best(tmp_path):
    with pytest.raises(FileNotFoundError, match='holds no checkpoint'):
        origin.checkpoint(tmp_path, 'best')
    (tmp_path / 'last_checkpoint').write_text('/elsewhere/epoch_3.pth')
    assert origin.checkpoint(tmp_path, 'best') == tmp_path / 'epoch_3.pth'
    for age, name in ((0, 'best_AP_epoch_2.pth'), (9, 'best_AP_epoch_1.pth')):
        torch.save({}, tmp_path / name)
        os.utime(tmp_path / name, (1000 - age, 1000 - age))
    assert origin.checkpoint(tmp_path, 'best').name == 'best_AP_epoch_2.pth'
    assert origin.checkpoint(tmp_path, 'last').name == 'epoch_3.pth'
    whole = (tmp_path / 'best_AP_epoch_2.pth').read_bytes()
    (tmp_path / 'best_AP_epoch_4.pth').write_bytes(whole[:-20])  # killed while it was written
    assert origin.checkpoint(tmp_path, 'best').name == 'best_AP_epoch_2.pth'


def test_the_commit_needs_neither_torch_nor_yaml():
    """The list of the paper's rows starts at once, and the benchmarks run where torch alone is installed."""
    code = "import sys; sys.modules.update(torch=None, yaml=None); import tools.reproduction.origin as o; print(o.commit())"
    done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip()
