"""Supervision x decoder x backbone x seed on real people, from a YAML file to tables and plots.

    python tools/study.py list   configs/lspet/study.yml
    python tools/study.py run    configs/lspet/study.yml --stage screen --jobs 3 --until 16:00
    python tools/study.py report --out docs/evidence.md configs/lspet/study.yml configs/lspet/study_reduced.yml

Every run is a normal MMPose config in a normal work dir. Finished runs are reused, interrupted ones resumed; one that
fails is reported at the end and stops nothing.
"""

from __future__ import annotations

import argparse
import datetime
import signal
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from tools import jobs  # noqa: E402
from tools.launcher import make_plugin_importable  # noqa: E402
from tools.studies.config import Study, StudyRun, fingerprint  # noqa: E402

make_plugin_importable()


def run_list(args: argparse.Namespace) -> int:
    study = Study(args.study, args.data_root, args.work_dir)
    for run in study.runs(args.stage):
        print(f'{state(study, run):9s} {run.name}')
    return 0


def state(study: Study, run: StudyRun) -> str:
    folder = study.folder(run)
    if (folder / 'result.json').exists():
        return 'done'
    if jobs.read(folder).get('run', {}).get('status') == jobs.RUNNING:
        return 'running'
    return 'begun' if (folder / 'fingerprint').exists() else 'to do'


def run_one(args: argparse.Namespace) -> int:
    from tools.studies.run import perform

    study = Study(args.study, args.data_root, args.work_dir)
    run = next((run for run in study.runs() if run.name == args.run), None)
    if run is None:
        raise SystemExit(f'{args.study} has no run {args.run!r}; see `study.py list`')
    perform(study, run)
    return 0


def run_all(args: argparse.Namespace) -> int:
    """Each run in a process of its own, so that nothing one leaves behind reaches the next."""
    study = Study(args.study, args.data_root, args.work_dir)
    deadline = finish(args)
    runs = [run for run in study.runs(args.stage) if args.only is None or run.supervision in args.only]
    first = [run for run in runs if 'start_from' not in study.supervisions[run.supervision]]
    failed = []
    signal.signal(signal.SIGTERM, jobs.interrupt)
    for batch in (first, [run for run in runs if run not in first]):  # those that start from another run's weights come last
        with ThreadPoolExecutor(args.jobs) as pool:
            try:
                outcomes = list(pool.map(lambda run: launch(study, run, args, deadline), batch))
            except KeyboardInterrupt:
                jobs.STOP.set()
                raise
        failed += [f'{run.name}: {outcome}' for run, outcome in zip(batch, outcomes) if outcome]
    print(f'{len(runs) - len(failed)} of {len(runs)} runs are done')
    for line in failed:
        print(f'not done: {line}')
    return 1 if failed else 0


def finish(args: argparse.Namespace) -> float:
    """When to stop, in seconds since the epoch."""
    if args.minutes is not None:
        return time.time() + 60 * args.minutes
    if args.until is None:
        return float('inf')
    return next_time(args.until, datetime.datetime.now()).timestamp()


def next_time(clock: str, now: datetime.datetime) -> datetime.datetime:
    """When the clock next shows the time of day ``HH:MM``: today or, where that has passed, tomorrow."""
    today = datetime.datetime.combine(now.date(), datetime.datetime.strptime(clock, '%H:%M').time())
    return today if today > now else today + datetime.timedelta(days=1)


def launch(study: Study, run: StudyRun, args: argparse.Namespace, deadline: float) -> str:
    """Perform a run in a child process.

    Returns:
        Empty if the run is done, else why it is not.
    """
    if state(study, run) == 'done' and not start_lacks(study, run):
        same = (study.folder(run) / 'fingerprint').read_text() == fingerprint(study.config(run))
        return '' if same else f'{study.folder(run)} holds a run with other settings: remove it or rename the supervision'
    command = [sys.executable, str(Path(__file__).resolve()), 'one', str(args.study.resolve()), run.name]
    for flag, value in (('--data-root', args.data_root), ('--work-dir', args.work_dir)):
        command += [flag, value] if value else []
    print(f'{time.strftime("%H:%M:%S")} {run.name}', flush=True)
    try:
        jobs.Job(study.folder(run), ('run',), command, 'output.log').run(deadline, take_over=args.take_over)
    except jobs.JobFailed as failure:
        return str(failure)
    return ''


def start_lacks(study: Study, run: StudyRun) -> bool:
    """Whether a run still to do starts from this one's weights, and they are gone (results may travel without them)."""
    if (study.folder(run) / 'weights.pth').exists():
        return False
    return any(
        study.supervisions[name].get('start_from') == run.supervision
        and state(study, StudyRun(run.stage, run.backbone, name, run.seed)) != 'done'
        for name in study.stages[run.stage]['supervisions'])


def run_measure(args: argparse.Namespace) -> int:
    from tools.studies.run import measure_again

    study = Study(args.study, args.data_root, args.work_dir)
    for run in study.runs(args.stage):
        if state(study, run) == 'done':
            measure_again(study, run)
            print(run.name)
    return 0


def run_report(args: argparse.Namespace) -> int:
    from tools.studies.report import write_report

    write_report([Study(path, None, args.work_dir) for path in args.studies], args.out, args.readme)
    return 0


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True, metavar='COMMAND')
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument('--data-root', help="folder of the data, instead of the study's")
    common.add_argument('--work-dir', help="folder of the runs, instead of the study's")
    for name, run, text in (
            ('list', run_list, 'list the runs and how far they are'), ('run', run_all, 'do the runs'),
            ('one', run_one, 'do one run in this process'),
            ('measure', run_measure, 'measure the saved predictions of finished runs again')):
        command = commands.add_parser(name, help=text, parents=[common])
        command.add_argument('study', type=Path)
        command.set_defaults(run_command=run)
        if name == 'one':
            command.add_argument('run', help='name of the run')
            continue
        command.add_argument('--stage', action='append', help='only this stage; may be repeated')
        if name == 'run':
            command.add_argument('--only', action='append', help='only this supervision; may be repeated')
            command.add_argument('--jobs', type=int, default=1, help='runs at a time')
            command.add_argument('--until', help='stop when the clock next shows this time, HH:MM')
            command.add_argument('--minutes', type=float, help='stop after so many minutes')
            command.add_argument('--take-over', action='store_true', help='go on with what another machine ran, which is gone')
    report = commands.add_parser('report', help='write tables and plots', parents=[common])
    report.add_argument('studies', type=Path, nargs='+')
    report.add_argument('--out', type=Path, default=jobs.ROOT / 'docs' / 'evidence.md')
    report.add_argument('--readme', type=Path, help="also put the headline's table between the markers `evidence` of this file")
    report.set_defaults(run_command=run_report)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    try:
        return args.run_command(args)
    except KeyboardInterrupt:
        print('interrupted; the same command continues', file=sys.stderr)
        return 130


if __name__ == '__main__':
    sys.exit(main())
