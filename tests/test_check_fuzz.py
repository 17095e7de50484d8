"""``check`` on thousands of mutated configs and annotation files: it never dies, and what it finds sound trains.

Slow. ``HDM_FUZZ=0.1`` takes a tenth of each number.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import io
import json
import os
import random
import shutil
import uuid
from pathlib import Path

import pytest

pytest.importorskip('mmpose', reason='the command checks configs of MMPose')

from mmengine.config import Config  # noqa: E402
from mmengine.runner import Runner  # noqa: E402

from hdm_mmpose.check.command import find_in_config  # noqa: E402
from hdm_mmpose.check.data import check_data_sets  # noqa: E402
from hdm_mmpose.check.finding import CONFIG_RULES  # noqa: E402
from tests.fuzz_inputs import mutate  # noqa: E402
from tests.tiny_training import draw, tiny_config  # noqa: E402

pytestmark = pytest.mark.slow
SHARE = float(os.environ.get('HDM_FUZZ', 1))
CONFIGS, FILES, TRAINED = (max(1, int(SHARE * number)) for number in (300, 200, 10))  # in each of ten parts
PARTS = range(10)


@pytest.fixture(scope='module')
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw(tmp_path_factory.mktemp('drawn') / 'data', train=2, val=1)


@functools.lru_cache(maxsize=None)
def base(data: Path, folder: Path) -> dict:
    return tiny_config(data, folder, train_cfg__val_interval=1).to_dict()


def verdict(cfg: dict) -> tuple[str, list]:
    """'agree' where everything was checked and nothing found, else 'found', 'unsure', or 'rule' where a rule itself failed."""
    found = find_in_config(Config(copy.deepcopy(cfg)))
    sound = not any(each.level == 'error' for findings in found.values() for each in findings)
    if sound:
        found.update(check_data_sets(Config(copy.deepcopy(cfg)), sound))
    findings = [finding for each in found.values() for finding in each]
    if any(finding.rule == 'rule-failed' for finding in findings):
        return 'rule', findings
    if any(finding.level != 'unchecked' for finding in findings):
        return 'found', findings
    complete = all(rule.subject in found for rule in CONFIG_RULES)
    return ('agree' if complete and not findings else 'unsure'), findings


def live(cfg: dict, folder: Path) -> None:
    """A short training with validation, its checkpoint loaded again, and a test."""
    with contextlib.redirect_stdout(io.StringIO()):
        for load in (None, folder / 'epoch_1.pth'):
            again = Config(copy.deepcopy(cfg))
            run = uuid.uuid4().hex
            again.merge_from_dict({'work_dir': str(folder), 'experiment_name': run, 'visualizer.name': run})
            runner = Runner.from_cfg(again)
            if load is None:
                runner.train()
            else:
                runner.load_checkpoint(str(load))
                runner.test()


def count(verdicts: list[str]) -> str:
    return ', '.join(f'{verdicts.count(name)} {name}' for name in ('agree', 'found', 'rule', 'unsure', 'failed'))


@pytest.mark.parametrize('part', PARTS)
def test_mutated_configs(part: int, data: Path, tmp_path: Path) -> None:
    rng, verdicts, sound, faults = random.Random(part), [], [], []
    for _ in range(CONFIGS):
        cfg, change = mutate(base(data, tmp_path), rng)
        try:
            word, findings = verdict(cfg)
        except Exception as problem:
            word, findings = 'failed', [problem]
        verdicts.append(word)
        if word == 'failed':
            faults.append(f'{change}: {findings}')
        if word == 'agree':
            sound.append((change, cfg))
    for change, cfg in rng.sample(sound, min(TRAINED, len(sound))):
        folder = tmp_path / uuid.uuid4().hex
        try:
            live(cfg, folder)
        except (Exception, SystemExit) as problem:
            faults.append(f'all parts agree, but {change}: {type(problem).__name__}: {problem}')
        shutil.rmtree(folder, ignore_errors=True)
    print(f'\n{len(verdicts)} mutated configs: {count(verdicts)}; {min(TRAINED, len(sound))} trained')
    assert not faults, '\n'.join(fault[:400] for fault in faults)


@pytest.mark.parametrize('part', PARTS)
def test_mutated_annotation_files(part: int, data: Path, tmp_path: Path) -> None:
    rng, verdicts, faults = random.Random(100 + part), [], []
    mine = shutil.copytree(data, tmp_path / 'data')
    cfg = base(mine, tmp_path)
    for _ in range(FILES):
        split = rng.choice(('train', 'val'))
        path = mine / 'annotations' / f'person_keypoints_{split}2017.json'
        original = path.read_text()
        content, change = mutate(json.loads(original), rng)
        path.write_text(json.dumps(content))
        try:
            word, findings = verdict_of_data(cfg)
        except Exception as problem:
            word, findings = 'failed', [problem]
        verdicts.append(word)
        if word == 'failed':
            faults.append(f'{change}: {findings}')
        if word == 'agree' and verdicts.count('agree') <= TRAINED:
            try:
                live(cfg, tmp_path / 'run')
            except (Exception, SystemExit) as problem:
                faults.append(f'all parts agree, but {change}: {type(problem).__name__}: {problem}')
            shutil.rmtree(tmp_path / 'run', ignore_errors=True)
        path.write_text(original)
    print(f'\n{len(verdicts)} mutated annotation files: {count(verdicts)}')
    assert not faults, '\n'.join(fault[:400] for fault in faults)


def verdict_of_data(cfg: dict) -> tuple[str, list]:
    """As above, for a config that is known to be sound."""
    findings = [finding for each in check_data_sets(Config(copy.deepcopy(cfg))).values() for finding in each]
    if any(finding.rule == 'rule-failed' for finding in findings):
        return 'rule', findings
    return ('found' if findings else 'agree'), findings
