"""Running rows one after the other, continuing what was interrupted, and going on after a failure."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tools import jobs

from . import commands, server_files
from .commands import Command, Place
from .manifest import Manifest, Row


@dataclass
class RowRunner:
    """Runs rows of a manifest.

    Args:
        manifest: the manifest.
        base: folder of all work directories.
        place: where commands run.
        boxes: name of the person boxes for COCO val.
        checkpoint: ``best`` or ``last``, the one that is evaluated.
        dry: print commands instead of running them.
        again: repeat evaluations and figures that are done.
        take_over: go on with what is marked as running, in a process that cannot be seen from here.
        hardware: what the report calls the devices; empty: read off this machine, or the partition's name.
    """

    manifest: Manifest
    base: Path
    place: Place
    boxes: str = 'ap56'
    checkpoint: str = 'best'
    dry: bool = False
    again: bool = False
    take_over: bool = False
    hardware: str = ''
    failures: dict[str, str] = field(default_factory=dict)
    _failed_folders: set[Path] = field(default_factory=set)

    def run(self, rows: list[Row], seeds: list[int]) -> dict[str, str]:
        """Run the rows in order, each with every seed; returns what failed, by row."""
        for row in rows:
            if not row.runnable:
                print(f'[{row.id}] no recipe trains this row: its figure is only quoted')
                continue
            for seed in seeds if row.config else seeds[:1]:
                label = f'{row.id} seed {seed}' if row.config else row.id
                try:
                    self._train_and_evaluate(row, seed) if row.config else self._figure(row, seed)
                except (jobs.JobFailed, ValueError, OSError) as error:
                    self.failures[label] = str(error)
                    print(f'[{row.id}] FAILED: {error}', flush=True)
        return self.failures

    def _train_and_evaluate(self, row: Row, seed: int) -> None:
        folder = work_dir(self.base, row, seed)
        if folder in self._failed_folders:
            raise jobs.JobFailed(f'its training failed for an earlier row, see {folder / "train.log"}')
        command = commands.train(self.manifest, row, folder, seed, self.place, self.boxes)
        self._refuse_other_options(folder)
        self._tell_of_smaller_batches(row)
        try:
            self._run(row, folder, ('train',), command)
        except jobs.JobFailed:
            self._failed_folders.add(folder)
            raise
        evaluation = self.manifest.tables[row.table].evaluation
        if evaluation:
            self._evaluate(row, evaluation, folder)

    def _changes(self) -> list[str]:
        """What the command line changes in the recipe, as the report shows it."""
        return [*(['--amp'] if self.place.amp else []), *self.place.options]

    def _refuse_other_options(self, folder: Path) -> None:
        """A training is one row's measurement: one begun with other options must not be continued or taken for this."""
        before = jobs.read(folder).get('train')
        if before and before.get('changes', []) != self._changes():
            raise jobs.JobFailed(
                f'{folder} holds a training with the options {before.get("changes", [])}, asked for is {self._changes()}: '
                'name another folder with --work-dirs, or remove this one')

    def _tell_of_smaller_batches(self, row: Row) -> None:
        config = commands.read_config(self.manifest.config_path(row.config))
        pictures = commands.synchronised_pictures(config, row.launch, self.place)
        if pictures:
            print(f'[{row.id}] note: its SyncBN normalises over {pictures[0]} pictures here, {pictures[1]} in the recipe')

    def _evaluate(self, row: Row, evaluation: str, folder: Path) -> None:
        boxes = self.manifest.boxes_of(evaluation, self.boxes)
        name = evaluation_name(evaluation, boxes)
        target = folder / name
        chosen = Path('CHECKPOINT') if self.dry else jobs.checkpoint(folder, self.checkpoint)
        command = commands.evaluate(self.manifest, row, evaluation, chosen, target, self.place, boxes)
        if not self.dry:
            target.mkdir(parents=True, exist_ok=True)
        self._run(row, folder, ('evaluations', name), command, chosen.name, lambda: self._results(row, evaluation, target))

    def _results(self, row: Row, evaluation: str, target: Path) -> dict:
        """What an evaluation left behind: the table's figures, and the files for the benchmark's server."""
        settings = self.manifest.evaluations[evaluation]
        if 'server' in settings:
            server, root = settings['server'], self.manifest.root
            most = len(json.loads((root / server['boxes']).read_text()))
            path = server_files.coco_server_zip(
                target / server['results'], root / server['pictures'], Path(row.config).stem, target, most)
            return {'files': [str(path)]}
        results = {'metrics': read_metrics(settings, target / 'metrics.json')}
        if settings.get('dump'):
            results['files'] = [str(path) for path in server_files.mpii_predictions(target / 'predictions.pkl', target)]
        return results

    def _figure(self, row: Row, seed: int) -> None:
        folder = work_dir(self.base, row, seed)
        needed = [self.manifest.rows[name] for name in row.needs]
        failed = [each.id for each in needed if f'{each.id} seed {seed}' in self.failures]
        if failed:
            raise jobs.JobFailed(f'it is made from {", ".join(failed)}, which failed')
        work_dirs = [work_dir(self.base, each, seed) for each in needed]
        checkpoints = [each / 'CHECKPOINT' if self.dry else jobs.checkpoint(each, self.checkpoint) for each in work_dirs]
        self._run(row, folder, ('tool',), commands.figure(self.manifest, row, work_dirs, checkpoints, folder, self.place))

    def _run(self, row: Row, folder: Path, keys: tuple[str, ...], command: Command, checkpoint: str | None = None,
             finish: Callable[[], Mapping] = dict) -> None:
        """Run one command unless it is done, for this checkpoint where it reads one."""
        if self.dry:
            print(f'[{row.id}] {command}')
            return
        about = {} if checkpoint is None else {'checkpoint': checkpoint}
        job = jobs.Job(
            folder, keys, command.arguments, f'{keys[-1]}.log', {**dict(command.environment), **_environment(self.place)}, finish=finish)
        before = job.before()
        done = before.get('status') == jobs.DONE and before.get('checkpoint') == checkpoint
        if done and not (self.again and keys != ('train',)):
            print(f'[{row.id}] {keys[-1]}: done before')
            return
        job.about = {**about, **self._origin(before if keys == ('train',) else {})}
        print(f'[{row.id}] {keys[-1]} {"continues" if before else "starts"}, log in {folder / job.log}', flush=True)
        job.run(take_over=self.take_over)

    def _origin(self, before: Mapping) -> dict:
        """Where a step comes from, as it begins; of a continued training, all places and commits in turn."""
        place, here = self.place, self.hardware
        if not here:
            here = f'{place.gpus} GPUs of {place.partition}' if place.partition else jobs.hardware(place.gpus)
        now = {'hardware': [here], 'commit': [jobs.commit()]}
        return {**{key: list(dict.fromkeys([*before.get(key, []), *now[key]])) for key in now}, 'changes': self._changes()}


def work_dir(base: Path, row: Row, seed: int) -> Path:
    """The folder of a row's training; rows with the same config share it. Figures have one of their own."""
    if row.config:
        return base / Path(row.config).stem / f'seed-{seed}'
    return base / 'figures' / row.id


def evaluation_name(evaluation: str, boxes: str) -> str:
    """Name of an evaluation's folder and of its entry in the state."""
    return f'{evaluation}-{boxes}' if boxes else evaluation


def read_metrics(evaluation: dict, path: Path) -> dict[str, float]:
    """The table's figures, in percent, from what ``tools/test.py --out`` wrote."""
    measured = json.loads(path.read_text())
    return {column: evaluation['scale'] * measured[key] for column, key in evaluation['metrics'].items()}


def _environment(place: Place) -> dict[str, str]:
    """The interpreter's folder first, so that the shell launchers use it, a port that is free now, and no GPU for 0."""
    extra = {'PATH': os.pathsep.join([str(Path(sys.executable).parent), os.environ.get('PATH', '')])}
    if not place.gpus:
        extra['CUDA_VISIBLE_DEVICES'] = ''
    if 'PORT' in os.environ:
        return extra
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        return {**extra, 'PORT': str(free.getsockname()[1])}
