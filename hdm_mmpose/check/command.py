"""Read a config, apply the rules, print the answer.

Overriding ``codec`` alone changes nothing in MMPose: pipelines and head keep their own copies, silently. The rules read
the merged config and compare every copy, the rule the loss trains with and the rule the decoder reads with, crops,
flip test, sizes and joints.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

from mmengine.config import Config, DictAction
from mmengine.utils import get_installed_path
from mmpose.utils import register_all_modules

import hdm_mmpose.components  # noqa: F401  (registers our parts, also for a config that forgets to)

from . import rules_agree, rules_build, rules_numbers, rules_output  # noqa: F401  (their rules register themselves)
from .data import check_data
from .finding import CONFIG_RULES, Finding, merge_findings, plural, run_rule
from .parts import read_parts


def check_config(cfg: Config | dict) -> list[Finding]:
    """Compare the parts of a merged config.

    Args:
        cfg: as read by ``Config.fromfile``; not changed.

    Returns:
        Findings, errors first; the same finding in several places is listed once with all its places.
    """
    register_all_modules()
    parts = read_parts(cfg.to_dict() if isinstance(cfg, Config) else cfg)
    return merge_findings(finding for rule in CONFIG_RULES for finding in run_rule(rule, parts))


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
        cfg = Config.fromfile(resolve_path(path))
        cfg.merge_from_dict(parse_cfg_options(options))
    except Exception as problem:  # a config is code and may raise anything
        print(f'error: {path} cannot be read: {type(problem).__name__}: {problem}')
        return 1
    findings = check_config(cfg) + (merge_findings(check_data(cfg)) if data else [])
    for finding in findings:
        print(finding)
    errors = sum(finding.level == 'error' for finding in findings)
    counted = f'{plural(errors, "error")}, {plural(len(findings) - errors, "warning")}'
    print(f'{path}: {counted if findings else "all parts agree"}')
    return int(errors > 0 or (strict and bool(findings)))


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
