"""Where the minimiser of each objective decodes to: ``tools/benchmarks/transport.py --bias``."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hdm_mmpose.decoding import decode_square
from hdm_mmpose.transport import EMDOptions, TransportProblem, dot_demanders, emd, emd_objective
from tools.pages import table

from .maps import dot_maps, random_dots

EPSILONS = (4.0, 1.0, 0.5, 0.25, 0.1, 0.05)
# shannon's minimiser is known in closed form, on any map; the others are found by descent on a map of this size.
LARGE, SMALL = (96, 72), (8, 8)
JOINTS = 100
STEPS = 1000
RATE = 0.05


@dataclass
class Bias:
    """Decoding error of minimisers, in cells, over random dots.

    Attributes:
        cells: mean number of cells that the minimiser is spread over, ``exp(entropy)``.
        beaten: share of dots at which the objective is higher than at the minimiser found, by more than rounding.
    """

    objective: str
    epsilon: float
    mean: float
    maximum: float
    cells: float
    beaten: float


def measure(seed: int, progress=print) -> list[Bias]:
    """All objectives at all epsilons."""
    rows = []
    for epsilon in EPSILONS:
        generator = torch.Generator().manual_seed(seed)
        progress(f'epsilon = {epsilon} cells ...')
        dots = random_dots(JOINTS, (4, 4), generator) + 2  # away from the border
        rows.append(_shannon(epsilon, dots + torch.tensor([LARGE[1] // 2, LARGE[0] // 2])))
        for name, options in {
            'product': _options(epsilon, 'product'),
            'product, unbiased': _options(epsilon, 'product', True),
            'sharp': _options(epsilon, 'sharp'),
        }.items():
            rows.append(_descend(name, options, dots))
    return rows


def _options(epsilon: float, objective: str, unbiased: bool = False) -> EMDOptions:
    return EMDOptions(epsilon, objective, 'relu_surrogate', ground_distance='euclidean', unbiased=unbiased)


def _shannon(epsilon: float, dots: Tensor) -> Bias:
    """``S_n = sum_m D_m softmax_n(-C_nm / epsilon)``: with the row sums free, each demander spreads on its own."""
    demanders = dot_demanders(dots, LARGE)
    flat = torch.full((len(dots), *LARGE), 1.0 / (LARGE[0] * LARGE[1]), dtype=dots.dtype)
    cost = TransportProblem(flat, demanders, epsilon).cost()
    suppliers = (demanders.mass[..., None] * (cost / -epsilon).softmax(-1)).sum(1).view_as(flat)
    return _bias('shannon', epsilon, suppliers, dots, float('nan'))


def _descend(name: str, options: EMDOptions, dots: Tensor) -> Bias:
    """Adam on free maps under Eq. 3, from a flat map; where there may be several minima also from the dot itself."""
    ends, flat = [], torch.ones(len(dots), *SMALL, dtype=dots.dtype)
    for start in (flat, dot_maps(dots, SMALL)) if options.objective == 'sharp' else (flat,):
        heatmap = (0.1 * start).requires_grad_()
        optimiser = torch.optim.Adam([heatmap], lr=RATE)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS)
        for _ in range(STEPS):
            optimiser.zero_grad()
            emd(heatmap, dots, options).cost.sum().backward()
            optimiser.step()
            schedule.step()
        ends.append(heatmap.detach())
    values = torch.stack([emd_objective(end, dots, options) for end in ends])
    heatmap = torch.stack(ends)[values.argmin(0), torch.arange(len(dots))]
    at_the_dot = emd_objective(dot_maps(dots, SMALL), dots, options)
    beaten = (at_the_dot > values.amin(0) + 1e-9).double().mean().item()
    return _bias(name, options.epsilon, options.supplier(heatmap), dots, beaten)


def _bias(name: str, epsilon: float, suppliers: Tensor, dots: Tensor, beaten: float) -> Bias:
    error = (decode_square(suppliers)[0] - dots).norm(dim=-1)
    cells = torch.special.entr(suppliers).sum((1, 2)).exp().mean()
    return Bias(name, epsilon, error.mean().item(), error.max().item(), cells.item(), beaten)


def bias_table(rows: list[Bias]) -> str:
    """Mean (max) error and the number of cells per objective and epsilon."""
    names = list(dict.fromkeys(row.objective for row in rows))
    lines = []
    for epsilon in EPSILONS:
        cells = {row.objective: f'{row.mean:.3f} ({row.maximum:.3f}), {row.cells:.1f}' for row in rows if row.epsilon == epsilon}
        lines.append([f'{epsilon:g}', *(cells[name] for name in names)])
    return table(['epsilon (cells)', *names], lines)
