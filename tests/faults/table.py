"""Run the fault tests and write what they saw as a table: fault, what should happen, what did happen.

    python tests/faults/table.py                        # runs `pytest -m faults tests/faults`, writes docs/faults.md
    python tests/faults/table.py --junit results.xml    # makes the table of a run that was recorded with --junitxml
"""

from __future__ import annotations

import argparse
import platform
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COLUMNS = ('fault', 'expected', 'happened')
INTRODUCTION = """# What happens when something goes wrong

Made by `tests/faults/table.py` out of the tests in `tests/faults/` (`make test-faults`); do not edit.

{summary}

| fault | expected | happened |
|---|---|---|
"""


def run_tests(junit: Path) -> None:
    """Run the suite, recording it; failures are part of the record.

    Raises:
        SystemExit: pytest was stopped before it had written the record.
    """
    done = subprocess.run(
        [sys.executable, '-m', 'pytest', '-q', '-m', 'faults', '-o', 'junit_family=xunit1', f'--junitxml={junit}', 'tests/faults'],
        cwd=ROOT, check=False)
    if not junit.exists():
        raise SystemExit(f'pytest stopped with status {done.returncode} before it had written its record')


def read(junit: Path) -> tuple[list[dict[str, str]], dict[str, int]]:
    """Rows of the table, and how many tests passed, failed and were skipped."""
    rows, counts = [], dict(passed=0, failed=0, skipped=0)
    for case in ElementTree.parse(junit).iter('testcase'):
        if case.find('skipped') is not None:
            counts['skipped'] += 1
        elif case.find('failure') is not None or case.find('error') is not None:
            counts['failed'] += 1
            rows.append({'fault': f'`{case.get("name")}`', 'expected': 'the test passes', 'happened': '**FAILED**'})
        else:
            counts['passed'] += 1
            rows += rows_of(case)
    return rows, counts


def rows_of(case: ElementTree.Element) -> list[dict[str, str]]:
    """What a test noted, as often as it did."""
    noted = [(each.get('name'), each.get('value') or '') for each in case.iter('property') if each.get('name') in COLUMNS]
    return [dict(noted[start:start + len(COLUMNS)]) for start in range(0, len(noted), len(COLUMNS))]


def table(rows: list[dict[str, str]], counts: dict[str, int]) -> str:
    stack = ', '.join(f'{name} {version(name)}' for name in ('torch', 'mmengine', 'mmpose'))
    summary = (f'{counts["passed"]} tests passed, {counts["failed"]} failed, {counts["skipped"]} skipped '
               f'(those for a GPU, where there is none), with Python {platform.python_version()}, {stack}.')
    lines = ['| ' + ' | '.join(row[column].replace('|', '\\|') for column in COLUMNS) + ' |' for row in rows]
    return INTRODUCTION.format(summary=summary) + '\n'.join(lines) + '\n'


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', default=ROOT / 'docs' / 'faults.md', type=Path, help='file to write (default: docs/faults.md)')
    parser.add_argument('--junit', type=Path, help='a recorded run, instead of running the tests')
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        junit = args.junit or Path(folder) / 'faults.xml'
        if args.junit is None:
            run_tests(junit)
        rows, counts = read(junit)
    args.out.write_text(table(rows, counts))
    print(f'{args.out}: {len(rows)} rows, {counts}')
    return int(counts['failed'] > 0 or not rows)


if __name__ == '__main__':
    sys.exit(main())
