"""The table of findings in docs/troubleshooting.md, made of what the rules declare: ``python -m hdm_mmpose.check.table PAGE``."""

from __future__ import annotations

import sys
from pathlib import Path

from . import command  # noqa: F401  (imports all rules)
from .evaluation import MEANINGS
from .finding import CONFIG_RULES, DATA_RULES

FILES = {
    'no-annotations': 'the annotation file is not there',
    'no-boxes': "the file of a detector's boxes is not there",
    'not-json': 'a file that is cut off, or no JSON',
    'not-read': 'the data set class cannot read entries of the file: a key is missing, or a value of another kind than it reads',
    'rule-failed': 'a value in the config with which a rule itself fails',
}
START, END = '<!-- findings: made by python -m hdm_mmpose.check.table -->', '<!-- findings: end -->'


def finding_table() -> str:
    """Markdown: one line per finding, in alphabetical order."""
    meanings = {**FILES, **MEANINGS}
    for rule in [*CONFIG_RULES, *DATA_RULES]:
        meanings.update(rule.meanings)
    lines = [f'| `{name}` | {meaning} |' for name, meaning in sorted(meanings.items())]
    return '\n'.join(['| rule | what it means |', '|---|---|', *lines])


def with_table(page: str) -> str:
    """A page with its table made anew.

    Raises:
        ValueError: it has no place for one.
    """
    before, start, rest = page.partition(START)
    _, end, after = rest.partition(END)
    if not end:
        raise ValueError(f'the page must hold {START!r} and then {END!r}, got neither or one')
    return f'{before}{start}\n{finding_table()}\n{end}{after}'


if __name__ == '__main__':
    path = Path(sys.argv[1])
    path.write_text(with_table(path.read_text(encoding='utf-8')), encoding='utf-8')
