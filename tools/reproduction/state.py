"""What has been run: one state.json in every work directory."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import socket
import time
from pathlib import Path

from .manifest import Row
from .origin import checkpoint as checkpoint
from .origin import commit as commit

RUNNING, DONE, FAILED, INTERRUPTED = 'running', 'done', 'failed', 'interrupted'


def work_dir(base: Path, row: Row, seed: int) -> Path:
    """The folder of a row's training; rows with the same config share it. Figures have one of their own."""
    if row.config:
        return base / Path(row.config).stem / f'seed-{seed}'
    return base / 'figures' / row.id


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
    """Training, tool and evaluations of a state, those that exist."""
    return [state[name] for name in ('train', 'tool') if name in state] + list(state.get('evaluations', {}).values())


def write(folder: Path, state: dict) -> None:
    """Write a folder's state; a kill in the middle leaves the old one."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / 'state.json.new'
    temporary.write_text(json.dumps(state, indent=1) + '\n')
    temporary.replace(folder / 'state.json')


def started(command: list[str], log: Path) -> dict:
    """A step that begins now."""
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


def last_epoch(folder: Path) -> int:
    """Epochs that the newest checkpoint has seen, 0 without one."""
    marker = folder / 'last_checkpoint'
    found = re.search(r'epoch_(\d+)', marker.read_text()) if marker.exists() else None
    return int(found.group(1)) if found else 0


def hardware(gpus: int) -> str:
    """The devices a local run uses, such as ``8 x NVIDIA H200``."""
    import torch

    if gpus and torch.cuda.is_available():
        return f'{gpus} x {torch.cuda.get_device_name(0)}'
    return f'{max(gpus, 1)} x CPU process ({platform.machine()}, {os.cpu_count()} cores)'
