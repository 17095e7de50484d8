"""The benchmarks of the loss: they run, they refuse to print times of wrong results, and they write where they should."""

import importlib
import json

import pytest
import torch

from tools.pages import write_block

TINY = ['--batch', '1', '--joints', '3', '--size', '8', '6', '--iterations', '2', '--repeats', '2', '--slow-repeats', '1']


@pytest.fixture
def tool():
    """Imports a module of tools/benchmarks."""
    return lambda name: importlib.import_module(f'tools.benchmarks.{name}')


def test_speed_is_measured_after_a_check(tool, tmp_path, capsys):
    pytest.importorskip('ot.batch', reason='this POT solves no batches: no peer for this test')
    benchmark = tool('transport')
    page, numbers = tmp_path / 'page.md', tmp_path / 'numbers.json'
    page.write_text('before\n<!-- begin speed-cpu -->\nold\n<!-- end speed-cpu -->\nafter\n')
    benchmark.main([*TINY, '--markdown', str(page), '--json', str(numbers)])
    text = page.read_text()
    assert text.startswith('before\n<!-- begin speed-cpu -->\n| forward') and text.endswith('<!-- end speed-cpu -->\nafter\n')
    assert 'old' not in text and 'KeypointMSELoss' in text and 'commit' in text
    written = json.loads(numbers.read_text())
    results = written['results']
    assert results['EMD, newton, torch']['gradient_error'] < 2e-5
    assert results['EMDHeatmapLoss, defaults, torch']['gradient_error'] < 1e-4
    assert text.count('Softplus(sharpness=5.0)') == text.count('Softmax(sharpness=20.0)') == 1  # which row is which setting
    assert results['plain log-Sinkhorn 1000']['gradient_error'] < 1e-4
    assert results['POT solve_batch']['value_error'] < 1e-3
    assert results['KeypointMSELoss']['memory'] == pytest.approx(2 * written['heatmap_bytes'], abs=100)
    assert {'cpu', 'commit', 'seed', 'packages', 'threads'} <= set(written['machine'])
    assert 'POT solve_batch' in capsys.readouterr().out


@pytest.mark.parametrize(('allowed', 'name'), [
    ('ALLOWED', 'EMD, newton, torch'), ('ALLOWED_WITH_CROSS_ENTROPY', 'EMDHeatmapLoss, defaults, torch')])
def test_no_time_is_printed_if_ours_is_wrong(allowed, name, tool, monkeypatch, capsys):
    benchmark, speed = tool('transport'), tool('transport_benchmark.speed')
    monkeypatch.setitem(getattr(speed, allowed), torch.float32, 0.0)
    with pytest.raises(SystemExit, match=f'{name}: .*no times printed'):
        benchmark.main([*TINY, '--no-peers'])
    assert 'median' not in capsys.readouterr().out


def test_on_a_gpu_both_backends_take_part(tool):
    benchmark, speed = tool('transport'), tool('transport_benchmark.speed')
    names = list(speed.contestants(speed.workload(benchmark._arguments(['--device', 'cuda'])), False, 10))
    assert [name for name in names if 'defaults' in name] == ['EMDHeatmapLoss, defaults, torch', 'EMDHeatmapLoss, defaults, triton']


def test_the_scaling_curves(tool, monkeypatch, tmp_path):
    """Drawn, linked from the page as it lies beside the picture, and written as numbers."""
    benchmark, speed = tool('transport'), tool('transport_benchmark.speed')
    scales = {'joints': [dict(batch=1), dict(batch=2)], 'cells': [dict(size=(8, 6)), dict(size=(5, 7))],
              'epsilon': [dict(epsilon=0.5, default_epsilon=0.5)]}
    monkeypatch.setattr(speed, 'SCALES', scales)
    page, numbers, picture = tmp_path / 'docs' / 'page.md', tmp_path / 'numbers.json', tmp_path / 'docs' / 'images' / 'curves.png'
    page.parent.mkdir()
    page.write_text('<!-- begin scaling-cpu -->\nold\n<!-- end scaling-cpu -->\n')
    benchmark.main([*TINY, '--no-peers', '--scaling', '--plot', str(picture), '--markdown', str(page), '--json', str(numbers)])
    curves = json.loads(numbers.read_text())['scaling']
    assert {axis: [point['at'] for point in points] for axis, points in curves.items()} == {
        'joints': [3, 6], 'cells': [48, 35], 'epsilon': [0.5]}
    names = {'KeypointMSELoss', 'EMD, newton, torch', 'EMDHeatmapLoss, defaults, torch'}
    assert all(set(point) == {'at', *names} and all(point[name] > 0 for name in names) for axis in curves.values() for point in axis)
    assert '](images/curves.png)' in page.read_text() and 'old' not in page.read_text() and 'commit' in page.read_text()
    assert picture.read_bytes().startswith(b'\x89PNG')


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


def test_the_collapse_table(tool, monkeypatch, tmp_path):
    collapse = tool('collapse')
    settings = {collapse.SETTINGS[index] for index in (0, 5, -1)}
    monkeypatch.setattr(collapse, 'SETTINGS', tuple(each for each in collapse.SETTINGS if each in settings))
    page, numbers = tmp_path / 'page.md', tmp_path / 'numbers.json'
    words = ['--seeds', '1', '--steps', '8', '--batch', '4', '--persons', '6', '--held-out', '4']
    runs = collapse.main([*words, '--markdown', str(page), '--json', str(numbers)])
    assert [len(run.checks) for run in runs] == [collapse.CHECKS + 1] * 3 and all(0 <= run.end.mean_error < 40 for run in runs)
    assert all(check.stuck <= check.still <= 1 and check.empty <= check.still for run in runs for check in run.checks)
    lines = page.read_text().splitlines()
    relu, softplus, default = (next(line for line in lines if line.startswith(f'| {name} ')) for name in ('relu', 'softplus', 'softmax'))
    assert 'product, saturated, unbiased, epsilon 0.5 + 0.5 CE' in default and 'cannot be' in softplus and 'cannot be' not in relu
    assert len(json.loads(numbers.read_text())['runs'][0]['checks']) == collapse.CHECKS + 1


def test_a_map_whose_mass_is_in_one_wrong_cell_is_still_whatever_the_rule_says(tool):
    """Nothing is empty here, and only the cross-entropy moves a softmax that is sure of the wrong cell."""
    collapse = tool('collapse')
    maps = torch.zeros(1, *collapse.SIZE)
    maps[0, 20, 5] = 2
    dots = torch.tensor([[12.3, 8.4]])
    slopes = {(each.options.supplier.name, str(each)): collapse.largest_slope(maps, dots, each).item() for each in collapse.SETTINGS}
    still = {key for key, slope in slopes.items() if slope < collapse.STILL}
    assert still == {
        ('relu', 'shannon'), ('relu', 'product'), ('softmax', 'product'), ('softmax', 'product, saturated, unbiased, epsilon 0.5')}
    assert slopes['softmax', 'product, saturated, unbiased, epsilon 0.5 + 0.5 CE'] == pytest.approx(10, rel=0.01)
    below = {each.options.supplier.name for each in collapse.SETTINGS if collapse.largest_slope(-1 - maps, dots, each) < collapse.STILL}
    assert below == {'relu'}


def test_shares_of_maps_by_hand(tool):
    """Two joints of two persons: one sure and wrong, one sure and right, one undecided, one not visible."""
    collapse = tool('collapse')
    maps = torch.zeros(2, 2, *collapse.SIZE)
    maps[0, 0, 20, 5] = maps[0, 1, 9, 4] = 3
    maps[1, 0, 9, 4] = 0.1
    data = collapse.Data(maps, torch.tensor([4.0, 9.0]).expand(2, 2, 2), torch.tensor([[1.0, 1.0], [1.0, 0.0]]))
    found = collapse.check(torch.nn.Identity(), data, collapse._default(cross_entropy_weight=0.0))
    assert (found.empty, found.still, found.stuck) == (0, pytest.approx(2 / 3), pytest.approx(1 / 3))
    assert found.slope < collapse.STILL and found.median_error < 0.5 < found.mean_error


def test_memory_is_that_of_the_tensors(tool):
    measuring = tool('measuring')
    assert measuring.peak_memory(lambda: torch.zeros(1000, 250).add_(1), 'cpu') == pytest.approx(1e6, rel=0.01)


def test_a_page_without_markers_is_refused(tmp_path):
    with pytest.raises(SystemExit, match='must hold the lines <!-- begin speed-cpu -->'):
        write_block(tmp_path / 'none.md', 'speed-cpu', 'text')
