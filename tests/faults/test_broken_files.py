"""Files that are not as they should be: a clear error that names what is wrong, or a training that goes on."""

from __future__ import annotations

import json
import math
import os
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from hdm_mmpose.check.data import check_data
from hdm_mmpose.check.finding import merge_findings
from tests.tiny_training import by_iterations, scalars, tiny_config, train

pytestmark = pytest.mark.faults
ANNOTATIONS = 'annotations/person_keypoints_train2017.json'


@pytest.fixture
def data(drawn: Path, tmp_path: Path) -> Path:
    """A copy of the drawn data that may be broken; pictures are linked."""
    folder = tmp_path / 'data'
    shutil.copytree(drawn, folder, copy_function=os.link)
    for path in (folder / 'annotations').iterdir():
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content)
    return folder


def outcome(data: Path, work_dir: Path) -> str:
    """What a training of an epoch and an evaluation come to."""
    cfg = tiny_config(data, work_dir)
    try:
        train(cfg)
    except Exception as error:  # the text of whatever is raised is what is looked at
        return f'{type(error).__name__}: {error}'
    losses = [line['loss'] for line in scalars(work_dir) if 'loss' in line]
    if not losses:
        return 'no step was taken'
    return 'trained' if all(math.isfinite(loss) for loss in losses) else 'the loss is not finite'


def found(data: Path, work_dir: Path) -> str:
    """What ``python -m hdm_mmpose check --data`` says."""
    return '; '.join(f'{finding.level}: {finding.what}' for finding in merge_findings(check_data(tiny_config(data, work_dir))))


def change(data: Path, edit: Callable[[dict], None]) -> None:
    content = json.loads((data / ANNOTATIONS).read_text())
    edit(content)
    (data / ANNOTATIONS).write_text(json.dumps(content))


def nan_joint(content: dict) -> None:
    content['annotations'][0]['keypoints'][:3] = [float('nan'), 5.0, 2]


def negative_box(content: dict) -> None:
    x, y, width, height = content['annotations'][0]['bbox']
    content['annotations'][0]['bbox'] = [x, y, -width, -height]


def joints_outside(content: dict) -> None:
    for person in content['annotations']:
        person['keypoints'] = [value + 5000 if index % 3 < 2 else value for index, value in enumerate(person['keypoints'])]


def wrong_joint_count(content: dict) -> None:
    content['annotations'][0]['keypoints'] = content['annotations'][0]['keypoints'][:14 * 3]


def empty_split(content: dict) -> None:
    content['annotations'], content['images'] = [], []


def missing_categories(content: dict) -> None:
    del content['categories']


def picture_missing(content: dict) -> None:
    content['images'][0]['file_name'] = 'gone.jpg'


# edit, fault, what the training should come to, what `check --data` should say
CASES = [
    (nan_joint, 'NaN in a visible joint', 'ValueError: keypoints must be finite where visible', 'error: .* 1 annotation .* not finite'),
    (negative_box, 'a box of negative width and height', 'trained', 'warning: .* 1 annotation .* positive size'),
    (joints_outside, 'all joints far outside the picture', 'trained', 'warning: .* outside the picture'),
    (wrong_joint_count, '14 joints in a file for 17', 'Error', 'error: .* with 14 joints, the data set has 17'),
    (empty_split, 'an annotation file without persons', 'Error', 'error: .* no person'),
    (missing_categories, 'a training file without categories', 'trained', 'error: .* no categories'),
    (picture_missing, 'a picture that is not there', 'Error: .*gone.jpg', 'error: 1 of .* gone.jpg'),
]


@pytest.mark.parametrize(('edit', 'fault', 'wanted', 'said'), CASES, ids=[case[0].__name__ for case in CASES])
def test_annotations(edit: Callable, fault: str, wanted: str, said: str, data: Path, tmp_path: Path, saw: Callable) -> None:
    assert found(data, tmp_path) == ''
    change(data, edit)
    happened, named = outcome(data, tmp_path / 'run'), found(data, tmp_path)
    assert re.search(wanted, happened), happened
    assert re.search(said, named), named
    saw(fault, 'training goes on without it' if wanted == 'trained' else 'a clear error, from `check --data` or the training',
        f'training: {short(happened)}; `check --data`: {short(named)}')


def short(text: str) -> str:
    """On one line, without the folders of this machine."""
    words = re.sub(r'/\S*/', '', ' '.join(text.split()))
    return words if len(words) < 240 else f'{words[:240]} ...'


def test_categories_missing_for_evaluation(data: Path, tmp_path: Path, saw: Callable) -> None:
    path = data / 'annotations/person_keypoints_val2017.json'
    content = json.loads(path.read_text())
    del content['categories']
    path.write_text(json.dumps(content))
    happened, named = outcome(data, tmp_path / 'run'), found(data, tmp_path)
    assert 'no categories, which evaluation needs' in named
    saw('an evaluation file without categories', 'a clear error, from `check --data` or the evaluation',
        f'evaluation: {short(happened)}; `check --data`: {short(named)}')


@pytest.mark.parametrize('size', [0, 60, 2000])
def test_unreadable_picture(size: int, data: Path, tmp_path: Path, saw: Callable) -> None:
    path = sorted((data / 'train2017').glob('*.jpg'))[0]
    content = path.read_bytes()
    path.unlink()  # the original has the same blocks
    path.write_bytes(content[:size])
    happened = outcome(data, tmp_path / 'run')
    assert path.name in happened or happened == 'trained', happened  # OpenCV fills what is missing of a readable header with grey
    named = found(data, tmp_path / 'run')
    assert ('1 of 12 pictures' in named and path.name in named) == (size == 0), named  # files are not opened
    saw(f'a JPEG cut off after {size} bytes', 'an error that names the file, or what is readable of it',
        f'training: {short(happened)}; `check --data`: {short(named) or "nothing, pictures are not opened"}')


@pytest.mark.parametrize('share', [0.0, 0.5, 0.99])
def test_truncated_checkpoint(share: float, drawn: Path, tmp_path: Path, saw: Callable) -> None:
    cfg = by_iterations(tiny_config(drawn, tmp_path / 'run'), 2)
    train(cfg)
    last = tmp_path / 'run' / 'iter_2.pth'
    last.write_bytes(last.read_bytes()[:int(share * last.stat().st_size)])
    again = by_iterations(tiny_config(drawn, tmp_path / 'run'), 3)
    again.resume = True
    with pytest.raises((RuntimeError, EOFError, pickle.UnpicklingError)) as raised:
        train(again)
    older = by_iterations(tiny_config(drawn, tmp_path / 'run'), 3)
    older.load_from, older.resume = str(tmp_path / 'run' / 'iter_1.pth'), True
    runner = train(older)
    assert runner.iter == 3 and all(weights.isfinite().all() for weights in runner.model.parameters())
    saw(f'resume from a checkpoint cut off at {share:.0%}', 'an error; the one before still resumes',
        f'{type(raised.value).__name__}: {short(str(raised.value))}; resumed from the one before')


def test_checkpoint_that_is_not_one(drawn: Path, tmp_path: Path, saw: Callable) -> None:
    """The safe loader refuses code, and says so."""
    marker = tmp_path / 'executed'
    torch.save({'state_dict': {}, 'meta': Runs(marker)}, tmp_path / 'foreign.pth')
    cfg = by_iterations(tiny_config(drawn, tmp_path / 'run'), 1)
    cfg.load_from = str(tmp_path / 'foreign.pth')
    with pytest.raises(Exception, match='[Ww]eights.only') as raised:
        train(cfg)
    assert not marker.exists()
    saw('a checkpoint that runs code when it is unpickled', 'refused, nothing is run',
        f'{type(raised.value).__name__}; nothing was run')


class Runs:
    """Makes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self) -> tuple:
        return open, (self.marker, 'w')
