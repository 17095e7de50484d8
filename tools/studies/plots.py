"""The plots of a study's stages."""

from __future__ import annotations

import statistics
from pathlib import Path

from tools.studies.config import Study
from tools.studies.records import by_supervision, own_reading, title_of


def subplots(rows: int, columns: int, size: tuple[float, float], **options):
    """Axes of a new figure, without a display."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    return pyplot.subplots(rows, columns, figsize=size, layout='constrained', **options)[1]


def save(figure, file: Path) -> None:
    from matplotlib import pyplot

    figure.savefig(file, dpi=110)
    pyplot.close(figure)


def plot_pck(study: Study, records: list[dict], file: Path) -> None:
    """PCK over its threshold, mean over seeds, one line per supervision under its first decoder."""
    axis = subplots(1, 1, (7, 4.5))
    for name, group in by_supervision(records):
        curves = [own_reading(record)['pck_curve'] for record in group]
        mean = [100 * statistics.fmean(each) for each in zip(*curves)]
        axis.plot(study.domain.thresholds, mean, label=title_of(study, name))
    axis.set_xlabel(f'threshold (share of {study.domain.reach})')
    axis.set_ylabel('PCK (%)')
    axis.grid(alpha=0.3)
    axis.legend(fontsize=7)
    save(axis.figure, file)


def plot_changes(study: Study, records: list[dict], file: Path) -> None:
    """The two plotted metrics of many supervisions: a line of dots for each under its first decoder, one dot per seed.

    A band reaches from the lowest to the highest seed of a supervision that has several, in the colour of its dots.
    """
    groups = list(by_supervision(records))
    axes = subplots(1, 2, (11, 1 + 0.22 * len(groups)), sharey=True)
    for axis, key in zip(axes, study.domain.plotted):
        bands = 0
        for place, (_, group) in enumerate(groups):
            values = [100 * own_reading(record)[key] for record in group]
            color = '0.2'
            if len(values) > 1:
                color, bands = f'C{bands}', bands + 1
                axis.axvspan(min(values), max(values), color=color, alpha=0.15, linewidth=0)
            axis.plot(values, [place] * len(values), 'o', color=color, markersize=4)
        axis.set_xlabel(f'{key} (%)')
        axis.grid(alpha=0.3)
    axes[0].set_yticks(range(len(groups)))
    axes[0].set_yticklabels([title_of(study, name).split(' (')[0] for name, _ in groups], fontsize=7)
    axes[0].invert_yaxis()
    save(axes[0].figure, file)


def plot_curves(study: Study, records: list[dict], file: Path) -> None:
    """The plotted metrics over the epochs, those that were logged."""
    logged = {key: label for label, key in study.domain.plotted.items() if key}
    axes = subplots(1, len(logged), (5.5 * len(logged), 4.2), squeeze=False)[0]
    for axis, (key, label) in zip(axes, logged.items()):
        for color, (name, group) in enumerate(by_supervision(records)):
            for record in group:
                points = [point for point in record['curve'] if key in point]
                axis.plot([point['epoch'] for point in points], [100 * point[key] for point in points], color=f'C{color % 10}',
                          linestyle='-' if color < 10 else '--', linewidth=1,
                          label=title_of(study, name) if record is group[0] else None)
        axis.set_xlabel('epoch')
        axis.set_ylabel(f'{label} (%)')
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=7)
    save(axes[0].figure, file)
