"""The benchmarks of the loss: they run, they refuse to print times of wrong results, and they write where they should."""

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch

TOOLS = Path(__file__).resolve().parent.parent / 'tools'
TINY = ['--batch', '1', '--joints', '3', '--size', '8', '6', '--iterations', '2', '--repeats', '2', '--slow-repeats', '1']


@pytest.fixture
def tool(monkeypatch):
    """Imports a module of tools/ as a script would."""
    monkeypatch.syspath_prepend(str(TOOLS))
    return importlib.import_module


def test_speed_is_measured_after_a_check(tool, tmp_path, capsys):
    pytest.importorskip('ot', reason='POT is the peer of this test')
    benchmark = tool('benchmark_transport')
    page, numbers = tmp_path / 'page.md', tmp_path / 'numbers.json'
    page.write_text('before\n<!-- begin speed-cpu -->\nold\n<!-- end speed-cpu -->\nafter\n')
    benchmark.main([*TINY, '--markdown', str(page), '--json', str(numbers)])
    text = page.read_text()
    assert text.startswith('before\n<!-- begin speed-cpu -->\n| forward') and text.endswith('<!-- end speed-cpu -->\nafter\n')
    assert 'old' not in text and 'KeypointMSELoss' in text and 'commit' in text
    written = json.loads(numbers.read_text())
    results = written['results']
    assert results['EMD, newton, torch']['gradient_error'] < 2e-5
    assert results['plain log-Sinkhorn 1000']['gradient_error'] < 1e-4
    assert results['POT solve_batch']['value_error'] < 1e-3
    assert results['KeypointMSELoss']['memory'] == pytest.approx(2 * written['heatmap_bytes'], abs=100)
    assert {'cpu', 'commit', 'seed', 'packages', 'threads'} <= set(written['machine'])
    assert 'POT solve_batch' in capsys.readouterr().out


def test_no_time_is_printed_if_ours_is_wrong(tool, monkeypatch, capsys):
    benchmark, speed = tool('benchmark_transport'), tool('transport_benchmark.speed')
    monkeypatch.setitem(speed.ALLOWED, torch.float32, 0.0)
    with pytest.raises(SystemExit, match='no times printed'):
        benchmark.main([*TINY, '--no-peers'])
    assert 'median' not in capsys.readouterr().out


def test_the_accuracy_table(tool, monkeypatch):
    accuracy = tool('transport_benchmark.accuracy')
    monkeypatch.setattr(accuracy, 'EPSILONS', (0.25, 1.0))
    monkeypatch.setattr(accuracy, 'SIZE', (9, 8))
    monkeypatch.setattr(accuracy, 'JOINTS', 5)
    rows = accuracy.measure(0, progress=lambda _: None)
    assert all(row.unconverged == 0 and row.double < 1e-9 for row in rows)
    assert 'narrow peak at the dot' in accuracy.step_table(rows)
    assert len(accuracy.error_table(rows).splitlines()) == 2 + len(rows) // 2


def test_the_bias_table(tool, monkeypatch):
    bias = tool('transport_benchmark.bias')
    monkeypatch.setattr(bias, 'EPSILONS', (1.0,))
    monkeypatch.setattr(bias, 'JOINTS', 4)
    monkeypatch.setattr(bias, 'STEPS', 400)
    rows = bias.measure(0, progress=lambda _: None)
    errors = {row.objective: row.mean for row in rows}
    assert errors['product, unbiased'] < 0.03 < min(errors['product'], errors['shannon'], errors['sharp'])
    assert 'epsilon (cells)' in bias.bias_table(rows)


def test_the_collapse_table(tool, monkeypatch):
    collapse = tool('benchmark_collapse')
    monkeypatch.setattr(collapse, 'SETTINGS', (('relu', 'product'), ('softplus', 'shannon')))
    runs = collapse.main(['--seeds', '1', '--steps', '8', '--batch', '4', '--persons', '6', '--held-out', '4'])
    assert [run.empty[-1] for run in runs][1] == 0 and all(0 <= run.mean_error < 40 for run in runs)
    assert 'no: dead' in collapse.summary_table(runs)


def test_memory_is_that_of_the_tensors(tool):
    measuring = tool('measuring')
    assert measuring.peak_memory(lambda: torch.zeros(1000, 250).add_(1), 'cpu') == pytest.approx(1e6, rel=0.01)


def test_a_page_without_markers_is_refused(tool, tmp_path):
    with pytest.raises(SystemExit, match='must hold the lines <!-- begin speed-cpu -->'):
        tool('measuring').write_block(tmp_path / 'none.md', 'speed-cpu', 'text')


def teardown_module():
    for name in ('measuring', 'benchmark_transport', 'benchmark_collapse', 'transport_benchmark'):
        sys.modules.pop(name, None)
