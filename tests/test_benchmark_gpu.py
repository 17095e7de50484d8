"""tools/benchmarks/gpu.sh: which benchmark each stage runs, with what, and where the results go."""

from __future__ import annotations

import importlib
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hdm_mmpose.features import triton_obstacle

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
    done, calls = run('decisive', 'transport', 'codec', 'training-res152')
    assert done.returncode == 0, done.stderr
    page = tmp_path / 'out' / 'benchmarks.md'
    assert page.read_text() == (ROOT / 'docs' / 'benchmarks.md').read_text()
    assert [script for script, _ in calls] == ['gpu'] + ['transport'] * 2 + ['codec'] + ['training'] * 2
    for script, words in calls:
        assert words[words.index('--markdown') + 1] == str(page), script
    parse, blocks = (getattr(importlib.import_module('tools.benchmarks.transport'), name) for name in ('_arguments', '_blocks'))
    speed, scaling = (parse(words) for script, words in calls if script == 'transport')
    assert (speed.batch, speed.size, scaling.scaling) == (64, [96, 72], True)
    assert scaling.plot == page.parent / 'images' / 'scaling_cuda.png' and scaling.plot.parent.is_dir()
    for block in ('decisive-cuda', *blocks(speed), *blocks(scaling), 'codec-cuda', 'training-cuda'):
        assert f'<!-- begin {block} -->' in page.read_text()
    page.write_text('filled')
    run('codec')
    assert page.read_text() == 'filled'


def test_the_page_says_what_to_commit(run):
    """Its list names every result."""
    results = {Path(word).name for _, words in run()[1] for word in words if re.search(r'\.(json|png|md)$', word)}
    text = (ROOT / 'docs' / 'benchmarks.md').read_text()
    rows = re.findall(r'^\| (`.*?) \|', text[text.index('commits:'):text.index('| what | script |')], re.M)
    named = {Path(name).name for row in rows for name in re.findall(r'`([^`]+\.(?:json|png|md))`', row)}
    assert results == named and len(named) == 7


def test_an_unknown_stage_is_refused(run):
    done, calls = run('nonsense')
    assert done.returncode == 2 and 'unknown stage nonsense' in done.stderr and not calls


def test_the_decisive_figures_come_first(run):
    assert run()[1][0][0] == 'gpu'


REHEARSAL = """
import sys
from pathlib import Path
from tools.benchmarks import gpu

gpu.STEPS = (('tiny', 36, 28, 2, True),)
gpu.main(['--device', 'cpu', '--batch', '2', '--keypoints', '3', '--sizes', '9x7', '8x6', '--repeats', '2', '--turns', '2',
          '--json', sys.argv[1], '--markdown', sys.argv[2]])
"""
TIMM = """
from torch import nn
from types import SimpleNamespace

def create_model(name, features_only, feature_location, out_indices):
    net = nn.Sequential(nn.Conv2d(3, 4, 4, 4))
    net.feature_info = SimpleNamespace(channels=lambda: [4])
    net.forward = lambda pictures: [net[0](pictures)]
    return net
"""


@pytest.mark.skipif(triton_obstacle() is not None, reason=str(triton_obstacle()))
def test_rehearsal_of_the_decisive_figures(tmp_path):
    """All of it on the CPU, with the interpreter and a network of one convolution."""
    (tmp_path / 'timm.py').write_text(TIMM)
    page = tmp_path / 'page.md'
    page.write_text('<!-- begin decisive-cuda -->\n<!-- end decisive-cuda -->\n')
    environment = {**os.environ, 'TRITON_INTERPRET': '1', 'PYTHONPATH': os.pathsep.join([str(ROOT), str(tmp_path)])}
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', REHEARSAL, str(tmp_path / 'figures.json'), str(page)], cwd=ROOT,
                          env=environment, text=True, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    record = json.loads((tmp_path / 'figures.json').read_text())
    assert len(record['correctness']) == 2 * 2 * 2 * 2 and all(row['right'] for row in record['correctness'])
    names = ['KeypointMSELoss', 'EMD, kernel', 'EMD, PyTorch']
    assert [row['loss'] for row in record['losses']] == 2 * names
    assert [row['loss'] for row in record['steps']] == [*names, "the paper's own setting"]
    assert all(row['of_mse'] > 0 for row in record['losses'] + record['steps'])
    assert '| EMD, kernel |' in re.sub(' +', ' ', page.read_text()) and page.read_text().count('x MSE') == 2


def test_mse_is_that_of_mmpose():
    losses = pytest.importorskip('mmpose.models.losses', reason='MMPose is not installed')
    ours = importlib.import_module('tools.benchmarks.gpu').KeypointMSELoss()
    maps, target, weights = torch.randn(2, 3, 5, 4), torch.rand(2, 3, 5, 4), torch.rand(2, 3)
    assert ours(maps, target, weights) == losses.KeypointMSELoss(use_target_weight=True)(maps, target, weights)
