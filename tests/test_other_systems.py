"""Windows and macOS, as far as that can be tested on Linux: what the package imports and calls, and paths as Windows writes them."""

from __future__ import annotations

import ast
import io
import json
import ntpath
import tokenize
from importlib.util import find_spec
from pathlib import Path, PureWindowsPath

import pytest

from tests.test_torch_only import imported
from tools import launcher

ROOT = Path(__file__).resolve().parent.parent
# The package, and what of tools/ is meant to run anywhere.
PORTABLE = sorted((ROOT / 'hdm_mmpose').glob('**/*.py')) + [ROOT / 'tools' / name for name in ('train.py', 'test.py', 'launcher.py')]
CONFIG = PureWindowsPath(r'C:\Users\A Name\my configs\td-hm_res50.py')
DATA = PureWindowsPath(r'D:\my data\coco 2017')
needs_mmpose = pytest.mark.skipif(find_spec('mmpose') is None, reason="configs are MMPose's")


@pytest.mark.parametrize('module', ['fcntl', 'grp', 'pwd', 'resource', 'termios', 'pty', 'posix', 'posixpath', 'syslog'])
def test_no_posix_module_is_imported(module: str):
    for file in PORTABLE:
        assert module not in {name.split('.')[0] for name in imported(file)}, file


@pytest.mark.parametrize('name', ['fork', 'geteuid', 'getloadavg', 'killpg', 'sched_getaffinity', 'setsid', 'uname', 'symlink', 'SIGKILL'])
def test_no_posix_function_is_called(name: str):
    for file in PORTABLE:
        for node in ast.walk(ast.parse(file.read_text(encoding='utf-8'))):
            assert not (isinstance(node, ast.Attribute) and node.attr == name), f'{file}:{node.lineno}'


def test_text_files_are_opened_as_utf_8():
    """Elsewhere Python's own choice is another one."""
    for file in PORTABLE:
        for node in ast.walk(ast.parse(file.read_text(encoding='utf-8'))):
            if isinstance(node, ast.Call):
                name = getattr(node.func, 'attr', getattr(node.func, 'id', ''))
                binary = any(isinstance(each, ast.Constant) and 'b' in str(each.value) for each in node.args[1:])
                if name in ('open', 'read_text', 'write_text') and not binary:
                    assert 'encoding' in {keyword.arg for keyword in node.keywords}, f'{file}:{node.lineno}'


def test_every_message_can_be_printed_in_any_code_page():
    for file in PORTABLE:
        for token in tokenize.generate_tokens(io.StringIO(file.read_text(encoding='utf-8')).readline):
            assert token.type != tokenize.STRING or token.string.isascii(), f'{file}:{token.start[0]}'


@needs_mmpose
def test_a_drive_letter_is_no_package():
    from hdm_mmpose.check.command import resolve_path

    assert resolve_path(str(CONFIG)) == str(CONFIG)
    assert resolve_path(CONFIG.as_posix()) == CONFIG.as_posix()


@needs_mmpose
@pytest.mark.parametrize('root', [DATA, DATA.as_posix(), f'{DATA.as_posix()}/'], ids=str)
def test_annotation_files_are_joined_as_the_system_does(monkeypatch, root):
    from hdm_mmpose.check import parts

    monkeypatch.setattr(parts.os, 'path', ntpath)
    joined = parts.annotation_file({'data_root': str(root), 'ann_file': 'annotations/train.json'})
    assert PureWindowsPath(joined) == DATA / 'annotations' / 'train.json'
    other = r'E:\elsewhere\train.json'
    assert parts.annotation_file({'data_root': str(root), 'ann_file': other}) == other


@needs_mmpose
def test_check_names_a_missing_file_as_it_was_written(tmp_path, monkeypatch, capsys):
    """A file name of Windows is one name here, drive, backslashes, spaces and all."""
    from hdm_mmpose.check.command import check_file

    monkeypatch.chdir(tmp_path)
    assert check_file(str(CONFIG)) == 1
    assert f'error: {CONFIG} cannot be read' in capsys.readouterr().out


@needs_mmpose
def test_check_reads_files_whose_names_have_drive_letters_and_spaces(tmp_path, monkeypatch, capsys):
    from hdm_mmpose.check.command import check_file
    from tests.tiny_training import RECIPE

    monkeypatch.chdir(tmp_path)
    Path(CONFIG.name).write_text(f"_base_ = [{str(RECIPE)!r}]\ntrain_dataloader = dict(dataset=dict(data_root={str(DATA)!r}))\n")
    assert check_file(CONFIG.name, data=True) == 1
    told = capsys.readouterr().out
    assert str(DATA) in told and 'does not exist' in told and f'{CONFIG.name}: ' in told


@pytest.mark.parametrize('path, local', [(str(CONFIG), True), (CONFIG.as_posix(), True), (r'\\server\share\data', True),
                                         ('https://example.org/a.json', False), ('s3://bucket/a.json', False)])
def test_launchers_take_a_drive_for_a_file_system(path, local):
    assert launcher.is_local(path) is local


def test_launchers_leave_absolute_paths_of_windows_alone(monkeypatch):
    monkeypatch.setattr(launcher.os, 'path', ntpath)
    assert launcher.from_here_or_repository(str(CONFIG)) == str(CONFIG)
    assert launcher.from_here_or_repository(r'\\server\share\a b.json') == r'\\server\share\a b.json'


def test_a_windows_path_survives_a_config_and_a_json_file(tmp_path):
    (tmp_path / 'a.json').write_text(json.dumps({'path': str(DATA)}))
    assert PureWindowsPath(json.loads((tmp_path / 'a.json').read_text())['path']) == DATA
    config = pytest.importorskip('mmengine.config', reason='MMEngine reads configs')
    (tmp_path / 'c.py').write_text(f'data_root = {str(DATA)!r}\n')
    read = config.Config.fromfile(str(tmp_path / 'c.py'))
    read.dump(str(tmp_path / 'dumped.py'))
    assert PureWindowsPath(config.Config.fromfile(str(tmp_path / 'dumped.py')).data_root) == DATA
