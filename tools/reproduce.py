#!/usr/bin/env python
"""Reproduce any row of the paper by naming it; see docs/reproduce.md.

    python tools/reproduce.py list
    python tools/reproduce.py check table1-hrnet-w48-ours
    python tools/reproduce.py run table1-hrnet-w48 table1-hrnet-w48-ours --gpus 8
    python tools/reproduce.py status
    python tools/reproduce.py report --html report.html
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from tools import jobs  # noqa: E402
from tools.launcher import make_plugin_importable  # noqa: E402
from tools.reproduction import data_check, manifest, report  # noqa: E402
from tools.reproduction.commands import Place  # noqa: E402
from tools.reproduction.manifest import Manifest, Row  # noqa: E402
from tools.reproduction.runner import RowRunner, evaluation_name, work_dir  # noqa: E402

ROOT = manifest.ROOT


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit status.

    0; 1 if something is missing or failed; 2 if the command makes no sense; 130 if interrupted; 141 if the reader of the
    output left.
    """
    args = parser().parse_args(argv)
    make_plugin_importable()
    warnings.filterwarnings('ignore', message='.*pkg_resources')  # mmengine imports it
    try:
        rows = manifest.load(args.manifest.resolve(), args.root.resolve())
        status = args.run(args, rows)
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing more to flush at the end
        return 141
    except (ValueError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print('interrupted; the same command continues', file=sys.stderr)
        return 130


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    top.add_argument('--manifest', type=Path, default=ROOT / 'configs' / 'manifest.yml', help='the rows')
    top.add_argument('--root', type=Path, default=ROOT, help='what relative paths of the manifest start from')
    top.add_argument('--work-dirs', type=Path, default=None, help='default: work_dirs/reproduce of this repository')
    every = top.add_subparsers(required=True, metavar='COMMAND')
    _command(every, 'list', 'show every row', list_rows, some=False)
    check = _command(every, 'check', 'is everything there that the rows read?', check_rows, some=False)
    run = _command(every, 'run', 'train and evaluate rows, or continue them', run_rows, some=True)
    _run_options(run)
    show = _command(every, 'status', 'how far each row is', show_status, some=False)
    show.add_argument('--all', action='store_true', help='also rows that were never started')
    write = _command(every, 'report', "the paper's tables with what was measured", write_report, rows=False)
    write.add_argument('--markdown', type=Path, help='write the Markdown here instead of printing it')
    write.add_argument('--html', type=Path, help='also write an HTML page')
    write.add_argument('--metafile', type=Path, help='also write entries for model-index.yml')
    enter = _command(every, 'record', "enter the COCO server's answer for a test-dev row", record, some=True)
    enter.add_argument('--figures', type=float, nargs='+', required=True, help='in the order of the columns, in percent')
    enter.add_argument('--seed', type=int, default=0)
    for each in (check, run, write):
        each.add_argument('--boxes', default='ap56', help='person boxes for COCO val, by name (default: ap56)')
    return top


def _command(every, name: str, text: str, run, some: bool = False, rows: bool = True) -> argparse.ArgumentParser:
    command = every.add_parser(name, help=text, description=text)
    # also behind the command; without a default, which would hide one given before it
    command.add_argument('--work-dirs', type=Path, default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    if rows:
        nargs = '+' if some else '*'
        command.add_argument('rows', nargs=nargs, metavar='ROW', help='id, pattern such as "table1-*", or table')
    command.set_defaults(run=run)
    return command


def _run_options(run: argparse.ArgumentParser) -> None:
    place = run.add_mutually_exclusive_group()
    place.add_argument('--gpus', type=int, default=None, help='devices of this machine (default: all; 0: CPU)')
    place.add_argument('--slurm', metavar='PARTITION', default='', help='run through srun on this partition')
    run.add_argument('--slurm-gpus', type=int, default=8, help='devices for --slurm (default: 8)')
    run.add_argument('--batch', type=int, default=0, help="batch per device; the recipe's total is kept (default: its own)")
    run.add_argument('--amp', action='store_true', help='train with mixed precision')
    run.add_argument('--seeds', type=int, nargs='+', default=[0])
    run.add_argument('--checkpoint', choices=('best', 'last'), default='best', help='which one is evaluated')
    run.add_argument('--again', action='store_true', help='repeat evaluations and figures that are done')
    run.add_argument('--take-over', action='store_true', help='go on with what another machine ran, which is gone')
    run.add_argument('--dry-run', action='store_true', help='print the commands and run nothing')
    run.add_argument('--cfg-options', nargs='+', default=[], help='further options, for training and evaluation')
    run.add_argument('--hardware', default='', help="what the report calls the devices (default: what is found here)")


def _base(args: argparse.Namespace) -> Path:
    return (args.work_dirs or args.root / 'work_dirs' / 'reproduce').resolve()


def _chosen(args: argparse.Namespace, known: Manifest) -> list[Row]:
    return known.select(args.rows) if args.rows else list(known.rows.values())


def list_rows(args: argparse.Namespace, known: Manifest) -> int:
    """Print every row with what trains it and the paper's first figure."""
    table = None
    for row in _chosen(args, known):
        if row.table != table:
            table = row.table
            print(f'\n{known.tables[table].where}: {known.tables[table].title}  [{table}]')
        figure = f'{row.paper[0]:5.1f}' if row.paper else '     '
        title = ', '.join(part for part in (row.method, row.backbone, row.input) if part)
        recipe = row.config or row.tool.partition(' ')[0] or f'no recipe{f", nearest {row.nearest}" if row.nearest else ""}'
        print(f'  {row.id:36} {figure}  {title:62} {recipe}')
    return 0


def check_rows(args: argparse.Namespace, known: Manifest) -> int:
    """Print what is missing for the rows, with where to get it."""
    _require_boxes(args, known)
    faults = data_check.missing(known, _chosen(args, known), args.boxes)
    for fault in faults:
        print(f'missing: {fault}')
    print(f'{len(faults)} things missing' if faults else 'everything is there')
    return 1 if faults else 0


def run_rows(args: argparse.Namespace, known: Manifest) -> int:
    """Run the rows one after the other."""
    _require_boxes(args, known)
    signal.signal(signal.SIGTERM, jobs.interrupt)
    gpus = args.slurm_gpus if args.slurm else _visible_gpus() if args.gpus is None else args.gpus
    for name, value, least in (
        ('--slurm-gpus' if args.slurm else '--gpus', gpus, 1 if args.slurm else 0),
        ('--batch', args.batch, 0),
        ('--seeds', min(args.seeds), 0),
    ):
        if value < least:
            raise ValueError(f'{name} must be {least} or more, got {value}')
    loose = [option for option in args.cfg_options if '=' not in option]
    if loose:
        raise ValueError(f'--cfg-options must be of the form key=value, got {" ".join(loose)}')
    place = Place(gpus, args.slurm, args.batch, tuple(args.cfg_options), args.amp)
    runner = RowRunner(
        known, _base(args), place, args.boxes, args.checkpoint, args.dry_run, args.again, args.take_over, args.hardware)
    failures = runner.run(data_check.with_needed(known, _chosen(args, known)), list(dict.fromkeys(args.seeds)))
    for label, reason in failures.items():
        print(f'failed: {label}: {reason}')
    return 1 if failures else 0


def _visible_gpus() -> int:
    import torch

    return torch.cuda.device_count()


def _require_boxes(args: argparse.Namespace, known: Manifest) -> None:
    if args.boxes not in known.boxes:
        raise ValueError(f'--boxes must be one of {", ".join(known.boxes)}, got {args.boxes!r}')


def show_status(args: argparse.Namespace, known: Manifest) -> int:
    """Print how far each training, evaluation and figure is."""
    shown = 0
    for row in _chosen(args, known):
        folders = sorted(_base(args).glob(f'{Path(row.config).stem}/seed-*')) if row.config else []
        folders = folders or [work_dir(_base(args), row, 0)]
        for folder in folders:
            text = _status(folder, known.tables[row.table].evaluation)
            if text or (args.all and row.runnable):
                shown += 1
                print(f'{row.id:36} {folder.name:8} {text or "not started"}')
    if not shown:
        print('nothing was started yet')
    return 0


def _status(folder: Path, evaluation: str | None) -> str:
    known = jobs.read(folder)
    parts = []
    if 'train' in known:
        parts.append(f'training {known["train"]["status"]}, epoch {jobs.last_epoch(folder)}')
    if 'tool' in known:
        parts.append(f'figure {known["tool"]["status"]}')
    for name, step in known.get('evaluations', {}).items():
        if evaluation and name.startswith(evaluation):
            parts.append(f'{name} {step["status"]} ({step.get("checkpoint", "")})')
    reasons = [step['reason'] for step in jobs.steps(known) if step.get('status') == jobs.FAILED]
    return '; '.join([*parts, *reasons])


def write_report(args: argparse.Namespace, known: Manifest) -> int:
    """Write the report."""
    _require_boxes(args, known)
    if args.html:
        args.html.write_text(report.html_page(known, _base(args), args.boxes), encoding='utf-8')
    if args.metafile:
        args.metafile.write_text(report.metafile(known, _base(args), args.boxes), encoding='utf-8')
    text = report.markdown(known, _base(args), args.boxes)
    if args.markdown:
        args.markdown.write_text(text, encoding='utf-8')
    else:  # last: a file that cannot be written is said in one line, not below a screen of tables
        print(text)
    return 0


def record(args: argparse.Namespace, known: Manifest) -> int:
    """Enter the figures that COCO's server answered for one row whose zip was uploaded."""
    (row, *others) = known.select(args.rows)
    table = known.tables[row.table]
    if others or 'server' not in known.evaluations.get(table.evaluation, {}):
        raise ValueError(f'record takes one row of Table 2, got {args.rows}')
    if len(args.figures) != len(table.columns):
        raise ValueError(f'--figures must be {len(table.columns)} numbers {table.columns}, got {len(args.figures)}')
    if not all(0 <= figure <= 100 for figure in args.figures) or max(args.figures) <= 1:
        raise ValueError(f'--figures must be in percent, from 0 to 100, got {args.figures}')
    folder = work_dir(_base(args), row, args.seed)
    known_state = jobs.read(folder)
    step = known_state.get('evaluations', {}).get(evaluation_name(table.evaluation, ''))
    if not step or step['status'] != jobs.DONE:
        raise ValueError(f'row {row.id!r} with seed {args.seed} must have been run first, nothing was uploaded')
    step['metrics'] = dict(zip(table.columns, args.figures))
    jobs.write(folder, known_state)
    return 0


if __name__ == '__main__':
    sys.exit(main())
