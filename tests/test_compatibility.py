"""tools/compatibility.py: what pytest reports becomes a row, and rows become the page."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tools import compatibility

REPORT = '''<testsuites><testsuite name="pytest">
<testcase name="a"/><testcase name="b"/>
<testcase name="c"><failure message="no"/></testcase><testcase name="d"><error message="no"/></testcase>
<testcase name="e"><skipped type="pytest.skip" message="needs an NVIDIA GPU"/></testcase>
<testcase name="f"><skipped type="pytest.skip" message="needs an NVIDIA GPU"/></testcase>
<testcase name="g"><skipped type="pytest.skip" message="onnx is not installed"/></testcase>
</testsuite></testsuites>'''


def test_report_is_counted(tmp_path: Path):
    (tmp_path / 'report.xml').write_text(REPORT)
    assert compatibility.read_report(tmp_path / 'report.xml') == {
        'passed': 2, 'failed': 2, 'skipped': {'needs an NVIDIA GPU': 2, 'onnx is not installed': 1}}


def row(**changes) -> dict:
    return {'python': '3.8.18', 'system': 'Linux x86_64', **dict.fromkeys(compatibility.STACK, '1.0'), 'torch': '1.13.1', 'tests': '',
            'passed': 18, 'failed': 0, 'skipped': {'needs an NVIDIA GPU': 2}, 'date': '2026-01-01', 'commit': 'abc', **changes}


def test_page_has_a_line_for_each_environment_and_its_skips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    page = tmp_path / 'page.md'
    page.write_text('before\n<!-- begin environments -->\n<!-- end environments -->\nafter\n')
    monkeypatch.setattr(compatibility, 'PAGE', page)
    compatibility.write_page([row(), row(mmpose=None, tests='tests/transport')])
    text = page.read_text()
    assert text.startswith('before') and text.endswith('after\n')
    lines = [line for line in text.splitlines() if line.startswith('| 3.8.18')]
    assert len(lines) == 2 and '90.0%' in lines[0] and 'default suite' in lines[0] and 'tests/transport' in lines[1]
    assert text.count('- 2: needs an NVIDIA GPU') == 2


def test_same_versions_and_tests_replace_a_row_and_old_torch_comes_first():
    assert compatibility.key(row()) == compatibility.key(row(passed=3, date='2027-01-01'))
    assert compatibility.key(row()) != compatibility.key(row(numpy='2.0'))
    assert sorted([row(torch='2.11.0'), row(torch='2.1.2'), row()], key=compatibility.key)[0]['torch'] == '1.13.1'
    assert compatibility.key(row(torch='2.1.2')) < compatibility.key(row(torch='2.11.0'))


def test_a_part_of_the_tests_is_run_and_entered(root: Path, tmp_path: Path):
    """In a copy of the folder's layout, with tests of two lines."""
    for name in ('tools', 'hdm_mmpose'):
        (tmp_path / name).symlink_to(root / name)
    script = f'''
import sys
from pathlib import Path
sys.path.insert(0, {str(root)!r})
from tools import compatibility
compatibility.ROOT = Path({str(tmp_path)!r})
compatibility.PAGE, compatibility.ROWS = compatibility.ROOT / 'page.md', compatibility.ROOT / 'rows.json'
sys.argv = ['compatibility.py', 'test_two.py']
sys.exit(compatibility.main())
'''
    (tmp_path / 'page.md').write_text('<!-- begin environments -->\n<!-- end environments -->\n')
    (tmp_path / 'test_two.py').write_text('import pytest\ndef test_one(): pass\n@pytest.mark.skip(reason="so")\ndef test_two(): pass\n')
    done = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    (entered,) = json.loads((tmp_path / 'rows.json').read_text())
    assert (entered['passed'], entered['failed'], entered['skipped'], entered['tests']) == (1, 0, {'so': 1}, 'test_two.py')
    assert '50.0%' in (tmp_path / 'page.md').read_text()


def test_the_page_is_what_the_rows_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    written = compatibility.PAGE.read_text()
    copy = tmp_path / 'page.md'
    copy.write_text(written)
    monkeypatch.setattr(compatibility, 'PAGE', copy)
    compatibility.write_page(json.loads(compatibility.ROWS.read_text()) if compatibility.ROWS.exists() else [])
    assert copy.read_text() == written
