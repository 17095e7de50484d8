"""A study's results as pages: the answer, one page per study, one per stage with its tables and plots."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Iterator
from pathlib import Path

from tools import jobs
from tools.analysis_tools.loss_vs_metric import summary
from tools.pages import table, write_block
from tools.studies.config import Study, known
from tools.studies.headline import Headline, page
from tools.studies.pairs import PAIRS, claimed, compare
from tools.studies.plots import plot_changes, plot_curves, plot_pck
from tools.studies.records import (
    by_supervision,
    conditions,
    figure,
    gather,
    of_stage,
    own_reading,
    rounded,
    sentence,
    spread,
    title_of,
)

LINES = 10  # as many as a plot's colours can tell apart
WATCHED = {'mse': 'loss_mse', 'emd': 'loss_emd'}


def write_report(studies: list[Study], out: Path, readme: Path | None = None) -> None:
    """Gather what the work dirs hold, and write records, plots, the pages, and the block ``evidence`` of ``readme``."""
    folder = out.with_suffix('')  # beside the page
    folder.mkdir(parents=True, exist_ok=True)
    gathered = [(study, gather(study, folder)) for study in studies]
    for study, records in gathered:
        write_study(study, records, folder)
    answered = next((Headline(study, records) for study, records in gathered if records and study.headline), None)
    links = [f'- [{study.title}]({folder.name}/{study.name}.md): {"all stages, what was tried" if records else "not run yet"}'
             for study, records in gathered]
    out.write_text(page(answered, ['All of it:', '', *links, '- [Run it again](reproduce.md#the-study-on-real-people)'], folder))
    if readme is not None:
        write_block(readme, 'evidence', answered.block() if answered else 'Not run yet.')
    print(f'{out} written')


def write_study(study: Study, records: list[dict], folder: Path) -> None:
    """The study's page, which lists its stages, and a page for each stage that has run."""
    lines = [f'# {study.title}', '', 'Written by `tools/study.py report`; change the study file, not this page.', '', study.note, '']
    for stage in study.stages:
        here = [record for record in records if record['stage'] == stage]
        planned = sum(run.stage == stage for run in study.runs())
        name = f'[{stage}]({study.name}_{stage}.md)' if here else stage
        lines.append(f'- {name}: {study.stages[stage].get("asks", "")} {len(here)} of {planned} runs done.'.replace('  ', ' '))
        if here:
            text = stage_page(study, stage, records, folder)
            (folder / f'{study.name}_{stage}.md').write_text(text.rstrip() + '\n')
    (folder / f'{study.name}.md').write_text('\n'.join([*lines, '', conditions(records) if records else '']).rstrip() + '\n')


def stage_page(study: Study, stage: str, records: list[dict], folder: Path) -> str:
    """Findings, tables and plots of a stage, network by network; tables begin with the rows repeated from another stage."""
    spec = study.stages[stage]
    lines = [f'# {study.title}: {stage}', '', f'Written by `tools/study.py report`; [what the study is]({study.name}.md).', '']
    lines += [f'{spec["asks"]}', ''] if 'asks' in spec else []
    shown = {backbone: [*references(study, stage, backbone, records), *of_stage(records, stage, backbone)]
             for backbone in spec['backbones']}
    shown = {backbone: here for backbone, here in shown.items() if any(record['stage'] == stage for record in here)}

    def values(row: str, key: str, backbone: str) -> list[float]:
        supervision, _, decoder = row.partition('/')
        known('supervision', [supervision], study.supervisions, f'findings of stage {stage!r}')
        here = [record for record in shown.get(backbone or next(iter(shown)), []) if record['supervision'] == supervision]
        return [(record['decoders'][decoder] if decoder else own_reading(record))[key] for record in here]

    findings = list(filter(None, (sentence(each, values) for each in spec.get('findings', []))))
    lines += [*(f'- {each}' for each in findings), *([''] if findings else [])]
    for backbone, here in shown.items():
        lines += network_section(study, stage, backbone, here, folder)
    return '\n'.join(lines)


def references(study: Study, stage: str, backbone: str, records: list[dict]) -> list[dict]:
    """The records of another stage that a stage's tables repeat."""
    spec = study.stages[stage].get('reference')
    if spec is None:
        return []
    return [record for record in of_stage(records, spec['stage'], backbone) if record['supervision'] in spec['supervisions']]


def network_section(study: Study, stage: str, backbone: str, shown: list[dict], folder: Path) -> list[str]:
    """Tables and plots of a stage on one network."""
    own = [record for record in shown if record['stage'] == stage]
    seeds, epochs = (sorted({record[key] for record in own}) for key in ('seed', 'epochs'))
    lines = [
        f'## {backbone}', '',
        f'{" or ".join(map(str, epochs))} epochs, batch {own[0]["batch_size"]}, seeds {", ".join(map(str, seeds))}. '
        f'Mean ± standard deviation over seeds where there are several; {study.domain.units}.'
        + (f' The first rows repeat `{shown[0]["stage"]}`.' if shown[0] is not own[0] else ''), '',
        main_table(study, shown, 'decoders'), '', *joint_table(study, shown), *test_section(study, own, folder)]
    crowded = len({record['supervision'] for record in shown}) > LINES
    validated = any(len(record['curve']) > 1 for record in shown)
    for name, draw, wanted in (('pck', plot_pck, not crowded), ('changes', plot_changes, crowded), ('curves', plot_curves, validated)):
        file = folder / f'{study.name}_{stage}_{backbone}_{name}.png'
        if wanted:
            draw(study, shown, file)
            lines += [f'![{name}]({file.name})', '']
        else:
            file.unlink(missing_ok=True)  # of a time when there were fewer rows
    return [*lines, *best_epochs(study, own), *correlation_table(study, own)]


def test_section(study: Study, records: list[dict], folder: Path) -> list[str]:
    """What the finalists reach on people that no choice has seen, and the differences between them."""
    tested = [record for record in records if 'test' in record]
    if not tested:
        return []
    lines = ['Finalists, read once on people that no choice has seen:', '', main_table(study, tested, 'test'), '']
    stage, backbone = tested[0]['stage'], tested[0]['backbone']
    compared = [each for each in kept_comparisons(study, folder) if (each['stage'], each['backbone']) == (stage, backbone)]
    if compared:
        lines += [f'First row minus second on the same {compared[0]["people"]} people: 95 % intervals over people and seeds, in round '
                  'brackets the lowest and highest pair of seeds. Bold is what may be claimed: the interval excludes zero, and at least '
                  f'{PAIRS} pairs all have one sign. {study.domain.columns[study.domain.primary]} decides; the other metrics describe.', '',
                  pairs_table(study, compared), '']
    return lines


def kept_comparisons(study: Study, folder: Path) -> list[dict]:
    """The comparisons on test: each of the predictions where they are, else as kept in ``<study>_pairs.json``."""
    file = folder / f'{study.name}_pairs.json'
    before, now = json.loads(file.read_text()) if file.exists() else [], [rounded(each) for each in compare(study)]
    found = {tuple(each[key] for key in ('stage', 'backbone', 'first', 'second')): each for each in (*before, *now)}
    asked = [(stage, backbone, *pair) for stage, pairs in study.comparisons.items()
             for backbone in study.stages[stage]['backbones'] for pair in pairs]
    kept = [found[key] for key in asked if key in found]
    if now:
        jobs.write_whole(file, '[\n' + ',\n'.join(map(json.dumps, kept)) + '\n]\n')
    return kept


def pairs_table(study: Study, compared: list[dict]) -> str:
    """One line for each comparison: difference, interval, range of the seeds."""
    shown = [metric for metric in study.domain.columns if metric in compared[0]['metrics']]
    lines = []
    for each in compared:
        cells = [difference(each['metrics'][metric], metric) for metric in shown]
        lines.append([f'{reading_title(study, each["first"])} - {reading_title(study, each["second"])}', len(each['pairs']), *cells])
    return table(['first - second', 'pairs', *(study.domain.columns[metric] for metric in shown)], lines)


def difference(found: dict, metric: str) -> str:
    """Such as ``**+1.2** [+0.8, +1.5] (+1.1, +1.4)``."""
    low, high = (figure(bound, metric, signed=True) for bound in found['with_seeds'])
    seeds = sorted(found['seeds'])
    middle = figure(found['difference'], metric, signed=True)
    between = f' ({figure(seeds[0], metric, signed=True)}, {figure(seeds[-1], metric, signed=True)})' if len(seeds) > 1 else ''
    return f'{f"**{middle}**" if claimed(found) else middle} [{low}, {high}]{between}'


def reading_title(study: Study, name: str) -> str:
    """The title of ``SUPERVISION/DECODER`` as in the tables."""
    supervision, decoder = study.reading(name, 'comparisons')
    spec = (study.supervisions[supervision].get('decoders') or {}).get(decoder) or {}
    return title_of(study, supervision) + (f' / {spec["title"]}' if 'title' in spec else '')


def rows(study: Study, records: list[dict], part: str) -> Iterator[tuple[str, list[dict]]]:
    """Title of a supervision and a decoder, and the metrics under it; ``part`` is ``'decoders'`` for val, or ``'test'``."""
    for name, group in by_supervision(records):
        for decoder in group[0][part]:
            title = reading_title(study, f'{name}/{decoder}')
            metrics = [record[part][decoder] for record in group if decoder in record[part]]
            diverged = any(each.get('not_finite', 0) > 0 for each in metrics)
            yield title + (' (**diverged to NaN**)' if diverged else ''), metrics


def main_table(study: Study, records: list[dict], part: str) -> str:
    lines = [[title, len(metrics), *(spread([each[key] for each in metrics], key) for key in study.domain.columns)]
             for title, metrics in rows(study, records, part)]
    return table(['supervision / decoder', 'seeds', *study.domain.columns.values()], lines)


def joint_table(study: Study, records: list[dict]) -> list[str]:
    """PCK@0.1 by joint, left and right together, under each supervision's first decoder, where it was measured."""
    if 'per_joint' not in own_reading(records[0]):
        return []
    joints: dict[str, list[str]] = {}
    for name in own_reading(records[0])['per_joint']:
        joints.setdefault(re.sub('^(left|right)_', '', name).replace('_', ' '), []).append(name)
    lines = []
    for name, group in by_supervision(records):
        scores = [own_reading(record)['per_joint'] for record in group]
        means = [statistics.fmean(score[side] for score in scores for side in sides) for sides in joints.values()]
        lines.append([title_of(study, name), *(figure(mean, 'PCK@0.1') for mean in means)])
    return ['PCK@0.1 by joint:', '', table(['supervision', *joints], lines), '']


def best_epochs(study: Study, records: list[dict]) -> list[str]:
    """Of each training that was validated on the way, the epoch of the best main metric, as MMPose keeps its best checkpoint."""
    lines = []
    logged, columns = study.domain.logged, study.domain.curve
    falls = columns[logged] in study.domain.lower_is_better
    for record in records:
        points = [point for point in record['curve'] if logged in point]
        if len(points) >= 3:
            best = (min if falls else max)(points, key=lambda point: point[logged])
            shown = [figure(best[key], columns[logged]) for key in columns]
            lines.append([title_of(study, record['supervision']), record['seed'], best['epoch'], *shown])
    if not lines:
        return []
    return [f"Where {columns[logged]} was {'lowest' if falls else 'highest'} on the way, with the supervision's own decoder "
            '(chosen on these same held-out persons):', '', table(['supervision', 'seed', 'epoch', *columns.values()], lines), '']


def correlation_table(study: Study, records: list[dict]) -> list[str]:
    """Rank correlation of validation loss and PCK@0.05 over the epochs, where the loss was logged."""
    lines = []
    for record in records:
        for loss, key in WATCHED.items():
            points = {p['epoch']: (p[key], p['0.05/PCK']) for p in record['curve'] if key in p and '0.05/PCK' in p}
            if len(points) >= 3:
                found = summary(points)
                lines.append([title_of(study, record['supervision']), loss, record['seed'], f'{found["spearman"]:+.3f}', found['count']])
    if not lines:
        return []
    return ['Spearman correlation of validation loss and PCK@0.05 over epochs (-1: the metric rises whenever the loss falls):', '',
            table(['trained with', 'loss', 'seed', 'rank correlation', 'epochs'], lines), '']
