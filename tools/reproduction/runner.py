"""Running rows one after the other, continuing what was interrupted, and going on after a failure."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from . import commands, server_files, state
from .commands import Command, Place
from .manifest import Manifest, Row

# as tools/launcher.py says it, with the paths in the indented lines below
ABSENT_DATA = 'The data this config reads is not there:'
EXCEPTION = re.compile(r'(\[rank\d+\]: ?)?(?P<text>(?P<name>[A-Za-z_][\w.]*(Error|Exception|Interrupt))(:.*)?)$')


@dataclass
class Runner:
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
                except (StepFailed, ValueError, OSError) as error:
                    self.failures[label] = str(error)
                    print(f'[{row.id}] FAILED: {error}', flush=True)
        return self.failures

    def _train_and_evaluate(self, row: Row, seed: int) -> None:
        folder = state.work_dir(self.base, row, seed)
        if folder in self._failed_folders:
            raise StepFailed(f'its training failed for an earlier row, see {folder / "train.log"}')
        command = commands.train(self.manifest, row, folder, seed, self.place, self.boxes)
        self._refuse_other_options(folder)
        self._tell_of_smaller_batches(row)
        try:
            self._step(row, folder, ('train',), command, 'train.log')
        except StepFailed:
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
        before = state.read(folder).get('train')
        if before and before.get('changes', []) != self._changes():
            raise StepFailed(
                f'{folder} holds a training with the options {before.get("changes", [])}, asked for is {self._changes()}: '
                'name another folder with --work-dirs, or remove this one')

    def _tell_of_smaller_batches(self, row: Row) -> None:
        config = commands.read_config(self.manifest.config_path(row.config))
        pictures = commands.synchronised_pictures(config, row.launch, self.place)
        if pictures:
            print(f'[{row.id}] note: its SyncBN normalises over {pictures[0]} pictures here, {pictures[1]} in the recipe')

    def _evaluate(self, row: Row, evaluation: str, folder: Path) -> None:
        boxes = self.boxes if evaluation == 'coco-val' else ''
        name = evaluation_name(evaluation, boxes)
        target = folder / name
        chosen = Path('CHECKPOINT') if self.dry else state.checkpoint(folder, self.checkpoint)
        command = commands.evaluate(self.manifest, row, evaluation, chosen, target, self.place, boxes)
        results = {} if self.dry else {'checkpoint': chosen.name}
        if not self.dry:
            target.mkdir(parents=True, exist_ok=True)
        self._step(
            row, folder, ('evaluations', name), command, f'{name}.log',
            results=results, finish=lambda: self._results(row, evaluation, target))

    def _results(self, row: Row, evaluation: str, target: Path) -> dict:
        """What an evaluation left behind: the table's figures, and the files for the benchmark's server."""
        if evaluation == 'coco-test-dev':
            settings, root = self.manifest.evaluations[evaluation], self.manifest.data['coco-test-dev']['root']
            boxes = json.loads((self.manifest.root / settings['boxes']).read_text())
            path = server_files.coco_server_zip(
                target / 'test-dev.keypoints.json', self.manifest.root / root / settings['ann_file'],
                Path(row.config).stem, target, most=len(boxes))
            return {'files': [str(path)]}
        results = {'metrics': read_metrics(self.manifest.evaluations[evaluation], target / 'metrics.json')}
        if evaluation.startswith('mpii'):
            files = server_files.mpii_predictions(target / 'predictions.pkl', target)
            results['files'] = [str(path) for path in files]
        return results

    def _figure(self, row: Row, seed: int) -> None:
        folder = state.work_dir(self.base, row, seed)
        needed = [self.manifest.rows[name] for name in row.needs]
        failed = [each.id for each in needed if f'{each.id} seed {seed}' in self.failures]
        if failed:
            raise StepFailed(f'it is made from {", ".join(failed)}, which failed')
        work_dirs = [state.work_dir(self.base, each, seed) for each in needed]
        checkpoints = [each / 'CHECKPOINT' if self.dry else state.checkpoint(each, self.checkpoint) for each in work_dirs]
        command = commands.figure(self.manifest, row, work_dirs, checkpoints, folder, self.place)
        self._step(row, folder, ('tool',), command, 'tool.log')

    def _step(self, row, folder: Path, keys: tuple[str, ...], command: Command, log: str, results=None, finish=dict):
        """Run one command unless it is done, and keep what became of it."""
        if self.dry:
            print(f'[{row.id}] {command}')
            return
        known = state.read(folder)
        before = _get(known, keys)
        done = before.get('status') == state.DONE and before.get('checkpoint') == (results or {}).get('checkpoint')
        if done and not (self.again and keys != ('train',)):
            print(f'[{row.id}] {keys[-1]}: done before')
            return
        if before.get('status') == state.RUNNING and not self.take_over:
            where = f'process {before.get("pid")} on {before.get("host")}'
            raise StepFailed(f'{keys[-1]} is running already, {where}; if that is gone: run with --take-over')
        verb = 'continues' if before else 'starts'
        print(f'[{row.id}] {keys[-1]} {verb}, log in {folder / log}', flush=True)
        step = {**state.started(list(command.arguments), folder / log), **self._origin(before if keys == ('train',) else {})}
        folder.mkdir(parents=True, exist_ok=True)
        self._keep(row, folder, keys, step)
        self._execute(command, folder / log, lambda pid: self._keep(row, folder, keys, {**step, 'pid': pid}), step)
        self._keep(row, folder, keys, step)
        if step['status'] == state.INTERRUPTED:
            raise KeyboardInterrupt
        if step['status'] == state.DONE:
            self._finish(step, results or {}, finish)
            self._keep(row, folder, keys, step)
        if step['status'] == state.FAILED:
            raise StepFailed(f'{keys[-1]}: {step["reason"]}')

    def _finish(self, step: dict, results: dict, finish) -> None:
        try:
            step.update(results, **finish())
        except (ValueError, OSError, KeyError) as error:
            step.update(status=state.FAILED, reason=f'{type(error).__name__}: {error}')

    def _origin(self, before: dict) -> dict:
        """Where a step comes from, as it begins; of a continued training, all places and commits in turn."""
        place, here = self.place, self.hardware
        if not here:
            here = f'{place.gpus} GPUs of {place.partition}' if place.partition else state.hardware(place.gpus)
        now = {'hardware': [here], 'commit': [state.commit()]}
        return {**{key: list(dict.fromkeys([*before.get(key, []), *now[key]])) for key in now}, 'changes': self._changes()}

    def _keep(self, row: Row, folder: Path, keys: tuple[str, ...], step: dict) -> None:
        known = state.read(folder)
        known['config'] = row.config
        parent = known.setdefault(keys[0], {}) if len(keys) > 1 else known
        parent[keys[-1]] = step
        state.write(folder, known)

    def _execute(self, command: Command, log: Path, on_start, step: dict) -> None:
        """Run a command to its end, its output going to ``log``; an interrupt ends the command too."""
        environment = {**os.environ, **dict(command.environment), **_environment(self.place)}
        with log.open('a') as output:
            output.write(f'$ {command}\n')
            output.flush()
            process = subprocess.Popen(
                command.arguments, cwd=self.manifest.root, env=environment, stdout=output, stderr=subprocess.STDOUT,
                start_new_session=True)
            on_start(process.pid)
            step['pid'] = process.pid
            try:
                code = process.wait()
            except KeyboardInterrupt:
                _end(process)
                step.update(status=state.INTERRUPTED, finished=time.time())
                return
        step.update(status=state.FAILED if code else state.DONE, returncode=code, finished=time.time())
        if code:
            step['reason'] = f'{_exit(code)}; {reason(log.read_text(errors="replace"))} (see {log})'


class StepFailed(Exception):
    """A training, an evaluation or a tool ended with an error."""


def evaluation_name(evaluation: str, boxes: str) -> str:
    """Name of an evaluation's folder and of its entry in the state."""
    return f'{evaluation}-{boxes}' if boxes else evaluation


def read_metrics(evaluation: dict, path: Path) -> dict[str, float]:
    """The table's figures, in percent, from what ``tools/test.py --out`` wrote."""
    measured = json.loads(path.read_text())
    return {column: evaluation['scale'] * measured[key] for column, key in evaluation['metrics'].items()}


def _get(known: dict, keys: tuple[str, ...]) -> dict:
    for key in keys:
        known = known.get(key, {})
    return known


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


def _end(process: subprocess.Popen) -> None:
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _exit(code: int) -> str:
    return f'ended by {signal.Signals(-code).name}' if code < 0 else f'exit status {code}'


def reason(log: str) -> str:
    """Why the last command of a log failed: data that is not there, its last exception, or its last line."""
    lines = [line for line in log.rpartition('\n$ ')[2].splitlines()[1:] if line.strip()]
    if ABSENT_DATA in lines:
        start = lines.index(ABSENT_DATA) + 1
        named = [line.strip() for line in itertools.takewhile(lambda line: line.startswith(' '), lines[start:])]
        return f'its data is not there: {", ".join(named)}; `check` says where to get it'
    # several processes write theirs as "[rank1]: ValueError: ..."; the launcher's own comes after them
    raised = [match for match in map(EXCEPTION.match, lines) if match and not match['name'].endswith('ChildFailedError')]
    return raised[-1]['text'] if raised else lines[-1].strip() if lines else 'no output'
