#!/usr/bin/env python
"""The README's picture of the method: one heatmap, its transport to the dot, and what two losses ask of the same heatmap.

Everything in it is computed by ``hdm_mmpose.transport``; the gradients are those of autograd.

    python tools/analysis_tools/draw_how_it_works.py                  # writes docs/images/how_it_works.png
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from hdm_mmpose.transport import EMDOptions, TransportProblem, dot_demanders, emd, solve  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
SIZE = (9, 14)  # H, W in cells
DOT = (10.35, 2.6)  # x, y in cells: where the joint is
BLOB = (3.2, 5.9)  # x, y in cells: where the network sees it
SIGMA = 1.1  # cells, of the blob and of the Gaussian that MSE trains towards
OPTIONS = EMDOptions(0.25, 'product', 'relu', unbiased=False, ground_distance='euclidean')  # Eq. 3
SHOWN = 2e-3  # share of the mass from which a path is drawn
COLOURS = ('tab:red', 'tab:orange', 'tab:green', 'tab:purple')  # of the four cells
PIXELS = 1200  # width of the picture; a README shows about 800


@dataclass(frozen=True)
class Story:
    """What the picture shows; float64, cells in (H, W), points in cells, x then y.

    Attributes:
        suppliers: (H, W) what the network predicts, as masses; they sum to 1.
        position, mass: (4, 2) and (4,) of the demanders around the dot.
        plan: (4, H, W) how much each cell sends to each demander.
        cost: what all that costs, in cells of transport.
        emd_step, mse_step: (H, W) minus the gradient of each loss: above 0 where it asks for more.
    """

    suppliers: Tensor
    position: Tensor
    mass: Tensor
    plan: Tensor
    cost: float
    emd_step: Tensor
    mse_step: Tensor


def gaussian(centre: tuple[float, float]) -> Tensor:
    """(H, W) of height 1."""
    rows, columns = (torch.arange(count, dtype=torch.float64) for count in SIZE)
    square = (rows[:, None] - centre[1]) ** 2 + (columns - centre[0]) ** 2
    return torch.exp(-square / (2 * SIGMA**2))


def tell() -> Story:
    """Solve the problem and differentiate both losses."""
    heatmap, dots = gaussian(BLOB).requires_grad_(), torch.tensor([DOT], dtype=torch.float64)
    suppliers = OPTIONS.supplier(heatmap.detach()[None])
    demanders = dot_demanders(dots, SIZE)
    result = solve(TransportProblem(suppliers, demanders, OPTIONS.epsilon, OPTIONS.ground_distance), OPTIONS.solver)
    cost = emd(heatmap[None], dots, OPTIONS).cost.sum()
    (emd_gradient,) = torch.autograd.grad(cost, heatmap)
    (mse_gradient,) = torch.autograd.grad(torch.nn.functional.mse_loss(heatmap, gaussian(DOT)), heatmap)
    return Story(suppliers[0], demanders.position[0], demanders.mass[0], result.plan[0].view(4, *SIZE),
                 float(cost.detach()), -emd_gradient, -mse_gradient)


def draw_panels(story: Story, path: Path) -> None:
    """Four panels on a page of ``PIXELS`` across."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    pyplot.rcParams.update({'font.size': 9.5, 'axes.titlesize': 10.5, 'axes.titlelocation': 'left'})
    figure, axes = pyplot.subplots(2, 2, figsize=(8, 6), layout='constrained')
    draw_heatmap(axes[0, 0], story)
    draw_transport(axes[0, 1], story)
    draw_gradient(axes[1, 0], story.emd_step, "3  EMD's gradient: from everywhere towards the dot")
    image = draw_gradient(axes[1, 1], story.mse_step, "4  MSE's gradient: two places, and no way between")
    bar = figure.colorbar(image, ax=axes[1], orientation='horizontal', shrink=0.6, aspect=50, ticks=[-1, 0, 1])
    bar.ax.set_xticklabels(['lower this cell', 'minus gradient, scaled to its largest', 'raise it'])
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    figure.savefig(path, dpi=PIXELS / 8)
    pyplot.close(figure)


def draw_heatmap(axis, story: Story) -> None:
    axis.imshow(story.suppliers, cmap='Blues')
    axis.set_title('1  The heatmap, read as a distribution of mass')
    ring(axis)
    axis.annotate('annotated dot', DOT, (0, 12), textcoords='offset points', ha='center')
    axis.annotate('prediction', BLOB, (0, 50), textcoords='offset points', ha='center')


def draw_transport(axis, story: Story) -> None:
    """The four cells with their masses; every path in the colour of its cell, as wide as the mass on it."""
    axis.imshow(story.suppliers, cmap='Blues', alpha=0.7)
    largest = float(story.plan.max())
    for (right, below), colour, plan, mass in zip(story.position.tolist(), COLOURS, story.plan, story.mass):
        for y, x in (plan > SHOWN).nonzero().tolist():
            axis.plot([x, right], [y, below], color=colour, linewidth=0.3 + 3 * float(plan[y, x]) / largest, alpha=0.5)
        axis.fill([right - 0.5, right + 0.5, right + 0.5, right - 0.5], [below - 0.5, below - 0.5, below + 0.5, below + 0.5],
                  color=colour, zorder=3)
        outer = (right + (0.05 if right > DOT[0] else -0.05), below + (0.15 if below > DOT[1] else -0.15))
        axis.annotate(f'{mass:.2f}'.lstrip('0'), outer, color='white', ha='center', va='center', zorder=4, fontsize=9)
    axis.plot(*DOT, '.', color='black', markersize=7, zorder=4)
    axis.set_title(f'2  The loss: its cheapest way to the dot, {story.cost:.1f} cells')


def draw_gradient(axis, step: Tensor, title: str):
    image = axis.imshow(step / step.abs().max(), cmap='RdBu_r', vmin=-1, vmax=1)
    axis.set_title(title)
    ring(axis)
    return image


def ring(axis) -> None:
    axis.plot(*DOT, 'o', color='none', markeredgecolor='black', markersize=11, markeredgewidth=1.6)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', type=Path, default=ROOT / 'docs' / 'images' / 'how_it_works.png', help='file to write')
    out = parser.parse_args().out
    draw_panels(tell(), out)
    print(f'written to {out}')


if __name__ == '__main__':
    main()
