"""docs/use.md, block by block: what a person copies is run, on few pictures and for one epoch, and gives joints on a picture."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip('mmpose', reason='the page trains and infers with MMPose')

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / 'docs' / 'use.md').read_text()
BLOCKS = re.findall(r'^```(bash|python session)\n(.*?)^```', PAGE, re.M | re.S)
SMALL = {  # so that each block takes seconds
    'make_demo_data.py': '--train 24 --val 3',
    'train.py': '--cfg-options train_cfg.max_epochs=6 train_cfg.val_interval=6 train_dataloader.batch_size=8 '
                'train_dataloader.num_workers=0 train_dataloader.persistent_workers=False param_scheduler.0.end=10',
    'test.py': '', 'export_onnx.py': '--crops 9'}


@pytest.fixture(scope='module')
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that looks like the repository, without its data."""
    folder = tmp_path_factory.mktemp('use')
    for name in ('tools', 'configs', 'hdm_mmpose'):
        (folder / name).symlink_to(ROOT / name)
    return folder


def run(block: str, folder: Path) -> None:
    """Run a block of commands as a shell does, each with what makes it short."""
    for line in block.replace('\\\n', ' ').splitlines():
        tool = Path(shlex.split(line)[1]).name
        code = line.replace('python ', f'{shlex.quote(sys.executable)} -W ignore ', 1) + f' {SMALL[tool]}'
        environment = {**os.environ, 'PYTHONPATH': str(ROOT)}
        done = subprocess.run(['bash', '-c', code], cwd=folder, env=environment, text=True, capture_output=True, timeout=600)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


def add_what_a_person_brings(folder: Path) -> None:
    """A video, and a detector: MMDetection's smallest, untrained."""
    from mmdet.apis import init_detector
    from mmengine.hub import get_config
    from mmengine.registry import DefaultScope
    from mmengine.runner import save_checkpoint

    writer = cv2.VideoWriter(str(folder / 'walk.mp4'), cv2.VideoWriter_fourcc(*'mp4v'), 10, (256, 192))
    for path in sorted((folder / 'data/demo/val2017').glob('*.jpg')):
        writer.write(cv2.imread(str(path)))
    writer.release()
    detector = get_config('mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py')
    detector.model.backbone.init_cfg = None
    detector.dump(folder / 'detector.py')
    with DefaultScope.overwrite_default_scope('mmdet'):
        save_checkpoint({'state_dict': init_detector(str(folder / 'detector.py'), device='cpu').state_dict(), 'meta': {}},
                        str(folder / 'detector.pth'))


@pytest.mark.slow
def test_every_block_of_the_page(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In order, the blocks of Python as one session."""
    monkeypatch.chdir(place)
    session: dict = {'__name__': '__main__'}
    for kind, block in BLOCKS:
        if kind == 'bash':
            run(block, place)
        else:
            if not (place / 'walk.mp4').exists():
                add_what_a_person_brings(place)
            exec(compile(block, 'docs/use.md', 'exec'), session)

    assert json.loads((place / 'work_dirs/use/metrics.json').read_text())['coco/AP'] >= 0
    assert list((place / 'work_dirs/use/test').rglob('pictures'))
    drawn = {path.name for path in (place / 'work_dirs/use/joints/visualizations').iterdir()}
    assert {'000000000001.jpg', '000000000002.jpg', '000000000003.jpg', 'walk.mp4'} <= drawn
    assert len(session['people']) == 2 and len(session['result']['predictions'][0]) >= 1
    session['model'].test_cfg['flip_test'] = False
    (person, _) = session['inference_topdown'](session['model'], 'data/demo/val2017/000000000001.jpg', session['boxes'])
    np.testing.assert_allclose(session['xy'], person.pred_instances.keypoints[0], atol=0.05)
    np.testing.assert_allclose(session['score'], person.pred_instances.keypoint_scores[0], atol=1e-3)


def test_the_page_has_every_step() -> None:
    """Train, continue, evaluate, infer three ways, read, export, run: and nothing in a block that is not run."""
    assert [kind.split()[0] for kind, _ in BLOCKS] == ['bash'] * 3 + ['python'] * 4 + ['bash', 'python']
    assert PAGE.count('```') == 2 * len(BLOCKS)
