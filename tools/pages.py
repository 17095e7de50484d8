"""Tables, and blocks of text between markers, in the Markdown pages that tools write.

    python tools/pages.py        # writes the tree of files into CONTRIBUTING.md
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table that is readable as plain text too; the first column is flush left, the others right."""
    cells = [[str(cell) for cell in row] for row in [head, *rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    lines = ['| ' + ' | '.join(cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths)))
             + ' |' for row in cells]
    rule = '|' + '|'.join('-' * (w + 2) if i == 0 else '-' * (w + 1) + ':' for i, w in enumerate(widths)) + '|'
    return '\n'.join([lines[0], rule, *lines[1:]])


def write_block(path: Path, name: str, text: str) -> None:
    """Replace what stands between ``<!-- begin name -->`` and ``<!-- end name -->`` in a Markdown file.

    Raises:
        SystemExit: the file or its markers are not there.
    """
    head, rest = find_block(path, name)
    path.write_text(f'{head}\n{text.strip()}\n{rest}')


def find_block(path: Path, name: str) -> tuple[str, str]:
    """What stands before and after a marked block, the markers included; call it before measuring for an hour.

    Raises:
        SystemExit: the file or its markers are not there.
    """
    begin, end = f'<!-- begin {name} -->', f'<!-- end {name} -->'
    old = path.read_text() if path.is_file() else ''
    if begin not in old or end not in old.split(begin, 1)[1]:
        raise SystemExit(f'{path} must hold the lines {begin} and {end}; the table goes between them')
    head, rest = old.split(begin, 1)
    return head + begin, end + rest.split(end, 1)[1]


def tree(folder: Path, indent: str = '') -> Iterator[str]:
    """One line per file below a folder: its name, and the first line of what it says of itself."""
    yield f'{indent}{folder.name}/'.ljust(36) + first_line(folder / '__init__.py')
    files = sorted(path for path in folder.iterdir() if path.suffix in ('.py', '.sh', '.cpp', '.md') and path.name != '__init__.py')
    for path in files:
        yield f'{indent}  {path.name}'.ljust(36) + first_line(path)
    for each in sorted(path for path in folder.iterdir() if path.is_dir() and any(path.glob('*.py'))):
        yield from tree(each, indent + '  ')


def first_line(path: Path) -> str:
    """First line of a module's docstring, of a script's comment, or of a page's title."""
    text = path.read_text() if path.is_file() else ''
    pattern = {'.py': r'\A(?:#!.*\n)?r?"""(.+?)(?:"""|\n)', '.md': r'\A# (.+)'}.get(path.suffix, r'\A(?:#!.*\n)?(?:#|//) (.+)')
    found = re.search(pattern, text)
    return found[1].rstrip('.:') if found else ''


def whole_tree() -> str:
    """The files of the package, the tools and the pages."""
    lines = [line.rstrip() for name in ('hdm_mmpose', 'tools', 'docs') for line in tree(ROOT / name)]
    return '\n'.join(['```text', *lines, '```'])


if __name__ == '__main__':
    write_block(ROOT / 'CONTRIBUTING.md', 'tree', whole_tree())
