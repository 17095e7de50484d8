"""A study's records, and how their figures are printed.

``docs/evidence/<study>.json`` keeps the records of all runs ever gathered, so that the pages can be made again without the
work dirs; ``<study>.csv`` is the same, flat.
"""

from __future__ import annotations

import csv
import json
import math
import re
import statistics
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tools.studies.config import Study

# printed in percent
SHARES = ('AP', 'AP75', 'AP90', 'PCK@0.05', 'PCK@0.1', 'PCK@0.2', 'PCKtorso@0.2', 'AUC', 'mean_OKS', 'NME', 'within@0.02', 'within@0.04',
          'within@0.08')
BEFORE = ('stage', 'backbone', 'supervision', 'decoder', 'seed', 'epochs')  # the metrics, in the CSV
AFTER = ('step_seconds', 'compute_seconds', 'train_seconds', 'device', 'commit', 'finished')
UNITS = {'AP': 'AP', 'PCK@0.05': 'points of PCK@0.05'}


def gather(study: Study, folder: Path) -> list[dict]:
    """All records of a study: those of its work dirs over those kept, in the order of the study file."""
    file = folder / f'{study.name}.json'
    records = {name_of(record): record for record in (json.loads(file.read_text()) if file.exists() else [])}
    for run in study.runs():
        result = study.folder(run) / 'result.json'
        if result.exists():
            tested = study.folder(run) / 'test.json'
            test = json.loads(tested.read_text()) if tested.exists() else {}
            readings = {'test': test['decoders'], 'test_commit': test['commit']} if test else {}
            # as kept, so that pages made again from what is kept are the same
            record = rounded({**json.loads(result.read_text()), **readings})
            records[name_of(record)] = record
    kept = [records[run.name] for run in study.runs() if run.name in records]
    if kept:
        file.write_text('[\n' + ',\n'.join(json.dumps(record) for record in kept) + '\n]\n')
        write_csv(study, kept, file.with_suffix('.csv'))
    return kept


def name_of(record: dict) -> str:
    return f'{record["stage"]}/{record["backbone"]}/{record["supervision"]}/seed{record["seed"]}'


def rounded(value: object) -> object:
    """Floats to six digits, however deep."""
    if isinstance(value, float):
        return float(f'{value:.6g}')
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items()}
    return [rounded(each) for each in value] if isinstance(value, list) else value


def write_csv(study: Study, records: list[dict], file: Path) -> None:
    """One line per run and decoder, of val."""
    with file.open('w', newline='') as stream:
        table = csv.DictWriter(stream, (*BEFORE, *study.domain.fields, *AFTER), extrasaction='ignore', lineterminator='\n')
        table.writeheader()
        for record in records:
            for decoder, metrics in record['decoders'].items():
                table.writerow(rounded({**record, **metrics, 'decoder': decoder}))


def of_stage(records: list[dict], stage: str, backbone: str) -> list[dict]:
    return [record for record in records if (record['stage'], record['backbone']) == (stage, backbone)]


def by_supervision(records: list[dict]) -> Iterator[tuple[str, list[dict]]]:
    for name in dict.fromkeys(record['supervision'] for record in records):
        yield name, [record for record in records if record['supervision'] == name]


def own_reading(record: dict) -> dict:
    """The metrics under the supervision's first decoder."""
    return next(iter(record['decoders'].values()))


def title_of(study: Study, supervision: str) -> str:
    return str(study.supervisions[supervision].get('title', supervision))


def conditions(records: list[dict]) -> str:
    """Hardware, versions, commits, in one line."""
    def all_of(key: str) -> str:
        return ', '.join(sorted({str(record[key]) for record in records if record[key]}))

    packages = sorted({f'{name} {number}' for record in records for name, number in record['versions'].items()})
    return (f'Device: {all_of("device")}; threads {all_of("threads")}; Python {all_of("python")}, {", ".join(packages)}; '
            f'commits {all_of("commit")} (a plus: with uncommitted changes); runs finished between '
            f'{min(r["finished"] for r in records)} and {max(r["finished"] for r in records)}.')


def figure(value: float, key: str, signed: bool = False) -> str:
    """One number as it is printed."""
    sign = '+' if signed or key.startswith('bias') else ''
    if key in SHARES:
        return f'{100 * value:{sign}.{2 if key == "NME" else 1}f}'
    return f'{value:{sign}.2f}'


def spread(values: Sequence[float], key: str) -> str:
    """Mean, and standard deviation if there is one."""
    mean = figure(statistics.fmean(values), key)
    alone = len(values) < 2 or not all(map(math.isfinite, values))
    return mean if alone else f'{mean} ± {figure(statistics.stdev(values), key).lstrip("+")}'


# ------------------------------------------------------------------------------------------------- sentences of numbers

CELL = r'([\w/]+) ([\w@.]+)((?: \w[\w-]*)?)'
FILLED = re.compile(r'\{(ahead )?' + CELL + r'(?: - ' + CELL + r')?\}')
CONDITION = re.compile(CELL + r' - ' + CELL + r' (<|>) (-?[\d.]+)$')


def sentence(template: str | dict, values: Callable[[str, str, str], Sequence[float]]) -> str:
    """A sentence whose numbers are those of the tables.

    Args:
        template: text, or ``{say: text, when: condition}``. In the text ``{ROW METRIC [COLUMN]}`` becomes the mean that the
            table prints, ``{A - B}`` the difference of two such figures, signed, and ``{ahead A - B}`` words such as
            "1.5 AP ahead of". The condition ``A - B < NUMBER`` is what the sentence claims beside them.
        values: the values over the seeds by row, metric and column.

    Returns:
        Empty if one of the cells has not been run.

    Raises:
        ValueError: the figures do not meet the condition any more: the sentence must be written anew.
    """
    def printed(row: str, metric: str, column: str) -> tuple[float, str]:
        key = 'PCK@0.05' if metric == 'PCK' else metric
        return float(figure(statistics.fmean(values(row, key, column.strip())), key)), key

    def fill(match: re.Match) -> str:
        (first, key), words = printed(*match.group(2, 3, 4)), match[1]
        if match[5] is None:
            return figure(first / 100 if key in SHARES else first, key)
        difference = round(first - printed(*match.group(5, 6, 7))[0], 2)
        digits = 1 if key in SHARES else 2
        if not words:
            return f'{difference:+.{digits}f}'
        return 'level with' if difference == 0 else (
            f'{abs(difference):.{digits}f} {UNITS[key]} {"ahead of" if difference > 0 else "behind"}')

    text, condition = (template['say'], template['when']) if isinstance(template, dict) else (template, '')
    cells = [cell for match in FILLED.finditer(text) for cell in (match.group(2, 3, 4), match.group(5, 6, 7)) if cell[0]]
    if not all(len(values(row, 'AP', (column or '').strip())) for row, _, column in cells):
        return ''
    if condition:
        match = CONDITION.match(condition)
        if match is None:
            raise ValueError(f'a condition must be "A - B < NUMBER" of ROW METRIC [COLUMN], got {condition!r}')
        found = printed(*match.group(1, 2, 3))[0] - printed(*match.group(4, 5, 6))[0]
        if not (found < float(match[8]) if match[7] == '<' else found > float(match[8])):
            raise ValueError(f'{text!r} holds only where {condition}, which is {found:+.2f}: write another sentence')
    return FILLED.sub(fill, text)
