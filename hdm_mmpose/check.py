"""``python -m hdm_mmpose check CONFIG``: what in a config still disagrees with distribution matching.

Overriding ``codec`` alone changes nothing in MMPose: pipelines and head keep their own copies, silently. This command reads
the merged config and compares every copy, the rule the loss trains with and the rule the decoder reads with, crops,
flip test, sizes and joints (``check_rules.py``). It builds no data set; ``--data`` looks through its files (``check_data.py``).
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

from mmengine.config import Config, DictAction
from mmengine.utils import get_installed_path
from mmpose.utils import register_all_modules

import hdm_mmpose.components  # noqa: F401  (registers our parts, also for a config that forgets to)
from hdm_mmpose.check_data import check_data
from hdm_mmpose.check_rules import RULES, Finding, error
from hdm_mmpose.recipe import Recipe, read_recipe


def check_config(cfg: Config | dict) -> list[Finding]:
    """Compare the parts of a merged config.

    Args:
        cfg: as read by ``Config.fromfile``; not changed.

    Returns:
        Findings, errors first; the same finding in several places is listed once with all its places.
    """
    register_all_modules()
    recipe = read_recipe(cfg.to_dict() if isinstance(cfg, Config) else cfg)
    return merged(finding for rule in RULES for finding in judged(rule, recipe))


def judged(rule: Callable[[Recipe], Iterable[Finding]], recipe: Recipe) -> Iterator[Finding]:
    """What a rule finds; that it fails is a finding too, and the other rules still report."""
    try:
        yield from rule(recipe)
    except Exception as problem:  # a config may hold anything
        yield error('rule-failed', 'config', f'{rule.__name__} cannot judge this config: {type(problem).__name__}: {problem}',
                    'correct the value that the message names; if it is right, this is a fault of `check`: report it')


def merged(findings: Iterable[Finding]) -> list[Finding]:
    """Findings that differ by ``where`` alone put together; errors first."""
    places: dict[Finding, list[str]] = {}
    for finding in findings:
        places.setdefault(replace(finding, where=''), []).append(finding.where)
    joined = [replace(finding, where=', '.join(dict.fromkeys(where))) for finding, where in places.items()]
    return sorted(joined, key=lambda finding: finding.level != 'error')


def check_file(path: str, options: Sequence[str] = (), strict: bool = False, data: bool = False) -> int:
    """Read a config, print the findings.

    Args:
        path: config file, or ``mmpose::...`` for one of the installed MMPose; it is Python code, and reading it runs it.
        options: ``key=value`` changes, as ``--cfg-options`` of MMPose's tools takes them.
        strict: whether warnings count.
        data: whether to look through the annotation files too.

    Returns:
        Exit status: 1 if there is an error, or with ``strict`` any finding; else 0.
    """
    try:
        cfg = Config.fromfile(located(path))
        cfg.merge_from_dict(parsed(options))
    except Exception as problem:  # a config is code and may raise anything
        print(f'error: {path} cannot be read: {type(problem).__name__}: {problem}')
        return 1
    findings = check_config(cfg) + (merged(check_data(cfg)) if data else [])
    for finding in findings:
        print(finding)
    errors = sum(finding.level == 'error' for finding in findings)
    counted = f'{counts(errors, "error")}, {counts(len(findings) - errors, "warning")}'
    print(f'{path}: {counted if findings else "all parts agree"}')
    return int(errors > 0 or (strict and bool(findings)))


def located(path: str) -> str:
    """The file meant by ``mmpose::...``; any other path as it is."""
    package, scoped, name = path.partition('::')
    return os.path.join(get_installed_path(package), '.mim', 'configs', name) if scoped else path


def counts(number: int, what: str) -> str:
    """A number of things, in the plural unless it is one."""
    return f'{number} {what}{"s" * (number != 1)}'


def parsed(options: Sequence[str]) -> dict:
    """``key=value`` changes as MMEngine reads them.

    Raises:
        ValueError: a change without ``=``.
    """
    for option in options:
        if '=' not in option:
            raise ValueError(f'--cfg-options must be KEY=VALUE, got {option!r}')
    parser = argparse.ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, default={})
    return parser.parse_args(['--cfg-options', *options]).cfg_options if options else {}
