"""tools/jobs.py: commands that are run, ended, continued and refused; commit and checkpoint that results come from."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tools import jobs

ROOT = Path(__file__).resolve().parent.parent


def git(folder: Path, *words: str) -> str:
    who = ['-c', 'user.name=nobody', '-c', 'user.email=nobody@example.com']
    return subprocess.run(['git', *who, *words], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


def test_a_commit_is_named_with_a_plus_where_files_changed(tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, 'ROOT', tmp_path)
    monkeypatch.setenv('GIT_CEILING_DIRECTORIES', str(tmp_path.parent))
    assert jobs.commit() == 'unknown'
    git(tmp_path, 'init', '-q')
    (tmp_path / 'file').write_text('one')
    git(tmp_path, 'add', 'file')
    git(tmp_path, 'commit', '-q', '-m', 'one')
    (tmp_path / 'untracked').write_text('')
    assert jobs.commit() == git(tmp_path, 'rev-parse', '--short=12', 'HEAD')
    (tmp_path / 'file').write_text('two')
    assert jobs.commit() == git(tmp_path, 'rev-parse', '--short=12', 'HEAD') + '+'


def test_without_git_the_commit_is_unknown(tmp_path, monkeypatch):
    monkeypatch.setenv('PATH', str(tmp_path))
    assert jobs.commit() == 'unknown'


def test_best_before_last_and_the_newest_of_the_best(tmp_path):
    with pytest.raises(FileNotFoundError, match='holds no checkpoint'):
        jobs.checkpoint(tmp_path, 'best')
    (tmp_path / 'last_checkpoint').write_text('/elsewhere/epoch_3.pth')
    assert jobs.checkpoint(tmp_path, 'best') == tmp_path / 'epoch_3.pth'
    for age, name in ((0, 'best_AP_epoch_2.pth'), (9, 'best_AP_epoch_1.pth')):
        torch.save({}, tmp_path / name)
        os.utime(tmp_path / name, (1000 - age, 1000 - age))
    assert jobs.checkpoint(tmp_path, 'best').name == 'best_AP_epoch_2.pth'
    assert jobs.checkpoint(tmp_path, 'last').name == 'epoch_3.pth'
    whole = (tmp_path / 'best_AP_epoch_2.pth').read_bytes()
    (tmp_path / 'best_AP_epoch_4.pth').write_bytes(whole[:-20])  # killed while it was written
    assert jobs.checkpoint(tmp_path, 'best').name == 'best_AP_epoch_2.pth'


def test_the_commit_needs_neither_torch_nor_yaml():
    """The list of the paper's rows starts at once, and the benchmarks run where torch alone is installed."""
    code = "import sys; sys.modules.update(torch=None, yaml=None); import tools.jobs as o; print(o.commit())"
    done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip()


# ---------------------------------------------------------------------------------------------------- running commands


def job(folder: Path, code: str, **options) -> jobs.Job:
    return jobs.Job(folder, ('groups', 'one'), (sys.executable, '-c', code), 'one.log', **options)


def test_a_command_is_run_shown_and_kept(tmp_path):
    lines = []
    step = job(tmp_path, 'import os; print("a\\nb"); print(os.environ["WORD"], end="")', environment={'WORD': 'said'},
               about={'seed': 3}, finish=lambda: {'figure': 5}).run(show=lines.append)
    assert lines[1:] == ['a', 'b'] and lines[0].startswith('$ WORD=said ')
    assert (tmp_path / 'one.log').read_text().endswith('a\nb\nsaid')
    assert jobs.read(tmp_path)['groups']['one'] == step and jobs.steps(jobs.read(tmp_path)) == [step]
    assert (step['status'], step['seed'], step['figure']) == ('done', 3, 5) and step['started'] <= step['finished']


def test_a_failure_says_why_and_the_next_call_goes_on(tmp_path):
    failing = job(tmp_path, 'raise ValueError("no such luck")')
    with pytest.raises(jobs.JobFailed, match=r'one: exit status 1; ValueError: no such luck \(see .*one.log\)'):
        failing.run()
    assert failing.before()['status'] == 'failed'
    with pytest.raises(jobs.JobFailed, match='one: KeyError'):
        job(tmp_path, '', finish=lambda: {}['figure']).run()
    assert job(tmp_path, 'print("again")').run()['status'] == 'done'
    assert (tmp_path / 'one.log').read_text().count('$ ') == 3


@pytest.mark.parametrize('how', ['deadline', 'stop', 'interrupt'])
def test_a_command_that_is_stopped_takes_its_children_along(tmp_path, how):
    code = ('import subprocess, time; child = subprocess.Popen(["sleep", "60"]); print(child.pid, flush=True); time.sleep(60)')
    seen = []

    def show(line: str) -> None:
        if line.isdecimal():
            seen.append(int(line))
            if how == 'interrupt':
                raise KeyboardInterrupt
            if how == 'stop':
                jobs.STOP.set()

    try:
        with pytest.raises(jobs.JobFailed if how == 'deadline' else KeyboardInterrupt):
            job(tmp_path, code).run(deadline=time.time() + 3 if how == 'deadline' else float('inf'), show=show)
    finally:
        jobs.STOP.clear()
    assert jobs.read(tmp_path)['groups']['one']['status'] == 'interrupted'
    while jobs._alive({'host': socket.gethostname(), 'pid': seen[0]}):  # whoever adopts it has to notice
        time.sleep(0.05)


def test_one_that_runs_is_left_alone_until_it_is_taken_over(tmp_path):
    other = job(tmp_path, '')
    other.keep({**jobs.started(['x'], tmp_path / 'x.log'), 'pid': os.getpid()})
    with pytest.raises(jobs.JobFailed, match=f'running already, process {os.getpid()}'):
        other.run()
    assert other.run(take_over=True)['status'] == 'done'


def test_settings_are_compared(tmp_path):
    assert jobs.fingerprint({'a': 1, 'b': Path('x')}) == jobs.fingerprint({'b': Path('x'), 'a': 1}) != jobs.fingerprint({'a': 2})
    assert jobs.differences({'a': 1, 'b': 2}, {'a': 1, 'b': 3, 'c': 4}) == ['b 2, now 3', 'c None, now 4']
