"""Test this environment, and enter what came out into docs/compatibility.md.

    python tools/compatibility.py                       # the default suite, one process
    python tools/compatibility.py --jobs 2              # in two
    python tools/compatibility.py tests/transport ...   # a part; the row says which
    python tools/compatibility.py --page                # write the page anew, test nothing

Rows stand in docs/data/compatibility.json; a row with the same versions and the same tests is replaced.
"""

from __future__ import annotations

import argparse
import collections
import json
import platform
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from hdm_mmpose.__main__ import STACK, installed  # noqa: E402
from tools.jobs import commit  # noqa: E402
from tools.pages import find_block, table, write_block  # noqa: E402

PAGE = ROOT / 'docs' / 'compatibility.md'
ROWS = ROOT / 'docs' / 'data' / 'compatibility.json'


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('tests', nargs='*', help='files or folders of tests; without, all of them')
    parser.add_argument('--jobs', type=int, default=1, help='processes')
    parser.add_argument('--page', action='store_true', help='only write the page from the rows that are there')
    args = parser.parse_args()
    find_block(PAGE, 'environments')  # now rather than after the tests
    rows = json.loads(ROWS.read_text(encoding='utf-8')) if ROWS.exists() else []
    if not args.page:
        row = {**environment(), **outcome(args.tests, args.jobs)}
        rows = sorted([other for other in rows if key(other) != key(row)] + [row], key=key)
        ROWS.write_text(json.dumps(rows, indent=1) + '\n', encoding='utf-8')
    write_page(rows)
    return 0 if args.page else int(row['failed'] > 0)


def environment() -> dict:
    """Where the tests run."""
    return {'python': platform.python_version(), 'system': f'{platform.system()} {platform.machine()}',
            **{name: installed(name) for name in STACK}, 'date': time.strftime('%Y-%m-%d'), 'commit': commit()}


def key(row: dict) -> tuple:
    """What makes a row another one; oldest torch first."""
    torch = [int(part) for part in re.findall(r'\d+', row['torch'] or '')]
    return (torch, row['python'], *(str(row[name]) for name in STACK), row['tests'])


def outcome(tests: list, jobs: int) -> dict:
    """Run pytest here and count."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / 'report.xml'
        parallel = ['-n', str(jobs), '--dist', 'worksteal'] if jobs > 1 else []
        command = [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', f'--junitxml={report}']
        subprocess.run([*command, *parallel, *tests], cwd=ROOT)
        if not report.exists():
            raise SystemExit('pytest wrote no report: see above')
        return {'tests': ' '.join(tests), **read_report(report)}


def read_report(path: Path) -> dict:
    """Numbers of a JUnit report, and how many tests were skipped for which reason."""
    skipped: collections.Counter = collections.Counter()
    failed = total = 0
    for case in ElementTree.parse(path).iter('testcase'):
        total += 1
        if case.find('failure') is not None or case.find('error') is not None:
            failed += 1
        elif case.find('skipped') is not None:
            skipped[case.find('skipped').get('message') or 'no reason given'] += 1
    return {'passed': total - failed - sum(skipped.values()), 'failed': failed, 'skipped': dict(skipped.most_common())}


def write_page(rows: list) -> None:
    """The table of environments, and below it why tests were skipped in each."""
    head = ['Python', *STACK, 'tests', 'passed', 'failed', 'skipped', 'run', 'date', 'commit']
    body = []
    for row in rows:
        skipped = sum(row['skipped'].values())
        total = row['passed'] + row['failed'] + skipped
        body.append([row['python'], *(row[name] or '-' for name in STACK), row['tests'] or 'default suite', row['passed'], row['failed'],
                     skipped, f'{1 - skipped / total:.1%}', row['date'], row['commit']])
    text = table(head, body)
    for row in rows:
        text += f'\n\nSkipped on Python {row["python"]}, torch {row["torch"]}, mmpose {row["mmpose"] or "missing"}:\n\n'
        text += '\n'.join(f'- {count}: {reason}' for reason, count in row['skipped'].items()) or 'none'
    write_block(PAGE, 'environments', text)


if __name__ == '__main__':
    sys.exit(main())
