"""The paper's tables with what was measured beside them: Markdown, HTML and model-index entries."""

from __future__ import annotations

import html
import statistics
from dataclasses import dataclass
from pathlib import Path

import yaml

from tools import jobs

from .manifest import Manifest, Row
from .runner import evaluation_name, work_dir


@dataclass(frozen=True)
class Measurement:
    """What was measured for a row: the figures of each seed, where they come from, and what was changed in the recipe."""

    seeds: tuple[int, ...] = ()
    figures: tuple[tuple[float, ...], ...] = ()
    hardware: str = ''
    commit: str = ''
    changes: str = ''

    def mean(self) -> list[float | None]:
        """Mean over the seeds per column, empty without a measurement."""
        return [statistics.fmean(column) for column in zip(*self.figures)]

    def spread(self) -> list[float]:
        """Standard deviation over the seeds per column, empty with fewer than two."""
        if len(self.figures) < 2:
            return []
        return [statistics.stdev(column) for column in zip(*self.figures)]


@dataclass(frozen=True)
class Line:
    """One printed line: what it is, one cell per column, and where it comes from."""

    what: str
    cells: tuple[str, ...]
    origin: tuple[str, str, str] = ('', '', '')


def measurement_of(manifest: Manifest, base: Path, row: Row, boxes: str) -> Measurement:
    """Collect the finished evaluations of a row, over all seeds."""
    table = manifest.tables[row.table]
    if not row.config or not table.evaluation:
        return Measurement()
    name = evaluation_name(table.evaluation, manifest.boxes_of(table.evaluation, boxes))
    found = []
    for folder in sorted(work_dir(base, row, 0).parent.glob('seed-*')):
        if not folder.name.replace('seed-', '', 1).isdecimal():
            continue  # a folder that somebody put aside
        known = jobs.read(folder)
        result = known.get('evaluations', {}).get(name, {})
        if result.get('status') == jobs.DONE and result.get('metrics'):
            figures = tuple(result['metrics'][column] for column in table.columns)
            found.append((int(folder.name.replace('seed-', '', 1)), figures, known.get('train', {})))
    if not found:
        return Measurement()
    seeds, figures, trainings = zip(*found)
    origins = [
        ' / '.join(dict.fromkeys(value for training in trainings for value in training.get(key, [])))
        for key in ('hardware', 'commit', 'changes')
    ]
    return Measurement(seeds, figures, *origins)


def lines(row: Row, measured: Measurement) -> list[Line]:
    """The printed lines of a row: the paper's figures, MMPose's, what was measured, and its difference from the paper."""
    printed = []
    if row.paper:
        printed.append(Line('paper', tuple(map(_figure, row.paper))))
    if row.published:
        printed.append(Line('MMPose publishes', tuple(map(_figure, row.published))))
    if not row.config:
        return printed
    mean, spread = measured.mean(), measured.spread()
    columns = max(len(row.paper), len(row.published), len(mean))
    cells = [_figure(value) for value in mean] or [''] * columns
    if spread:
        cells = [f'{cell} ± {_figure(deviation)}' for cell, deviation in zip(cells, spread)]
    seeds = ', '.join(map(str, measured.seeds))
    what = f'measured with {measured.changes}' if measured.changes else 'measured'
    printed.append(Line(what, tuple(cells), (seeds, measured.hardware, measured.commit)))
    if row.paper:
        values = zip(row.paper, mean or [None] * columns)
        printed.append(Line('difference', tuple(_difference(paper, value) for paper, value in values)))
    return printed


def _figure(value: float | None) -> str:
    return '' if value is None else f'{value:.1f}'


def _difference(paper: float | None, measured: float | None) -> str:
    # of the figures as printed, so that a reader can check it
    return '' if paper is None or measured is None else f'{round(measured, 1) - paper:+.1f}'


@dataclass(frozen=True)
class Section:
    """A table of the report, whoever renders it: heading, cells with the head first, and a list below them."""

    heading: str
    cells: list[list[str]]
    items: list[str]


def sections(manifest: Manifest, base: Path, boxes: str) -> list[Section]:
    """The whole report."""
    found = []
    for table in manifest.tables.values():
        rows = [row for row in manifest.rows.values() if row.table == table.id]
        notes = [f'{" ".join(manifest.notes[name].split())} *({", ".join(row.id for row in rows if name in row.notes)})*'
                 for name in dict.fromkeys(note for row in rows for note in row.notes)]
        cells = [['row', '', *table.columns, 'seeds', 'hardware', 'commit']] if table.columns else []
        for row in rows if cells else ():
            for index, line in enumerate(lines(row, measurement_of(manifest, base, row, boxes))):
                filled = [*line.cells, *[''] * (len(table.columns) - len(line.cells))]
                cells.append(['' if index else _title(row), line.what, *filled, *line.origin])
        made = [] if cells else [f'{row.method}: {_figure_of(row, base)}' for row in rows]
        found.append(Section(f'{table.where}: {table.title}', cells, [*made, *notes]))
    return found


def _title(row: Row) -> str:
    parts = [row.method, row.backbone, row.input]
    return ', '.join(part for part in parts if part) + (f' ({row.venue})' if row.venue else '')


def _figure_of(row: Row, base: Path) -> str:
    folder = work_dir(base, row, 0)
    return str(folder) if jobs.read(folder).get('tool', {}).get('status') == jobs.DONE else 'not made yet'


def _preface(manifest: Manifest, boxes: str) -> str:
    person_ap = manifest.boxes[boxes]['person_ap']
    return (
        f'Paper: {manifest.paper["url"]}. Measured on COCO val with person boxes of {person_ap} AP ({boxes}). '
        'Differences are measured minus paper. A cell without a number has not been measured, or is not printed in the paper.'
    )


def markdown(manifest: Manifest, base: Path, boxes: str) -> str:
    """The whole report as Markdown."""
    parts = [f'# {manifest.paper["title"]}: paper and measurement', '', _preface(manifest, boxes), '']
    for section in sections(manifest, base, boxes):
        printed = ['| ' + ' | '.join(cells) + ' |' for cells in section.cells]
        if printed:
            printed.insert(1, '|---|---|' + '--:|' * (len(section.cells[0]) - 5) + '---|---|---|')
        parts += [f'## {section.heading}', '', *printed, '', *(f'- {item}' for item in section.items), '']
    return '\n'.join(parts)


HTML_HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font-family: sans-serif; max-width: 80rem; margin: 2rem auto; padding: 0 1rem; }}
table {{ border-collapse: collapse; }} th, td {{ padding: .2rem .6rem; text-align: right; }}
th:first-child, td:first-child, td:nth-child(2) {{ text-align: left; }}
tr.first td {{ border-top: 1px solid #999; }} tr.measured td {{ font-weight: bold; }} li {{ color: #444; }}
</style></head><body><h1>{title}: paper and measurement</h1>"""


def html_page(manifest: Manifest, base: Path, boxes: str) -> str:
    """The whole report as one HTML page without outside files."""
    parts = [HTML_HEAD.format(title=html.escape(manifest.paper['title'])), f'<p>{html.escape(_preface(manifest, boxes))}</p>']
    for section in sections(manifest, base, boxes):
        head, *body = section.cells or [[]]
        printed = [_html_row('th', head)] if head else []
        printed += [_html_row('td', cells, ' '.join(['first'] * bool(cells[0]) + [cells[1].split()[0].lower()])) for cells in body]
        items = [html.escape(item.replace('*(', '(').replace(')*', ')')) for item in section.items]
        items = [f'<li>{each}</li>' for each in items]
        parts += [f'<h2>{html.escape(section.heading)}</h2>', '<table>', *printed, '</table>', '<ul>', *items, '</ul>']
    return '\n'.join(parts) + '\n</body></html>\n'


def _html_row(tag: str, cells: list[str], classes: str = '') -> str:
    return f'<tr class="{classes}">' + ''.join(f'<{tag}>{html.escape(cell)}</{tag}>' for cell in cells) + '</tr>'


def metafile(manifest: Manifest, base: Path, boxes: str) -> str:
    """Entries for model-index.yml: the configs that were measured as they are, and nothing else."""
    models: dict[str, dict] = {}
    for row in manifest.rows.values():
        measured = measurement_of(manifest, base, row, boxes)
        if measured.figures and not measured.changes and row.config not in models:
            models[row.config] = _model(manifest, row, measured)
    title, url = manifest.paper['title'], manifest.paper['url']
    collection = {'Name': 'Heatmap Distribution Matching', 'Paper': {'Title': title, 'URL': url}}
    return yaml.safe_dump({'Collections': [collection], 'Models': list(models.values())}, sort_keys=False)


def _model(manifest: Manifest, row: Row, measured: Measurement) -> dict:
    table = manifest.tables[row.table]
    dataset = manifest.evaluations[table.evaluation]['title']
    mean = measured.mean()
    metrics = {column: round(value / 100, 3) for column, value in zip(table.columns, mean)}
    return {
        'Name': Path(row.config).stem,
        'In Collection': 'Heatmap Distribution Matching',
        'Config': row.config,
        'Metadata': {
            'Architecture': [row.backbone],
            'Training Data': dataset,
            'Hardware': measured.hardware,
            'Commit': measured.commit,
            'Seeds': list(measured.seeds),
        },
        'Results': [{'Task': 'Body 2D Keypoint', 'Dataset': dataset, 'Metrics': metrics}],
    }
