#!/usr/bin/env python
"""How the Triton kernel is best laid over a GPU: time of its launch for several numbers of warps, tiles and registers.

    python tools/benchmarks/launch.py [--batch 64] [--keypoints 17] [--json PATH]

Maps rotate through several batches, more than the cache holds; a layout whose results differ from float64 on the CPU is
reported as wrong and not timed.  The layout in use is ``launch_of`` in hdm_mmpose/transport/triton_emd.py.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from hdm_mmpose.transport import EMDOptions, emd  # noqa: E402
from tools.benchmarks.measuring import conditions, copy_bandwidth, machine, time_in_turns, write_json  # noqa: E402
from tools.pages import table  # noqa: E402

SIZES = ((96, 72), (64, 48), (128, 128))
CACHE_BYTES = 1 << 28  # rotated inputs together exceed any L2


def layouts(cells: int) -> list:
    """Everything that may be worth trying for a map of this many cells."""
    from hdm_mmpose.transport.triton_emd import Launch

    found = []
    for num_warps in (4, 8, 16, 32):
        per_thread = -(-cells // (32 * num_warps))
        if per_thread <= 28:
            found += [Launch(num_warps, 32 * num_warps, True, registers)
                      for registers in (64, 96, 128, 168, 255) if 32 * num_warps * registers <= 1 << 16 and registers > 4 * per_thread]
        found += [Launch(num_warps, 32 * num_warps * width, False) for width in (1, 2) if 32 * num_warps * 128 <= 1 << 16]
    return found


def measure(size: tuple[int, int], arguments: argparse.Namespace) -> list[dict]:
    """Rows for one map size, the fastest layout first."""
    from hdm_mmpose.transport import triton_emd

    joints, cells = arguments.batch * arguments.keypoints, size[0] * size[1]
    how = EMDOptions(epsilon=arguments.epsilon, backend='triton')
    batches = [(.1 * torch.randn(joints, *size, device='cuda'), torch.rand(joints, *size, device='cuda') ** 8)
               for _ in range(max(2, -(-CACHE_BYTES // (joints * cells * 8))))]
    few = slice(0, 8)
    exact = emd(batches[0][0][few].double().cpu(), batches[0][1][few].double().cpu(), EMDOptions(epsilon=arguments.epsilon)).cost
    runners, wrong = {}, []
    for launch in layouts(cells):
        try:
            cost = triton_emd.emd_triton(batches[0][0][few], batches[0][1][few], how, True, launch)[0]
        except Exception as error:  # a layout that does not fit is an answer, too
            wrong.append(f'{launch}: {type(error).__name__}')
            continue
        if (cost.cpu() - exact).abs().max() > 1e-4:
            wrong.append(f'{launch}: results are off')
            continue
        runners[launch] = lambda i, launch=launch: triton_emd.emd_triton(*batches[i % len(batches)], how, True, launch)
    if wrong:
        print('not timed: ' + '; '.join(wrong))
    times = time_in_turns(runners, 'cuda', arguments.repeats)
    chosen = triton_emd.launch_of(cells, torch.float32)
    rows = [dict(size=size, warps=launch.num_warps, tile=launch.tile, resident=launch.resident, registers=launch.registers,
                 in_use=launch == chosen, **seconds) for launch, seconds in times.items()]
    return sorted(rows, key=lambda row: row['median'])


def main(argv: Sequence[str] | None = None) -> None:
    """Print a table per size, and write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--batch', type=int, default=64)
    parser.add_argument('--keypoints', type=int, default=17)
    parser.add_argument('--epsilon', type=float, default=.25)
    parser.add_argument('--repeats', type=int, default=20)
    parser.add_argument('--json', type=Path)
    arguments = parser.parse_args(argv)
    if not torch.cuda.is_available():
        raise SystemExit('torch sees no GPU: there is nothing to lay the kernel over')
    torch.manual_seed(0)
    about = machine('cuda', 0)
    bandwidth = copy_bandwidth('cuda')
    rows = [row for size in SIZES for row in measure(size, arguments)]
    joints = arguments.batch * arguments.keypoints
    # maps and targets are read, gradients written
    cells = [[f'{row["size"][0]} x {row["size"][1]}', row['warps'], row['tile'], 'yes' if row['resident'] else 'no', row['registers'],
              'yes' if row['in_use'] else '', f'{row["median"] * 1e6:.1f}',
              f'{row["quartile_1"] * 1e6:.1f} - {row["quartile_3"] * 1e6:.1f}',
              f'{12 * joints * row["size"][0] * row["size"][1] / row["median"] / bandwidth:.2f}'] for row in rows]
    print(table(['map', 'warps', 'tile', 'resident', 'registers', 'in use', 'us', 'quartiles', 'of copy bandwidth'], cells))
    print(f'\ncopy bandwidth {bandwidth / 1e12:.2f} TB/s. {conditions(about)}')
    if arguments.json:
        write_json(arguments.json, {'machine': about, 'copy_bandwidth': bandwidth, 'launches': rows})


if __name__ == '__main__':
    main()
