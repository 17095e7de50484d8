"""The commands that train and evaluate a row, on one machine or a Slurm cluster."""

from __future__ import annotations

import functools
import os
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .manifest import ROOT, Manifest, RecipeBatch, Row

TOOLS = ROOT / 'tools'


@dataclass(frozen=True)
class Place:
    """Where commands run.

    Args:
        gpus: devices, which is also the number of processes; 0 and 1 both mean one process.
        partition: Slurm partition; empty for this machine.
        batch: batch per device; 0 for the recipe's, or less where fewer are enough for the recipe's total.
        options: further ``--cfg-options``, for training and evaluation.
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
        return ' '.join([*(f'{name}={value}' for name, value in self.environment), shlex.join(self.arguments)])


def train(manifest: Manifest, row: Row, folder: Path, seed: int, place: Place, boxes: str = '') -> Command:
    """The command that trains a row, or continues its training; validated on the person boxes ``boxes`` on the way."""
    path = manifest.config_path(row.config)
    config = read_config(path)
    options = [f'randomness.seed={seed}', *batch_options(config, row.launch, place), *_boxes_option(manifest, config, boxes)]
    flags = ['--resume', *(['--amp'] if place.amp else []), '--cfg-options', *options, *place.options]
    if place.partition:
        positional = [place.partition, f'{row.id}-{seed}', str(path), str(folder)]
        return Command((str(TOOLS / 'slurm_train.sh'), *positional, *flags), _slurm(place))
    flags = ['--work-dir', str(folder), *flags]
    if place.gpus > 1:
        return Command((str(TOOLS / 'dist_train.sh'), str(path), str(place.gpus), *flags))
    return Command((sys.executable, str(TOOLS / 'train.py'), str(path), *flags))


@functools.lru_cache(maxsize=None)
def read_config(path: Path) -> Any:
    """A config, without what it imports; nobody changes it."""
    from mmengine.config import Config

    return Config.fromfile(path, import_custom_modules=False)


def _boxes_option(manifest: Manifest, config: Any, boxes: str) -> list[str]:
    own = config.val_dataloader.dataset.get('bbox_file')
    if not own or not boxes or own == manifest.boxes[boxes]['file']:
        return []
    return [f'val_dataloader.dataset.bbox_file={manifest.boxes[boxes]["file"]}']


def evaluate(
    manifest: Manifest, row: Row, evaluation: str, checkpoint: Path, folder: Path, place: Place, boxes: str = ''
) -> Command:
    """The command that evaluates a checkpoint into ``folder``."""
    config = manifest.config_path(row.config)
    flags = ['--work-dir', str(folder), '--out', str(folder / 'metrics.json')]
    settings = manifest.evaluations[evaluation]
    if settings.get('dump'):
        flags += ['--dump', str(folder / 'predictions.pkl')]
    file = manifest.boxes[boxes]['file'] if boxes else ''
    options = [*(option.format(folder=folder, boxes=file) for option in settings.get('options', [])), *place.options]
    flags += ['--cfg-options', *options] if options else []
    if place.partition:
        positional = [place.partition, f'{row.id}-{evaluation}', str(config), str(checkpoint)]
        return Command((str(TOOLS / 'slurm_test.sh'), *positional, *flags), _slurm(place))
    if place.gpus > 1:
        return Command((str(TOOLS / 'dist_test.sh'), str(config), str(checkpoint), str(place.gpus), *flags))
    return Command((sys.executable, str(TOOLS / 'test.py'), str(config), str(checkpoint), *flags))


def figure(manifest: Manifest, row: Row, work_dirs: list[Path], checkpoints: list[Path], folder: Path, place: Place) -> Command:
    """The command that makes a figure from trained rows, on one device."""
    device = 'cuda' if place.gpus else 'cpu'
    arguments: list[str] = []
    for word in row.tool.split():
        many = {'{work_dirs}': work_dirs, '{checkpoints}': checkpoints}.get(word)
        arguments += [word.format(out=folder, device=device)] if many is None else map(str, many)
    tool = (sys.executable, str(manifest.root / arguments[0]), *arguments[1:])
    return Command((*_srun(row, place), *tool) if place.partition else tool)


def _srun(row: Row, place: Place) -> list[str]:
    cpus = os.environ.get('CPUS_PER_TASK', '5')
    more = shlex.split(os.environ.get('SRUN_ARGS', ''))
    return ['srun', '-p', place.partition, f'--job-name={row.id}', '--gres=gpu:1', '--ntasks=1', f'--cpus-per-task={cpus}', *more]


def _slurm(place: Place) -> tuple[tuple[str, str], ...]:
    per_node = min(place.gpus, int(os.environ.get('GPUS_PER_NODE', 8)))
    return ('GPUS', str(place.gpus)), ('GPUS_PER_NODE', str(per_node))


def batch_options(config: Any, launch: RecipeBatch, place: Place) -> list[str]:
    """Options that keep the recipe's total batch on another number of devices.

    Fewer devices accumulate gradients over several iterations; what counts iterations, the warm-up and the moving average of
    the weights, becomes slower by the same factor. Batch normalisation sees one device's batch, or that of all devices under
    SyncBN, which then is a smaller one.

    Raises:
        ValueError: the total cannot be divided so.
    """
    processes, batch = _processes_and_batch(launch, place)
    steps, rest = divmod(launch.total, processes * batch)
    if rest or not steps:
        raise ValueError(
            f'gpus and batch must divide the total batch of the recipe, {launch.total} ({launch.gpus} x {launch.batch}), '
            f'got {processes} x {batch}'
        )
    options = [] if batch == launch.batch else [f'train_dataloader.batch_size={batch}']
    if steps > 1:
        options += [f'optim_wrapper.accumulative_counts={steps}', *_slower_by_iteration(config, steps)]
    return options


def _processes_and_batch(launch: RecipeBatch, place: Place) -> tuple[int, int]:
    """Processes, and the batch of each: the one asked for, or the recipe's, or less where that exceeds its total."""
    processes = max(place.gpus, 1)
    return processes, place.batch or min(launch.batch, max(launch.total // processes, 1))


def _slower_by_iteration(config: Any, factor: int) -> list[str]:
    options = [
        f'param_scheduler.{index}.end={each["end"] * factor}'
        for index, each in enumerate(config.param_scheduler)
        if not each.get('by_epoch', True)
    ]
    for index, hook in enumerate(config.get('custom_hooks') or []):
        if hook['type'] == 'EMAHook':
            options.append(f'custom_hooks.{index}.interval={hook.get("interval", 1) * factor}')
            if hook.get('ema_type') == 'ExpMomentumEMA':  # its momentum settles over so many iterations, not updates
                options.append(f'custom_hooks.{index}.gamma={hook.get("gamma", 2000) * factor}')
    return options


def synchronised_pictures(config: Any, launch: RecipeBatch, place: Place) -> tuple[int, int] | None:
    """Pictures per batch normalisation here and in the recipe, where SyncBN makes them differ; otherwise None."""
    if not _mentions(config.model, 'SyncBN'):
        return None
    processes, batch = _processes_and_batch(launch, place)
    here = processes * batch
    return None if here == launch.total else (here, launch.total)


def _mentions(value: Any, name: str) -> bool:
    if isinstance(value, Mapping):
        return any(_mentions(each, name) for each in value.values())
    if isinstance(value, (list, tuple)):
        return any(_mentions(each, name) for each in value)
    return value == name
