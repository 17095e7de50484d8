"""One run of a study: train, read the heatmaps with each of its decoders, measure, write ``result.json``.

The run's work dir is an ordinary MMEngine work dir. Besides it holds ``weights.pth`` (the last epoch's, weights only),
``predictions/*.keypoints.json`` (COCO results format, from ``CocoMetric``) and ``result.json``; a finalist's ``predictions/test/`` and
``test.json`` are of the people that no choice has seen.
"""

from __future__ import annotations

import hashlib
import json
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.runner import Runner

from tools import jobs
from tools.benchmarks.measuring import installed
from tools.studies.config import Study, StudyRun, fingerprint

PACKAGES = ('torch', 'mmengine', 'mmcv', 'mmcv-lite', 'mmpose', 'numpy')


def perform(study: Study, run: StudyRun, other_commit: bool = False) -> dict:
    """Train and measure one run, resuming what is there; ``other_commit`` lets it go on with what another commit began.

    Returns:
        What ``result.json`` holds.

    Raises:
        SystemExit: the work dir holds a run with other settings, or of another commit, data or pretrained weights.
    """
    set_threads(study)
    folder, cfg = study.folder(run), study.config(run)
    claim(folder, fingerprint(cfg), origin(study, cfg), other_commit)
    about = describe(study, run, cfg)  # before: the checkout may move on while it trains
    weights = folder / 'weights.pth'
    if not weights.exists():
        train(cfg, weights)
    result = {
        **about,
        **timing(folder, cfg),
        'curve': curve(folder, study.domain.logged),
        'decoders': {name: read_with(study, run, name, weights) for name in study.decoders(run)},
        'finished': time.strftime('%Y-%m-%d %H:%M:%S'),
    }
    jobs.write_whole(folder / 'result.json', json.dumps(result, indent=1))
    return result


def perform_test(study: Study, run: StudyRun, other_commit: bool = False) -> dict:
    """Read a finalist's weights on the people that no choice has seen.

    Returns:
        What ``test.json`` holds.

    Raises:
        ValueError: the run is not marked as a finalist.
        SystemExit: it has not been trained, or not with these settings, or not by this commit and on these data.
    """
    set_threads(study)
    folder = study.folder(run)
    weights = folder / 'weights.pth'
    if not (folder / 'result.json').exists() or not weights.exists():
        raise SystemExit(f'{run.name} has no result and weights in {folder}: `study.py run` first')
    cfg = study.config(run)
    claim(folder, fingerprint(cfg), origin(study, cfg), other_commit)
    readings = {name: read_with(study, run, name, weights, 'test') for name in study.decoders(run)}
    result = {'decoders': readings, 'commit': jobs.commit(), 'finished': time.strftime('%Y-%m-%d %H:%M:%S')}
    jobs.write_whole(folder / 'test.json', json.dumps(result, indent=1))
    return result


def set_threads(study: Study) -> None:
    """The study's number of threads: the last digits depend on it."""
    if study.threads:
        torch.set_num_threads(study.threads)


def claim(folder: Path, mark: str, now: dict[str, Any], other_commit: bool = False) -> None:
    """Make the folder this run's, or see that it already is, and ``now`` where it comes from (:func:`origin`)."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / 'fingerprint'
    if file.exists() and file.read_text() != mark:
        raise SystemExit(f'{folder} holds a run with other settings: remove it, or give the changed supervision another name')
    kept = folder / 'origins.json'
    before = json.loads(kept.read_text()) if kept.exists() else []
    changed = jobs.differences(before[-1], now) if before else []
    if changed and not other_commit:
        raise SystemExit(f'{folder} was begun with {"; ".join(changed)}: remove it, or go on all the same with --other-commit')
    file.write_text(mark)
    if changed or not before:
        jobs.write_whole(kept, json.dumps([*before, now], indent=1))


def origin(study: Study, cfg: Config) -> dict[str, Any]:
    """Commit, threads, and hashes of the annotations and of the weights that a run starts from."""
    files = {part: study.annotations(part) for part in ('train', 'val', 'test')}
    start = cfg.model.backbone.get('init_cfg')
    if isinstance(start, dict) and start.get('checkpoint'):
        files['weights'] = Path(start['checkpoint'])
    hashes = {name: hashlib.sha256(file.read_bytes()).hexdigest()[:16] for name, file in files.items() if file.is_file()}
    return {'commit': jobs.commit(), 'threads': study.threads, **hashes}


def train(cfg: Config, weights: Path) -> None:
    """Train to the end, from the last checkpoint if there is one, and keep the weights alone."""
    if (Path(cfg.work_dir) / 'last_checkpoint').exists():
        cfg.resume, cfg.load_from = True, None
    runner = build_runner(cfg)
    model = runner.train()
    torch.save({'state_dict': model.state_dict(), 'meta': {'dataset_meta': None}}, weights.with_suffix('.part'))
    weights.with_suffix('.part').rename(weights)
    for checkpoint in Path(cfg.work_dir).glob('*epoch_*.pth'):  # as large as three weights.pth, and no longer needed
        checkpoint.unlink()
    (Path(cfg.work_dir) / 'last_checkpoint').unlink(missing_ok=True)


def build_runner(cfg: Config) -> Runner:
    """A runner that logs into its own work dir: MMEngine keeps visualizers by name, process-wide."""
    cfg.visualizer.name = cfg.experiment_name
    return Runner.from_cfg(cfg)


def read_with(study: Study, run: StudyRun, name: str, weights: Path, part: str = 'val') -> dict:
    """Test the weights with one decoder on a part of the data and measure what it predicted."""
    cfg = study.decoder_config(run, name, weights, part)
    study.predictions(run, name, part).parent.mkdir(parents=True, exist_ok=True)
    runner = build_runner(cfg)
    stock = runner.test()
    return {**measured(study, run, name, part), 'mmpose': {key: float(value) for key, value in stock.items()}}


def measured(study: Study, run: StudyRun, name: str, part: str = 'val') -> dict:
    """What is measured of the predictions that a decoder left."""
    return study.domain.measure(study.predictions(run, name, part), study.annotations(part))


def measure_again(study: Study, run: StudyRun) -> None:
    """Bring a finished run's metrics up to what its domain measures now, from its saved predictions."""
    for file, part in ((study.folder(run) / 'result.json', 'val'), (study.folder(run) / 'test.json', 'test')):
        if not file.exists():
            continue
        result = json.loads(file.read_text())
        for name, metrics in result['decoders'].items():
            metrics.update(measured(study, run, name, part))
        jobs.write_whole(file, json.dumps(result, indent=1))


def describe(study: Study, run: StudyRun, cfg: Config) -> dict[str, Any]:
    """What ran, on what, from which commit."""
    return {
        'study': study.name, 'stage': run.stage, 'backbone': run.backbone, 'supervision': run.supervision, 'seed': run.seed,
        'epochs': cfg.train_cfg.max_epochs, 'batch_size': cfg.train_dataloader.batch_size, 'fingerprint': fingerprint(cfg),
        'device': torch.cuda.get_device_name() if torch.cuda.is_available() else jobs.processor(),
        'threads': torch.get_num_threads(), 'versions': {name: version for name in PACKAGES if (version := installed(name))},
        'python': platform.python_version(), 'commit': jobs.commit()}


def scalars(folder: Path) -> list[dict]:
    """All lines that MMEngine logged, over all sessions of a run."""
    lines = []
    for file in sorted(folder.glob('*/vis_data/scalars.json')):
        lines += [json.loads(line) for line in file.read_text().splitlines()]
    return lines


def timing(folder: Path, cfg: Config) -> dict[str, float]:
    """Step times as MMEngine logged them, in seconds: median, without waiting for data, and all training steps together."""
    steps = [line for line in scalars(folder) if 'data_time' in line and 'loss' in line]
    if not steps:
        return {}
    times = [line['time'] for line in steps]
    last = max(line['step'] for line in steps)
    return {
        'step_seconds': statistics.median(times),
        'compute_seconds': statistics.median(line['time'] - line['data_time'] for line in steps),
        'train_seconds': statistics.fmean(times) * last}


def curve(folder: Path, logged: str) -> list[dict]:
    """Validation metrics by epoch, of the lines that hold the metric ``logged``, with the mean training loss since the one before."""
    points, losses = {}, []
    for line in scalars(folder):
        if 'data_time' in line and 'loss' in line:
            losses.append(line['loss'])
        elif logged in line:
            metrics = {key: value for key, value in line.items() if key not in ('time', 'data_time', 'step')}
            train_loss = statistics.fmean(losses) if losses else None
            points[line['step']] = {'epoch': line['step'], 'train_loss': train_loss, **metrics}
            losses = []
    return [points[epoch] for epoch in sorted(points)]
