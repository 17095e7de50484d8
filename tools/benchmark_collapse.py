#!/usr/bin/env python
"""Which supplier rules survive a fresh start: a small network on drawn figures, several seeds per rule.

    python tools/benchmark_collapse.py [--markdown docs/collapse.md --json docs/data/collapse.json]

The pictures are those of ``tools/make_demo_data.py``, drawn in memory, one crop per person.  The network's last layer
starts as in MMPose's ``HeatmapHead`` (normal, 0.001; bias 0), so that maps start around 0.  A map is empty if it holds no mass
under its rule: Eq. 3 then divides 0 by 0; and dead if, without help, its gradient is 0 for ever.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import torch
from make_demo_data import SPLITS, make_picture
from measuring import ROOT, conditions, machine, table, write_json
from torch import Tensor, nn

sys.path.insert(0, str(ROOT))

from hdm_mmpose.transport import EMDOptions, build_supplier, emd  # noqa: E402
from hdm_mmpose.transport.sub_pixel import read_heatmap  # noqa: E402

INPUT = (48, 64)  # w, h in pixels
STRIDE = 2
SIZE = (INPUT[1] // STRIDE, INPUT[0] // STRIDE)  # H, W in cells
JOINTS = 17
EPSILON = 0.25
# (supplier, potential); the first is the paper's own reading of its equations
SETTINGS = (
    ('relu', 'shannon'), ('relu', 'product'), ('relu_surrogate', 'shannon'), ('relu_surrogate', 'product'),
    ('softplus', 'shannon'), ('softplus', 'product'), ('softmax', 'product'),
)
CHECKS = 8  # times during a training that empty maps are counted


@dataclass
class Data:
    """Crops (N, 3, h, w) in [-1, 1], dots (N, K, 2) in cells, x then y, and weights (N, K)."""

    pictures: Tensor
    dots: Tensor
    weights: Tensor


@dataclass
class Run:
    """One training.

    Attributes:
        empty: share of empty maps on the held-out persons at each check, the first before any training.
        mean_error, median_error: distance to the joint in cells, at the end; an empty map is read as its highest cell.
    """

    supplier: str
    potential: str
    seed: int
    empty: list[float] = field(default_factory=list)
    mean_error: float = float('nan')
    median_error: float = float('nan')
    seconds: float = 0.0


class Network(nn.Module):
    """A small hourglass, (N, 3, h, w) to (N, K, h / 2, w / 2)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _block(3, 16, stride=2)
        self.down = nn.ModuleList([_block(16, 32, stride=2), _block(32, 64, stride=2)])
        self.bottom = _block(64, 64)
        self.up = nn.ModuleList([_block(64, 32), _block(32, 16)])
        self.head = nn.Conv2d(16, JOINTS, 1)
        nn.init.normal_(self.head.weight, std=0.001)
        nn.init.zeros_(self.head.bias)

    def forward(self, picture: Tensor) -> Tensor:
        skips = [self.stem(picture)]
        for down in self.down:
            skips.append(down(skips[-1]))
        x = self.bottom(skips.pop())
        for up in self.up:
            skip = skips.pop()
            x = nn.functional.interpolate(up(x), size=skip.shape[2:], mode='bilinear', align_corners=False) + skip
        return self.head(x)


def _block(channels: int, out: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU())


def draw(split: str, persons: int, seed: int) -> Data:
    """The first persons of a split of the demo's data set."""
    pictures, dots, weights = [], [], []
    index = 0
    while len(pictures) < persons:
        picture, annotations = make_picture(seed, SPLITS.index(split), index)
        index += 1
        for annotation in annotations:
            crop, joints, visible = _crop(picture, annotation)
            pictures.append(crop)
            dots.append(joints)
            weights.append(visible)
    stacked = (torch.from_numpy(np.stack(values[:persons])).float() for values in (pictures, dots, weights))
    return Data(*stacked)


def _crop(picture: np.ndarray, annotation: dict) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A person's box, widened to the shape of the input; joints in cells (centres at integers)."""
    x, y, width, height = annotation['bbox']
    scale = min(INPUT[0] / width, INPUT[1] / height) / 1.15
    middle = np.array([x + (width - 1) / 2, y + (height - 1) / 2])
    shift = (np.array(INPUT) - 1) / 2 - scale * middle
    warp = np.array([[scale, 0, shift[0]], [0, scale, shift[1]]])
    crop = cv2.warpAffine(picture, warp, INPUT, flags=cv2.INTER_AREA)
    in_input = scale * np.array(annotation['joints']) + shift
    cells = (in_input + 0.5) / STRIDE - 0.5
    flags = np.array(annotation['keypoints']).reshape(-1, 3)[:, 2]
    inside = ((cells >= 0) & (cells <= [SIZE[1] - 1, SIZE[0] - 1])).all(-1)
    return crop.transpose(2, 0, 1) / 127.5 - 1, cells, (flags > 0) & inside


def train(supplier: str, potential: str, seed: int, train_data: Data, held_out: Data, steps: int, batch: int) -> Run:
    """One network from a fresh start."""
    torch.manual_seed(seed)
    run, network, start = Run(supplier, potential, seed), Network(), time.perf_counter()
    options = EMDOptions(EPSILON, potential, build_supplier(supplier))
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    order = torch.Generator().manual_seed(seed)
    for step in range(steps):
        if step * CHECKS % steps < CHECKS:
            run.empty.append(evaluate(network, held_out, options)[0])
        chosen = torch.randint(len(train_data.pictures), (batch,), generator=order)
        maps = network.train()(train_data.pictures[chosen])
        loss = _loss(maps, train_data.dots[chosen], train_data.weights[chosen], options)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    empty, errors = evaluate(network, held_out, options)
    run.empty.append(empty)
    run.mean_error, run.median_error = errors.mean().item(), errors.median().item()
    run.seconds = time.perf_counter() - start
    return run


def _loss(maps: Tensor, dots: Tensor, weights: Tensor, options: EMDOptions) -> Tensor:
    cost = emd(maps.flatten(0, 1), dots.flatten(0, 1), options).cost.view(weights.shape)
    return torch.where(weights > 0, cost, 0).sum() / weights.sum()


@torch.no_grad()
def evaluate(network: Network, data: Data, options: EMDOptions) -> tuple[float, Tensor]:
    """Share of empty maps among visible joints, and the distances of decoded to true joints in cells."""
    maps = network.eval()(data.pictures)[data.weights > 0]
    reading = read_heatmap(maps, options.supplier)
    empty = options.supplier.is_empty(maps).float().mean().item()
    return empty, (reading.dots - data.dots[data.weights > 0]).norm(dim=-1)


def revives(options: EMDOptions) -> bool:
    """Does an empty map still have a gradient?  Asked of the loss itself."""
    with torch.enable_grad():
        empty = torch.full((1, *SIZE), -1.0, requires_grad=True)
        emd(empty, torch.tensor([[3.3, 4.4]]), options).cost.sum().backward()
    return bool((empty.grad != 0).any())


def summary_table(runs: list[Run]) -> str:
    """One line per setting: means over the seeds, worst and best beside them."""
    rows = []
    for supplier, potential in dict.fromkeys((run.supplier, run.potential) for run in runs):
        some = [run for run in runs if (run.supplier, run.potential) == (supplier, potential)]
        rows.append([
            supplier, potential, _percent([max(run.empty) for run in some]), _percent([run.empty[-1] for run in some]),
            'yes' if revives(EMDOptions(EPSILON, potential, build_supplier(supplier))) else 'no: dead',
            _spread([run.mean_error for run in some]), _spread([run.median_error for run in some]),
        ])
    head = ['supplier', 'potential', 'empty, at worst', 'empty at the end', 'they get a gradient', 'mean error (cells)', 'median error']
    return table(head, rows)


def _percent(values: list[float]) -> str:
    return f'{100 * statistics.mean(values):.1f} % ({100 * min(values):.1f} - {100 * max(values):.1f})'


def _spread(values: list[float]) -> str:
    return f'{statistics.mean(values):.2f} ({min(values):.2f} - {max(values):.2f})'


def document(runs: list[Run], about: dict, arguments: argparse.Namespace) -> str:
    """The Markdown file, whole."""
    return f"""# Which supplier rules survive a fresh start

This file is written by `tools/benchmark_collapse.py`; change the script, not the file.

A small network ({sum(p.numel() for p in Network().parameters())} parameters) learns {JOINTS} joints of {arguments.persons} drawn
persons, {INPUT[0]} x {INPUT[1]} pixels to {SIZE[1]} x {SIZE[0]} cells, {arguments.steps} steps of {arguments.batch}, Adam at
0.001 with a cosine schedule, epsilon = {EPSILON} cells, Euclidean cost, last layer started as MMPose's `HeatmapHead`. Error:
distance between decoded and drawn joint in heatmap cells on {arguments.held_out} held-out persons; an empty map is read as its
highest cell. Each entry is the mean over {arguments.seeds} seeds, and (lowest - highest).

A map is *empty* if it holds no mass under its rule (Eq. 3 is then 0 / 0), and *dead* if it gets no gradient either: then it
never comes back by itself. `relu` with `shannon` and epsilon 0.25 is the paper taken at its word.

{summary_table(runs)}

{conditions(about)} {sum(run.seconds for run in runs) / 60:.0f} minutes of training.
"""


def main(argv: list[str] | None = None) -> list[Run]:
    """Train everything, print the table, write what was asked for."""
    arguments = _arguments(argv)
    about = machine('cpu', 0)
    print(f'drawing {arguments.persons + arguments.held_out} persons ...', flush=True)
    data, held_out = draw('train', arguments.persons, 0), draw('val', arguments.held_out, 0)
    chosen = [pair for pair in SETTINGS if not arguments.suppliers or pair[0] in arguments.suppliers]
    runs = []
    for supplier, potential in chosen:
        for seed in range(arguments.seeds):
            run = train(supplier, potential, seed, data, held_out, arguments.steps, arguments.batch)
            runs.append(run)
            print(f'{supplier:>15} {potential:>8} seed {seed}: empty {max(run.empty):.3f} at worst, {run.empty[-1]:.3f} at the '
                  f'end, error {run.mean_error:.2f} cells, {run.seconds:.0f} s', flush=True)
    print(summary_table(runs))
    if arguments.markdown:
        arguments.markdown.write_text(document(runs, about, arguments))
        print(f'wrote {arguments.markdown}')
    if arguments.json:
        setting = {key: value for key, value in vars(arguments).items() if isinstance(value, int)}
        write_json(arguments.json, {'machine': about, 'setting': setting, 'runs': [dataclasses.asdict(run) for run in runs]})
    return runs


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--seeds', type=int, default=3)
    parser.add_argument('--steps', type=int, default=300)
    parser.add_argument('--batch', type=int, default=32)
    parser.add_argument('--persons', type=int, default=1200, help='trained on')
    parser.add_argument('--held-out', type=int, default=200)
    parser.add_argument('--suppliers', nargs='+', metavar='NAME', help='only these')
    parser.add_argument('--markdown', type=Path, metavar='FILE', help='write the whole file')
    parser.add_argument('--json', type=Path, metavar='FILE', help='write the numbers')
    return parser.parse_args(argv)


if __name__ == '__main__':
    main()
