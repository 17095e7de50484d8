"""Supervision x decoder x backbone x seed on real people, from a YAML file to tables and plots.

    python tools/study.py list   configs/lspet/study.yml
    python tools/study.py run    configs/lspet/study.yml --stage screen --jobs 3 --until 16:00
    python tools/study.py run    configs/lspet/study_pretrained.yml --stage final --only emd_ce_best --seeds 0   # one row and seed
    python tools/study.py test   configs/lspet/study_pretrained.yml --jobs 2     # the finalists, on people no choice has seen
    python tools/study.py report --out docs/evidence.md configs/lspet/study.yml configs/lspet/study_reduced.yml

Every run is a normal MMPose config in a normal work dir. Finished runs are reused, interrupted ones resumed; one that
fails is reported at the end and stops nothing.
"""

from __future__ import annotations

import argparse
import datetime
import json
import signal
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from tools import jobs  # noqa: E402
from tools.launcher import make_plugin_importable  # noqa: E402
from tools.studies.config import Study, StudyRun, fingerprint  # noqa: E402

make_plugin_importable()


def run_list(args: argparse.Namespace) -> int:
    study = Study(args.study, args.data_root, args.work_dir)
    for run in study.runs(args.stage, args.only, args.seeds):
        tested = ', tested' if (study.folder(run) / 'test.json').exists() else ', finalist' if study.is_finalist(run) else ''
        print(f'{state(study, run):9s} {run.name}{tested}')
    print(hours_left(study, list(study.runs(args.stage, args.only, args.seeds))))
    return 0


def hours_left(study: Study, runs: list[StudyRun]) -> str:
    """How long the training of those to do takes, by the time that an epoch on the same network took."""
    left = [run for run in runs if state(study, run) != 'done']
    seconds: dict[str, list[float]] = {}
    for run in study.runs():
        file = study.folder(run) / 'result.json'
        result = json.loads(file.read_text()) if file.exists() else {}
        if 'train_seconds' in result:
            seconds.setdefault(run.backbone, []).append(result['train_seconds'] / result['epochs'])
    text = f'{len(left)} of {len(runs)} to do'
    if not all(run.backbone in seconds for run in left):
        return f'{text}; how long they take is known when one on each network is done'
    hours = sum(statistics.fmean(seconds[run.backbone]) * study.epochs(run) for run in left) / 3600
    return f'{text}: {hours:.1f} hours of training, one at a time'


def state(study: Study, run: StudyRun) -> str:
    folder = study.folder(run)
    if (folder / 'result.json').exists():
        return 'done'
    if jobs.read(folder).get('run', {}).get('status') == jobs.RUNNING:
        return 'running'
    return 'begun' if (folder / 'fingerprint').exists() else 'to do'


def run_one(args: argparse.Namespace) -> int:
    from tools.studies.run import perform, perform_test

    study = Study(args.study, args.data_root, args.work_dir)
    run = next((run for run in study.runs() if run.name == args.run), None)
    if run is None:
        raise SystemExit(f'{args.study} has no run {args.run!r}; see `study.py list`')
    (perform_test if args.test else perform)(study, run, args.other_commit)
    return 0


def run_all(args: argparse.Namespace) -> int:
    """Each run in a process of its own, so that nothing one leaves behind reaches the next."""
    study = Study(args.study, args.data_root, args.work_dir)
    deadline = finish(args)
    runs = list(study.runs(args.stage, args.only, args.seeds))
    first = [run for run in runs if 'start_from' not in study.supervisions[run.supervision]]
    # those that start from another run's weights come last
    return at_a_time(args, [first, [run for run in runs if run not in first]], lambda run: launch(study, run, args, deadline))


def test_all(args: argparse.Namespace) -> int:
    """Each finalist once, on the people that no choice has seen.

    Raises:
        SystemExit: ``--only`` names a supervision that is no finalist of any of the stages.
    """
    study = Study(args.study, args.data_root, args.work_dir)
    deadline = finish(args)
    runs = [run for run in study.runs(args.stage, args.only, args.seeds) if study.is_finalist(run)]
    others = sorted(set(args.only or []) - {run.supervision for run in runs})
    if others:
        raise SystemExit(f"{', '.join(others)}: not among the 'finalists' of {args.study}, so not to be read on test")
    return at_a_time(args, [runs], lambda run: launch_test(study, run, args, deadline))


def at_a_time(args: argparse.Namespace, batches: list[list[StudyRun]], work: Callable[[StudyRun], str]) -> int:
    """Do the batches one after the other, ``args.jobs`` runs at a time, and say what was not done and why."""
    failed = []
    signal.signal(signal.SIGTERM, jobs.interrupt)
    for batch in batches:
        with ThreadPoolExecutor(args.jobs) as pool:
            try:
                outcomes = list(pool.map(work, batch))
            except KeyboardInterrupt:
                jobs.STOP.set()
                raise
        failed += [f'{run.name}: {outcome}' for run, outcome in zip(batch, outcomes) if outcome]
    wanted = sum(map(len, batches))
    print(f'{wanted - len(failed)} of {wanted} runs are done')
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
    return in_child(study, run, args, deadline)


def launch_test(study: Study, run: StudyRun, args: argparse.Namespace, deadline: float) -> str:
    """Read a finalist on the test part in a child process, unless that has been done.

    Returns:
        Empty if it is done, else why it is not.
    """
    if (study.folder(run) / 'test.json').exists():
        return ''
    return in_child(study, run, args, deadline, '--test')


def in_child(study: Study, run: StudyRun, args: argparse.Namespace, deadline: float, *flags: str) -> str:
    """Do `study.py one` in a process of its own; why it did not succeed, empty if it did."""
    command = [sys.executable, str(Path(__file__).resolve()), 'one', str(args.study.resolve()), run.name, *flags]
    command += ['--other-commit'] if args.other_commit else []
    for flag, value in (('--data-root', args.data_root), ('--work-dir', args.work_dir)):
        command += [flag, value] if value else []
    print(f'{time.strftime("%H:%M:%S")} {" ".join([run.name, *flags])}', flush=True)
    try:
        jobs.Job(study.folder(run), ('test' if flags else 'run',), command, 'output.log').run(deadline, take_over=args.take_over)
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
    for run in study.runs(args.stage, args.only, args.seeds):
        if state(study, run) == 'done':
            measure_again(study, run)
            print(run.name)
    return 0


def run_compare(args: argparse.Namespace) -> int:
    """The study file's comparisons on one part of the data."""
    from tools.studies.pairs import compare
    from tools.studies.report import pairs_table

    study = Study(args.study, args.data_root, args.work_dir)
    compared = [each for each in compare(study, args.part) if args.stage is None or each['stage'] in args.stage]
    for stage in dict.fromkeys((each['stage'], each['backbone']) for each in compared):
        print(f'{" ".join(stage)}, {args.part}: 95 % intervals over people and seeds, (lowest and highest seed)')
        print(pairs_table(study, [each for each in compared if (each['stage'], each['backbone']) == stage]))
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
            ('test', test_all, 'read the finalists on the people that no choice has seen'),
            ('one', run_one, 'do one run in this process'),
            ('compare', run_compare, 'print the paired differences that the study file lists'),
            ('measure', run_measure, 'measure the saved predictions of finished runs again')):
        command = commands.add_parser(name, help=text, parents=[common])
        command.add_argument('study', type=Path)
        command.set_defaults(run_command=run)
        if name in ('run', 'test', 'one'):
            command.add_argument('--other-commit', action='store_true', help='go on with what another commit, or other data, began')
        if name == 'one':
            command.add_argument('run', help='name of the run')
            command.add_argument('--test', action='store_true', help='read its weights on test; for finalists')
            continue
        command.add_argument('--stage', action='append', help='only this stage; may be repeated')
        if name == 'compare':
            command.add_argument('--part', choices=('val', 'test'), default='test', help='of the data (default: test)')
            continue
        command.add_argument('--only', action='append', help='only this supervision; may be repeated')
        command.add_argument('--seeds', type=int, nargs='+', help='only these of its seeds')
        if name in ('run', 'test'):
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
