"""README and docs: Python blocks run, config blocks agree with themselves, links lead somewhere, commands are understood."""

from __future__ import annotations

import functools
import os
import re
import shlex
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from tools.pages import whole_tree

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob('*.md'), *(ROOT / 'docs').glob('**/*.md')])
FENCE = re.compile(r'^```(\w+)?([^\n]*)\n(.*?)^```', re.M | re.S)
START = r'(?:[A-Z_]+=\S+ +)*(?:(?:python +)?(?:tools|tests)/[\w/]+\.(?:py|sh)|python +-m +hdm_mmpose|make +[a-z])'
COMMAND = re.compile(rf'^ *({START}.*)$|`({START}[^`]*)`', re.M)  # a line of its own, or a span inside one
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
            for match in FENCE.finditer(text)
            if match[1] in ('python', 'py') and (match[2] or '').strip() != 'session']  # those are run by tests/test_use.py


BLOCKS = [block for page in PAGES for block in blocks(page)]


@pytest.mark.parametrize('block', BLOCKS, ids=str)
def test_python_block_runs(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if 'no-run' in block.flags:
        pytest.skip(f'{block} is marked no-run')
    monkeypatch.chdir(tmp_path)
    if '_base_ =' in block.code:
        check_config_block(block.code, tmp_path)
    elif '_base_' in block.code:
        check_lines_for_a_config(block.code)
    else:
        exec(compile(block.code, str(block), 'exec'), {'__name__': '__main__'})  # what a reader would do with it


def check_lines_for_a_config(code: str) -> None:
    """Lines to add to a config of one's own, whose recipe has hooks or none: they must stay."""
    pytest.importorskip('mmpose', reason="configs are MMPose's")
    from mmengine.config import Config
    from mmpose.registry import HOOKS

    import hdm_mmpose.components  # noqa: F401  registers the hooks

    for recipe in ({'custom_hooks': [{'type': 'EMAHook'}]}, {}):
        names: dict = {'_base_': Config(recipe)}
        exec(compile(code, 'lines', 'exec'), names)
        hooks = names['custom_hooks']
        assert hooks[:1] == recipe.get('custom_hooks', hooks[:1]) and len(hooks) > 1 + len(recipe)
        assert all(HOOKS.get(hook['type']) for hook in hooks)


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


# ------------------------------------------------------------------------------------------------------------ commands


def commands(page: Path) -> list[str]:
    """The shell commands of this project that a page prints, each once."""
    text = FENCE.sub(lambda match: '' if match[1] in ('python', 'py') else match[3], page.read_text())
    found = (line or span for line, span in COMMAND.findall(text.replace('\\\n', ' ')))
    return list(dict.fromkeys(re.sub(r'\s+#.*', '', command) for command in found))


COMMANDS = [(page, command) for page in PAGES for command in commands(page)]


@pytest.mark.parametrize(('page', 'command'), COMMANDS, ids=lambda value: value if isinstance(value, str) else value.name)
def test_command_is_understood(page: Path, command: str) -> None:
    assert not complaints(command), page.relative_to(ROOT)


@pytest.mark.parametrize(('command', 'complaint'), [
    ('make nothing', "no target 'nothing'"), ('make test NOTHING=1', "no variable 'NOTHING'"),
    ('python tools/nothing.py', 'tools/nothing.py is not there'), ('tools/nothing.sh', 'tools/nothing.sh is not there'),
    ('python tools/train.py configs/coco/nothing.py', 'configs/coco/nothing.py is not there'),
    ('A=1 tools/dist_train.sh configs/coco/nothing.py 8  # so', 'configs/coco/nothing.py is not there'),
    ('tools/benchmarks/gpu.sh nothing', "knows no 'nothing'"),
    ('python tools/study.py run configs/lspet/study.yml --nothing 1', "knows no option '--nothing'"),
    ('python tools/study.py report configs/lspet/study.yml --jobs 3', "knows no option '--jobs'"),
    ('python -m hdm_mmpose check CONFIG --nothing', "knows no option '--nothing'"),
    ('python -m hdm_mmpose check CONFIG --data', None), ('make test PYTHON=/usr/bin/python3 ARGS="-k newton -x"', None)])
def test_wrong_commands_are_noticed(command: str, complaint: str | None) -> None:
    found = complaints(command)
    assert [complaint in each for each in found] == [True] if complaint else not found


def complaints(command: str) -> list[str]:
    """What about a printed command cannot work: tools, configs, make targets and options that do not exist."""
    words = shlex.split(command, comments=True)
    while '=' in words[0]:
        words.pop(0)
    if words[0] == 'make':
        return _make_complaints(words[1:])
    if words[0] == 'python':
        words.pop(0)
    tool, words = (words[:2], words[2:]) if words[0] == '-m' else (words[:1], words[1:])
    missing = [word for word in (*tool[-1:], *words) if re.fullmatch(r'(tools|tests|configs)/[\w./-]+\.(py|sh|yml)', word)
               and not (ROOT / word).is_file()]
    if missing:
        return [f'{path} is not there' for path in missing]
    if tool[0].endswith('.sh'):
        return _shell_complaints(ROOT / tool[0], words)
    options = [word.split('=')[0] for word in words if word.startswith('--')]
    if not options:
        return []
    help_text = help_of(*tool, *(word for word in words[:1] if re.fullmatch('[a-z]+', word)))
    known = re.findall(r'(?<![\w-])--[\w-]+', help_text)
    return [f'{tool[-1]} knows no option {option!r}' for option in options if option not in known]


def _make_complaints(words: list[str]) -> list[str]:
    text = (ROOT / 'Makefile').read_text()
    found = [f'the Makefile has no target {word!r}' for word in words
             if '=' not in word and not re.search(rf'^{word}:', text, re.M)]
    names = [word.split('=')[0] for word in words if '=' in word]
    return found + [f'the Makefile has no variable {name!r}' for name in names if f'$({name})' not in text]


def _shell_complaints(script: Path, words: list[str]) -> list[str]:
    """Words of lower-case letters are stages, where the script has any."""
    text = script.read_text()
    stages = [word for word in words if re.fullmatch('[a-z]+', word)] if 'case ' in text else []
    found = [f'{script.name} knows no {word!r}' for word in stages if not re.search(rf'\b{word}\)', text)]
    return found if os.access(script, os.X_OK) else [f'{script.name} cannot be executed', *found]


@functools.lru_cache(maxsize=None)
def help_of(*words: str) -> str:
    """What a tool, or one command of it, says of its options."""
    environment = {**os.environ, 'PYTHONPATH': str(ROOT), 'PYTHONWARNINGS': 'ignore'}
    done = subprocess.run([sys.executable, *words, '--help'], cwd=ROOT, env=environment, text=True, capture_output=True, timeout=300)
    assert done.returncode == 0, (words, done.stderr[-2000:])
    return done.stdout


def test_there_is_something_to_run() -> None:
    assert any(block.page.name == 'README.md' for block in BLOCKS)
    assert any('_base_' in block.code for block in BLOCKS)
    assert sum(page.name == 'README.md' for page, _ in COMMANDS) > 10


# ---------------------------------------------------------------------------------------------------- size and the tree


def test_the_readme_fits_on_three_screens() -> None:
    assert len((ROOT / 'README.md').read_text().splitlines()) <= 150


def test_contributing_names_every_file() -> None:
    text = (ROOT / 'CONTRIBUTING.md').read_text()
    tree = whole_tree()
    assert tree in text, 'run `python tools/pages.py`: the tree in CONTRIBUTING.md is out of date'
    bare = [line for line in tree.splitlines()[1:-1] if len(line.split()) < 2 and line != 'docs/']
    assert not bare, f'files that do not say in their first line what they are: {bare}'
    assert max(Counter(path.parent for name in ('hdm_mmpose', 'tools') for path in (ROOT / name).rglob('*.py')).values()) <= 25


def test_contributing_sends_nobody_astray() -> None:
    """Files and folders of the table are there; a star stands for the rest of a name."""
    table = (ROOT / 'CONTRIBUTING.md').read_text().split('## Which file')[1].split('\n## ')[0]
    named = [each for each in re.findall(r'`([\w./*-]+)`', table) if '/' in each]
    assert len(named) > 12 and not [each for each in named if not list(ROOT.glob(each.rstrip('/')))]
