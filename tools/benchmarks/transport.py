#!/usr/bin/env python
"""The EMD loss alone: its accuracy, its bias, its time and memory, and those of other solvers.  Needs torch only.

    python tools/benchmarks/transport.py                  time and memory, after a check against float64
    python tools/benchmarks/transport.py --accuracy       Newton steps needed and errors, over epsilons and kinds of maps
    python tools/benchmarks/transport.py --bias           where the minimiser of each objective decodes to
    python tools/benchmarks/transport.py --scaling        curves over B x K, H x W and epsilon, as a picture

--markdown docs/benchmarks.md puts the result into that page, where the picture of --scaling is linked: give it a place there
too, --plot docs/images/scaling_cpu.png.  The measurement on a GPU that the README asks for is

    python tools/benchmarks/transport.py --device cuda --batch 64 --size 96 72 --json docs/data/transport_cuda.json

Peers (POT, GeomLoss, OTT-JAX) take part where they are installed: ``pip install POT geomloss ott-jax``.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from hdm_mmpose.transport import OBJECTIVES, SUPPLIERS  # noqa: E402
from tools.benchmarks.measuring import conditions, machine, write_json  # noqa: E402
from tools.benchmarks.transport_benchmark import accuracy, bias, speed  # noqa: E402
from tools.jobs import ROOT  # noqa: E402
from tools.pages import find_block, write_block  # noqa: E402


def main(argv: list[str] | None = None) -> None:
    """Run what was asked for."""
    arguments = _arguments(argv)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    about = machine(arguments.device, arguments.seed)
    if arguments.markdown:
        for name in _blocks(arguments):
            find_block(arguments.markdown, name)
    if arguments.accuracy:
        rows = accuracy.measure(arguments.seed)
        parts = {'accuracy-steps': accuracy.step_table(rows), 'accuracy-errors': accuracy.error_table(rows)}
        numbers: dict = {'accuracy': [dataclasses.asdict(row) for row in rows]}
    elif arguments.bias:
        biases = bias.measure(arguments.seed)
        parts = {'bias': bias.bias_table(biases)}
        numbers = {'bias': [dataclasses.asdict(row) for row in biases]}
    elif arguments.scaling:
        parts, numbers = _scaling(arguments, about)
    else:
        parts, numbers = _speed(arguments)
    for name, text in parts.items():
        print(f'\n{name}\n{text}')
    if arguments.json:
        write_json(arguments.json, {'machine': about, **numbers})
    if arguments.markdown:
        for name in _blocks(arguments):
            write_block(arguments.markdown, name, f'{parts[name]}\n\n{conditions(about)}')


def _blocks(arguments: argparse.Namespace) -> list[str]:
    """Marked blocks of the Markdown file that this run fills."""
    if arguments.accuracy:
        return ['accuracy-steps', 'accuracy-errors']
    if arguments.bias:
        return ['bias']
    return [f'scaling-{arguments.device}' if arguments.scaling else f'speed-{arguments.device}']


def _speed(arguments: argparse.Namespace) -> tuple[dict[str, str], dict]:
    work = speed.workload(arguments)
    print(f'{work.batch} x {work.joints} maps of {work.size[0]} x {work.size[1]} cells, epsilon = {work.epsilon:g}, '
          f'{work.supplier}, {work.objective}, {work.dtype}, {work.device}, {torch.get_num_threads()} threads')
    everybody = speed.contestants(work, not arguments.no_peers, arguments.iterations)
    results = speed.run(work, everybody, arguments.repeats, arguments.slow_repeats)
    bandwidth = speed.bandwidth_of(work)
    setting = {**{key: str(value) if not isinstance(value, (int, float, tuple)) else value
               for key, value in dataclasses.asdict(work).items()}, 'supplier': repr(work.supplier)}
    numbers = {
        'workload': setting, 'heatmap_bytes': work.heatmap_bytes, 'copy_bandwidth': bandwidth,
        'results': {name: dataclasses.asdict(result) for name, result in results.items()},
    }
    text = (f'{speed.result_table(work, results, bandwidth)}\n\n{speed.setting_line(work)} "x ours" counts in the fastest '
            f'`EMD, newton`.')
    return {f'speed-{work.device}': text}, numbers


def _scaling(arguments: argparse.Namespace, about: dict) -> tuple[dict[str, str], dict]:
    work = speed.workload(arguments)
    curves = speed.scaling(work, not arguments.no_peers)
    where = about.get('gpu') or f'{about["cpu"]}, {about["threads"]} threads'
    title = (f'{work.batch} x {work.joints} maps of {work.size[0]} x {work.size[1]} cells, epsilon {work.epsilon:g} where not '
             f'varied; {work.dtype}; {where}')
    speed.draw(curves, arguments.plot, title)
    picture = os.path.relpath(arguments.plot, arguments.markdown.parent if arguments.markdown else Path())
    text = f'![Time of forward and backward over joints, cells and epsilon]({picture})\n\n{title}. {speed.setting_line(work)}'
    return {f'scaling-{work.device}': text}, {'scaling': curves}


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group()
    what.add_argument('--accuracy', action='store_true')
    what.add_argument('--bias', action='store_true')
    what.add_argument('--scaling', action='store_true')
    parser.add_argument('--device', choices=('cpu', 'cuda'), default='cpu')
    parser.add_argument('--dtype', choices=('float32', 'float64'), default='float32')
    parser.add_argument('--batch', type=int, default=32)
    parser.add_argument('--joints', type=int, default=17)
    parser.add_argument('--size', type=int, nargs=2, default=(64, 48), metavar=('H', 'W'))
    parser.add_argument('--epsilon', type=float, default=0.25, help='in heatmap cells')
    parser.add_argument('--supplier', choices=sorted(SUPPLIERS), default='softplus')
    parser.add_argument('--objective', choices=OBJECTIVES, default='shannon')
    parser.add_argument('--no-peers', action='store_true')
    parser.add_argument('--repeats', type=int, default=20, help='of the fast losses')
    parser.add_argument('--slow-repeats', type=int, default=3, help='of everything else')
    parser.add_argument('--iterations', type=int, default=100, help='of the 1000 Sinkhorn iterations that are timed')
    parser.add_argument('--threads', type=int, help='of the CPU')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--markdown', type=Path, metavar='FILE', help='rewrite the marked block of this file')
    parser.add_argument('--json', type=Path, metavar='FILE', help='write the numbers')
    parser.add_argument('--plot', type=Path, metavar='FILE', default=ROOT / 'work_dirs' / 'benchmark_transport.png',
                        help='write the curves of --scaling there (default: %(default)s)')
    return parser.parse_args(argv)


if __name__ == '__main__':
    main()
