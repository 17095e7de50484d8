"""Two processes with an uneven last batch, one of which sees no joint."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.faults
ROOT = Path(__file__).resolve().parents[2]
ANNOTATIONS = 'annotations/person_keypoints_train2017.json'


@pytest.fixture
def seven_persons(drawn: Path, tmp_path: Path) -> Path:
    """Persons 1, 3, 5 and 7 as drawn; 2, 4 and 6, which the second rank gets, with all joints far outside the picture."""
    folder = tmp_path / 'data'
    shutil.copytree(drawn, folder)
    content = json.loads((folder / ANNOTATIONS).read_text())
    persons = [person for person in content['annotations'] if person['num_keypoints']][:7]
    for person in persons[1::2]:
        person['keypoints'] = [value + 5000 if index % 3 < 2 else value for index, value in enumerate(person['keypoints'])]
    content['annotations'] = persons
    (folder / ANNOTATIONS).write_text(json.dumps(content))
    return folder


def test_two_processes(seven_persons: Path, tmp_path: Path, saw: Callable) -> None:
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    command = [sys.executable, '-m', 'torch.distributed.run', '--nproc_per_node=2', f'--master_port={port}',
               str(Path(__file__).with_name('two_processes.py')), str(seven_persons), str(tmp_path / 'run')]
    env = dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS='1')
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=tmp_path, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    gradients = re.findall(r'rank (\d) visible (\[.+?\]) gradient (\d+\.\d+)', done.stdout)
    assert len(gradients) == 6
    for visible in ('[1.0, 1.0]', '[1.0, 0.0]', '[0.0, 0.0]'):
        values = {float(value) for _, seen, value in gradients if seen == visible}
        assert len(values) == 1 and (values == {0.0}) == (visible == '[0.0, 0.0]')
    sums = dict(re.findall(r'rank (\d) trained True sum (\S+)', done.stdout))
    assert sums.keys() == {'0', '1'} and sums['0'] == sums['1'], done.stdout[-2000:]
    losses = re.search(r'losses (\[.+\])', done.stdout)
    assert losses and json.loads(losses[1])
    saw('two processes, last batches of 3 and 1 persons, no visible joint on one or both ranks',
        'gradients are the mean of what each has alone', 'equal to 1e-5 on both ranks; 0 where nobody sees a joint')
    saw('two processes train on 4 and 3 persons, the second rank without a visible joint', 'both finish with equal weights',
        'both finished; the sums of their weights are equal to 9 decimals')
