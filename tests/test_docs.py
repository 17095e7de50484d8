"""README and docs: every Python block runs, every config block agrees with itself, every link leads somewhere."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob('*.md'), *(ROOT / 'docs').glob('**/*.md')])
FENCE = re.compile(r'^```(\w+)?([^\n]*)\n(.*?)^```', re.M | re.S)
LINK = re.compile(r'!?\[[^\]]*\]\(([^)\s]+)\)')


@dataclass(frozen=True)
class Block:
    """A fenced block of Python; ``flags`` is what stands after the language, ``line`` where it starts."""

    page: Path
    line: int
    flags: str
    code: str

    def __str__(self) -> str:
        return f'{self.page.relative_to(ROOT)}:{self.line}'


def blocks(page: Path) -> list[Block]:
    text = page.read_text()
    return [Block(page, text[:match.start()].count('\n') + 1, (match[2] or '').strip(), match[3])
            for match in FENCE.finditer(text) if match[1] in ('python', 'py')]


BLOCKS = [block for page in PAGES for block in blocks(page)]


@pytest.mark.parametrize('block', BLOCKS, ids=str)
def test_python_block_runs(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if 'no-run' in block.flags:
        pytest.skip(f'{block} is marked no-run')
    monkeypatch.chdir(tmp_path)
    if '_base_' in block.code:
        check_config_block(block.code, tmp_path)
    else:
        exec(compile(block.code, str(block), 'exec'), {'__name__': '__main__'})  # what a reader would do with it


def check_config_block(code: str, folder: Path) -> None:
    """A config is read, not executed line by line; and what we print must pass our own check."""
    pytest.importorskip('mmpose', reason="configs are MMPose's")
    from mmengine.config import Config

    from hdm_mmpose.check import check_config

    (folder / 'config.py').write_text(code)
    errors = [finding for finding in check_config(Config.fromfile(folder / 'config.py')) if finding.level == 'error']
    assert not errors, '\n'.join(map(str, errors))


@pytest.mark.parametrize('page', PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """Files exist, and sections too; addresses on the network are not visited."""
    dead = []
    for target in LINK.findall(FENCE.sub('', page.read_text())):
        if re.match(r'[a-z]+:', target):
            continue
        path, _, section = target.partition('#')
        there = (page.parent / path).resolve() if path else page
        if not there.exists() or (section and there.suffix == '.md' and section not in sections(there)):
            dead.append(target)
    assert not dead


def sections(page: Path) -> set[str]:
    """Names of a page's sections as GitHub makes them."""
    headings = re.findall(r'^#+ +(.+?)\s*$', FENCE.sub('', page.read_text()), re.M)
    return {re.sub(r'[^\w\- ]', '', re.sub(r'`', '', heading).lower()).replace(' ', '-') for heading in headings}


def test_there_is_something_to_run() -> None:
    assert any(block.page.name == 'README.md' for block in BLOCKS)
    assert any('_base_' in block.code for block in BLOCKS)
