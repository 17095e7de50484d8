"""Mutations of configs and annotation files, for the fuzz of ``check``."""

from __future__ import annotations

import copy
import random
from typing import Any

VALUES = (None, 0, -1, 2, 3, 1.5, '', 'text', [], {}, [1, 2], (0, 0), True, False, float('nan'))
KEPT = ('work_dir', 'experiment_name', 'data_root', 'randomness', 'env_cfg', 'log_level', 'backend_args', 'custom_imports', 'launcher',
        'resume', 'auto_scale_lr', 'log_processor', 'default_scope')  # where a run writes, and what no run of a few seconds can tell


def places(value: Any, path: tuple = ()) -> list[tuple]:
    """Paths of everything inside a config or file."""
    found = [path] if path else []
    if isinstance(value, dict):
        for key, inner in value.items():
            if key not in KEPT:
                found += places(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            found += places(inner, (*path, index))
    return found


def at(value: Any, path: tuple) -> Any:
    for key in path:
        value = value[key]
    return value


def mutate(value: Any, rng: random.Random) -> tuple[Any, str]:
    """One thing changed in a copy, and what."""
    value = copy.deepcopy(value)
    path = rng.choice(places(value))
    owner, key = at(value, path[:-1]), path[-1]
    old = owner[key]
    kind = rng.choice(('drop', 'value', 'twist'))
    if kind == 'drop':
        del owner[key]
    elif kind == 'value':
        owner[key] = copy.deepcopy(rng.choice(VALUES))
    else:
        owner[key] = twisted(old, rng)
    new = owner[key] if kind != 'drop' else 'nothing'
    return value, f'{".".join(map(str, path))}: {old!r:.60} -> {new!r:.60}'


def twisted(old: Any, rng: random.Random) -> Any:
    """Something alike, and wrong in the way people are wrong."""
    if isinstance(old, bool):
        return not old
    if isinstance(old, (int, float)):
        return rng.choice((old + 1, old - 1, -old, old * 2, str(old)))
    if isinstance(old, str):
        return rng.choice((old[:-1], old + 's', old.lower(), old.upper(), [old]))
    if isinstance(old, (list, tuple)):
        kind = type(old)
        return rng.choice((kind(reversed(old)), old[:-1], old + old[:1], dict(enumerate(old))))
    if isinstance(old, dict):
        return rng.choice(([old], dict(old, surplus=1), list(old)))
    return 'text'
