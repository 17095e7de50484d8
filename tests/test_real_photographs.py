"""From a recipe to a trained, evaluated, pictured model on real pictures, through the launchers, on the CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.real_data import (
    REPOSITORY,
    arguments,
    coco_options,
    mpii_options,
    needs_coco,
    needs_mpii,
    small_options,
)

COCO_CONFIG = REPOSITORY / 'configs' / 'coco' / 'td-hm_hrnet-w48_hdm-8xb32-210e_coco-384x288.py'
MPII_CONFIG = REPOSITORY / 'configs' / 'mpii' / 'td-hm_hrnet-w32_hdm-8xb64-210e_mpii-256x256.py'


def launch(tool: str, *words: object, folder: Path) -> str:
    """Run a launcher from another directory; returns what it printed."""
    environment = {**os.environ, 'OMP_NUM_THREADS': '1'}
    command = [sys.executable, str(REPOSITORY / 'tools' / tool), *map(str, words)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    output = done.stdout + done.stderr
    assert done.returncode == 0, output[-4000:]
    return output


def schedule(epochs: int) -> dict:
    return {'train_cfg.max_epochs': epochs, 'default_hooks.checkpoint.interval': 1, 'default_hooks.logger.interval': 1}


def train_and_resume(config: Path, folder: Path, options: dict) -> Path:
    """Two epochs in two runs; returns the work directory."""
    work_dir = folder / 'run'
    launch('train.py', config, '--work-dir', work_dir, *arguments({**options, **schedule(1)}), folder=folder)
    assert (work_dir / 'epoch_1.pth').exists()
    output = launch('train.py', config, '--work-dir', work_dir, '--resume', *arguments({**options, **schedule(2)}), folder=folder)
    assert 'resumed epoch: 1' in output
    assert (work_dir / 'epoch_2.pth').exists()
    assert (work_dir / 'last_checkpoint').read_text().endswith('epoch_2.pth')
    return work_dir


@needs_mpii
def test_mpii_recipe_trains_resumes_evaluates_and_draws(tmp_path):
    options = {**small_options(batch=1), **mpii_options(tmp_path), 'train_dataloader.dataset.indices': 2}
    work_dir = train_and_resume(MPII_CONFIG, tmp_path, {**options, 'val_dataloader.dataset.indices': 1})
    out, pictures = tmp_path / 'metrics.json', tmp_path / 'pictures'
    flags = ['--work-dir', tmp_path / 'test', '--out', out, '--show-dir', pictures]
    launch('test.py', MPII_CONFIG, work_dir / 'epoch_2.pth', *flags, *arguments(options), folder=tmp_path)
    metrics = json.loads(out.read_text())
    for group in ('PCK', 'Head PCK', 'Shoulder PCK', 'Elbow PCK', 'Wrist PCK', 'Hip PCK', 'Knee PCK', 'Ankle PCK', 'PCK@0.1'):
        assert 0 <= metrics[group] <= 100
    assert len(drawn(tmp_path, pictures)) == 5


@needs_coco
@pytest.mark.slow
def test_coco_recipe_trains_resumes_evaluates_draws_and_writes_the_server_file(tmp_path):
    options = {**small_options(batch=1), **coco_options(tmp_path, persons=2)}
    work_dir = train_and_resume(COCO_CONFIG, tmp_path, options)
    out, pictures = tmp_path / 'metrics.json', tmp_path / 'pictures'
    flags = ['--work-dir', tmp_path / 'test', '--out', out, '--show-dir', pictures]
    launch('test.py', COCO_CONFIG, work_dir / 'epoch_2.pth', *flags, *arguments(options), folder=tmp_path)
    metrics = json.loads(out.read_text())
    for name in ('AP', 'AP .5', 'AP .75', 'AR'):
        assert 0 <= metrics[f'coco/{name}'] <= 1
    assert drawn(tmp_path, pictures)

    server = {**options, 'test_evaluator.format_only': True, 'test_evaluator.outfile_prefix': str(tmp_path / 'server')}
    flags = ['--work-dir', tmp_path / 'format']
    launch('test.py', COCO_CONFIG, work_dir / 'epoch_2.pth', *flags, *arguments(server), folder=tmp_path)
    entries = json.loads((tmp_path / 'server.keypoints.json').read_text())
    truth = json.loads((tmp_path / 'person_keypoints_few.json').read_text())
    assert len(entries) == 2
    assert {entry['image_id'] for entry in entries} == {image['id'] for image in truth['images']}
    assert all(len(entry['keypoints']) == 3 * 17 and 0 <= entry['score'] <= 1 for entry in entries)


def drawn(folder: Path, pictures: Path) -> list[Path]:
    """The drawn pictures, wherever the visualizer put them below the test's folder."""
    found = [path for path in folder.rglob('*') if path.suffix in ('.jpg', '.png')]
    assert all(pictures.name in path.parts for path in found)
    return found
