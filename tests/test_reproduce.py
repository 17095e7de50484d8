"""tools/reproduce.py: the manifest against the paper, the commands, continuing, failing, and the report.

The paper's figures below were typed from its tables, not copied from the manifest.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import zipfile
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import yaml
from mmengine.config import Config

from tests.real_data import REPOSITORY
from tools import jobs
from tools.reproduction import commands, data_check, manifest, report, runner, server_files
from tools.reproduction.commands import Command, Place

TOOL = REPOSITORY / 'tools' / 'reproduce.py'
PAPER = REPOSITORY.parent / 'shared' / 'paper'

TYPED = {
    # Table 1
    'table1-hourglass': '66.9 - - - - -',
    'table1-dark-hrnet-w32': '76.6 90.7 82.8 72.7 83.9 81.5',
    'table1-udp-hrnet-w48': '77.8 92.0 84.3 74.2 84.5 82.5',
    'table1-res152': '75.0 90.8 82.1 67.8 78.3 80.0',
    'table1-res152-ours': '76.7 92.1 83.6 69.7 80.0 81.3',
    'table1-hrnet-w32': '76.7 91.9 83.6 73.2 83.2 81.6',
    'table1-hrnet-w32-ours': '78.2 92.2 84.5 74.3 84.7 82.5',
    'table1-hrnet-w48': '77.1 91.8 83.8 73.5 83.5 81.8',
    'table1-hrnet-w48-ours': '78.8 92.5 85.1 75.0 85.3 83.1',
    'table1-hrformer-base': '78.0 92.2 84.8 74.3 84.6 82.6',
    'table1-hrformer-base-ours': '78.9 92.6 85.4 75.3 85.3 83.3',
    # Table 2
    'table2-cfn': '72.6 86.1 69.7 78.3 64.1 -',
    'table2-removing-bias-hrnet-w48': '76.1 - - - - 81.0',
    'table2-res152-ours': '75.3 92.6 83.1 71.7 81.1 80.3',
    'table2-hrnet-w32-ours': '76.7 92.6 84.0 73.0 82.8 81.5',
    'table2-hrnet-w48': '75.5 92.5 83.3 71.9 81.5 80.5',
    'table2-hrnet-w48-ours': '77.2 93.0 84.4 73.4 83.3 82.0',
    'table2-hrformer-base-ours': '77.2 93.1 84.7 73.8 83.0 82.1',
    # Table 3
    'table3-dark-hrnet-w32': '90.6 97.2 95.9 91.2 86.7 89.7 86.7 84.0',
    'table3-res152': '89.6 97.0 95.9 90.0 85.0 89.2 85.3 81.3',
    'table3-res152-ours': '90.3 97.0 96.1 90.6 86.1 89.2 86.7 83.1',
    'table3-hrnet-w32-ours': '90.9 97.3 96.2 91.2 86.8 90.1 87.4 84.1',
    'table3-hrnet-w48': '90.5 96.9 96.0 90.9 86.2 89.6 87.1 83.5',
    'table3-hrnet-w48-ours': '90.9 97.1 96.3 91.2 87.0 90.2 87.5 84.2',
    # Tables 4 and 5, supplement
    'table4-naive': '77.9 92.5 84.8 74.5 83.9 82.4',
    'table4-sub-pixel': '78.8 92.5 85.1 75.0 85.3 83.1',
    'table5-500': '78.3 92.4 84.9 74.8 84.4 82.7',
    'table5-1500': '78.7 92.4 85.2 74.8 85.4 83.0',
    'supplement-table1-gaussian': '77.1 91.8 83.8 73.5 83.5 81.8',
    'supplement-table1-dot': '46.6 86.0 45.1 42.9 52.9 58.5',
}


@pytest.fixture(scope='module')
def rows():
    return manifest.load(REPOSITORY / 'configs' / 'manifest.yml')


def cli(*words: object, code: int = 0, **kwargs) -> str:
    done = subprocess.run([sys.executable, TOOL, *map(str, words)], capture_output=True, text=True, check=False, **kwargs)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


# ------------------------------------------------------------------------------------------------- the paper's figures


@pytest.mark.parametrize('row', TYPED)
def test_figures_are_the_papers(rows, row):
    assert rows.rows[row].paper == tuple(None if figure == '-' else float(figure) for figure in TYPED[row].split())


def paper_tables() -> dict[str, list[tuple[tuple[str, ...], tuple[float | None, ...]]]]:
    """Labels and figures of every table of the paper and its supplement, row by row, from their text."""
    found: dict[str, list] = {}
    for file, prefix in (('hdm_paper.txt', 'table'), ('hdm_supplement.txt', 'supplement-table')):
        table = ''
        for line in (PAPER / file).read_text().splitlines():
            start = re.match(r'Table (\d):', line)
            table = f'{prefix}{start.group(1)}' if start else table
            cells = [re.sub(r'\(.\d\.\d\)', '', cell) for cell in line.split('\t')]  # without the gain, as (↑1.7)
            count = 8 if table == 'table3' else 6
            figures = cells[-count:]
            if len(cells) > count and all(re.fullmatch(r'\d\d\.\d|-', cell) for cell in figures):
                labels = tuple(re.sub(r'\[\d+\]', '', cell).replace('×', 'x') for cell in cells[:-count])
                found.setdefault(table, []).append((labels, tuple(None if cell == '-' else float(cell) for cell in figures)))
    return found


@pytest.mark.skipif(not PAPER.is_dir(), reason=f"needs the paper's text in {PAPER}")
def test_every_table_of_the_paper_is_here_row_by_row(rows):
    tables = paper_tables()
    assert {name: len(lines) for name, lines in tables.items()} == {
        'table1': 17, 'table2': 20, 'table3': 14, 'table4': 3, 'table5': 4, 'supplement-table1': 3}
    for table, lines in tables.items():
        of_table = [row for row in rows.rows.values() if row.table == table]
        for row, (labels, figures) in zip(of_table, lines):
            assert row.paper == figures, row.id
            # Tables 1 to 3 print venue, backbone and size; the others only a method
            own = (row.method, row.venue, row.backbone, row.input) if len(labels) > 1 else (row.method.replace(' (', '('),)
            assert own == tuple('' if label == '-' else label for label in labels), row.id


def test_every_row_that_can_be_trained_names_a_config_that_exists(rows):
    for row in rows.rows.values():
        for config in filter(None, (row.config, row.nearest)):
            assert rows.config_path(config).is_file(), row.id
        if row.config:
            assert f'{row.launch.gpus}xb{row.launch.batch}-' in row.config
        assert row.kind != 'ours' or '_hdm-paper' in row.config
        assert row.runnable or row.kind == 'comparison'


def test_every_config_belongs_to_a_row(rows):
    configs = {str(path.relative_to(REPOSITORY)) for name in ('coco', 'mpii', 'ablation')
               for path in (REPOSITORY / 'configs' / name).glob('*.py')}
    assert configs == {row.config for row in rows.rows.values() if row.config}


def test_list_shows_every_row(rows):
    text = cli('list')
    for row in rows.rows.values():
        assert f'  {row.id} ' in text
    for part in ('Table 1', 'Table 2', 'Table 3', 'Table 4', 'Table 5', 'Supplement, Table 1', 'Supplement, Fig. 2',
                 'Fig. 3', 'Theorem 1', 'ViTPose-B', 'CSPNeXt-M', '256 x 192', 'Gaussian MSE + UDP', 'Gaussian MSE + DARK'):
        assert part in text


# ------------------------------------------------------------------------------------------------------- bad manifests


@pytest.mark.parametrize(('change', 'message'), [
    ({'colour': 'red'}, 'must have fields among'),
    ({'table': 'table9'}, 'must belong to one of'),
    ({'kind': 'theirs'}, 'must be one of'),
    ({'paper': [1.0]}, 'must hold 6 figures'),
    ({'notes': ['nothing']}, 'must exist in the manifest'),
    ({'launch': None}, 'must say how it is launched'),
    ({'method': ''}, r"missing are \['method'\]"),
])
def test_a_manifest_that_does_not_fit_is_refused(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        small_manifest(tmp_path, [{'id': 'a', **change}])


@pytest.mark.parametrize(('text', 'message'), [
    (None, 'No such file'), ('rows: [', 'must be YAML'), ('', 'must hold the sections paper'), ('rows: []', 'missing are paper, boxes'),
])
def test_a_file_that_is_no_manifest_is_refused_without_a_traceback(tmp_path, text, message):
    path = tmp_path / 'manifest.yml'
    if text is not None:
        path.write_text(text)
    told = cli('--manifest', path, 'list', code=2)
    assert told.startswith('error: ') and str(path) in told and message in told


def test_unknown_row_is_named_with_the_nearest():
    told = cli('list', 'Table1-hrnet-w48-our', code=2)
    assert "got 'Table1-hrnet-w48-our'; nearest are table1-hrnet-w48-ours, " in told
    assert "got 'table7'; nearest are " in cli('run', 'table7', '--dry-run', code=2)
    assert 'all are shown by `list`' in cli('list', '', code=2)
    assert "--boxes must be one of ap56, ap65, got 'ap1'" in cli('run', 'table1-res152', '--boxes', 'ap1', code=2)


def small_manifest(folder: Path, entries: list[dict], table: str = 'val') -> manifest.Manifest:
    """A manifest of rows that are trained on nothing."""
    content = yaml.safe_load((REPOSITORY / 'configs' / 'manifest.yml').read_text())
    content['tables'] = {
        'val': {'where': '', 'title': '', 'columns': ['AP', 'AP50', 'AP75', 'APM', 'APL', 'AR'], 'evaluation': 'coco-val'},
        'figures': {'where': 'Figures', 'title': '', 'columns': [], 'evaluation': None}}
    common = {'table': table, 'kind': 'ours', 'method': 'some', 'config': 'configs/some.py', 'launch': {'gpus': 8, 'batch': 4}}
    content['rows'] = [{**common, **entry} for entry in entries]
    path = folder / 'manifest.yml'
    path.write_text(yaml.safe_dump(content))
    return manifest.load(path, folder)


# ------------------------------------------------------------------------------------------------------------ commands


def dry(*words: object, tmp_path: Path) -> list[str]:
    text = cli('--work-dirs', tmp_path, 'run', *words, '--dry-run')
    return [line.partition('] ')[2] for line in text.splitlines() if line.startswith('[')]


def test_command_on_two_gpus_keeps_the_total_batch(tmp_path):
    train, test = dry('table1-hrnet-w48-ours', '--gpus', 2, tmp_path=tmp_path)
    config = REPOSITORY / 'configs/coco/td-hm_hrnet-w48_hdm-paper-8xb32-210e_coco-384x288.py'
    assert train.startswith(f'{REPOSITORY}/tools/dist_train.sh {config} 2 --work-dir {tmp_path}/{config.stem}/seed-0 --resume')
    # 8 x 32 = 2 x 32 x 4; the warm-up counts iterations, four of which make a step
    assert 'randomness.seed=0' in train and 'optim_wrapper.accumulative_counts=4' in train
    assert 'param_scheduler.0.end=2000' in train and 'param_scheduler.1' not in train
    assert test.startswith(f'{REPOSITORY}/tools/dist_test.sh {config} CHECKPOINT 2 ')
    assert 'test_dataloader.dataset.bbox_file=data/coco/person_detection_results/COCO_val2017_detections_AP_H_56' in test


def test_command_with_the_recipes_gpus_changes_nothing(tmp_path):
    train, _ = dry('table1-hrnet-w48', '--gpus', 8, '--seeds', 3, tmp_path=tmp_path)
    assert train.endswith('--resume --cfg-options randomness.seed=3')
    assert '/seed-3 ' in train


def test_command_for_slurm(tmp_path):
    train, test = dry('table3-hrnet-w32-ours', '--slurm', 'gpu', '--slurm-gpus', 16, tmp_path=tmp_path)
    config = REPOSITORY / 'configs/mpii/td-hm_hrnet-w32_hdm-paper-8xb64-210e_mpii-256x256.py'
    assert train.startswith(
        f'GPUS=16 GPUS_PER_NODE=8 {REPOSITORY}/tools/slurm_train.sh gpu table3-hrnet-w32-ours-0 {config} {tmp_path}')
    assert train.endswith('--resume --cfg-options randomness.seed=0 train_dataloader.batch_size=32')
    assert test.startswith('GPUS=16 GPUS_PER_NODE=8') and '--dump' in test


def test_slurm_nodes_are_those_of_the_user(tmp_path, monkeypatch):
    monkeypatch.setenv('GPUS_PER_NODE', '4')
    train, test = dry('table3-hrnet-w32-ours', '--slurm', 'gpu', '--slurm-gpus', 16, tmp_path=tmp_path)
    assert train.startswith('GPUS=16 GPUS_PER_NODE=4 ') and test.startswith('GPUS=16 GPUS_PER_NODE=4 ')


def test_training_is_validated_on_the_boxes_it_is_evaluated_on(tmp_path):
    """Otherwise one file more would be needed, and the best checkpoint be chosen by it."""
    train = dry('table1-res152', '--gpus', 8, '--boxes', 'ap65', tmp_path=tmp_path)[0]
    assert 'val_dataloader.dataset.bbox_file=data/coco/person_detection_results/COCO_val2017_detections_AP_H_651' in train
    assert 'bbox_file' not in dry('table3-res152', '--gpus', 8, '--boxes', 'ap65', tmp_path=tmp_path)[0]


def test_what_counts_iterations_becomes_slower_where_gradients_are_accumulated(tmp_path):
    words = ['beyond-cspnext-m-udp', '--gpus', 2]
    text = cli('--work-dirs', tmp_path, 'run', *words, '--dry-run')
    assert 'optim_wrapper.accumulative_counts=4 param_scheduler.0.end=4000 custom_hooks.0.interval=4 custom_hooks.0.gamma=8000' in text
    assert 'note: its SyncBN normalises over 512 pictures here, 2048 in the recipe' in text


def test_options_reach_training_and_evaluation(tmp_path):
    lines = dry('table1-res152', '--gpus', 8, '--cfg-options', 'model.test_cfg.flip_test=False', tmp_path=tmp_path)
    assert len(lines) == 2 and all(line.endswith('model.test_cfg.flip_test=False') for line in lines)


def test_command_on_one_process_and_for_test_dev(tmp_path):
    train, test = dry('table2-res152', '--gpus', 0, '--batch', 64, '--amp', '--boxes', 'ap65', tmp_path=tmp_path)
    assert train.startswith(f'{sys.executable} {REPOSITORY}/tools/train.py ') and '--amp' in train
    assert 'train_dataloader.batch_size=64 optim_wrapper.accumulative_counts=4' in train
    assert 'test_dataloader.dataset.ann_file=annotations/image_info_test-dev2017.json' in test
    assert 'bbox_file=data/coco/person_detection_results/COCO_test-dev2017_detections_AP_H_609_person.json' in test
    assert 'test_evaluator.format_only=True' in test
    val = dry('table1-res152', '--gpus', 1, '--boxes', 'ap65', tmp_path=tmp_path)[1]
    assert 'bbox_file=data/coco/person_detection_results/COCO_val2017_detections_AP_H_651_person.json' in val


def test_an_impossible_number_of_gpus_is_refused(tmp_path):
    text = cli('--work-dirs', tmp_path, 'run', 'table1-hrnet-w48', '--gpus', 3, '--dry-run', code=1)
    assert 'must divide the total batch of the recipe, 256 (8 x 32), got 3 x 32' in text


@pytest.mark.parametrize(('words', 'message'), [
    (['--gpus', -1], '--gpus must be 0 or more, got -1'),
    (['--gpus', 8, '--batch', -4], '--batch must be 0 or more, got -4'),
    (['--gpus', 8, '--seeds', 1, -3], '--seeds must be 0 or more, got -3'),
    (['--slurm', 'gpu', '--slurm-gpus', 0], '--slurm-gpus must be 1 or more, got 0'),
])
def test_numbers_that_make_no_sense_are_refused(tmp_path, words, message):
    assert message in cli('--work-dirs', tmp_path, 'run', 'table1-hrnet-w48', '--dry-run', *words, code=2)


def test_a_seed_named_twice_is_run_once(tmp_path):
    lines = dry('table1-hrnet-w48', '--gpus', 8, '--seeds', 2, 2, 1, tmp_path=tmp_path)
    assert [re.findall(r'/seed-(\d) --resume', line) for line in lines[::2]] == [['2'], ['1']]


def test_a_figure_runs_the_rows_it_is_made_from_first(tmp_path):
    lines = dry('figure-supplement-2', '--gpus', 8, tmp_path=tmp_path)
    assert ['mse-curve' in line for line in lines] == [True, True, False, False, True]
    tool = lines[-1]
    assert 'tools/analysis_tools/loss_vs_metric.py' in tool and f'{tmp_path}/figures/figure-supplement-2' in tool
    assert '--first 2 --last 15' in tool


def test_a_figure_takes_the_evaluated_checkpoints_to_a_device_of_the_place(tmp_path, monkeypatch):
    config = 'td-hm_hrnet-w48_{}-8xb64-210e_mpii-256x256'
    places = ' '.join(f'{tmp_path}/{config.format(name)}/seed-0/CHECKPOINT' for name in ('mse', 'hdm-paper'))
    tool = dry('figure-supplement-1', '--gpus', 8, tmp_path=tmp_path)[-1]
    assert f'compare_heatmaps.py {places} --device cuda' in tool
    assert '--device cpu' in dry('figure-supplement-1', '--gpus', 0, tmp_path=tmp_path)[-1]
    monkeypatch.setenv('SRUN_ARGS', '--time 60')
    tool = dry('figure-supplement-1', '--slurm', 'gpu', tmp_path=tmp_path)[-1]
    assert tool.startswith('srun -p gpu --job-name=figure-supplement-1 --gres=gpu:1 --ntasks=1 --cpus-per-task=5 --time 60 ')


# ------------------------------------------------------------------------------------------------------------- running

TRAIN = """
import pathlib, sys, time
folder = pathlib.Path({folder!r})
done = len(list(folder.glob('epoch_*.pth')))
if {fails}:
    print('no such luck')
    sys.exit(3)
for epoch in range(done + 1, 4):
    time.sleep({pause})
    (folder / f'epoch_{{epoch}}.pth').write_text('')
    (folder / 'last_checkpoint').write_text(str(folder / f'epoch_{{epoch}}.pth'))
    print('epoch', epoch, flush=True)
"""
TEST = """
import json, pathlib
metrics = {{'coco/AP': .5, 'coco/AP .5': .6, 'coco/AP .75': .55, 'coco/AP (M)': .4, 'coco/AP (L)': .6, 'coco/AR': .7}}
pathlib.Path({path!r}).write_text(json.dumps(metrics))
"""


@pytest.fixture
def fake_tools(monkeypatch):
    """Trainings of three epochs that take no time; rows called bad fail."""

    def train(known, row, folder, seed, place, boxes=''):
        text = TRAIN.format(folder=str(folder), fails='bad' in row.id, pause=0.2 if 'slow' in row.id else 0)
        return Command((sys.executable, '-c', text))

    def evaluate(known, row, evaluation, checkpoint, folder, place, boxes=''):
        return Command((sys.executable, '-c', TEST.format(path=str(folder / 'metrics.json'))))

    monkeypatch.setattr(commands, 'train', train)
    monkeypatch.setattr(commands, 'evaluate', evaluate)
    monkeypatch.setattr(commands, 'read_config', lambda path: Config(dict(model={})))


def run_rows(known, base: Path, *names: str, **options) -> dict:
    return runner.RowRunner(known, base, Place(0), **options).run(data_check.with_needed(known, known.select(names)), [0])


def test_rows_run_one_after_the_other_and_a_failing_one_is_reported(tmp_path, fake_tools, capsys):
    entries = [{'id': name, 'config': f'configs/{name}.py'} for name in ('one', 'bad', 'two')]
    entries.append({'id': 'bad-too', 'config': 'configs/bad.py'})
    known = small_manifest(tmp_path, entries)
    failures = run_rows(known, tmp_path / 'work', 'one', 'bad', 'bad-too', 'two')
    assert list(failures) == ['bad seed 0', 'bad-too seed 0']
    assert 'exit status 3; no such luck' in failures['bad seed 0']
    assert 'its training failed for an earlier row' in failures['bad-too seed 0']
    states = {name: jobs.read(tmp_path / 'work' / name / 'seed-0') for name in ('one', 'bad', 'two')}
    assert states['one']['train']['status'] == states['two']['train']['status'] == 'done'
    assert states['one']['train']['finished'] <= states['two']['train']['started']
    assert states['bad']['train']['status'] == 'failed'
    assert states['two']['evaluations']['coco-val-ap56']['metrics']['AP'] == 50
    assert states['two']['evaluations']['coco-val-ap56']['checkpoint'] == 'epoch_3.pth'

    capsys.readouterr()
    assert not run_rows(known, tmp_path / 'work', 'one')
    assert capsys.readouterr().out.count('done before') == 2


def test_a_training_with_other_options_is_not_taken_for_this_one(tmp_path, fake_tools):
    known = small_manifest(tmp_path, [{'id': 'one', 'config': 'configs/one.py'}])
    short = Place(0, options=('train_cfg.max_epochs=1',))
    assert not runner.RowRunner(known, tmp_path / 'work', short).run(known.select(['one']), [0])
    failures = run_rows(known, tmp_path / 'work', 'one')
    assert "holds a training with the options ['train_cfg.max_epochs=1'], asked for is []" in failures['one seed 0']
    assert not run_rows(known, tmp_path / 'elsewhere', 'one')


def test_commit_and_hardware_are_those_of_every_start(tmp_path, fake_tools, monkeypatch):
    commits = iter(['first', 'second', 'third', 'fourth'])
    monkeypatch.setattr(jobs, 'commit', lambda: next(commits))
    known = small_manifest(tmp_path, [{'id': 'bad', 'config': 'configs/one.py'}, {'id': 'one', 'config': 'configs/one.py'}])
    folder = tmp_path / 'work' / 'one' / 'seed-0'
    run_rows(known, tmp_path / 'work', 'bad', hardware='2 x Abacus')
    assert not run_rows(known, tmp_path / 'work', 'one', hardware='8 x Abacus')
    found = jobs.read(folder)
    assert found['train']['commit'] == ['first', 'second'] and found['train']['hardware'] == ['2 x Abacus', '8 x Abacus']
    assert found['evaluations']['coco-val-ap56']['commit'] == ['third']
    assert report.measurement_of(known, tmp_path / 'work', known.rows['one'], 'ap56').commit == 'first / second'


def test_a_figure_made_from_a_failed_row_is_reported(tmp_path, fake_tools):
    figure = {'id': 'figure', 'table': 'figures', 'kind': 'figure', 'config': None, 'needs': ['bad'], 'tool': 'tool.py'}
    known = small_manifest(tmp_path, [{'id': 'bad', 'config': 'configs/bad.py'}, figure])
    failures = run_rows(known, tmp_path / 'work', 'figure')
    assert failures['figure'] == 'it is made from bad, which failed'


def test_an_interrupted_row_continues(tmp_path, fake_tools, monkeypatch, capsys):
    known = small_manifest(tmp_path, [{'id': 'slow', 'config': 'configs/slow.py'}])
    folder = tmp_path / 'work' / 'slow' / 'seed-0'

    def interrupted(*_):
        while not (folder / 'epoch_1.pth').exists():
            time.sleep(0.01)
        raise KeyboardInterrupt

    monkeypatch.setattr(jobs, '_watch', interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_rows(known, tmp_path / 'work', 'slow')
    monkeypatch.undo()
    assert jobs.read(folder)['train']['status'] == 'interrupted'
    assert 1 <= jobs.last_epoch(folder) < 3


def test_a_row_whose_process_vanished_is_interrupted_and_continues(tmp_path, fake_tools, capsys):
    known = small_manifest(tmp_path, [{'id': 'one', 'config': 'configs/one.py'}])
    folder = tmp_path / 'work' / 'one' / 'seed-0'
    gone = subprocess.Popen([sys.executable, '-c', ''])
    gone.wait()
    jobs.write(folder, {'train': {**jobs.started(['x'], folder / 'train.log'), 'pid': gone.pid}})
    (folder / 'epoch_1.pth').write_text('')
    assert jobs.read(folder)['train']['status'] == 'interrupted'
    assert not run_rows(known, tmp_path / 'work', 'one')
    assert 'train continues' in capsys.readouterr().out
    assert 'epoch 2\nepoch 3\n' in (folder / 'train.log').read_text()
    assert 'epoch 1\n' not in (folder / 'train.log').read_text()


def test_a_row_that_runs_elsewhere_is_left_alone(tmp_path, fake_tools):
    known = small_manifest(tmp_path, [{'id': 'one', 'config': 'configs/one.py'}])
    folder = tmp_path / 'work' / 'one' / 'seed-0'
    jobs.write(folder, {'train': {**jobs.started(['x'], folder / 'train.log'), 'pid': os.getpid()}})
    failures = run_rows(known, tmp_path / 'work', 'one')
    assert f'running already, process {os.getpid()}' in failures['one seed 0']
    assert not run_rows(known, tmp_path / 'work', 'one', take_over=True)
    assert jobs.read(folder)['train']['status'] == 'done'


EARLIER = '$ python train.py\nValueError: of the run before\n$ python train.py --resume\n'


@pytest.mark.parametrize(('log', 'reason'), [
    ('$ python train.py\n', 'no output'),
    (EARLIER, 'no output'),
    (EARLIER + 'epoch 1\nKilled\n\n', 'Killed'),
    (EARLIER + '  File "a.py", line 3\ntorch.OutOfMemoryError: CUDA out of memory.\n  see its pages\n', 'torch.OutOfMemoryError: CUDA'),
    # two processes under torchrun, whose own words come last
    (EARLIER + '[rank1]: ValueError: epsilon must be positive\nE1 failed (exitcode: 1)\n'
     'torch.distributed.elastic.multiprocessing.errors.ChildFailedError: \n=====\n', 'ValueError: epsilon must be positive'),
    (EARLIER + 'The data this config reads is not there:\n  data/mpii/ (folder)\n  a.json\n(relative paths are looked for in /)\n',
     'its data is not there: data/mpii/ (folder), a.json; `check` says'),
])
def test_reason_of_a_failure_is_what_helps(log, reason):
    assert jobs.reason(log).startswith(reason)


def test_absent_data_is_said_as_the_launcher_says_it():
    launcher = (REPOSITORY / 'tools' / 'launcher.py').read_text()
    assert f'"{jobs.ABSENT_DATA}\\n{{listed}}' in launcher


def test_a_damaged_state_is_named(tmp_path, rows):
    folder = runner.work_dir(tmp_path, rows.rows['table1-res152'], 0)
    folder.mkdir(parents=True)
    (folder / 'state.json').write_text('{"train": {"stat')
    for command in ('status', 'report'):
        assert f'error: {folder}/state.json is damaged' in cli('--work-dirs', tmp_path, command, code=2)


def test_status_says_how_far_a_row_is(tmp_path, rows):
    row = rows.rows['table1-res152']
    folder = runner.work_dir(tmp_path, row, 0)
    evaluations = {'coco-val-ap56': {'status': 'done', 'checkpoint': 'best_coco_AP_epoch_170.pth', 'metrics': {}}}
    jobs.write(folder, {'train': {'status': 'failed', 'reason': 'no memory'}, 'evaluations': evaluations})
    (folder / 'last_checkpoint').write_text('/elsewhere/epoch_170.pth')
    text = cli('--work-dirs', tmp_path, 'status')
    assert 'training failed, epoch 170' in text and 'no memory' in text and 'best_coco_AP_epoch_170.pth' in text
    assert 'nothing was started yet' in cli('--work-dirs', tmp_path, 'status', 'table3')


# -------------------------------------------------------------------------------------------------------------- report


@pytest.fixture
def measured(tmp_path, rows):
    """Two seeds of one row, one of another, one of a third with a shorter schedule, hand-made."""
    def finish(row: str, seed: int, figures: list[float], changes: list[str] | None = None) -> None:
        columns = rows.tables[rows.rows[row].table].columns
        name = 'mpii-val' if row.startswith('table3') else 'coco-val-ap56'
        evaluation = {'status': 'done', 'metrics': dict(zip(columns, figures))}
        folder = runner.work_dir(tmp_path, rows.rows[row], seed)
        train = {'status': 'done', 'hardware': ['8 x Abacus'], 'commit': ['abc123'], 'changes': changes or []}
        jobs.write(folder, {'train': train, 'evaluations': {name: evaluation}})

    finish('table1-hrnet-w48-ours', 0, [78.0, 92.0, 85.0, 75.0, 85.0, 83.0])
    finish('table1-hrnet-w48-ours', 1, [79.0, 92.0, 85.0, 75.0, 85.0, 83.0])
    finish('table3-res152', 0, [89.04, 97, 96, 90, 85, 89, 85, 81])
    finish('table1-hrnet-w32', 0, [1.0, 2.0, 1.0, 1.0, 1.0, 2.0], ['train_cfg.max_epochs=1'])
    return tmp_path


def test_report_shows_paper_measurement_and_difference(rows, measured):
    text = report.markdown(rows, measured, 'ap56')
    lines = text.splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith('| + Ours, HRNet-W48, 384 x 288 | paper | 78.8'))
    assert lines[start + 1].split('|')[3].strip() == '78.5 ± 0.7'
    assert lines[start + 1].endswith('| 0, 1 | 8 x Abacus | abc123 |')
    assert lines[start + 2].split('|')[3:6] == [' -0.3 ', ' -0.5 ', ' -0.1 ']
    start = next(index for index, line in enumerate(lines) if line.startswith('| Simple Baseline, ResNet-152, 256 x 256'))
    names = [line.split('|')[2].strip() for line in lines[start:start + 4]]
    assert names == ['paper', 'MMPose publishes', 'measured', 'difference']
    assert lines[start + 3].split('|')[3].strip() == '-0.6'  # 89.0 as printed minus 89.6


def test_a_changed_recipe_is_reported_as_such_and_is_no_model(rows, measured):
    lines = [line for line in report.markdown(rows, measured, 'ap56').splitlines() if '8 x Abacus' in line]
    assert len([line for line in lines if '| measured with train_cfg.max_epochs=1 | 1.0 |' in line]) >= 1
    assert 'hrnet-w32' not in report.metafile(rows, measured, 'ap56')


def test_a_folder_put_aside_is_not_reported(rows, measured):
    folder = runner.work_dir(measured, rows.rows['table3-res152'], 0)
    folder.rename(folder.with_name('seed-0-old'))
    assert not report.measurement_of(rows, measured, rows.rows['table3-res152'], 'ap56').figures


def test_a_reader_that_leaves_is_no_fault():
    done = subprocess.run(f'{sys.executable} {TOOL} report | head -n 1', shell=True, capture_output=True, text=True, check=True)
    assert done.stdout.startswith('# Heatmap Distribution Matching') and not done.stderr


@pytest.mark.parametrize('form', ['--markdown', '--html', '--metafile'])
def test_a_report_that_cannot_be_written_is_one_line(form, tmp_path):
    told = cli('report', form, tmp_path / 'nowhere' / 'report', code=2)
    assert told.startswith('error: ') and 'nowhere' in told and len(told.splitlines()) == 1


def test_empty_cells_stay_empty(rows, tmp_path):
    for line in report.markdown(rows, tmp_path, 'ap56').splitlines():
        if re.match(r'\|[^|]*\| (measured|difference) \|', line):
            assert set(line.partition('measured')[2] or line.partition('difference')[2]) <= {'|', ' '}


def test_report_prints_every_figure_of_the_paper(rows, tmp_path):
    text = report.markdown(rows, tmp_path, 'ap56')
    for row, figures in TYPED.items():
        cells = ' | '.join('' if figure == '-' else figure for figure in figures.split())
        title = report._title(rows.rows[row])
        assert f'| {title} | paper | {cells} |' in text


def test_html_report_is_well_formed_and_holds_the_same_cells(rows, measured):
    page = report.html_page(rows, measured, 'ap56')
    parser = Cells()
    parser.feed(page)
    assert not parser.open
    for cell in ('78.8', '78.5 ± 0.7', '-0.3', '8 x Abacus', 'abc123', '46.6'):
        assert cell in parser.cells


class Cells(HTMLParser):
    """Cells of a page, and the tags left open."""

    def __init__(self):
        super().__init__()
        self.open, self.cells = [], []

    def handle_starttag(self, tag, attrs):
        if tag != 'meta':
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == 'td':
            self.cells.append(data)


def test_metafile_holds_what_was_measured_and_nothing_else(rows, measured):
    index = yaml.safe_load(report.metafile(rows, measured, 'ap56'))
    assert [model['Name'] for model in index['Models']] == [
        'td-hm_hrnet-w48_hdm-paper-8xb32-210e_coco-384x288', 'td-hm_res152_mse-8xb32-210e_mpii-256x256']
    model = index['Models'][0]
    assert model['Results'] == [{'Task': 'Body 2D Keypoint', 'Dataset': 'COCO', 'Metrics': {
        'AP': .785, 'AP50': .92, 'AP75': .85, 'APM': .75, 'APL': .85, 'AR': .83}}]
    assert model['Metadata']['Seeds'] == [0, 1]
    assert {each['In Collection'] for each in index['Models']} == {index['Collections'][0]['Name']}


def test_the_servers_answer_can_be_entered(tmp_path, rows):
    row = 'table2-hrnet-w48-ours'
    figures = ['--figures', 77, 93, 84, 73, 83, 82]
    assert 'must have been run first' in cli('--work-dirs', tmp_path, 'record', row, *figures, code=2)
    for wrong in ([.77, .93, .84, .73, .83, .82], [770, 93, 84, 73, 83, 82], ['nan', 93, 84, 73, 83, 82]):
        assert '--figures must be in percent' in cli('--work-dirs', tmp_path, 'record', row, '--figures', *wrong, code=2)
    folder = runner.work_dir(tmp_path, rows.rows[row], 0)
    jobs.write(folder, {'evaluations': {'coco-test-dev': {'status': 'done'}}})
    cli('--work-dirs', tmp_path, 'record', row, *figures)
    assert report.measurement_of(rows, tmp_path, rows.rows[row], 'ap56').mean() == [77, 93, 84, 73, 83, 82]


# ---------------------------------------------------------------------------------------------------------- data check


def test_check_names_what_is_missing_and_where_to_get_it(tmp_path, rows):
    assert data_check.missing(rows, [rows.rows['table1-cpn-256']]) == []  # nothing trains this row
    text = cli('--root', tmp_path, 'check', 'table1-res152', code=1)
    assert f'missing: {tmp_path}/data/coco (folder): https://cocodataset.org' in text
    assert 'COCO_val2017_detections_AP_H_56_person.json' in text
    assert "no public mirror" in cli('--root', tmp_path, 'check', 'table1-res152', '--boxes', 'ap65', code=1)


def test_check_counts_pictures_against_the_annotations(tmp_path):
    root = tmp_path / 'data' / 'mpii'
    for folder in ('annotations', 'images'):
        (root / folder).mkdir(parents=True)
    people = [{'image': f'{number}.jpg'} for number in (1, 1, 2, 3)]
    for part in ('train', 'val'):
        (root / 'annotations' / f'mpii_{part}.json').write_text(json.dumps(people))
    (root / 'images' / '1.jpg').write_text('')
    known = manifest.load(REPOSITORY / 'configs' / 'manifest.yml', tmp_path)
    faults = data_check._data_faults(known, 'mpii')
    assert any('lists 4 persons, the published file 22246' in fault for fault in faults)
    assert any('2 of 3 pictures missing, such as 2.jpg' in fault for fault in faults)
    assert any('mpii_gt_val.mat' in fault for fault in faults)


def test_check_names_files_whose_download_ended_early(tmp_path):
    root = tmp_path / 'data' / 'coco'
    boxes = root / 'person_detection_results' / 'COCO_val2017_detections_AP_H_56_person.json'
    for path in (root / 'annotations' / 'person_keypoints_train2017.json', boxes):
        path.parent.mkdir(parents=True)
        path.write_text('[{"bbox": [1, 2')
    (root / 'annotations' / 'person_keypoints_val2017.json').write_text('{"message": "not found"}')
    known = manifest.load(REPOSITORY / 'configs' / 'manifest.yml', tmp_path)
    faults = [fault for fault in data_check.missing(known, [known.rows['table1-res152']]) if 'config of a row' not in fault]
    assert [fault.partition(': ')[2].partition(' (')[0].partition(',')[0] for fault in faults] == [
        'cannot be read', 'lists 0 pictures', 'cannot be read']


def test_check_names_backbones_and_packages(tmp_path, monkeypatch, rows):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    backbone, = data_check._config_faults(rows.config_path(rows.rows['table1-hrnet-w48'].config))
    assert backbone.startswith(f'{tmp_path}/hub/checkpoints/hrnet_w48-8ef0771d.pth')
    backbone, = data_check._config_faults(rows.config_path(rows.rows['table1-res152'].config))
    assert 'resnet152' in backbone and 'https://download.pytorch.org/' in backbone
    assert set(data_check.PACKAGES.values()) <= set(re.findall(r'^\S+', (REPOSITORY / 'constraints.txt').read_text(), re.MULTILINE))
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
    assert any('mmpretrain (Python package): mmpretrain==1.2.0' in fault for fault in data_check._config_faults(
        rows.config_path(rows.rows['beyond-vitpose-b-hdm'].config)))


# -------------------------------------------------------------------------------------------------------- server files


def entry(**changes) -> dict:
    return {'image_id': 7, 'category_id': 1, 'keypoints': [1.5] * 51, 'score': 0.5, 'bbox': [0, 0, 1, 1], **changes}


def test_server_zip_holds_the_json_the_server_takes(tmp_path):
    (tmp_path / 'results.json').write_text(json.dumps([entry(score=1.25), entry(image_id=8)]))
    (tmp_path / 'info.json').write_text(json.dumps({'images': [{'id': 7}, {'id': 8}]}))
    path = server_files.coco_server_zip(tmp_path / 'results.json', tmp_path / 'info.json', 'td-hm_w48', tmp_path, most=2)
    assert path.name == 'person_keypoints_test-dev2017_td-hm-w48_results.zip'
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == ['person_keypoints_test-dev2017_td-hm-w48_results.json']
        content = json.loads(archive.read(archive.namelist()[0]))
    assert [set(each) for each in content] == [{'image_id', 'category_id', 'keypoints', 'score'}] * 2
    assert [each['score'] for each in content] == [1, 0.4]  # above 1 from a Gaussian's map: scaled, in the same order


@pytest.mark.parametrize(('entries', 'message'), [
    ([], 'at least one entry'),
    ([entry(), entry(), entry()], 'at most one entry per person box, 2, got 3'),
    ([entry(image_id=9)], 'entry 0 of the results: image_id must be one of the 1 images'),
    ([entry(), entry(category_id=2)], 'entry 1 of the results: category_id must be 1'),
    ([entry(keypoints=[1.0] * 48)], 'keypoints must be 51 finite numbers'),
    ([entry(keypoints=[float('nan')] * 51)], 'keypoints must be 51 finite numbers'),
    ([entry(score=-0.5)], r'score must be a finite number of 0 or more, got -0.5'),
    ([entry(score=float('nan'))], r'score must be a finite number of 0 or more, got nan'),
])
def test_results_the_server_would_refuse_are_named(entries, message):
    with pytest.raises(ValueError, match=message):
        server_files.check_coco_entries(entries, {7}, most=2)


def test_mpii_predictions_are_in_the_files_order_and_count_from_one(tmp_path):
    import pickle

    from scipy.io import loadmat

    points = np.random.default_rng(0).random((3, 1, 16, 2)) * 200
    samples = [{'id': index, 'img_path': f'/data/images/{index}.jpg', 'pred_instances': {
        'keypoints': points[index], 'keypoint_scores': np.full((1, 16), 0.5)}} for index in (2, 0, 1)]
    (tmp_path / 'dump.pkl').write_bytes(pickle.dumps(samples))
    mat, text = server_files.mpii_predictions(tmp_path / 'dump.pkl', tmp_path)
    np.testing.assert_allclose(loadmat(mat)['preds'], points[:, 0] + 1)
    people = json.loads(text.read_text())
    assert [person['image'] for person in people] == ['0.jpg', '1.jpg', '2.jpg']
    np.testing.assert_allclose(people[2]['joints'], points[2, 0] + 1)
    (tmp_path / 'dump.pkl').write_bytes(pickle.dumps(samples[:2]))
    with pytest.raises(ValueError, match='must hold every person once'):
        server_files.mpii_predictions(tmp_path / 'dump.pkl', tmp_path)


def test_interrupting_the_tool_ends_the_training_too(tmp_path):
    """The whole tool, with a launcher that only sleeps."""
    code = (
        'import sys; sys.path.insert(0, {tools!r}); import reproduce; from reproduction import commands;'
        "commands.train = lambda *a: commands.Command((sys.executable, '-c', 'import time; time.sleep(60)'));"
        "sys.exit(reproduce.main(['--work-dirs', {work!r}, 'run', 'table1-res152', '--gpus', '0']))"
    ).format(tools=str(REPOSITORY / 'tools'), work=str(tmp_path))
    process = subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    folder = tmp_path / 'td-hm_res152_mse-8xb32-210e_coco-384x288' / 'seed-0'
    while 'pid' not in jobs.read(folder).get('train', {}):
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.05)
    child = jobs.read(folder)['train']['pid']
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 130
    assert 'the same command continues' in process.stdout.read()
    assert jobs.read(folder)['train']['status'] == 'interrupted'
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


# ---------------------------------------------------------------------------------------------- how much a change touches


def test_a_row_of_another_backbone_and_data_set_is_a_config_and_the_manifest(tmp_path):
    """Listed, checked, launched, evaluated, reported: no line of code knows the data set."""
    content = yaml.safe_load((REPOSITORY / 'configs' / 'manifest.yml').read_text())
    content['evaluations'] = {
        'faces-val': {'title': 'Faces', 'data': ['faces'], 'metrics': {'NME': 'NME'}, 'scale': 100, 'options': ['a={folder}/b']}}
    content['data'] = {'faces': {'root': 'data/faces', 'where': 'made up', 'annotations': []}}
    content['tables'] = {'faces': {'where': 'Beyond', 'title': 'Faces', 'columns': ['NME'], 'evaluation': 'faces-val'}}
    content['rows'] = [{'id': 'faces-effnet', 'table': 'faces', 'kind': 'beyond', 'method': 'ours', 'backbone': 'EfficientNet',
                        'config': 'configs/new.py', 'launch': {'gpus': 1, 'batch': 4}}]
    (tmp_path / 'manifest.yml').write_text(yaml.safe_dump(content))
    (tmp_path / 'configs').mkdir()
    config = '_base_ = ["mmpose::body_2d_keypoint/topdown_heatmap/coco/td-hm_res50_8xb64-210e_coco-256x192.py"]'
    (tmp_path / 'configs/new.py').write_text(f'{config}\nmodel = dict(backbone=dict(init_cfg=None))\n')
    ways = ('--manifest', tmp_path / 'manifest.yml', '--root', tmp_path, '--work-dirs', tmp_path / 'work')
    assert 'faces-effnet' in cli(*ways, 'list')
    assert cli(*ways, 'check', code=1).splitlines() == [f'missing: {tmp_path}/data/faces (folder): made up', '1 things missing']
    train, test = cli(*ways, 'run', 'faces-effnet', '--gpus', '0', '--dry-run').splitlines()
    assert 'tools/train.py' in train and 'bbox_file' not in test and test.endswith(f'a={tmp_path}/work/new/seed-0/faces-val/b')
    known = manifest.load(tmp_path / 'manifest.yml', tmp_path)
    done = {'status': 'done', 'metrics': {'NME': 4.5}}
    jobs.write(tmp_path / 'work/new/seed-0', {'train': {}, 'evaluations': {'faces-val': done}})
    assert 'Dataset: Faces' in report.metafile(known, tmp_path / 'work', 'ap56')
    assert '4.5' in report.markdown(known, tmp_path / 'work', 'ap56')


# ------------------------------------------------------------------------------------------------------------ the docs


def test_commands_of_the_docs_are_understood(rows, monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY / 'tools'))
    import reproduce

    text = (REPOSITORY / 'docs' / 'reproduce.md').read_text()
    found = re.findall(r'^    python tools/reproduce\.py (.*?)(?:\s+#.*)?$', text, re.MULTILINE)
    assert len(found) >= 12
    for line in found:
        args = reproduce.parser().parse_args(shlex.split(line))
        rows.select(getattr(args, 'rows', []))
    for config in re.findall(r'configs/\S+\.py', text):
        assert (REPOSITORY / config).is_file()
