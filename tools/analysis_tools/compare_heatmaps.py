#!/usr/bin/env python
"""Heatmaps and coordinates of two trained models for the same joints: the paper's Fig. 3, the supplement's Fig. 1 and 3.

Both models predict the annotated persons of the first one's validation set, as they do in testing (flip test included). Joints
are chosen by error, one per person: where the second model improves most on the first, where it is worst, or spread evenly
over its ranked errors, from the largest to the smallest. Errors are compared in parts of the person's size, the longer side of
its box, and printed in pixels. Since drawn joints are chosen, the picture also says how both models do on all of them.

    python tools/analysis_tools/compare_heatmaps.py WORK_DIR_BASELINE WORK_DIR_OURS --choose improved --number 4 --out FOLDER
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from tools.analysis_tools.trained_model import add_arguments, annotated_dataset, load, title_of  # noqa: E402

CHOICES = {
    'improved': 'joints where the second model improves most on the first',
    'worst': 'joints where the second model is worst',
    'typical': 'joints spread evenly over the ranked errors of the second model',
}

ANNOTATED = {'marker': '+', 'color': 'green', 'markersize': 15, 'markeredgewidth': 2}
MARKS = (
    {'marker': 'x', 'color': 'red', 'markersize': 9, 'markeredgewidth': 1.5},
    {'marker': 'o', 'color': 'blue', 'markersize': 10, 'markeredgewidth': 1.5},
)
THIN = {'color': 'cyan', 'markersize': 12, 'markeredgewidth': 0.8}  # on a heatmap, which it must not hide


@dataclass
class Prediction:
    """One model's answer for one joint: place and error in pixels of the picture, error in parts of the person's size.

    ``heatmap`` is the network's, ``shown`` what its decoder reads: the share of mass per cell where it has a supplier rule.
    ``cells`` are the annotated and the predicted place in this heatmap.
    """

    point: tuple[float, float]
    pixels: float
    relative: float
    heatmap: object = field(default=None, repr=False)
    shown: object = field(default=None, repr=False)
    unit: str = 'heatmap value'
    cells: tuple[tuple[float, ...], ...] = ()


@dataclass
class Joint:
    """An annotated joint and what both models say about it."""

    index: int
    joint: int
    name: str
    image: str
    truth: tuple[float, float]
    crop: tuple[float, float, float, float]
    predictions: list[Prediction]


def main(argv: list[str] | None = None) -> list[Joint]:
    """Choose joints, draw them, and write their numbers."""
    args = _arguments(argv)
    titles = args.titles or [title_of(path if path.is_dir() else path.parent) for path in args.trained]
    models = [load(path, args.cfg_options, args.device) for path in args.trained]
    datasets = [annotated_dataset(config, args.limit) for _, config in models]
    if len(datasets[0]) != len(datasets[1]):
        raise SystemExit(f'both models must be given the same persons, their configs name {[len(each) for each in datasets]}')
    found = collect([model for model, _ in models], datasets, set(args.joints))
    chosen = choose(found, args.choose, args.number)
    if not chosen:
        raise SystemExit('no annotated joint was found, nothing to draw')
    attach_heatmaps(chosen, [model for model, _ in models], datasets)
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / f'heatmaps_{args.choose}.png'
    draw_joints(chosen, titles, path, f'{CHOICES[args.choose].capitalize()}, of {len(found)} annotated joints; {overall(found)}')
    write_numbers(chosen, titles, path.with_suffix('.json'))
    print(f'written to {path}')
    return chosen


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    from mmengine.config import DictAction

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('trained', type=Path, nargs=2, help='two work directories, or checkpoints in them')
    parser.add_argument('--choose', choices=sorted(CHOICES), default='improved')
    parser.add_argument('--number', type=int, default=4, help='how many joints (default: 4)')
    parser.add_argument('--joints', nargs='+', default=[], help='only joints of these names, such as left_wrist')
    parser.add_argument('--titles', nargs=2, help='names of the two models (default: of their folders)')
    parser.add_argument('--out', type=Path, required=True, help='folder for the picture and the numbers')
    add_arguments(parser, DictAction)
    return parser.parse_args(argv)


def predict(model, dataset, index: int):
    """One person's data sample with predictions and heatmaps, as in testing."""
    import torch
    from mmengine.dataset import pseudo_collate

    model.test_cfg['output_heatmaps'] = True
    with torch.no_grad():
        return model.test_step(pseudo_collate([dataset[index]]))[0]


def collect(models: list, datasets: list, names: set[str]) -> list[Joint]:
    """Every annotated joint with both predictions, without heatmaps (they would not fit in memory)."""
    labels = models[0].dataset_meta['keypoint_id2name']
    unknown = names - set(labels.values())
    if unknown:
        raise SystemExit(f'--joints must be among {sorted(labels.values())}, got {sorted(unknown)}')
    found = []
    for index in range(len(datasets[0])):
        samples = [predict(model, dataset, index) for model, dataset in zip(models, datasets)]
        truths = [sample.gt_instances.keypoints[0] for sample in samples]
        if not np.allclose(truths[0], truths[1]):
            raise SystemExit(f'both models must be given the same persons, person {index} differs')
        visible = samples[0].gt_instances.keypoints_visible[0] > 0
        for joint in np.flatnonzero(visible):
            if not names or labels[int(joint)] in names:
                found.append(_joint(index, int(joint), labels[int(joint)], samples))
    return found


def _joint(index: int, joint: int, name: str, samples: list) -> Joint:
    truth = samples[0].gt_instances.keypoints[0, joint]
    size = float(np.max(samples[0].input_scale))
    predictions = []
    for sample in samples:
        point = sample.pred_instances.keypoints[0, joint]
        pixels = float(np.linalg.norm(point - truth))
        predictions.append(Prediction(tuple(map(float, point)), pixels, pixels / size))
    center, scale = np.asarray(samples[0].input_center), np.asarray(samples[0].input_scale)
    crop = (*(center - scale / 2), *(center + scale / 2))
    return Joint(index, joint, name, samples[0].img_path, tuple(map(float, truth)), tuple(map(float, crop)), predictions)


def choose(found: list[Joint], how: str, number: int) -> list[Joint]:
    """The joints to draw, at most one per person, in the order of the choice."""
    error = {'improved': lambda each: each.predictions[0].relative - each.predictions[1].relative}.get(
        how, lambda each: each.predictions[1].relative
    )
    ranked = sorted(found, key=error, reverse=True)
    last = len(ranked) - 1
    wanted = [round(place * last / max(number - 1, 1)) for place in range(number)] if how == 'typical' else [0] * number
    chosen: dict[int, Joint] = {}
    for rank in wanted:
        free = [place for place, each in enumerate(ranked) if each.index not in chosen]
        if free:
            nearest = ranked[min(free, key=lambda place: abs(place - rank))]
            chosen[nearest.index] = nearest
    return list(chosen.values())


def overall(found: list[Joint]) -> str:
    """How both models do on all joints, in words."""
    errors = np.array([[prediction.pixels for prediction in each.predictions] for each in found])
    first, second = np.median(errors, axis=0)
    nearer = (errors[:, 1] < errors[:, 0]).mean()
    return f'median errors over all: {first:.2f} and {second:.2f} px, the second is nearer on {nearer:.0%}'


def attach_heatmaps(chosen: list[Joint], models: list, datasets: list) -> None:
    """Predict the chosen joints again and keep their heatmaps, (H, W)."""
    for each in chosen:
        for model, dataset, prediction in zip(models, datasets, each.predictions):
            heatmap = predict(model, dataset, each.index).pred_fields.heatmaps[each.joint].cpu()
            supplier = getattr(model.head.decoder, 'supplier', None)
            prediction.heatmap = prediction.shown = heatmap.numpy()
            prediction.cells = in_cells(model.head.decoder, each.crop, (each.truth, prediction.point))
            if supplier is not None:
                prediction.shown, prediction.unit = supplier(heatmap).numpy(), 'share of mass'


def in_cells(decoder, crop: tuple[float, ...], points: tuple) -> tuple[tuple[float, ...], ...]:
    """Places in the picture as places in the heatmap, as the decoder's alignment has them; (x, y) both."""
    from hdm_mmpose.components.alignment import Alignment

    left, top, right, bottom = crop
    in_input = (np.array(points) - (left, top)) / (right - left, bottom - top) * decoder.input_size
    cells = Alignment.of_decoder(decoder).to_cells(in_input)
    return tuple(tuple(map(float, cell)) for cell in cells)


def draw_joints(chosen: list[Joint], titles: list[str], path: Path, headline: str) -> None:
    """One row per joint: the person with the annotated and both predicted places, then both heatmaps, each with its scale."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(len(chosen), 3, figsize=(11, 4 * len(chosen)), squeeze=False, layout='constrained')
    figure.suptitle(headline.replace('; ', '\n'), fontsize=11)
    for row, each in zip(axes, chosen):
        _draw_person(row[0], each, titles)
        for axis, title, prediction, mark in zip(row[1:], titles, each.predictions, MARKS):
            image = axis.imshow(prediction.shown, cmap='magma', interpolation='nearest')
            across, down = prediction.cells[0]
            axis.axvline(across, color='lime', linewidth=0.6)
            axis.axhline(down, color='lime', linewidth=0.6)
            axis.plot(*prediction.cells[1], linestyle='', markerfacecolor='none', **{**mark, **THIN})
            figure.colorbar(image, ax=axis, shrink=0.8, label=f'{prediction.unit} per cell')
            place = '({:.1f}, {:.1f})'.format(*prediction.point)
            axis.set_title(f'{title}\n{place}, {prediction.pixels:.1f} px off', fontsize=9)
            axis.set_xlabel('heatmap cells')
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc='outside lower center', ncols=3)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _draw_person(axis, each: Joint, titles: list[str]) -> None:
    import mmcv

    picture = mmcv.imread(each.image, channel_order='rgb')
    axis.imshow(picture)
    left, top, right, bottom = each.crop
    axis.set_xlim(max(left, 0), min(right, picture.shape[1] - 1))
    axis.set_ylim(min(bottom, picture.shape[0] - 1), max(top, 0))
    _mark(axis, each.truth, ANNOTATED, 'annotated (lines in the heatmaps)')
    for title, prediction, mark in zip(titles, each.predictions, MARKS):
        _mark(axis, prediction.point, mark, title)
    axis.set_xlabel('pixels of the picture')
    axis.set_title(f'{each.name}, annotated ({each.truth[0]:.1f}, {each.truth[1]:.1f})', fontsize=9)


def _mark(axis, place: tuple[float, ...], mark: dict, label: str) -> None:
    """Draw a mark in white and, thinner, in its colour: seen on every background."""
    halo = {**mark, 'color': 'white', 'markeredgewidth': mark['markeredgewidth'] + 2}
    axis.plot(*place, linestyle='', markerfacecolor='none', **halo)
    axis.plot(*place, linestyle='', markerfacecolor='none', label=label, **mark)


def write_numbers(chosen: list[Joint], titles: list[str], path: Path) -> None:
    """Names, places and errors of the drawn joints."""
    entries = []
    for each in chosen:
        entry = asdict(each)
        for title, prediction in zip(titles, entry['predictions']):
            prediction.update(model=title)
            del prediction['heatmap'], prediction['shown']
        entries.append(entry)
    path.write_text(json.dumps(entries, indent=1) + '\n')


if __name__ == '__main__':
    main()
