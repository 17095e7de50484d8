"""What is measured in a domain, person by person, and how its tables name it: whole persons, and faces.

Both read the predictions that MMPose's ``CocoMetric`` wrote, one person per picture. A metric is a mean of what single persons
contribute, or AP; so the same figures can be computed again for any sample of the persons (``tools/studies/pairs.py``).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tools.studies.metrics import AUC_THRESHOLDS, FAR, PCK_THRESHOLDS, measure, pairs_of_points, within

OUTER_EYE_CORNERS = (36, 45)
FACE_THRESHOLDS = (0.02, 0.04, 0.08)  # of the distance of the outer eye corners
FACE_CURVE = np.linspace(0.005, 0.1, 39)
RECALLS = np.linspace(0, 1, 101)
OKS_THRESHOLDS = np.linspace(0.5, 0.95, 10)


@dataclass(frozen=True)
class Domain:
    """A kind of data that studies compare on.

    Args:
        measure: metrics of a file of predictions, given the annotations.
        people: who each row of the contributions is, given the annotations; None: each is another person.
        contributions: what each person contributes to the metrics of which intervals are wanted, given the same files: by
            metric (2, N) numerator and denominator; for ``AP`` (1 + number of thresholds, N), score and whether it is found.
        fields: metrics of the CSV.
        columns: metrics of the tables and their heads.
        units: theirs.
        curve: names under which validations on the way are logged, and their heads; the first one is the main one.
        plotted: metrics of the plots, and the names under which they are logged, where they are.
        lower_is_better: metrics, and logged names, that fall as it gets better.
        thresholds: those of ``pck_curve``.
        reach: what the thresholds are shares of.
    """

    measure: Callable[[Path, Path], dict]
    contributions: Callable[[Path, Path], Mapping[str, np.ndarray]]
    fields: Sequence[str]
    columns: Mapping[str, str]
    units: str
    curve: Mapping[str, str]
    plotted: Mapping[str, str]
    lower_is_better: tuple[str, ...]
    thresholds: np.ndarray
    reach: str
    people: Callable[[Path], np.ndarray] | None = None

    @property
    def primary(self) -> str:
        """The one metric that choices and claims are made by."""
        return next(iter(self.columns))

    @property
    def logged(self) -> str:
        """The name under which the main metric is logged."""
        return next(iter(self.curve))


# ----------------------------------------------------------------------------------------------------------------- persons


def crowdpose_sigmas() -> np.ndarray:
    from mmpose.datasets import CrowdPoseDataset
    from mmpose.datasets.datasets.utils import parse_pose_metainfo

    return parse_pose_metainfo({'from_file': CrowdPoseDataset.METAINFO['from_file']})['sigmas']


def measure_persons(results: Path, annotations: Path) -> dict:
    return measure(results, annotations, crowdpose_sigmas())


def person_contributions(results: Path, annotations: Path) -> dict[str, np.ndarray]:
    """AP, mean OKS, PCK and mean error, by person."""
    truth, guess, persons = pairs_of_points(results, annotations)
    known = truth[..., 2] > 0
    counts = known.sum(1)
    finite = np.isfinite(guess[..., :2]).all(-1, keepdims=True)
    distance = np.linalg.norm(np.where(finite, guess[..., :2], FAR) - truth[..., :2], axis=-1)
    areas = np.array([person['area'] for person in persons])
    spreads = 2 * areas[:, None] * (2 * crowdpose_sigmas())**2 + np.spacing(1)
    oks = (np.exp(-distance**2 / spreads) * known).sum(1) / counts.clip(min=1)
    scores = {found['image_id']: found['score'] for found in json.loads(results.read_text())}
    score = np.nan_to_num([scores[person['image_id']] for person in persons])
    longer = np.array([max(person['bbox'][2:]) for person in persons])
    with_joints = counts > 0  # the others take no part
    return {
        'AP': np.stack([score, *(oks >= threshold for threshold in OKS_THRESHOLDS)])[:, with_joints],
        'mean_OKS': np.stack([oks, np.ones_like(oks)])[:, with_joints],
        **{f'PCK@{t}': np.stack([((distance <= t * longer[:, None]) & known).sum(1), counts])[:, with_joints] for t in PCK_THRESHOLDS},
        'mean_error': np.stack([(distance * known).sum(1), counts])[:, with_joints]}


# ------------------------------------------------------------------------------------------------------------------- faces


def face_errors(results: Path, annotations: Path) -> tuple[np.ndarray, np.ndarray]:
    """(N, 68) distances by that of the outer eye corners, NaN where not annotated, and (N, 68) where the prediction is a number."""
    truth, guess, _ = pairs_of_points(results, annotations)
    eyes = truth[:, OUTER_EYE_CORNERS[0], :2] - truth[:, OUTER_EYE_CORNERS[1], :2]
    finite = np.isfinite(guess[..., :2]).all(-1)
    distance = np.linalg.norm(np.where(finite[..., None], guess[..., :2], FAR) - truth[..., :2], axis=-1)
    return np.where(truth[..., 2] > 0, distance / np.linalg.norm(eyes, axis=-1)[:, None], np.nan), finite


def measure_faces(results: Path, annotations: Path) -> dict:
    """NME (mean over all landmarks, as MMPose's ``NME``) and the share of landmarks within 2, 4 and 8 % of the eyes' distance."""
    error, finite = face_errors(results, annotations)
    return {
        'NME': float(np.nanmean(error)),
        **{f'within@{t}': within(error, t) for t in FACE_THRESHOLDS},
        'pck_curve': [within(error, t) for t in FACE_CURVE],
        'not_finite': float((~finite).mean())}


def face_contributions(results: Path, annotations: Path) -> dict[str, np.ndarray]:
    error, _ = face_errors(results, annotations)
    counts = (~np.isnan(error)).sum(1)
    return {
        'NME': np.stack([np.nansum(error, 1), counts]),
        **{f'within@{t}': np.stack([(error <= t).sum(1), counts]) for t in FACE_THRESHOLDS}}


def face_people(annotations: Path) -> np.ndarray:
    """(N,) number of the person whose face it is: faces of one video are alike, so people are drawn, not faces."""
    truth = json.loads(annotations.read_text())
    person = {image['id']: image['person'] for image in truth['images']}
    return np.array([person[face['image_id']] for face in truth['annotations']])


DOMAINS = {
    'persons': Domain(
        measure=measure_persons, contributions=person_contributions,
        fields=('AP', 'AP75', 'AP90', 'PCK@0.05', 'PCK@0.1', 'PCK@0.2', 'PCKtorso@0.2', 'AUC', 'mean_error', 'median_error', 'bias_x',
                'bias_y', 'AP50', 'AR', 'mean_OKS'),
        columns={'AP': 'AP', 'AP75': 'AP75', 'PCK@0.05': 'PCK .05', 'PCK@0.1': 'PCK .1', 'PCK@0.2': 'PCK .2', 'mean_error': 'mean px'},
        units='AP and PCK in percent, errors in pixels of the picture',
        curve={'coco/AP': 'AP', 'coco/AP .75': 'AP75', '0.05/PCK': 'PCK .05', '0.1/PCK': 'PCK .1', '0.2/PCK': 'PCK .2'},
        plotted={'AP': 'coco/AP', 'PCK@0.05': '0.05/PCK'},
        lower_is_better=('mean_error', ), thresholds=AUC_THRESHOLDS, reach="the box's longer side"),
    'faces': Domain(
        measure=measure_faces, contributions=face_contributions, fields=('NME', 'within@0.02', 'within@0.04', 'within@0.08'),
        columns={'NME': 'NME', 'within@0.02': 'within 2 %', 'within@0.04': 'within 4 %', 'within@0.08': 'within 8 %'},
        units='all in percent',
        curve={'NME': 'NME'}, plotted={'NME': 'NME', 'within@0.02': ''}, lower_is_better=('NME', ), thresholds=FACE_CURVE,
        reach='the distance of the outer eye corners', people=face_people),
}
