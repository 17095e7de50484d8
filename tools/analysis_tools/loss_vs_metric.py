#!/usr/bin/env python
"""Does the metric rise as the validation loss falls? The paper's supplement B, Fig. 2.

Reads what ``ValidationLossHook`` and the evaluator logged, and draws one panel per training: the loss across, the metric up,
one point per epoch. The rank correlation says how well the two go together (-1: the metric rises whenever the loss falls).

    python tools/analysis_tools/loss_vs_metric.py WORK_DIR_MSE WORK_DIR_EMD --losses mse emd --metric PCK --first 2 --last 15 --out FOLDER
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from tools.analysis_tools.trained_model import title_of  # noqa: E402

LABELS = {
    'mse': 'MSE to Gaussian heatmaps on the validation set (mean per cell)',
    'emd': 'distribution matching loss on the validation set',
}
METRICS = {
    'PCK': 'PCKh@0.5 on the validation set (%)',
    'coco/AP': 'AP on the validation set',
    'pixel/EPE': 'mean error, pixels of the picture (lower is better)',
}


def main(argv: list[str] | None = None) -> dict:
    """Draw the panels and write the numbers; returns them by panel title."""
    args = _arguments(argv)
    losses = args.losses if len(args.losses) > 1 else args.losses * len(args.work_dirs)
    titles = args.titles or [title_of(folder) for folder in args.work_dirs]
    if not len(losses) == len(titles) == len(args.work_dirs):
        raise SystemExit(f'give one loss and one title for each of the {len(args.work_dirs)} work directories')
    panels = {}
    for folder, loss, title in zip(args.work_dirs, losses, titles):
        epochs = read_log(folder, f'loss_{loss}', args.metric)
        chosen = {epoch: pair for epoch, pair in epochs.items() if args.first <= epoch <= args.last}
        panels[f'{title}: {loss}'] = {'loss': loss, 'epochs': chosen, **summary(chosen, folder)}
    args.out.mkdir(parents=True, exist_ok=True)
    draw_panels(panels, args.metric, args.out / 'loss_vs_metric.png')
    (args.out / 'loss_vs_metric.json').write_text(json.dumps(panels, indent=1) + '\n')
    for title, panel in panels.items():
        print(f'{title}: {describe(panel)}')
    print(f'written to {args.out / "loss_vs_metric.png"}')
    return panels


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('work_dirs', type=Path, nargs='+', help='work directories of trainings with ValidationLossHook')
    parser.add_argument('--losses', nargs='+', choices=sorted(LABELS), default=['emd'], help='one for all, or one for each')
    parser.add_argument('--titles', nargs='+', help='default: the names of the folders')
    parser.add_argument('--metric', default='PCK', help='name in the log, such as PCK or coco/AP (default: PCK)')
    parser.add_argument('--first', type=int, default=1, help='first epoch drawn')
    parser.add_argument('--last', type=int, default=10**9, help='last epoch drawn')
    parser.add_argument('--out', type=Path, required=True, help='folder for the picture and the numbers')
    return parser.parse_args(argv)


def read_log(folder: Path, loss: str, metric: str) -> dict[int, tuple[float, float]]:
    """Loss and metric by epoch, from all runs in a work directory; where an epoch was repeated, the newest counts.

    Raises:
        SystemExit: no epoch logged both; what the log does hold is listed.
    """
    found: dict[int, tuple[float, float]] = {}
    seen: set[str] = set()
    for log in sorted(folder.glob('*/vis_data/scalars.json')):
        for line in log.read_text().splitlines():
            entry = json.loads(line)
            seen.update(entry)
            if loss in entry and metric in entry:
                found[int(entry['step'])] = (float(entry[loss]), float(entry[metric]))
    if not found:
        raise SystemExit(
            f'{folder} has logged no epoch with both {loss!r} and {metric!r} (does its config use ValidationLossHook?); '
            f'logged are: {", ".join(sorted(seen)) or "nothing"}'
        )
    return dict(sorted(found.items()))


def summary(epochs: dict[int, tuple[float, float]], folder: Path | str = '') -> dict:
    """Rank correlation between loss and metric, and how often both fell from one epoch to the next."""
    from scipy.stats import spearmanr

    if len(epochs) < 3:
        raise SystemExit(f'a rank correlation needs at least 3 epochs, {folder} has {len(epochs)} in the chosen range')
    losses, metrics = zip(*epochs.values())
    steps = list(zip(losses, losses[1:], metrics, metrics[1:]))
    fell = [(after_metric < metric) for loss, after, metric, after_metric in steps if after < loss]
    correlation = float(spearmanr(losses, metrics).statistic)
    return {'spearman': correlation, 'count': len(epochs), 'loss_fell': len(fell), 'metric_fell_with_it': sum(fell)}


def describe(panel: dict) -> str:
    """The numbers of a panel in words."""
    return (
        f'Spearman {panel["spearman"]:+.2f} over {panel["count"]} epochs; the metric fell in '
        f'{panel["metric_fell_with_it"]} of the {panel["loss_fell"]} steps in which the loss fell'
    )


def draw_panels(panels: dict, metric: str, path: Path) -> None:
    """One panel per training, points joined in the order of the epochs and labelled with them."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot
    from matplotlib.ticker import MaxNLocator

    size = (6 * len(panels), 4.8)
    figure, axes = pyplot.subplots(1, len(panels), figsize=size, squeeze=False, sharey=True, layout='constrained')
    for axis, letter, (title, panel) in zip(axes[0], 'abcdefgh', panels.items()):
        losses, metrics = zip(*panel['epochs'].values())
        axis.plot(losses, metrics, color='0.7', linewidth=1, zorder=1)
        points = axis.scatter(losses, metrics, c=list(panel['epochs']), cmap='viridis', s=28, zorder=2)
        axis.set_xlabel(LABELS[panel['loss']])
        axis.set_ylabel(METRICS.get(metric, metric))
        axis.yaxis.set_tick_params(labelleft=True)
        axis.grid(color='0.9', linewidth=0.6)
        axis.set_axisbelow(True)
        words = describe(panel).replace('; ', ';\n')
        axis.set_title(f'({letter}) {title}\n{words}', fontsize=9)
        axis.margins(0.08)
        axis.locator_params(axis='x', nbins=6)
        axis.ticklabel_format(axis='x', useOffset=False)
        figure.colorbar(points, ax=axis, label='epoch', ticks=MaxNLocator(integer=True))
    figure.canvas.draw()  # what lies near what is known only now
    for axis, panel in zip(axes[0], panels.values()):
        for epoch in apart(panel['epochs'], axis.transData.transform):
            axis.annotate(str(epoch), panel['epochs'][epoch], xytext=(4, 4), textcoords='offset points', fontsize=8)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def apart(epochs: dict, on_paper, distance: float = 18) -> list[int]:
    """The epochs whose numbers fit beside their points: first and last, then those far enough from the ones before."""
    from math import dist

    places = {epoch: on_paper(place) for epoch, place in epochs.items()}
    numbered: list[int] = []
    for epoch in (min(places), max(places), *places):
        if all(dist(places[epoch], places[other]) >= distance for other in numbered):
            numbered.append(epoch)
    return numbered


if __name__ == '__main__':
    main()
