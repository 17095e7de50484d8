#!/usr/bin/env python
"""Which supplier rules survive a fresh start: a small network on drawn figures, several seeds per rule.

    python tools/benchmarks/collapse.py [--markdown docs/collapse.md --json docs/data/collapse.json]

The pictures are those of ``tools/dataset_converters/make_demo_data.py``, drawn in memory, one crop per person.  The network's last layer
starts as in MMPose's ``HeatmapHead`` (normal, 0.001; bias 0), so that maps start around 0.  A map is empty if it holds no mass
under its rule: Eq. 3 then divides 0 by 0.  It is still if the loss has no gradient at it to speak of, empty or not: a softmax whose
mass has all gone to one cell is as still as an empty relu.  Both are measured on held-out persons, several times in a training.
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
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from hdm_mmpose.decoding import read_heatmap  # noqa: E402
from hdm_mmpose.transport import SUPPLIERS, DotLoss, EMDOptions  # noqa: E402
from tools.benchmarks.measuring import conditions, machine, write_json  # noqa: E402
from tools.dataset_converters.make_demo_data import SPLITS, make_picture  # noqa: E402
from tools.pages import table  # noqa: E402

INPUT = (48, 64)  # w, h in pixels
STRIDE = 2
SIZE = (INPUT[1] // STRIDE, INPUT[0] // STRIDE)  # H, W in cells
JOINTS = 17
EPSILON = 0.25
CHECKS = 8  # times during a training that maps are looked at
# In cells per unit of the heatmap.  The loss is in cells and maps stand a few units high: at this slope one would have to change
# by 10,000 units to gain a hundredth of a cell.  The table says where the median map's slope is.
STILL = 1e-6
WRONG = 1.0  # in cells: a map that is still and further off than this is stuck; one that is right may be still


@dataclass(frozen=True)
class Setting:
    """A loss: the transport cost plus, if its options say so, the cross-entropy."""

    options: EMDOptions

    def __str__(self) -> str:
        options = self.options
        parts = [options.objective]
        parts += [options.ground_distance.name] if options.ground_distance.name != 'euclidean' else []
        parts += ['unbiased'] if options.unbiased else []
        parts += [f'epsilon {options.epsilon:g}'] if options.epsilon != EPSILON else []
        return ', '.join(parts) + (f' + {options.cross_entropy_weight:g} CE' if options.cross_entropy_weight else '')

    def values(self, maps: Tensor, dots: Tensor) -> Tensor:
        """(J,) from maps (J, H, W) and dots (J, 2) in cells, x then y."""
        return DotLoss(self.options)(maps[None], dots[None])[0]


def _paper(supplier: str, objective: str) -> Setting:
    return Setting(EMDOptions(
        EPSILON, objective, supplier, unbiased=False, ground_distance='euclidean', cross_entropy_weight=0.0, reduction='none'))


def _default(**changes) -> Setting:
    return Setting(EMDOptions(reduction='none', **changes))


# The first is the paper's own reading of its equations, the last what the package does by default, before it without its companion.
SETTINGS = (
    _paper('relu', 'shannon'), _paper('relu', 'product'), _paper('relu_surrogate', 'shannon'), _paper('relu_surrogate', 'product'),
    _paper('softplus', 'shannon'), _paper('softplus', 'product'), _paper('softmax', 'product'),
    _default(cross_entropy_weight=0.0), _default(),
)


@dataclass
class Data:
    """Crops (N, 3, h, w) in [-1, 1], dots (N, K, 2) in cells, x then y, and weights (N, K)."""

    pictures: Tensor
    dots: Tensor
    weights: Tensor


@dataclass(frozen=True)
class Check:
    """The maps of the held-out persons' visible joints at one moment.

    Attributes:
        empty, still, stuck: shares of the maps; ``stuck`` are still and wrong.
        slope: median over the maps of the largest entry of their gradient, in cells per unit of the heatmap.
        mean_error, median_error: distance to the joint in cells; an empty map is read as its highest cell.
    """

    empty: float
    still: float
    stuck: float
    slope: float
    mean_error: float
    median_error: float


@dataclass
class Run:
    """One training; ``checks`` are in order of time, the first before any step, the last after all."""

    supplier: str
    loss: str
    seed: int
    checks: list[Check] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def end(self) -> Check:
        return self.checks[-1]

    def worst(self, what: str) -> float:
        """The largest share over the checks."""
        return max(getattr(check, what) for check in self.checks)


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


def train(setting: Setting, seed: int, train_data: Data, held_out: Data, steps: int, batch: int) -> Run:
    """One network from a fresh start."""
    torch.manual_seed(seed)
    run, network, start = Run(setting.options.supplier.name, str(setting), seed), Network(), time.perf_counter()
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    order = torch.Generator().manual_seed(seed)
    for step in range(steps):
        if step * CHECKS % steps < CHECKS:
            run.checks.append(check(network, held_out, setting))
        chosen = torch.randint(len(train_data.pictures), (batch,), generator=order)
        maps = network.train()(train_data.pictures[chosen])
        loss = _loss(maps, train_data.dots[chosen], train_data.weights[chosen], setting)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    run.checks.append(check(network, held_out, setting))
    run.seconds = time.perf_counter() - start
    return run


def _loss(maps: Tensor, dots: Tensor, weights: Tensor, setting: Setting) -> Tensor:
    values = setting.values(maps.flatten(0, 1), dots.flatten(0, 1)).view(weights.shape)
    return torch.where(weights > 0, values, 0).sum() / weights.sum()


def check(network: Network, data: Data, setting: Setting) -> Check:
    """Look at the maps of all visible joints."""
    with torch.no_grad():
        maps = network.eval()(data.pictures)[data.weights > 0]
    dots, supplier = data.dots[data.weights > 0], setting.options.supplier
    error = (read_heatmap(maps, supplier).dots - dots).norm(dim=-1)
    slope = largest_slope(maps, dots, setting)
    still = slope < STILL
    shares = (each.float().mean().item() for each in (supplier.is_empty(maps), still, still & (error > WRONG)))
    return Check(*shares, slope.median().item(), error.mean().item(), error.median().item())


def largest_slope(maps: Tensor, dots: Tensor, setting: Setting) -> Tensor:
    """(J,) largest entry of each map's gradient, in cells per unit of the heatmap.

    Args:
        maps: (J, H, W).
        dots: (J, 2) in cells, x then y.
        setting: the loss.
    """
    maps = maps.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(setting.values(maps, dots).sum(), maps)
    return gradient.abs().amax((1, 2))


def summary_table(runs: list[Run]) -> str:
    """One line per setting: means over the seeds, best and worst beside them."""
    rows = []
    for supplier, loss in dict.fromkeys((run.supplier, run.loss) for run in runs):
        some = [run for run in runs if (run.supplier, run.loss) == (supplier, loss)]
        shares = {what: [_percent([run.worst(what) for run in some]), _percent([getattr(run.end, what) for run in some])]
                  for what in ('empty', 'still', 'stuck')}
        if SUPPLIERS[supplier].positive:
            shares['empty'] = ['cannot be', 'cannot be']
        slopes = [run.end.slope for run in some]
        rows.append([
            supplier, loss, *shares['empty'], *shares['still'], shares['stuck'][1], f'{min(slopes):.2g} - {max(slopes):.2g}',
            _spread([run.end.mean_error for run in some]), _spread([run.end.median_error for run in some]),
        ])
    head = ['supplier', 'loss', 'empty, at worst', 'empty, at the end', 'still, at worst', 'still, at the end', 'stuck, at the end',
            'median slope', 'mean error (cells)', 'median error']
    return table(head, rows)


def _percent(values: list[float]) -> str:
    return f'{100 * statistics.mean(values):.1f} % ({100 * min(values):.1f} - {100 * max(values):.1f})'


def _spread(values: list[float]) -> str:
    return f'{statistics.mean(values):.2f} ({min(values):.2f} - {max(values):.2f})'


def document(runs: list[Run], about: dict, arguments: argparse.Namespace) -> str:
    """The Markdown file, whole."""
    return f"""# Which supplier rules survive a fresh start

This file is written by `tools/benchmarks/collapse.py`; change the script, not the file.

A small network ({sum(p.numel() for p in Network().parameters())} parameters) learns {JOINTS} joints of {arguments.persons} drawn
persons, {INPUT[0]} x {INPUT[1]} pixels to {SIZE[1]} x {SIZE[0]} cells, {arguments.steps} steps of {arguments.batch}, Adam at
0.001 with a cosine schedule, last layer started as MMPose's `HeatmapHead`. The loss is the transport cost with epsilon = {EPSILON}
cells, Euclidean distance and plain demanders, unless the row says otherwise; CE is the cross-entropy with the dot. Error: distance
between decoded and drawn joint in heatmap cells on {arguments.held_out} held-out persons; an empty map is read as its highest cell.
Each entry is the mean over {arguments.seeds} seeds, and (lowest - highest).

A map is *empty* if it holds no mass under its rule (Eq. 3 is then 0 / 0). It is *still* if the largest entry of the loss's gradient
with respect to it is below {STILL:g} cells per unit of the heatmap: at this slope it would have to change by 10,000 units to gain a
hundredth of a cell, so the loss does not move it, whatever the reason: no mass, or all of it in one cell. It is *stuck* if it is
still and more than {WRONG:g} cell off. All are shares of the held-out persons' visible joints, looked at {CHECKS} times during the
training and once after it; "median slope" is that of the median map at the end. `relu` with `shannon` and epsilon 0.25 is the paper
taken at its word, the last row the package's default.

{summary_table(runs)}

{conditions(about)} {sum(run.seconds for run in runs) / 60:.0f} minutes of training.
"""


def main(argv: list[str] | None = None) -> list[Run]:
    """Train everything, print the table, write what was asked for."""
    arguments = _arguments(argv)
    about = machine('cpu', 0)
    print(f'drawing {arguments.persons + arguments.held_out} persons ...', flush=True)
    data, held_out = draw('train', arguments.persons, 0), draw('val', arguments.held_out, 0)
    chosen = [each for each in SETTINGS if not arguments.suppliers or each.options.supplier.name in arguments.suppliers]
    runs = []
    for setting in chosen:
        for seed in range(arguments.seeds):
            run = train(setting, seed, data, held_out, arguments.steps, arguments.batch)
            runs.append(run)
            print(f'{run.supplier:>15}, {run.loss}, seed {seed}: empty {run.worst("empty"):.3f} at worst, {run.end.empty:.3f} at the '
                  f'end; still {run.worst("still"):.3f}, {run.end.still:.3f}; stuck {run.end.stuck:.3f}; error '
                  f'{run.end.mean_error:.2f} cells, {run.seconds:.0f} s', flush=True)
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
