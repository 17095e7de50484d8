"""tools/benchmarks/gpu.sh: which benchmark each stage runs, with what, and where the results go."""

from __future__ import annotations

import importlib
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NETWORKS = ['res152', 'hrnet-w32', 'hrnet-w48', 'hrformer-base']
# Finds a GPU, logs what it is asked to run, and fails where it is told to.
PYTHON = """#!/bin/sh
case "$1" in -c | -m) exit 0 ;; esac
echo "$@" >> "$CALLS"
case "$*" in *$FAILS*) exit 1 ;; esac
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs stages with an interpreter that only takes notes; gives the process and the (script, words) it was asked for."""
    python = tmp_path / 'python'
    python.write_text(PYTHON)
    python.chmod(0o755)
    calls = tmp_path / 'calls'

    def run(*stages: str, fails: str = 'nothing'):
        calls.write_text('')
        environment = {**os.environ, 'PYTHON': str(python), 'OUT': str(tmp_path / 'out'), 'WHEELS': str(tmp_path / 'none'),
                       'CALLS': str(calls), 'FAILS': fails}
        done = subprocess.run(
            ['bash', 'tools/benchmarks/gpu.sh', *stages], cwd=ROOT, env=environment, text=True, capture_output=True, timeout=120)
        return done, [(Path(line[0]).stem, line[1:]) for line in map(shlex.split, calls.read_text().splitlines())]

    return run


def test_training_is_one_stage_per_network_that_goes_on_where_it_was(run, tmp_path):
    done, calls = run('training')
    assert done.returncode == 0, done.stderr
    parse = importlib.import_module('tools.benchmarks.training')._arguments
    found = [parse(words) for script, words in calls if script == 'training']
    assert [(each.models, each.keypoints) for each in found] == [([name], [k]) for name in NETWORKS for k in (17, 133)]
    assert all(each.device == 'cuda' and each.resume and each.json == tmp_path / 'out' / 'training.json' for each in found)
    assert [each.precision for each in found[:2]] == [['fp32', 'fp16', 'bf16'], ['fp32', 'bf16']]
    assert [words for _, words in run('training-hrnet-w48')[1]] == [words for _, words in calls[4:6]]


def test_a_stage_that_fails_stops_no_other_and_is_named(run):
    done, calls = run('training', fails='hrnet-w32')
    assert done.returncode == 1 and len(calls) == 8
    assert 'not finished: training-hrnet-w32 training-hrnet-w32, 133 keypoints (see' in done.stdout


def test_tables_go_to_a_copy_of_the_page(run, tmp_path):
    """Every stage with a table fills one and the same copy, whose blocks exist and whose pictures lie beside it."""
    done, calls = run('transport', 'codec', 'training-res152')
    assert done.returncode == 0, done.stderr
    page = tmp_path / 'out' / 'benchmarks.md'
    assert page.read_text() == (ROOT / 'docs' / 'benchmarks.md').read_text()
    assert [script for script, _ in calls] == ['transport'] * 2 + ['codec'] + ['training'] * 2
    for script, words in calls:
        assert words[words.index('--markdown') + 1] == str(page), script
    parse, blocks = (getattr(importlib.import_module('tools.benchmarks.transport'), name) for name in ('_arguments', '_blocks'))
    speed, scaling = (parse(words) for script, words in calls if script == 'transport')
    assert (speed.batch, speed.size, scaling.scaling) == (64, [96, 72], True)
    assert scaling.plot == page.parent / 'images' / 'scaling_cuda.png' and scaling.plot.parent.is_dir()
    for block in (*blocks(speed), *blocks(scaling), 'codec-cuda', 'training-cuda'):
        assert f'<!-- begin {block} -->' in page.read_text()
    page.write_text('filled')
    run('codec')
    assert page.read_text() == 'filled'


def test_the_page_says_what_to_commit(run):
    """Its list names every result."""
    results = {Path(word).name for _, words in run()[1] for word in words if re.search(r'\.(json|png|md)$', word)}
    text = (ROOT / 'docs' / 'benchmarks.md').read_text()
    rows = re.findall(r'^\| (`.*?) \|', text[text.index('commits:'):text.index('When the stage `kernel`')], re.M)
    named = {Path(name).name for row in rows for name in re.findall(r'`([^`]+\.(?:json|png|md))`', row)}
    assert results == named and len(named) == 7


def test_an_unknown_stage_is_refused(run):
    done, calls = run('nonsense')
    assert done.returncode == 2 and 'unknown stage nonsense' in done.stderr and not calls
