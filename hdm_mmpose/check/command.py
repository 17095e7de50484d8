"""Read a config, apply the rules, print the answer.

Overriding ``codec`` alone changes nothing in MMPose: pipelines and head keep their own copies, silently. The rules read
the merged config and compare every copy, the rule the loss trains with and the rule the decoder reads with, crops,
flip test, sizes and joints.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence

from mmengine.config import Config, DictAction
from mmengine.utils import get_installed_path
from mmpose.utils import register_all_modules

import hdm_mmpose.components  # noqa: F401  (registers our parts, also for a config that forgets to)

from . import (  # noqa: F401  (their rules register themselves)
    rules_agree,
    rules_build,
    rules_data,
    rules_meta,
    rules_metrics,
    rules_names,
    rules_numbers,
    rules_output,
    rules_runner,
)
from .data import check_data_sets
from .finding import CONFIG_RULES, Finding, apply_rules, merge_findings, plural
from .parts import is_lazy, read_parts

DATA = 'annotation files and pictures'


def check_config(cfg: Config | dict) -> list[Finding]:
    """Compare the parts of a merged config.

    Args:
        cfg: as read by ``Config.fromfile``; not changed.

    Returns:
        Findings, errors first; the same finding in several places is listed once with all its places.
    """
    return merge_findings(finding for findings in find_in_config(cfg).values() for finding in findings)


def find_in_config(cfg: Config | dict) -> dict[str, list[Finding]]:
    """What each rule finds, by what it compares."""
    register_all_modules()
    return apply_rules(CONFIG_RULES, read_parts(cfg))


def check_file(path: str, options: Sequence[str] = (), strict: bool = False, data: bool = False) -> int:
    """Read a config, print what agrees, what does not and what could not be checked, then the findings.

    Args:
        path: config file, or ``mmpose::...`` for one of the installed MMPose; it is Python code, and reading it runs it.
        options: ``key=value`` changes, as ``--cfg-options`` of MMPose's tools takes them.
        strict: whether warnings count.
        data: whether to look through the annotation files too.

    Returns:
        Exit status: 1 if there is an error, or with ``strict`` a warning; else 0.
    """
    try:
        cfg = Config.fromfile(resolve_path(path))
        cfg.merge_from_dict(parse_cfg_options(options))
    except Exception as problem:  # a config is code and may raise anything
        print(f'error: {path} cannot be read: {type(problem).__name__}: {problem}{lazy_hint(path)}')
        return 1
    found = find_in_config(cfg)
    if data:
        found.update(check_data_sets(cfg, sound=not any(each.level == 'error' for findings in found.values() for each in findings)))
    else:
        found.setdefault(DATA, [])
    findings = merge_findings(finding for findings in found.values() for finding in findings)
    levels = [finding.level for finding in findings]
    for line in answer(path, found, levels, data):
        print(line)
    for finding in findings:
        print(finding)
    return int('error' in levels or (strict and 'warning' in levels))


def answer(path: str, found: dict[str, list[Finding]], levels: list[str], data: bool) -> Iterator[str]:
    """The first lines: the verdict, and what agrees, what does not, what could not be checked."""
    unsure = [subject for subject, findings in found.items() if any(each.level == 'unchecked' for each in findings)]
    faulty = [subject for subject, findings in found.items() if any(each.level != 'unchecked' for each in findings)]
    skipped = [rule.subject for rule in CONFIG_RULES if rule.subject not in found]  # for want of a config without errors
    if not data:
        unsure.append(f'{DATA} (--data)')
    if 'error' in levels or 'warning' in levels:
        verdict = f'{plural(levels.count("error"), "error")}, {plural(levels.count("warning"), "warning")}'
    else:
        verdict = 'what was checked agrees' if unsure or skipped else 'all parts agree'
    yield f'{path}: {verdict}'
    agreeing = [subject for subject, findings in found.items() if not findings and subject != DATA]
    for title, subjects in (('agree', agreeing), ('disagree', faulty), ('not checked', unsure + skipped)):
        if subjects:
            yield f'  {title + ":":13}{", ".join(subjects)}'


def lazy_hint(path: str) -> str:
    """What to do where a config names a base in MMEngine's pure Python style, which ``_base_`` cannot read."""
    try:
        bases = [base for base in Config._get_base_files(resolve_path(path)) if '::' not in base]
        folder = os.path.dirname(resolve_path(path))
        lazy = [base for base in bases if is_lazy(os.path.join(folder, base))]
    except Exception:  # an older MMEngine, or a file that cannot be read at all: the message above says so
        return ''
    return (f'\n    repair: {lazy[0]} is in MMEngine\'s pure Python style, which `_base_` cannot read: write `with read_base(): '
            'from ... import *` in place of `_base_` (docs/swap.md, "Configs in pure Python style")' if lazy else '')


def resolve_path(path: str) -> str:
    """The file meant by ``mmpose::...``; any other path as it is."""
    package, scoped, name = path.partition('::')
    return os.path.join(get_installed_path(package), '.mim', 'configs', name) if scoped else path


def parse_cfg_options(options: Sequence[str]) -> dict:
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
