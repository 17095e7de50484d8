"""tools/reproduce.py on real pictures with real, small trainings: killed, continued, failing, evaluated, uploaded, reported."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
import yaml

from tests.real_data import COCO, MPII, REPOSITORY, mpii_options, needs_coco, needs_mpii
from tools import jobs

pytestmark = pytest.mark.slow
TOOL = REPOSITORY / 'tools' / 'reproduce.py'
(BASE,) = REPOSITORY.glob('configs/demo/td-hm_res18_hdm-*.py')

COCO_CONFIG = """
_base_ = ['{base}']
train_cfg = dict(max_epochs=4, val_interval=2)
default_hooks = dict(checkpoint=dict(interval=1, save_best='coco/AP', rule='greater', max_keep_ckpts=10))
train_dataloader = dict(
    batch_size=2, num_workers=0, persistent_workers=False,
    dataset=dict(data_root='data/coco/', ann_file='annotations/person_keypoints_train2017.json', indices=12))
val_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(data_root='data/coco/', indices=6))
test_dataloader = val_dataloader
val_evaluator = dict(_delete_=True, type='CocoMetric', ann_file='data/coco/annotations/person_keypoints_val2017.json')
test_evaluator = dict(_delete_=True, type='CocoMetric', ann_file='data/coco/annotations/person_keypoints_val2017.json')
"""


def reproduce(root: Path, *words: object, code: int = 0) -> str:
    command = [sys.executable, TOOL, '--root', root, '--manifest', root / 'manifest.yml', *words]
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'CUDA_VISIBLE_DEVICES': ''}
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == code, done.stdout + done.stderr + logs(root)
    return done.stdout + done.stderr


def logs(root: Path) -> str:
    return '\n'.join(path.read_text()[-2000:] for path in root.glob('work_dirs/**/*.log'))


def write_manifest(root: Path, rows: list[dict]) -> None:
    content = yaml.safe_load((REPOSITORY / 'configs' / 'manifest.yml').read_text())
    common = {'kind': 'ours', 'method': 'some', 'launch': {'gpus': 1, 'batch': 2}, 'paper': [50.0] * 6}
    content['rows'] = [{**common, **row} for row in rows]
    (root / 'manifest.yml').write_text(yaml.safe_dump(content))


@pytest.fixture
def coco(tmp_path) -> Path:
    """A root with COCO's folders: the small set, boxes of detectors for val and test-dev, and image_info of test-dev."""
    root = tmp_path / 'root'
    (root / 'data' / 'coco' / 'person_detection_results').mkdir(parents=True)
    (root / 'configs').mkdir()
    for name in ('annotations', 'train2017', 'val2017'):
        (root / 'data' / 'coco' / name).symlink_to(COCO / name)
    (root / 'data' / 'coco' / 'annotations').unlink()
    (root / 'data' / 'coco' / 'annotations').mkdir()
    for path in (COCO / 'annotations').iterdir():
        (root / 'data' / 'coco' / 'annotations' / path.name).symlink_to(path)
    (root / 'data' / 'coco' / 'test2017').symlink_to(COCO / 'val2017')
    truth = json.loads((COCO / 'annotations' / 'person_keypoints_val2017.json').read_text())
    people = [each for each in truth['annotations'] if each.get('num_keypoints')][:6]
    boxes = [{'bbox': each['bbox'], 'category_id': 1, 'image_id': each['image_id'], 'score': 0.9} for each in people]
    for name in ('COCO_val2017_detections_AP_H_56_person', 'COCO_test-dev2017_detections_AP_H_609_person'):
        (root / 'data' / 'coco' / 'person_detection_results' / f'{name}.json').write_text(json.dumps(boxes))
    info = {key: truth[key] for key in ('info', 'licenses', 'images', 'categories')}
    (root / 'data' / 'coco' / 'annotations' / 'image_info_test-dev2017.json').write_text(json.dumps(info))
    (root / 'configs' / 'good.py').write_text(COCO_CONFIG.format(base=BASE))
    (root / 'configs' / 'bad.py').write_text("_base_ = ['./good.py']\nmodel = dict(head=dict(loss=dict(epsilon=-1)))\n")
    return root


@needs_coco
def test_a_killed_row_continues_a_failing_one_is_reported_and_the_rest_runs(coco):
    write_manifest(coco, [
        {'id': 'good', 'table': 'table1', 'config': 'configs/good.py'},
        {'id': 'bad', 'table': 'table1', 'config': 'configs/bad.py'},
        {'id': 'test-dev', 'table': 'table2', 'config': 'configs/good.py'}])
    folder = coco / 'work_dirs' / 'reproduce' / 'good' / 'seed-0'
    kill_after_first_epoch(coco, folder)
    assert 'training interrupted, epoch' in reproduce(coco, 'status')

    text = reproduce(coco, 'run', 'good', 'bad', 'test-dev', '--gpus', 0, code=1)
    assert '[good] train continues' in text and 'failed: bad seed 0' in text and 'epsilon' in text
    assert 'failed: good' not in text and 'failed: test-dev' not in text
    log = (folder / 'train.log').read_text()
    assert 'resumed epoch: ' in log and 'Epoch(train) [4]' in log
    known = jobs.read(folder)
    assert known['train']['status'] == 'done' and jobs.last_epoch(folder) == 4
    assert 0 <= known['evaluations']['coco-val-ap56']['metrics']['AP'] <= 100
    assert known['evaluations']['coco-val-ap56']['checkpoint'].startswith('best_coco_AP_epoch_')
    assert 'CPU process' in known['train']['hardware'][0]

    (archive,) = map(Path, known['evaluations']['coco-test-dev']['files'])
    assert archive.name == 'person_keypoints_test-dev2017_good_results.zip'
    with zipfile.ZipFile(archive) as content:
        entries = json.loads(content.read('person_keypoints_test-dev2017_good_results.json'))
    assert 1 <= len(entries) <= 6 and all(len(entry['keypoints']) == 51 for entry in entries)

    report = reproduce(coco, 'report')
    line = next(line for line in report.splitlines() if '| measured |' in line and 'CPU process' in line)
    assert f'| {known["evaluations"]["coco-val-ap56"]["metrics"]["AP"]:.1f} |' in line
    assert 'done before' in reproduce(coco, 'run', 'good', '--gpus', 0)


def kill_after_first_epoch(root: Path, folder: Path) -> None:
    """Start a row and kill its training, without warning, when the first checkpoint is there."""
    command = [sys.executable, TOOL, '--root', root, '--manifest', root / 'manifest.yml', 'run', 'good', '--gpus', 0]
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'CUDA_VISIBLE_DEVICES': ''}
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, env=environment)
    while not (folder / 'last_checkpoint').exists():
        assert process.poll() is None, logs(root)
        time.sleep(0.02)
    process.kill()  # first the tool, which then cannot write down what became of the training
    process.wait()
    os.killpg(jobs.read(folder)['train']['pid'], signal.SIGKILL)
    while jobs.read(folder)['train']['status'] == 'running':
        time.sleep(0.02)
    assert jobs.last_epoch(folder) < 4, 'the training was faster than the kill'


@needs_mpii
def test_mpii_predictions_are_written_as_the_benchmark_wants_them(tmp_path):
    from scipy.io import loadmat

    options = mpii_options(tmp_path)
    (tmp_path / 'configs').mkdir()
    lines = [f"_base_ = ['{REPOSITORY}/configs/mpii/td-hm_res152_hdm-8xb32-210e_mpii-256x256.py']"]
    lines.append('train_cfg = dict(max_epochs=1)')
    lines.append("model = dict(backbone=dict(depth=18, init_cfg=None), head=dict(in_channels=512))")
    for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        data = {key.partition('.dataset.')[2]: value for key, value in options.items() if key.startswith(loader)}
        data['data_prefix'] = {'img': data.pop('data_prefix.img')}
        lines.append(f'{loader} = dict(batch_size=2, num_workers=0, persistent_workers=False, dataset={data!r})')
    (tmp_path / 'configs' / 'mpii.py').write_text('\n'.join(lines) + '\n')
    write_manifest(tmp_path, [{'id': 'mpii', 'table': 'table3', 'config': 'configs/mpii.py', 'paper': [90.0] * 8}])
    reproduce(tmp_path, 'run', 'mpii', '--gpus', 0)
    folder = tmp_path / 'work_dirs' / 'reproduce' / 'mpii' / 'seed-0'
    evaluation = jobs.read(folder)['evaluations']['mpii-val']
    assert set(evaluation['metrics']) == {'Mean', 'Hea', 'Sho', 'Elb', 'Wri', 'Hip', 'Kne', 'Ank'}
    mat, text = map(Path, evaluation['files'])
    assert loadmat(mat)['preds'].shape == (5, 16, 2)
    names = [person['image'] for person in json.loads((MPII / 'test_mpii.json').read_text())]
    assert [person['image'] for person in json.loads(text.read_text())] == names


@needs_coco
def test_a_row_on_two_devices(coco):
    """Two processes, gloo here: they train with the recipe's total batch, and evaluate as one process does."""
    write_manifest(coco, [{'id': 'good', 'table': 'table1', 'config': 'configs/good.py'}])
    reproduce(coco, 'run', 'good', '--gpus', 2)
    folder = coco / 'work_dirs' / 'reproduce' / 'good' / 'seed-0'
    known = jobs.read(folder)
    assert known['train']['command'][0].endswith('dist_train.sh') and known['train']['hardware'][0].startswith('2 x CPU')
    assert 'train_dataloader.batch_size=1' in known['train']['command'] and jobs.last_epoch(folder) == 4
    of_two = known['evaluations']['coco-val-ap56']
    assert of_two['command'][0].endswith('dist_test.sh')
    reproduce(coco, 'run', 'good', '--gpus', 0, '--again')
    of_one = jobs.read(folder)['evaluations']['coco-val-ap56']
    assert of_one['command'][0] == sys.executable and of_one['checkpoint'] == of_two['checkpoint']
    assert of_one['metrics'] == pytest.approx(of_two['metrics'], abs=1e-4)
