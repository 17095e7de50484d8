"""A command in a process of its own, with its log, its status and a way to go on: for demo, study and the paper's rows.

A work directory keeps ``state.json``: of each job begun there its status, command, process, host, times and log. A job
that is done is not repeated, one that still runs is left alone, whatever else there is of it is continued.

Standard library only, but for :func:`hardware`: the benchmarks, which run where torch alone is installed, use it too.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import platform
import re
import shlex
import signal
import socket
import subprocess
import threading
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RUNNING, DONE, FAILED, INTERRUPTED = 'running', 'done', 'failed', 'interrupted'
LOOK_AGAIN = 0.1  # seconds between two looks at a process
# as tools/launcher.py says it, with the paths in the indented lines below
ABSENT_DATA = 'The data this config reads is not there:'
EXCEPTION = re.compile(r'(\[rank\d+\]: ?)?(?P<text>(?P<name>[A-Za-z_][\w.]*(Error|Exception|Interrupt))(:.*)?)$')


class JobFailed(Exception):
    """A job ended with an error, ran out of time, or cannot be begun."""


@dataclass
class Job:
    """A command that belongs to a work directory.

    Args:
        folder: the work directory.
        keys: where ``state.json`` keeps the job: ``('train',)``, or ``('evaluations', name)``.
        command: program and arguments.
        log: file of the folder to which the output goes, after what is there.
        environment: variables on top of the inherited ones.
        about: what else the state keeps of it.
        finish: called when the command has succeeded; what it returns is kept too, and its error is the job's.
    """

    folder: Path
    keys: tuple[str, ...]
    command: Sequence[str]
    log: str
    environment: Mapping[str, str] = field(default_factory=dict)
    about: Mapping = field(default_factory=dict)
    finish: Callable[[], Mapping] = dict

    def before(self) -> dict:
        """What the state knows of the job; empty if it was never begun."""
        known = read(self.folder)
        for key in self.keys:
            known = known.get(key, {})
        return known

    def run(self, deadline: float = float('inf'), show: Callable[[str], object] | None = None, take_over: bool = False) -> dict:
        """Run the command to its end.

        Args:
            deadline: when to stop it, in seconds since the epoch.
            show: called with every line of its output.
            take_over: go on with what is marked as running in a process that cannot be seen from here.

        Returns:
            The job's entry in the state.

        Raises:
            JobFailed: it runs already, failed, or ran out of time.
            KeyboardInterrupt: this process was interrupted; the command has ended too.
        """
        before = self.before()
        if before.get('status') == RUNNING and not take_over:
            where = f'process {before.get("pid")} on {before.get("host")}'
            raise JobFailed(f'{self.keys[-1]} is running already, {where}; if that is gone: run with --take-over')
        if time.time() >= deadline:
            raise JobFailed('no time left')
        log, code = self.folder / self.log, None
        step = {**started(list(self.command), log), **self.about}
        self.keep(step)
        try:
            code = self._execute(log, step, deadline, show)
        finally:
            step.update(status=INTERRUPTED if code is None else FAILED if code else DONE, returncode=code, finished=time.time())
            self.keep(step)
        try:
            step.update(self.finish() if code == 0 else {})
        except (ValueError, OSError, KeyError) as error:
            step.update(status=FAILED, reason=f'{type(error).__name__}: {error}')
        if code:
            step['reason'] = f'{_exit(code)}; {reason(log.read_text(errors="replace"))} (see {log})'
        self.keep(step)
        if step['status'] == FAILED:
            raise JobFailed(f'{self.keys[-1]}: {step["reason"]}')
        return step

    def _execute(self, log: Path, step: dict, deadline: float, show: Callable[[str], object] | None) -> int:
        environment = {**os.environ, **self.environment}
        variables = ' '.join(f'{name}={value}' for name, value in self.environment.items())
        with log.open('a') as output:
            start = output.tell()
            output.write(f'$ {variables + " " if variables else ""}{shlex.join(self.command)}\n')
            output.flush()
            process = subprocess.Popen(
                self.command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            step['pid'] = process.pid
            self.keep(step)
            return _watch(process, log, start, deadline, show)
        finally:
            _end(process)

    def keep(self, step: dict) -> None:
        """Write the job's entry of the state."""
        known = read(self.folder)
        parent = known
        for key in self.keys[:-1]:
            parent = parent.setdefault(key, {})
        parent[self.keys[-1]] = step
        write(self.folder, known)


STOP = threading.Event()  # set it to end, from another thread, all that run


def _watch(process: subprocess.Popen, log: Path, start: int, deadline: float, show: Callable[[str], object] | None) -> int:
    """Exit status of a process, its lines shown as they come."""
    with log.open(errors='replace') as lines:
        lines.seek(start)
        part = ''
        while True:
            code = process.poll()
            if show is not None:
                *whole, part = (part + lines.read()).split('\n')
                for line in whole:
                    show(line)
            if code is not None:
                return code
            if STOP.is_set():
                raise KeyboardInterrupt
            if time.time() > deadline:
                raise JobFailed('stopped when the time was up; the next call resumes it')
            time.sleep(LOOK_AGAIN)


def _end(process: subprocess.Popen) -> None:
    """End a process and its children, if it still runs."""
    if process.poll() is not None:
        return
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def interrupt(*_: object) -> None:
    """Handler of a signal that ends this process as Ctrl-C does."""
    raise KeyboardInterrupt


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


# ---------------------------------------------------------------------------------------------------------- the state


def read(folder: Path) -> dict:
    """The state of a folder, with what stopped without saying so marked as interrupted.

    Raises:
        ValueError: the file is damaged.
    """
    path = folder / 'state.json'
    try:
        state = json.loads(path.read_text()) if path.exists() else {}
    except ValueError as error:
        raise ValueError(f'{path} is damaged ({error}): remove it, and `run` goes on from the checkpoints') from None
    for step in steps(state):
        if step.get('status') == RUNNING and not _alive(step):
            step['status'] = INTERRUPTED
    return state


def steps(state: dict) -> list[dict]:
    """The jobs of a state, those within a group of jobs too."""
    found = []
    for entry in state.values():
        if isinstance(entry, dict):
            found += [entry] if 'status' in entry else steps(entry)
    return found


def write(folder: Path, state: dict) -> None:
    """Write a folder's state."""
    write_whole(folder / 'state.json', json.dumps(state, indent=1) + '\n')


def write_whole(path: Path, text: str) -> None:
    """Write a file; a kill in the middle leaves the old one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f'{path.name}.new')
    temporary.write_text(text)
    temporary.replace(path)


def started(command: list[str], log: Path) -> dict:
    """The entry of a job that begins now."""
    return {'status': RUNNING, 'command': command, 'log': str(log), 'host': socket.gethostname(), 'started': time.time()}


def _alive(step: dict) -> bool:
    if step.get('host') != socket.gethostname():
        return True  # cannot be known from here
    pid = step.get('pid')
    if pid is None:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return not _is_zombie(pid)


def _is_zombie(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] == 'Z'
    return False


# ------------------------------------------------------------------------------ what must be the same, and where from


def fingerprint(settings: object) -> str:
    """Hash of settings, whatever their order."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()


def differences(was: Mapping, now: Mapping) -> list[str]:
    """What of ``now`` was otherwise, one phrase each."""
    return [f'{name} {was.get(name)!r}, now {value!r}' for name, value in now.items() if was.get(name) != value]


def commit() -> str:
    """The commit of this checkout, with a plus sign if tracked files have been changed since; 'unknown' outside git."""
    def git(*arguments: str) -> str:
        return subprocess.run(['git', *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git('rev-parse', '--short=12', 'HEAD') + ('+' if git('status', '--porcelain', '--untracked-files=no') else '')
    except (OSError, subprocess.CalledProcessError):
        return 'unknown'


def processor() -> str:
    """Name of the CPU, as Linux gives it."""
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(':', 1)[1].strip() for line in lines if line.startswith('model name')), platform.machine())


def hardware(gpus: int) -> str:
    """The devices a local run uses, such as ``8 x NVIDIA H200``."""
    import torch

    if gpus and torch.cuda.is_available():
        return f'{gpus} x {torch.cuda.get_device_name(0)}'
    return f'{max(gpus, 1)} x CPU process ({platform.machine()}, {os.cpu_count()} cores)'


def last_epoch(folder: Path) -> int:
    """Epochs that the newest checkpoint has seen, 0 without one."""
    marker = folder / 'last_checkpoint'
    found = re.search(r'epoch_(\d+)', marker.read_text()) if marker.exists() else None
    return int(found.group(1)) if found else 0


def checkpoint(folder: Path, which: str) -> Path:
    """The checkpoint to evaluate: ``best`` by the validation metric, as MMPose publishes, or ``last``.

    Where there is no best one, the last is taken.

    Raises:
        FileNotFoundError: the folder holds none.
    """
    # a kill while a best one was written leaves a part of it
    whole = filter(zipfile.is_zipfile, folder.glob('best_*.pth'))
    best = sorted(whole, key=lambda path: path.stat().st_mtime)
    if which == 'best' and best:
        return best[-1]
    marker = folder / 'last_checkpoint'
    if not marker.exists():
        raise FileNotFoundError(f'{folder} holds no checkpoint')
    # the folder may have moved since it was written
    return folder / Path(marker.read_text().strip()).name
