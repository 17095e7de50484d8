"""The paper's tables with what was measured beside them: Markdown, HTML and model-index entries."""

from __future__ import annotations

import html
import re
import statistics
from dataclasses import dataclass
from pathlib import Path

import yaml

from tools import jobs

from .manifest import Manifest, Row, Table
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


def measure(manifest: Manifest, base: Path, row: Row, boxes: str) -> Measurement:
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


def markdown(manifest: Manifest, base: Path, boxes: str) -> str:
    """The whole report as Markdown."""
    parts = [f'# {manifest.paper["title"]}: paper and measurement', '', _preface(manifest, boxes), '']
    for table, rows in _tables(manifest):
        parts += [f'## {table.where}: {table.title}', '']
        parts += _figure_list(rows, base) if not table.columns else _markdown_table(manifest, table, rows, base, boxes)
        parts += ['', *_markdown_notes(manifest, rows), '']
    return '\n'.join(parts)


def _preface(manifest: Manifest, boxes: str) -> str:
    person_ap = manifest.boxes[boxes]['person_ap']
    return (
        f'Paper: {manifest.paper["url"]}. Measured on COCO val with person boxes of {person_ap} AP ({boxes}). '
        'Differences are measured minus paper. A cell without a number has not been measured, or is not printed in the paper.'
    )


def _tables(manifest: Manifest) -> list[tuple[Table, list[Row]]]:
    return [(table, [row for row in manifest.rows.values() if row.table == table.id]) for table in manifest.tables.values()]


def _title(row: Row) -> str:
    parts = [row.method, row.backbone, row.input]
    return ', '.join(part for part in parts if part) + (f' ({row.venue})' if row.venue else '')


def _markdown_table(manifest: Manifest, table: Table, rows: list[Row], base: Path, boxes: str) -> list[str]:
    heads = ['row', '', *table.columns, 'seeds', 'hardware', 'commit']
    printed = ['| ' + ' | '.join(heads) + ' |', '|---|---|' + '--:|' * len(table.columns) + '---|---|---|']
    for row in rows:
        for index, line in enumerate(lines(row, measure(manifest, base, row, boxes))):
            cells = [_title(row) if index == 0 else '', line.what, *_filled(line, table), *line.origin]
            printed.append('| ' + ' | '.join(cells) + ' |')
    return printed


def _filled(line: Line, table: Table) -> list[str]:
    return [*line.cells, *[''] * (len(table.columns) - len(line.cells))]


def _figure_list(rows: list[Row], base: Path) -> list[str]:
    printed = []
    for row in rows:
        folder = work_dir(base, row, 0)
        done = jobs.read(folder).get('tool', {}).get('status') == jobs.DONE
        printed.append(f'- {row.method}: {folder if done else "not made yet"}')
    return printed


def _markdown_notes(manifest: Manifest, rows: list[Row]) -> list[str]:
    printed = []
    for name in dict.fromkeys(note for row in rows for note in row.notes):
        about = ', '.join(row.id for row in rows if name in row.notes)
        printed.append(f'- {" ".join(manifest.notes[name].split())} *({about})*')
    return printed


def html_page(manifest: Manifest, base: Path, boxes: str) -> str:
    """The whole report as one HTML page without outside files."""
    parts = [HTML_HEAD.format(title=html.escape(manifest.paper['title']))]
    parts.append(f'<p>{html.escape(_preface(manifest, boxes))}</p>')
    for table, rows in _tables(manifest):
        parts.append(f'<h2>{html.escape(f"{table.where}: {table.title}")}</h2>')
        if table.columns:
            parts.append(_html_table(manifest, table, rows, base, boxes))
        else:
            parts.append(_html_list(_figure_list(rows, base)))
        parts.append(_html_list(_markdown_notes(manifest, rows)))
    return '\n'.join(parts) + '\n</body></html>\n'


HTML_HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font-family: sans-serif; max-width: 80rem; margin: 2rem auto; padding: 0 1rem; }}
table {{ border-collapse: collapse; }} th, td {{ padding: .2rem .6rem; text-align: right; }}
th:first-child, td:first-child, td:nth-child(2) {{ text-align: left; }}
tr.first td {{ border-top: 1px solid #999; }} tr.measured td {{ font-weight: bold; }} li {{ color: #444; }}
</style></head><body><h1>{title}: paper and measurement</h1>"""


def _html_table(manifest: Manifest, table: Table, rows: list[Row], base: Path, boxes: str) -> str:
    heads = ''.join(f'<th>{html.escape(head)}</th>' for head in ('row', '', *table.columns, 'seeds', 'hardware', 'commit'))
    body = []
    for row in rows:
        for index, line in enumerate(lines(row, measure(manifest, base, row, boxes))):
            cells = [_title(row) if index == 0 else '', line.what, *_filled(line, table), *line.origin]
            classes = ' '.join(['first'] * (index == 0) + [line.what.split()[0].lower()])
            body.append(f'<tr class="{classes}">' + ''.join(f'<td>{html.escape(cell)}</td>' for cell in cells) + '</tr>')
    return '<table><thead><tr>' + heads + '</tr></thead><tbody>\n' + '\n'.join(body) + '\n</tbody></table>'


def _html_list(items: list[str]) -> str:
    plain = (re.sub('^- ', '', item).replace('*(', '(').replace(')*', ')') for item in items)
    entries = ''.join(f'<li>{html.escape(item)}</li>' for item in plain)
    return f'<ul>{entries}</ul>' if entries else ''


def metafile(manifest: Manifest, base: Path, boxes: str) -> str:
    """Entries for model-index.yml: the configs that were measured as they are, and nothing else."""
    models: dict[str, dict] = {}
    for row in manifest.rows.values():
        measured = measure(manifest, base, row, boxes)
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
