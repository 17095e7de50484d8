"""A study's results as one file of records, tables and plots.

``docs/evidence/<study>.json`` keeps the records of all runs ever gathered, so that the report can be made again without
the work dirs; ``<study>.csv`` is the same, flat. ``docs/evidence.md`` is generated but for what stands between its two
markers, which is written by hand and kept.
"""

from __future__ import annotations

import csv
import json
import math
import re
import statistics
from collections.abc import Iterator
from pathlib import Path

from tools.analysis_tools.loss_vs_metric import summary
from tools.benchmarks.measuring import write_block
from tools.studies.config import Study
from tools.studies.metrics import AUC_THRESHOLDS

BEGIN, END = '<!-- discussion: written by hand, kept by the generator -->', '<!-- end of discussion -->'
COLUMNS = {
    'AP': 'AP', 'AP75': 'AP75', 'AP90': 'AP90', 'PCK@0.05': 'PCK .05', 'PCK@0.1': 'PCK .1', 'PCK@0.2': 'PCK .2',
    'PCKtorso@0.2': 'torso .2', 'AUC': 'AUC', 'mean_error': 'mean px', 'median_error': 'median px', 'bias_x': 'bias x',
    'bias_y': 'bias y'}
SHARES = [key for key in COLUMNS if key not in ('mean_error', 'median_error', 'bias_x', 'bias_y')]
CURVE_COLUMNS = {'coco/AP': 'AP', 'coco/AP .75': 'AP75', '0.05/PCK': 'PCK .05', '0.1/PCK': 'PCK .1', '0.2/PCK': 'PCK .2'}
LINES = 10  # as many as a plot's colours can tell apart
WATCHED = {'mse': 'loss_mse', 'emd': 'loss_emd'}


def write_report(studies: list[Study], out: Path, readme: Path | None = None) -> None:
    """Gather what the work dirs hold, and write records, plots, the page, and the table of ``readme``."""
    folder = out.with_suffix('')  # beside the page
    folder.mkdir(parents=True, exist_ok=True)
    gathered = [(study, gather(study, folder)) for study in studies]
    parts = [section(study, records, folder) for study, records in gathered]
    if readme is not None:
        write_block(readme, 'evidence', next(filter(None, (headline(*each) for each in gathered)), 'Not run yet.'))
    discussion = kept_discussion(out)
    lines = [
        '# Evidence on real people', '',
        'Written by `tools/study.py report`; how to run it all again is in the last section.', '',
        BEGIN, discussion, END, '', *parts, how_to_repeat(studies)]
    out.write_text('\n'.join(lines).rstrip() + '\n')
    print(f'{out} written')


def kept_discussion(out: Path) -> str:
    """What stands between the markers of the page as it is."""
    text = out.read_text() if out.exists() else ''
    if BEGIN not in text or END not in text:
        return ''
    return text.split(BEGIN, 1)[1].split(END, 1)[0].strip('\n')


def gather(study: Study, folder: Path) -> list[dict]:
    """All records of a study: those of its work dirs over those kept, in the order of the study file."""
    file = folder / f'{study.name}.json'
    records = {name_of(record): record for record in (json.loads(file.read_text()) if file.exists() else [])}
    for run in study.runs():
        result = study.folder(run) / 'result.json'
        if result.exists():
            record = rounded(json.loads(result.read_text()))  # as kept, so that the report made again from what is kept is the same
            records[name_of(record)] = record
    order = {run.name: place for place, run in enumerate(study.runs())}
    kept = sorted((record for name, record in records.items() if name in order), key=lambda record: order[name_of(record)])
    if kept:
        file.write_text('[\n' + ',\n'.join(json.dumps(record) for record in kept) + '\n]\n')
        write_csv(kept, file.with_suffix('.csv'))
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


def write_csv(records: list[dict], file: Path) -> None:
    """One line per run and decoder."""
    fields = ['stage', 'backbone', 'supervision', 'decoder', 'seed', 'epochs', *COLUMNS, 'AP50', 'AR', 'mean_OKS',
              'step_seconds', 'compute_seconds', 'train_seconds', 'device', 'commit', 'finished']
    with file.open('w', newline='') as stream:
        table = csv.DictWriter(stream, fields, extrasaction='ignore', lineterminator='\n')
        table.writeheader()
        for record in records:
            for decoder, metrics in record['decoders'].items():
                table.writerow(rounded({**record, **metrics, 'decoder': decoder}))


def section(study: Study, records: list[dict], folder: Path) -> str:
    """Everything about one study."""
    lines = [f'## {study.title}', '', study.note, '']
    if not records:
        return '\n'.join([*lines, 'Not run yet.', ''])
    lines += [*conditions(records), '']
    for stage in study.stages:
        for backbone in study.stages[stage]['backbones']:
            here = of_stage(records, stage, backbone)
            if here:
                lines += stage_section(study, stage, backbone, here, references(study, stage, backbone, records), folder)
    return '\n'.join(lines)


def of_stage(records: list[dict], stage: str, backbone: str) -> list[dict]:
    return [record for record in records if (record['stage'], record['backbone']) == (stage, backbone)]


def headline(study: Study, records: list[dict]) -> str:
    """The rows that a reader asks for first, two columns per stage and network; empty if none has been run."""
    cells: dict[tuple[str, str], list[str]] = {}
    heads, used = [], []
    columns = [(stage, backbone) for stage in study.headline['stages'] for backbone in study.stages[stage]['backbones']]
    for stage, backbone in columns:
        here = of_stage(records, stage, backbone)
        if not here:
            continue
        used += here
        seeds = len({record['seed'] for record in here})
        heads += [f'AP: {backbone}, {here[0]["epochs"]} epochs, {seed_count(seeds)}', 'PCK@0.05']
        for supervision, decoder in study.headline['rows']:
            of_row = [record['decoders'][decoder] for record in here
                      if study.trains_alike(record['supervision'], supervision) and decoder in record['decoders']]
            shown = [spread([each[key] for each in of_row], key) if of_row else '' for key in ('AP', 'PCK@0.05')]
            if 0 < len(of_row) < seeds:
                shown[0] += f' ({seed_count(len(of_row))})'
            cells.setdefault((supervision, decoder), []).extend(shown)
    if not used:
        return ''
    table = [[f'{title_of(study, name)} / {study.supervisions[name]["decoders"][decoder]["title"]}', *shown]
             for (name, decoder), shown in cells.items()]
    where = '; '.join(re.sub('^- ', '', line) for line in conditions(used))
    return '\n'.join([*markdown(['supervision / decoder', *heads], table), '', f'{study.title}, percent; {where}.'])


def seed_count(number: int) -> str:
    return f'{number} seed{"s" * (number > 1)}'


def conditions(records: list[dict]) -> list[str]:
    """Hardware, versions, commits."""
    def all_of(key: str) -> str:
        return ', '.join(sorted({str(record[key]) for record in records if record[key]}))

    packages = sorted({f'{name} {number}' for record in records for name, number in record['versions'].items()})
    return [
        f'- device: {all_of("device")}; threads {all_of("threads")}',
        f'- versions: Python {all_of("python")}, {", ".join(packages)}',
        f'- commits: {all_of("commit")} (a plus: with uncommitted changes)',
        f'- runs finished between {min(r["finished"] for r in records)} and {max(r["finished"] for r in records)}']


def references(study: Study, stage: str, backbone: str, records: list[dict]) -> list[dict]:
    """The records of another stage that a stage's tables repeat."""
    spec = study.stages[stage].get('reference')
    if spec is None:
        return []
    return [record for record in of_stage(records, spec['stage'], backbone) if record['supervision'] in spec['supervisions']]


def stage_section(study: Study, stage: str, backbone: str, records: list[dict], repeated: list[dict], folder: Path) -> list[str]:
    """Tables and plots of a stage on one network; the tables begin with the rows repeated from another."""
    planned = len(study.stages[stage]['supervisions']) * len(study.stages[stage]['seeds'])
    seeds = sorted({record['seed'] for record in records})
    epochs = sorted({record['epochs'] for record in records})
    shown = repeated + records
    lines = [
        f'### {stage}, {backbone}', '',
        f'{" or ".join(map(str, epochs))} epochs, batch {records[0]["batch_size"]}, seeds {", ".join(map(str, seeds))}; '
        f'{len(records)} of {planned} runs done. Mean ± standard deviation over seeds where there are several. '
        'AP, PCK and AUC in percent, errors in pixels of the picture, bias of the joints found (within 0.1 of the box).'
        + (f' The first rows repeat `{repeated[0]["stage"]}`.' if repeated else ''), '',
        *main_table(study, shown), '', *joint_table(study, shown), '']
    crowded = len({record['supervision'] for record in shown}) > LINES
    validated = any(len(record['curve']) > 1 for record in shown)
    for name, draw, wanted in (('pck', draw_pck, not crowded), ('changes', draw_changes, crowded), ('curves', draw_curves, validated)):
        file = folder / f'{study.name}_{stage}_{backbone}_{name}.png'
        if wanted:
            draw(study, shown, file)
            lines += [f'![{name}]({folder.name}/{file.name})', '']
        else:
            file.unlink(missing_ok=True)  # of a time when there were fewer rows
    return [*lines, *best_epochs(study, records), *correlation_table(study, records)]


def by_supervision(records: list[dict]) -> Iterator[tuple[str, list[dict]]]:
    for name in dict.fromkeys(record['supervision'] for record in records):
        yield name, [record for record in records if record['supervision'] == name]


def rows(study: Study, records: list[dict]) -> Iterator[tuple[str, str, list[dict], list[dict]]]:
    """Supervision, its title with the decoder's, the records and their metrics under that decoder."""
    for name, group in by_supervision(records):
        for decoder in group[0]['decoders']:
            spec = (study.supervisions[name].get('decoders') or {}).get(decoder) or {}
            title = title_of(study, name) + (f' / {spec["title"]}' if 'title' in spec else '')
            metrics = [record['decoders'][decoder] for record in group if decoder in record['decoders']]
            diverged = any(each.get('not_finite', 0) > 0 for each in metrics)
            yield name, title + (' (**diverged to NaN**)' if diverged else ''), group, metrics


def own_reading(record: dict) -> dict:
    """The metrics under the supervision's first decoder."""
    return next(iter(record['decoders'].values()))


def title_of(study: Study, supervision: str) -> str:
    return str(study.supervisions[supervision].get('title', supervision))


def main_table(study: Study, records: list[dict]) -> list[str]:
    head = ['supervision / decoder', 'seeds', *COLUMNS.values(), 'step ms', 'training min']
    table = []
    for _, title, group, metrics in rows(study, records):
        cells = [spread([each[key] for each in metrics], key) for key in COLUMNS]
        steps = [1000 * record['step_seconds'] for record in group if 'step_seconds' in record]
        minutes = [record['train_seconds'] / 60 for record in group if 'train_seconds' in record]
        times = [f'{statistics.fmean(each):.{digits}f}' if each else '-' for each, digits in ((steps, 0), (minutes, 1))]
        table.append([title, str(len(metrics)), *cells, *times])
    return markdown(head, table)


def spread(values: list[float], key: str) -> str:
    """Mean, and standard deviation if there is one."""
    def show(value: float, sign: str = '') -> str:
        if key in SHARES:
            return f'{100 * value:.1f}'
        return f'{value:{sign}.2f}'

    mean = show(statistics.fmean(values), '+' if key.startswith('bias') else '')
    alone = len(values) < 2 or not all(map(math.isfinite, values))
    return mean if alone else f'{mean} ± {show(statistics.stdev(values))}'


def joint_table(study: Study, records: list[dict]) -> list[str]:
    """PCK@0.1 by joint, left and right together, under each supervision's first decoder."""
    joints: dict[str, list[str]] = {}
    for name in own_reading(records[0])['per_joint']:
        joints.setdefault(re.sub('^(left|right)_', '', name).replace('_', ' '), []).append(name)
    table = []
    for name, group in by_supervision(records):
        scores = [own_reading(record)['per_joint'] for record in group]
        means = [statistics.fmean(score[side] for score in scores for side in sides) for sides in joints.values()]
        table.append([title_of(study, name), *(f'{100 * mean:.1f}' for mean in means)])
    return ['PCK@0.1 by joint:', '', *markdown(['supervision', *joints], table)]


def best_epochs(study: Study, records: list[dict]) -> list[str]:
    """Of each training that was validated on the way, the epoch of the highest AP, as MMPose keeps its best checkpoint."""
    table = []
    for record in records:
        points = [point for point in record['curve'] if 'coco/AP' in point]
        if len(points) >= 3:
            best = max(points, key=lambda point: point['coco/AP'])
            shown = [f'{100 * best[key]:.1f}' for key in CURVE_COLUMNS]
            table.append([title_of(study, record['supervision']), str(record['seed']), str(best['epoch']), *shown])
    if not table:
        return []
    head = ['supervision', 'seed', 'epoch', *CURVE_COLUMNS.values()]
    return ['Where AP was highest on the way, with the supervision\'s own decoder (chosen on these same held-out persons):', '',
            *markdown(head, table), '']


def correlation_table(study: Study, records: list[dict]) -> list[str]:
    """Rank correlation of validation loss and PCK@0.05 over the epochs, where the loss was logged."""
    table = []
    for record in records:
        for loss, key in WATCHED.items():
            points = {p['epoch']: (p[key], p['0.05/PCK']) for p in record['curve'] if key in p and '0.05/PCK' in p}
            if len(points) >= 3:
                found = summary(points)
                table.append([title_of(study, record['supervision']), loss, str(record['seed']), f'{found["spearman"]:+.3f}',
                              str(found['count'])])
    if not table:
        return []
    return ['Spearman correlation of validation loss and PCK@0.05 over epochs (-1: the metric rises whenever the loss falls):',
            '', *markdown(['trained with', 'loss', 'seed', 'rank correlation', 'epochs'], table), '']


def markdown(head: list[str], table: list[list[str]]) -> list[str]:
    lines = [head, ['---', *['--:'] * (len(head) - 1)], *table]
    return ['| ' + ' | '.join(line) + ' |' for line in lines]


def pyplot():
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot as plt

    return plt


def draw_pck(study: Study, records: list[dict], file: Path) -> None:
    """PCK over its threshold, mean over seeds, one line per supervision under its first decoder."""
    plt = pyplot()
    figure, axis = plt.subplots(figsize=(7, 4.5), layout='constrained')
    for name, group in by_supervision(records):
        curves = [own_reading(record)['pck_curve'] for record in group]
        mean = [100 * statistics.fmean(each) for each in zip(*curves)]
        axis.plot(AUC_THRESHOLDS, mean, label=title_of(study, name))
    axis.set_xlabel("threshold (share of the box's longer side)")
    axis.set_ylabel('PCK (%)')
    axis.grid(alpha=0.3)
    axis.legend(fontsize=7)
    figure.savefig(file, dpi=110)
    plt.close(figure)


def draw_changes(study: Study, records: list[dict], file: Path) -> None:
    """AP and PCK@0.05 of many supervisions: a line of dots for each under its first decoder, one dot per seed.

    A band reaches from the lowest to the highest seed of a supervision that has several, in the colour of its dots.
    """
    groups = list(by_supervision(records))
    plt = pyplot()
    figure, axes = plt.subplots(1, 2, figsize=(11, 1 + 0.22 * len(groups)), sharey=True, layout='constrained')
    for axis, key in zip(axes, ('AP', 'PCK@0.05')):
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
    axes[0].set_yticks(range(len(groups)), [title_of(study, name).split(' (')[0] for name, _ in groups], fontsize=7)
    axes[0].invert_yaxis()
    figure.savefig(file, dpi=110)
    plt.close(figure)


def draw_curves(study: Study, records: list[dict], file: Path) -> None:
    """AP and PCK@0.05 over the epochs."""
    metrics = (('coco/AP', 'AP'), ('0.05/PCK', 'PCK@0.05'))
    plt = pyplot()
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.2), layout='constrained')
    for axis, (key, label) in zip(axes, metrics):
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
    figure.savefig(file, dpi=110)
    plt.close(figure)


def how_to_repeat(studies: list[Study]) -> str:
    lines = ['## How to run it again', '', 'Put the data into `data/lspet` (`tools/dataset_converters/convert_lspet.py`), then', '',
             '```bash']
    lines += [f'python tools/study.py run configs/lspet/{study.name}.yml' for study in studies]
    files = ' '.join(f'configs/lspet/{study.name}.yml' for study in studies)
    lines += [f'python tools/study.py report --readme README.md {files}', '```', '']
    lines += ['`tools/studies/gpu.sh` does the same on a GPU machine within a given time, stage by stage.']
    return '\n'.join(lines)
