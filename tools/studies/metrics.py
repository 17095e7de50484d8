"""Everything that is measured of a run, from its saved predictions.

Distances are in pixels of the picture and only annotated joints count. OKS-AP is ``xtcocotools``' own, as in MMPose's
``CocoMetric``, at more thresholds than that prints.
"""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import numpy as np
from xtcocotools.coco import COCO
from xtcocotools.cocoeval import COCOeval

FAR = -1e6  # pixels
PCK_THRESHOLDS = (0.05, 0.1, 0.2)
AUC_THRESHOLDS = np.linspace(0.005, 0.2, 40)  # of the box's longer side
LEFT_SHOULDER, RIGHT_SHOULDER, LEFT_HIP, RIGHT_HIP = 0, 1, 6, 7  # CrowdPose's order


def measure(results: Path, annotations: Path, sigmas: np.ndarray) -> dict:
    """All metrics of one file of predictions.

    Args:
        results: COCO results as ``CocoMetric`` writes them, one person per picture.
        annotations: COCO annotations, one person per picture, 14 joints in CrowdPose's order.
        sigmas: (K,) OKS sigmas.

    Returns:
        Shares in [0, 1], errors and biases in pixels, ``per_joint`` PCK@0.1 by joint name,
        ``pck_curve`` PCK at ``AUC_THRESHOLDS``, ``not_finite`` the share of joints predicted as NaN or infinity, which count
        as infinitely far off.
    """
    truth, guess, persons = pairs_of_points(results, annotations)
    found = json.loads(results.read_text())
    boxes = np.array([person['bbox'][2:] for person in persons], dtype=float)
    names = json.loads(annotations.read_text())['categories'][0]['keypoints']
    finite = np.isfinite(guess[..., :2]).all(-1)
    points = np.where(finite[..., None], guess[..., :2], np.inf)
    known = truth[..., 2] > 0
    return {
        **pixel_metrics(points, truth[..., :2], known, boxes.max(-1), names),
        **oks_ap(list(map(far_instead_of_nan, found)), annotations, sigmas),
        'not_finite': float((~finite)[known].mean())}


def pairs_of_points(results: Path, annotations: Path) -> tuple[np.ndarray, np.ndarray, list[dict]]:
    """(N, K, 3) annotated and predicted points, x, y and visibility or score, and the N annotations.

    Raises:
        ValueError: a person has no prediction.
    """
    persons = json.loads(annotations.read_text())['annotations']
    predicted = {person['image_id']: person['keypoints'] for person in json.loads(results.read_text())}
    missing = [person['image_id'] for person in persons if person['image_id'] not in predicted]
    if missing:
        raise ValueError(f'{results} must predict every annotated picture, but has none for {missing[:5]} ({len(missing)})')
    truth = np.array([person['keypoints'] for person in persons], dtype=float).reshape(len(persons), -1, 3)
    guess = np.array([predicted[person['image_id']] for person in persons], dtype=float).reshape(truth.shape)
    return truth, guess, persons


def far_instead_of_nan(person: dict) -> dict:
    """A prediction without NaN, under which COCOeval would count every joint as found."""
    keypoints = [value if np.isfinite(value) else FAR for value in person['keypoints']]
    return {**person, 'keypoints': keypoints, 'score': person['score'] if np.isfinite(person['score']) else 0.0}


def pixel_metrics(guess: np.ndarray, truth: np.ndarray, known: np.ndarray, box: np.ndarray, names: list[str]) -> dict:
    """Metrics of distance.

    Args:
        guess: (N, K, 2) predicted points, x then y.
        truth: (N, K, 2) annotated points.
        known: (N, K) which are annotated.
        box: (N,) longer side of the person's box, as in MMPose's ``PCKAccuracy``.
        names: of the K joints.
    """
    offset = np.where(known[..., None], guess - truth, np.nan)
    distance = np.linalg.norm(offset, axis=-1)
    share = distance / box[:, None]
    torso = torso_length(truth, known)
    pck_curve = [within(share, t) for t in AUC_THRESHOLDS]
    small = offset[distance < 0.1 * box[:, None]]  # of a joint found: otherwise the bias is that of the mix-ups
    return {
        **{f'PCK@{t}': within(share, t) for t in PCK_THRESHOLDS},
        'PCKtorso@0.2': within(distance / torso[:, None], 0.2),
        'AUC': float(np.mean(pck_curve)),
        'pck_curve': pck_curve,
        'mean_error': float(np.nanmean(distance)),
        'median_error': float(np.nanmedian(distance)),
        'bias_x': float(small[:, 0].mean()) if len(small) else float('nan'),
        'bias_y': float(small[:, 1].mean()) if len(small) else float('nan'),
        'per_joint': {name: within(share[:, k], 0.1) for k, name in enumerate(names)}}


def within(distance: np.ndarray, threshold: float) -> float:
    """Share of the distances that are at most the threshold; NaN ones do not count."""
    counted = ~np.isnan(distance)
    return float((distance[counted] <= threshold).mean()) if counted.any() else float('nan')


def torso_length(truth: np.ndarray, known: np.ndarray) -> np.ndarray:
    """(N,) mean length of the two diagonals shoulder to opposite hip, of those annotated; NaN where neither is."""
    lengths = []
    for shoulder, hip in ((LEFT_SHOULDER, RIGHT_HIP), (RIGHT_SHOULDER, LEFT_HIP)):
        length = np.linalg.norm(truth[:, shoulder] - truth[:, hip], axis=-1)
        lengths.append(np.where(known[:, shoulder] & known[:, hip] & (length > 0), length, np.nan))
    both = np.array(lengths)
    counted = (~np.isnan(both)).sum(0)
    return np.where(counted > 0, np.nansum(both, 0) / np.maximum(counted, 1), np.nan)


def oks_ap(results: list[dict], annotations: Path, sigmas: np.ndarray) -> dict[str, float]:
    """AP over the ten OKS thresholds, and at three of them; AR; mean OKS, which no score has a part in."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(annotations))
        evaluation = COCOeval(truth, truth.loadRes(results), 'keypoints', np.asarray(sigmas), True)
        evaluation.params.useSegm = None
        evaluation.evaluate()
        evaluation.accumulate()
    everything = evaluation.params.areaRngLbl.index('all')
    precision = evaluation.eval['precision'][:, :, 0, everything, -1]  # (threshold, recall)
    thresholds = evaluation.params.iouThrs
    at = {f'AP{round(100 * t)}': mean_of_valid(precision[np.isclose(thresholds, t)]) for t in (0.5, 0.75, 0.9)}
    oks = [float(np.max(each)) for each in evaluation.ious.values() if len(each)]
    return {
        'AP': mean_of_valid(precision), **at,
        'AR': mean_of_valid(evaluation.eval['recall'][:, 0, everything, -1]), 'mean_OKS': float(np.mean(oks))}


def mean_of_valid(values: np.ndarray) -> float:
    """Mean of the entries that COCOeval filled in."""
    valid = values[values > -1]
    return float(valid.mean()) if valid.size else float('nan')
