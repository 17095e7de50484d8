"""The benchmark runs, and compares results before it prints a time."""

import importlib.util
import json
import sys

import pytest


@pytest.fixture()
def benchmark(root, monkeypatch):
    spec = importlib.util.spec_from_file_location('benchmark_codec', root / 'tools' / 'benchmarks' / 'codec.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, 'ENCODES_PER_REPEAT', 2)
    monkeypatch.setattr(sys, 'argv', ['benchmark_codec.py', '--shape', '2', '3', '14', '10', '--repeats', '3', '--device', 'cpu'])
    return module


def test_report(benchmark, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(sys, 'argv', [*sys.argv, '--json', str(tmp_path / 'report.json')])
    benchmark.main()
    report = json.loads((tmp_path / 'report.json').read_text())
    assert report['shape'] == [2, 3, 14, 10] and report['machine']['packages']['torch'] and 'commit' in report['machine']
    assert {row['codec'] for row in report['results'] if row['task'] == 'decode'} == {
        benchmark.STOCK, benchmark.DARK, benchmark.FLOOR, 'SubPixelDecoder softmax, blur 2', 'SubPixelDecoder softplus, blur 2',
        'SubPixelDecoder relu, blur 2', 'SubPixelDecoder relu'}
    assert all(0 < row['quartile_1'] <= row['median'] for row in report['results'])
    assert 'MSRAHeatmap / this | DARK / this' in capsys.readouterr().out


def test_no_time_without_the_right_answer(benchmark, monkeypatch, capsys):
    right = benchmark.read_heatmap
    monkeypatch.setattr(benchmark, 'read_heatmap', lambda maps, *how, **ways: right(maps if ways else maps + .1, *how, **ways))
    with pytest.raises(SystemExit, match='no times printed'):
        benchmark.main()
    assert 'median' not in capsys.readouterr().out
