"""The commands that train and evaluate a row, on one machine or a Slurm cluster."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from .manifest import ROOT, Launch, Manifest, Row

TOOLS = ROOT / 'tools'


@dataclass(frozen=True)
class Place:
    """Where commands run.

    Args:
        gpus: devices, which is also the number of processes; 0 and 1 both mean one process.
        partition: Slurm partition; empty for this machine.
        batch: batch per device; 0 for the recipe's, or less where fewer are enough for the recipe's total.
        options: further ``--cfg-options`` for training.
        amp: whether to train with mixed precision.
    """

    gpus: int
    partition: str = ''
    batch: int = 0
    options: tuple[str, ...] = ()
    amp: bool = False


@dataclass(frozen=True)
class Command:
    """A command with the environment variables it needs on top of the inherited ones."""

    arguments: tuple[str, ...]
    environment: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        import shlex

        return ' '.join([*(f'{name}={value}' for name, value in self.environment), shlex.join(self.arguments)])


def train(manifest: Manifest, row: Row, folder: Path, seed: int, place: Place) -> Command:
    """The command that trains a row, or continues its training."""
    config = manifest.config_path(row.config)
    options = [f'randomness.seed={seed}', *batch_options(config, row.launch, place), *place.options]
    flags = ['--resume', *(['--amp'] if place.amp else []), '--cfg-options', *options]
    if place.partition:
        positional = [place.partition, f'{row.id}-{seed}', str(config), str(folder)]
        return Command((str(TOOLS / 'slurm_train.sh'), *positional, *flags), _slurm(place))
    flags = ['--work-dir', str(folder), *flags]
    if place.gpus > 1:
        return Command((str(TOOLS / 'dist_train.sh'), str(config), str(place.gpus), *flags))
    return Command((sys.executable, str(TOOLS / 'train.py'), str(config), *flags))


def evaluate(
    manifest: Manifest, row: Row, evaluation: str, checkpoint: Path, folder: Path, place: Place, boxes: str = ''
) -> Command:
    """The command that evaluates a checkpoint into ``folder``."""
    config = manifest.config_path(row.config)
    flags = ['--work-dir', str(folder), '--out', str(folder / 'metrics.json')]
    if evaluation.startswith('mpii'):
        flags += ['--dump', str(folder / 'predictions.pkl')]
    options = evaluation_options(manifest, evaluation, folder, boxes)
    flags += ['--cfg-options', *options] if options else []
    if place.partition:
        positional = [place.partition, f'{row.id}-{evaluation}', str(config), str(checkpoint)]
        return Command((str(TOOLS / 'slurm_test.sh'), *positional, *flags), _slurm(place))
    if place.gpus > 1:
        return Command((str(TOOLS / 'dist_test.sh'), str(config), str(checkpoint), str(place.gpus), *flags))
    return Command((sys.executable, str(TOOLS / 'test.py'), str(config), str(checkpoint), *flags))


def figure(manifest: Manifest, row: Row, work_dirs: list[Path], folder: Path) -> Command:
    """The command that makes a figure from trained rows."""
    arguments: list[str] = []
    for word in row.tool.split():
        arguments += [str(each) for each in work_dirs] if word == '{work_dirs}' else [word.format(out=folder)]
    return Command((sys.executable, str(manifest.root / arguments[0]), *arguments[1:]))


def _slurm(place: Place) -> tuple[tuple[str, str], ...]:
    return ('GPUS', str(place.gpus)), ('GPUS_PER_NODE', str(min(place.gpus, 8)))


def batch_options(config: Path, launch: Launch, place: Place) -> list[str]:
    """Options that keep the recipe's total batch on another number of devices.

    Fewer devices accumulate gradients over several iterations; the warm-up, which counts iterations, becomes longer by the
    same factor. Batch normalisation still sees one device's batch.

    Raises:
        ValueError: the total cannot be divided so.
    """
    processes = max(place.gpus, 1)
    batch = place.batch or min(launch.batch, max(launch.total // processes, 1))
    steps, rest = divmod(launch.total, processes * batch)
    if rest or not steps:
        raise ValueError(
            f'gpus and batch must divide the total batch of the recipe, {launch.total} ({launch.gpus} x {launch.batch}), '
            f'got {processes} x {batch}'
        )
    options = [] if batch == launch.batch else [f'train_dataloader.batch_size={batch}']
    if steps > 1:
        options += [f'optim_wrapper.accumulative_counts={steps}', *_longer_warm_up(config, steps)]
    return options


def _longer_warm_up(config: Path, factor: int) -> list[str]:
    from mmengine.config import Config

    schedule = Config.fromfile(config, import_custom_modules=False).param_scheduler
    return [
        f'param_scheduler.{index}.end={each["end"] * factor}'
        for index, each in enumerate(schedule)
        if not each.get('by_epoch', True)
    ]


def evaluation_options(manifest: Manifest, evaluation: str, folder: Path, boxes: str) -> list[str]:
    """``--cfg-options`` of an evaluation: person boxes by name, or the test-dev data and the server's file."""
    if evaluation == 'coco-val':
        return [f'test_dataloader.dataset.bbox_file={manifest.boxes[boxes]["file"]}'] if boxes else []
    if evaluation != 'coco-test-dev':
        return []
    settings = manifest.evaluations[evaluation]
    root = manifest.data['coco-test-dev']['root']
    return [
        f'test_dataloader.dataset.ann_file={settings["ann_file"]}',
        f'test_dataloader.dataset.data_prefix.img={settings["images"]}',
        f'test_dataloader.dataset.bbox_file={settings["boxes"]}',
        f'test_evaluator.ann_file={root}/{settings["ann_file"]}',
        'test_evaluator.format_only=True',
        f'test_evaluator.outfile_prefix={folder}/test-dev',
    ]
