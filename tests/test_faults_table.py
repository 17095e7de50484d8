"""tests/faults/table.py makes its table of a recorded run."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.faults import table as tool

RECORD = """<testsuites><testsuite>
<testcase name="test_one"><properties>
  <property name="fault" value="kill -9" /><property name="expected" value="a | b" /><property name="happened" value="c" />
  <property name="fault" value="twice" /><property name="expected" value="d" /><property name="happened" value="e" />
</properties></testcase>
<testcase name="test_broken[nan]"><properties><property name="fault" value="no" /></properties><failure message="x" /></testcase>
<testcase name="test_gpu"><skipped message="needs a CUDA device" /></testcase>
</testsuite></testsuites>"""


def test_table_of_a_recorded_run(tmp_path: Path) -> None:
    (tmp_path / 'record.xml').write_text(RECORD)
    rows, counts = tool.read(tmp_path / 'record.xml')
    assert counts == dict(passed=1, failed=1, skipped=1)
    text = tool.table(rows, counts)
    assert '| kill -9 | a \\| b | c |\n| twice | d | e |\n| `test_broken[nan]` | the test passes | **FAILED** |' in text
    assert '1 tests passed, 1 failed, 1 skipped' in text


def test_a_failure_fails_the_command(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / 'record.xml').write_text(RECORD)
    monkeypatch.setattr(sys, 'argv', ['faults_table.py', '--junit', str(tmp_path / 'record.xml'), '--out', str(tmp_path / 'out.md')])
    assert tool.main() == 1
    assert (tmp_path / 'out.md').read_text().startswith('# What happens')
