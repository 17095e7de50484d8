"""The benchmark of whole training steps runs, compares before it prints a time, and says what is missing."""

import json
import os
import subprocess
import sys

import pytest
import torch


@pytest.fixture()
def benchmark():
    from tools.benchmarks import training

    return training


TINY = ['--models', 'res18', '--batch', '1', '--keypoints', '5', '--turns', '2', '--steps', '1']


def test_report(benchmark, tmp_path, capsys):
    table = tmp_path / 'table.md'
    table.write_text('before\n<!-- begin training-cpu -->\nold\n<!-- end training-cpu -->\nafter\n')
    benchmark.main([*TINY, '--json', str(tmp_path / 'report.json'), '--markdown', str(table)])
    report = json.loads((tmp_path / 'report.json').read_text())
    rows = report['training']
    assert [(row['loss'], row['accuracy']) for row in rows] == [
        ('KeypointMSELoss', False), ('KeypointMSELoss', True), ('EMDHeatmapLoss, torch', False), ('EMDHeatmapLoss, torch', True)]
    assert all(row['step']['median'] > 0 and row['step']['repeats'] == 2 and row['keypoints'] == 5 for row in rows)
    assert rows[0]['throughput_of_mse']['median'] == rows[1]['throughput_of_mse']['median'] == 1
    assert report['machine']['commit'] and report['machine']['packages']['torch']
    assert 'x MSE' in capsys.readouterr().out
    assert 'old' not in table.read_text() and 'EMDHeatmapLoss' in table.read_text()


def fake_rows(network, keypoints, precision, arguments):
    times = dict(median=1.0, quartile_1=1.0, quartile_3=1.0, repeats=arguments.turns)
    return [dict(network=network, keypoints=keypoints, precision=precision, batch=arguments.batch, loss='ours', accuracy=False,
                 step=times, peak_bytes=None, throughput_of_mse=times)]


def test_what_was_cut_off_is_continued(benchmark, tmp_path, monkeypatch, capsys):
    """The second call measures the rest, and its table holds everything."""
    done, table = [], tmp_path / 'table.md'
    table.write_text('<!-- begin training-cpu -->\n<!-- end training-cpu -->\n')

    def measure(network, keypoints, precision, arguments):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append((network, keypoints))
        return fake_rows(network, keypoints, precision, arguments)

    monkeypatch.setattr(benchmark, 'measure_steps', measure)
    words = ['--models', 'res152', 'res18', '--keypoints', '5', '7', '--resume', '--json', str(tmp_path / 'report.json')]
    monkeypatch.setattr(sys, 'argv', ['benchmark_training.py', '1'])
    with pytest.raises(KeyboardInterrupt):
        benchmark.main(words)
    monkeypatch.setattr(benchmark, 'measure_steps', fake_rows)
    monkeypatch.setattr(sys, 'argv', ['benchmark_training.py', '2'])
    for _ in range(2):
        benchmark.main([*words, '--markdown', str(table)])
    report = json.loads((tmp_path / 'report.json').read_text())
    assert [(row['network'], row['keypoints']) for row in report['training']] == [*done, ('res18', 7)]
    assert done == [('res152', 5), ('res152', 7), ('res18', 5)]
    assert report['calls'] == ['benchmark_training.py 1', 'benchmark_training.py 2']
    assert table.read_text().count('| res') == 4 and 'by 1 more calls' in table.read_text()
    assert capsys.readouterr().err.count('measured before: ') == 3 + 4


def test_other_settings_are_not_mixed_into_one_table(benchmark, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(benchmark, 'measure_steps', fake_rows)
    words = [*TINY, '--json', str(tmp_path / 'report.json')]
    benchmark.main(words)
    with pytest.raises(SystemExit, match="cannot be continued, it was measured with turns 2, now 3: move it away"):
        benchmark.main([*words, '--resume', '--turns', '3'])
    monkeypatch.setattr('tools.benchmarks.measuring.commit', lambda: 'another')
    with pytest.raises(SystemExit, match="commit .*, now 'another'"):
        benchmark.main([*words, '--resume'])
    benchmark.main(words)
    assert len(json.loads((tmp_path / 'report.json').read_text())['training']) == 1
    with pytest.raises(SystemExit):
        benchmark.main([*TINY, '--resume'])
    assert '--json must say where' in capsys.readouterr().err


def test_a_step_trains_with_the_loss_of_its_turn(benchmark):
    """Weights move under either loss, and the accuracy is computed only where it is asked for."""
    arguments = benchmark._arguments(TINY)
    config = benchmark._config('res18', 'hdm', 5)
    from mmengine.registry import init_default_scope
    from mmpose.registry import MODELS

    init_default_scope('mmpose')
    model = benchmark._on_device(MODELS.build(config.model), 'cpu')
    wrapper = benchmark._optimiser(model, config, 'fp32')
    loss = MODELS.build(config.model.head.loss)
    for accuracy in (False, True):
        variant = benchmark.Variant('ours', loss, accuracy, benchmark.make_batches(config, arguments))
        before = model.head.final_layer.weight.detach().clone()
        log = benchmark._stepper(model, wrapper, variant)(0)
        assert ('acc_pose' in log) == accuracy and log['loss_kpt'] > 0
        assert model.head.loss_module is loss and not torch.equal(before, model.head.final_layer.weight)


def test_no_time_without_the_right_answer(benchmark, monkeypatch, capsys):
    right = benchmark._value_and_gradient

    def wrong(loss, output, target, weights):
        value, gradient = right(loss, output, target, weights)
        return value, gradient * (1.001 if output.dtype == torch.float32 else 1)

    monkeypatch.setattr(benchmark, '_value_and_gradient', wrong)
    with pytest.raises(SystemExit, match='the gradient is off by 0.001 .* no times printed'):
        benchmark.main(TINY)
    assert 'step ms' not in capsys.readouterr().out


def test_without_mmpose_it_says_so(benchmark, monkeypatch):
    monkeypatch.setitem(sys.modules, 'mmpose.models', None)
    with pytest.raises(SystemExit, match='needs MMPose and mmcv: .* --help says how they get to this machine'):
        benchmark.main(TINY)


@pytest.mark.skipif(torch.cuda.is_available(), reason='about machines without a GPU')
def test_without_a_gpu(benchmark, root):
    with pytest.raises(SystemExit, match='torch sees no GPU'):
        benchmark.main(['--device', 'cuda', *TINY])
    for command in (['bash', 'tools/benchmarks/gpu.sh', 'kernel'], [sys.executable, 'tools/benchmarks/gpu.py']):
        done = subprocess.run(command, cwd=root, text=True, capture_output=True, timeout=120,
                              env={**os.environ, 'PYTHON': sys.executable})
        assert done.returncode == 1 and 'torch sees no GPU' in done.stderr, done


def test_mixed_precision_needs_a_gpu(benchmark, capsys):
    with pytest.raises(SystemExit):
        benchmark.main([*TINY, '--precision', 'fp16'])
    assert 'needs --device cuda' in capsys.readouterr().err
