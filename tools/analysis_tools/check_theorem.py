#!/usr/bin/env python
"""The paper's Theorem 1 on real predictions: how the risk to dots and the risk to Gaussians are related.

    R(dot) = R(Gauss) + 2 E<pred, Gauss> - 2 E<pred, dot> - E||Gauss - dot||^2

The proof needs ||dot||^2 = <Gauss, dot>: both maps are one at the dot's cell, the dot map nothing else. That holds for one-hot
dots with Gaussians whose peak sits on a cell centre (the paper's, MMPose's ``MSRAHeatmap``). It does not hold where the
Gaussian keeps the dot's sub-pixel place (DARK's and UDP's targets), nor for the four bilinear masses of Eq. 4; the two sides
then differ by 2 E(||dot||^2 - <Gauss, dot>), whatever is predicted. All three are reported.

    python tools/analysis_tools/check_theorem.py WORK_DIR --out FOLDER
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from tools.analysis_tools.trained_model import add_arguments, annotated_dataset, load  # noqa: E402
from tools.pages import table  # noqa: E402

CASES = {
    'snapped': 'one-hot dot, Gaussian with its peak on the cell centre (the paper)',
    'sub-pixel Gaussian': 'one-hot dot, Gaussian with its peak on the dot (DARK, UDP)',
    'bilinear dot': 'four bilinear masses (Eq. 4), Gaussian with its peak on the dot',
}


def main(argv: list[str] | None = None) -> dict:
    """Measure both sides for every case and print them; returns them by case."""
    args = _arguments(argv)
    model, config = load(args.trained, args.cfg_options, args.device)
    sums = sum_terms(model, annotated_dataset(config, args.limit), args.batch)
    report = {case: sides(terms) for case, terms in sums.items()}
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / 'theorem.json').write_text(json.dumps(report, indent=1) + '\n')
    print(describe(report))
    return report


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    from mmengine.config import DictAction

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('trained', type=Path, help='work directory, or a checkpoint in one')
    parser.add_argument('--batch', type=int, default=16)
    parser.add_argument('--out', type=Path, required=True, help='folder for the numbers')
    add_arguments(parser, DictAction)
    return parser.parse_args(argv)


def sum_terms(model, dataset, batch: int) -> dict[str, dict[str, float]]:
    """Sums of the theorem's terms over all annotated joints, in float64, by case."""
    import torch
    from mmengine.dataset import pseudo_collate
    from torch.utils.data import DataLoader

    from hdm_mmpose.components.predictions import decoder_sigma, predictions

    loader = DataLoader(dataset, batch_size=batch, collate_fn=pseudo_collate)
    names = ('dot', 'gauss', 'pred_gauss', 'pred_dot', 'between', 'gap', 'joints')
    totals = {case: dict.fromkeys(names, 0.0) for case in CASES}
    with torch.no_grad():
        for heatmaps, dots, weights in predictions(model, loader):
            chosen = weights > 0
            maps, points = heatmaps[chosen].double(), dots[chosen].double()
            for case, (dot, gauss) in targets(points, maps.shape[-2:], decoder_sigma(model)).items():
                for name, value in terms(maps, dot, gauss).items():
                    totals[case][name] += float(value.sum())
                totals[case]['joints'] += len(points)
    return totals


def targets(points, size: tuple[int, int], sigma: float) -> dict:
    """The dot map and the Gaussian map of every case.

    Args:
        points: dots in cells, (J, 2), x then y.
        size: H and W.
        sigma: standard deviation of the Gaussian in cells.

    Returns:
        Pairs of (J, H, W) by case.
    """
    import torch

    from hdm_mmpose.components.predictions import gaussian_heatmaps

    height, width = size
    last = points.new_tensor([width - 1, height - 1])
    points = torch.minimum(points.clamp(min=0), last)
    cells = torch.floor(points + 0.5).long()
    one_hot = points.new_zeros(len(points), height, width)
    one_hot[torch.arange(len(points)), cells[:, 1], cells[:, 0]] = 1
    snapped = gaussian_heatmaps(points, size, sigma)
    exact = gaussian_heatmaps(points, size, sigma, snapped=False)
    across = (1 - (torch.arange(width, device=points.device) - points[:, 0, None]).abs()).clamp(min=0)
    down = (1 - (torch.arange(height, device=points.device) - points[:, 1, None]).abs()).clamp(min=0)
    bilinear = down[:, :, None] * across[:, None, :]
    return {'snapped': (one_hot, snapped), 'sub-pixel Gaussian': (one_hot, exact), 'bilinear dot': (bilinear, exact)}


def terms(pred, dot, gauss) -> dict:
    """The theorem's terms per joint; all maps (J, H, W)."""
    over = (-2, -1)
    return {
        'dot': ((pred - dot) ** 2).sum(over),
        'gauss': ((pred - gauss) ** 2).sum(over),
        'pred_gauss': (pred * gauss).sum(over),
        'pred_dot': (pred * dot).sum(over),
        'between': ((gauss - dot) ** 2).sum(over),
        'gap': (dot**2).sum(over) - (gauss * dot).sum(over),
    }


def sides(totals: dict[str, float]) -> dict[str, float]:
    """Both sides of the theorem, per joint, their difference, and what the difference must be by the proof."""
    joints = totals['joints']
    if not joints:
        raise SystemExit('the validation set must annotate at least one joint, got none')
    mean = {name: value / joints for name, value in totals.items()}
    right = mean['gauss'] + 2 * mean['pred_gauss'] - 2 * mean['pred_dot'] - mean['between']
    return {'joints': joints, 'left': mean['dot'], 'right': right, 'difference': mean['dot'] - right,
            'expected_difference': 2 * mean['gap'], 'R_gauss': mean['gauss'], 'pred_gauss': mean['pred_gauss'],
            'pred_dot': mean['pred_dot'], 'constant': mean['between']}


def describe(report: dict) -> str:
    """The report as text."""
    shown = ('left', 'right', 'difference', 'expected_difference')
    rows = [[case, *(f'{round(values[key], 6) + 0:.6f}' for key in shown)] for case, values in report.items()]  # no -0.000000
    lines = [table(['case', 'R(dot)', 'right side', 'difference', '2 E gap'], rows)]
    lines += [f'{case}: {text}' for case, text in CASES.items()]
    joints = next(iter(report.values()))['joints']
    lines.append(f'means over {joints:.0f} joints; per joint, not summed over the joints of a person')
    return '\n'.join(lines)


if __name__ == '__main__':
    main()
