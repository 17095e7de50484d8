"""What a check says, and the register of the rules that say it.

A rule is a function of the parts of a config (or of a data set that was built) that yields findings. It stands in the
register by its decorator, which also says what it compares and, for each finding, what it means: from there come the first
lines of the answer and the table of docs/troubleshooting.md.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

LEVELS = ('error', 'warning', 'unchecked')  # in the order in which they are printed


@dataclass(frozen=True)
class Finding:
    """One thing that disagrees, or could not be checked.

    Attributes:
        rule: short name that does not change.
        level: ``'error'``: it cannot work, or trains or decodes something else than written; ``'warning'``: it works,
            and something is lost; ``'unchecked'``: the command cannot tell.
        where: dotted path in the merged config.
        what: what disagrees, or what was not checked and why.
        repair: what to write instead, or how to check it.
    """

    rule: str
    level: str
    where: str
    what: str
    repair: str

    def __str__(self) -> str:
        level = 'not checked' if self.level == 'unchecked' else self.level
        return f'{level}: {self.what}\n    where:  {self.where}\n    repair: {self.repair}\n    rule:   {self.rule}'


def error(rule: str, where: str, what: str, repair: str) -> Finding:
    """A finding with which training or decoding goes wrong."""
    return Finding(rule, 'error', where, what, repair)


def warning(rule: str, where: str, what: str, repair: str) -> Finding:
    """A finding that costs something, or may be meant."""
    return Finding(rule, 'warning', where, what, repair)


def unchecked(rule: str, where: str, what: str, repair: str) -> Finding:
    """Something the command cannot tell."""
    return Finding(rule, 'unchecked', where, what, repair)


@dataclass(frozen=True)
class Rule:
    """A registered rule.

    Attributes:
        subject: what it compares, in two or three words.
        meanings: for each finding it may yield, its name and what that means.
        find: yields the findings.
        builds: 0 if it only compares; 1 if it builds parts of the config, which some errors found before would break; 2 if it runs
            a step, which any error would.
    """

    subject: str
    meanings: dict[str, str]
    find: Callable[[Any], Iterable[Finding]]
    builds: int = 0


CONFIG_RULES: list[Rule] = []  # of ConfigParts
DATA_RULES: list[Rule] = []  # of ReadDataset


def config_rule(subject: str, meanings: dict[str, str], builds: int = 0) -> Callable:
    """Register a rule about the parts of a config (arguments: those of :class:`Rule`)."""
    return functools.partial(_register, CONFIG_RULES, subject, meanings, builds)


def data_rule(subject: str, meanings: dict[str, str]) -> Callable:
    """Register a rule about a data set that was built (arguments: those of :class:`Rule`)."""
    return functools.partial(_register, DATA_RULES, subject, meanings, 0)


def _register(rules: list[Rule], subject: str, meanings: dict[str, str], builds: int, find: Callable) -> Callable:
    rules.append(Rule(subject, meanings, find, builds))
    return find


BROKEN = ('no-model', 'fragment', 'leftover-delete', 'not-a-dict', 'does-not-build', 'not-registered', 'lost-imports', 'imports', 'dataset')


def apply_rules(rules: Iterable[Rule], checked: Any) -> dict[str, list[Finding]]:
    """What each rule finds, by its subject; rules that build run last, and not on what cannot be built."""
    found: dict[str, list[Finding]] = {}
    for rule in sorted(rules, key=lambda rule: rule.builds):
        errors = [finding.rule for findings in found.values() for finding in findings if finding.level == 'error']
        hopeless = (rule.builds == 1 and any(name in BROKEN for name in errors)) or (rule.builds == 2 and errors)
        if not hopeless:
            found[rule.subject] = list(run_rule(rule, checked))
    return found


def run_rule(rule: Rule, checked: Any) -> Iterator[Finding]:
    """What a rule finds; that it fails is a finding too, and the other rules still report."""
    try:
        yield from rule.find(checked)
    except Exception as problem:  # a config may hold anything
        yield error('rule-failed', 'config', f'{rule.find.__name__} cannot read this config: {type(problem).__name__}: {problem}',
                    'correct the value that the message names; if it is right, this is a fault of `check`: report it')


def merge_findings(findings: Iterable[Finding]) -> list[Finding]:
    """Findings that differ by ``where`` alone put together; errors first, what could not be checked last."""
    places: dict[Finding, list[str]] = {}
    for finding in findings:
        places.setdefault(replace(finding, where=''), []).append(finding.where)
    joined = [replace(finding, where=', '.join(dict.fromkeys(where))) for finding, where in places.items()]
    return sorted(joined, key=lambda finding: LEVELS.index(finding.level))


def plural(number: int, what: str) -> str:
    """A number of things, in the plural unless it is one."""
    return f'{number} {what}{"s" * (number != 1)}'
