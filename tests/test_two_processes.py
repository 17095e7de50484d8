"""Two processes on the CPU do what one does with the joined batch: the same first step, the same evaluation."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ROOT / 'tools'
(BASE,) = ROOT.glob('configs/demo/td-hm_res18_hdm-*.py')

# Plain gradient descent with rate 1: the step is the gradient. Batch normalisation keeps its statistics, since it sees one
# process' pictures in training; nothing is random, and every weight takes part.
CONFIG = """
_base_ = ['{base}']
train_cfg = dict(max_epochs=1)
load_from = '{folder}/start.pth'
optim_wrapper = dict(optimizer=dict(_delete_=True, type='SGD', lr=1.0))
param_scheduler = []
codec = dict(_base_.codec, heatmap_size=(12, 16))
model = dict(
    backbone=dict(
        _delete_=True, type='ResNet', depth=18, stem_channels=16, base_channels=16, num_stages=2, strides=(1, 2),
        dilations=(1, 1), out_indices=(1, ), norm_eval=True),
    head=dict(
        _delete_=True, type='HeatmapHead', in_channels=32, out_channels=17, deconv_out_channels=None,
        loss=_base_.hdm_loss, decoder=codec))
fixed = [step for step in _base_.train_pipeline if not step['type'].startswith('Random')]
train_pipeline = [*fixed[:-2], dict(type='GenerateTarget', encoder=codec), fixed[-1]]
train_dataloader = dict(
    batch_size={batch}, num_workers=0, persistent_workers=False, sampler=dict(shuffle=False),
    dataset=dict(data_root='{folder}/data/', indices=4, pipeline=train_pipeline))
val_dataloader = dict(batch_size=2, num_workers=0, persistent_workers=False, dataset=dict(data_root='{folder}/data/'))
test_dataloader = val_dataloader
val_evaluator = dict(
    _delete_=True, type='CocoMetric', ann_file='{folder}/data/annotations/person_keypoints_val2017.json')
test_evaluator = dict(
    _delete_=True, type='CocoMetric', ann_file='{folder}/data/annotations/person_keypoints_val2017.json')
"""


def launch(*words: object) -> None:
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ['PATH']])
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'CUDA_VISIBLE_DEVICES': '', 'PORT': str(port), 'PATH': path}
    done = subprocess.run(list(map(str, words)), env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]


@pytest.fixture(scope='module')
def start(tmp_path_factory) -> Path:
    """Pictures, and the weights both trainings start from."""
    from mmengine.config import Config
    from mmpose.registry import MODELS
    from mmpose.utils import register_all_modules

    folder = tmp_path_factory.mktemp('processes')
    command = [sys.executable, TOOLS / 'dataset_converters' / 'make_demo_data.py', '--out', folder / 'data', '--train', 4, '--val', 3]
    subprocess.run(list(map(str, command)), check=True, capture_output=True)
    for processes in (1, 2):
        (folder / f'processes_{processes}.py').write_text(CONFIG.format(base=BASE, folder=folder, batch=4 // processes))
    register_all_modules(init_default_scope=True)
    torch.manual_seed(5)
    model = MODELS.build(Config.fromfile(folder / 'processes_1.py').model)
    torch.save({'state_dict': model.state_dict()}, folder / 'start.pth')
    return folder


@pytest.mark.slow
def test_first_step_and_evaluation_are_those_of_one_process(start):
    one, two = start / 'processes_1.py', start / 'processes_2.py'
    launch(sys.executable, TOOLS / 'train.py', one, '--work-dir', start / 'one')
    launch(TOOLS / 'dist_train.sh', two, 2, '--work-dir', start / 'two')
    begin, joined, split = (
        torch.load(start / name, weights_only=False)['state_dict'] for name in ('start.pth', 'one/epoch_1.pth', 'two/epoch_1.pth'))
    moved = 0
    for name, value in begin.items():  # running statistics do not move
        gradient = value - joined[name]
        torch.testing.assert_close(value - split[name], gradient, rtol=1e-3, atol=1e-6, msg=name)
        moved += bool(gradient.abs().max() > 0)
    assert moved > 20

    checkpoint = start / 'one' / 'epoch_1.pth'
    launch(sys.executable, TOOLS / 'test.py', one, checkpoint, '--work-dir', start / 'test_one', '--out', start / 'one.json')
    launch(TOOLS / 'dist_test.sh', two, checkpoint, 2, '--work-dir', start / 'test_two', '--out', start / 'two.json')
    metrics = [json.loads((start / name).read_text()) for name in ('one.json', 'two.json')]
    assert metrics[0] == metrics[1] and 'coco/AP' in metrics[0]
