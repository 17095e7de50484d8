"""Paired differences between two rows of a study, with intervals, from the predictions of the same persons.

A difference is that of two readings under the same seed, averaged over the seeds that both have. Its 95 % interval is a
bootstrap over people, each with all of his pictures: the same sample of people for both rows and all seeds. ``seeds`` holds
the difference of each pair, and ``with_seeds`` the interval when the pairs are drawn again too, which is the wider one. A gain
is claimed by :func:`claimed`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from tools.studies.config import Study, StudyRun
from tools.studies.domains import RECALLS

DRAWS = 1000
INTERVAL = (2.5, 97.5)  # percentiles
PAIRS = 3  # of seeds, at least, for a claim


def compare(study: Study, part: str = 'test') -> list[dict]:
    """Every comparison that the study file lists, as far as both rows have been read on the part.

    Args:
        study: the study.
        part: of the data, ``'val'`` or ``'test'``.

    Returns:
        One record for each comparison and network: ``stage``, ``backbone``, ``first``, ``second``, ``part``, ``persons`` (pictures) and
        ``people`` (how many), ``pairs`` (the seeds), and in ``metrics`` by name ``difference``, ``interval``, ``with_seeds``, ``seeds``.
    """
    records, who = [], study.domain.people
    for stage, names in study.comparisons.items():
        for backbone in study.stages[stage]['backbones']:
            for first, second in names:
                rows = [study.reading(name, 'comparisons') for name in (first, second)]
                shares = contributions(study, stage, backbone, rows, part)
                if shares:
                    people = who(study.annotations(part)) if who else None
                    records.append({
                        'stage': stage, 'backbone': backbone, 'first': first, 'second': second, 'part': part,
                        'pairs': list(shares), **differences(list(shares.values()), people=people)})
    return records


def contributions(study: Study, stage: str, backbone: str, rows: Sequence[tuple[str, str]], part: str) -> dict[int, list[Mapping]]:
    """What each person contributes to the metrics of both rows, by the seeds for which both have predictions."""
    found = {}
    for seed in study.seeds(stage):
        files = [study.predictions(StudyRun(stage, backbone, supervision, seed), decoder, part) for supervision, decoder in rows]
        if all(file.exists() for file in files):
            found[seed] = [study.domain.contributions(file, study.annotations(part)) for file in files]
    return found


def differences(pairs: Sequence[Sequence[Mapping[str, np.ndarray]]], draws: int = DRAWS, people: np.ndarray | None = None) -> dict:
    """Differences and intervals of all metrics.

    Args:
        pairs: for each seed the contributions of the first and of the second row, as a ``Domain`` gives them.
        draws: of the bootstrap.
        people: (N,) whose contributions they are; those of one person are drawn together. None: N people.
    """
    persons = next(iter(pairs[0][0].values())).shape[1]
    generator = np.random.default_rng(0)
    _, whose = np.unique(np.arange(persons) if people is None else people, return_inverse=True)
    count = whose.max() + 1
    weights = generator.multinomial(count, np.full(count, 1 / count), size=draws)[:, whose]
    again = generator.integers(len(pairs), size=(draws, len(pairs)))
    metrics = {}
    for metric in pairs[0][0]:
        whole, drawn = (
            np.array([value(metric, first[metric], each) - value(metric, second[metric], each) for first, second in pairs])
            for each in (np.ones((1, persons)), weights))
        metrics[metric] = {
            'difference': float(whole.mean()), 'interval': interval(drawn.mean(0)),
            'with_seeds': interval(np.take_along_axis(drawn.T, again, 1).mean(1)), 'seeds': whole[:, 0].tolist()}
    return {'persons': persons, 'people': int(count), 'metrics': metrics}


def value(metric: str, shares: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(R,) values of a metric for (R, N) numbers of times that each person counts."""
    if metric == 'AP':
        return average_precision(shares[0], shares[1:] > 0, weights)
    return weights @ shares[0] / (weights @ shares[1])


def average_precision(scores: np.ndarray, found: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """COCO's AP where each person has one prediction.

    Args:
        scores: (N,) of the predictions.
        found: (T, N) whether they match at each threshold.
        weights: (R, N) how often each person counts.

    Returns:
        (R,) mean over the thresholds of the precision at 101 recalls.
    """
    order = np.argsort(-scores, kind='mergesort')
    found, result = found[:, order], np.empty(len(weights))
    for row, counts in enumerate(weights[:, order]):
        hits = np.cumsum(found * counts, axis=1)
        precision = hits / np.maximum(np.cumsum(counts), np.spacing(1))
        precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        recall = hits / counts.sum()
        total = 0.0
        for at_threshold, reached in zip(precision, recall):
            places = np.searchsorted(reached, RECALLS, side='left')
            total += at_threshold[places[places < len(reached)]].sum()
        result[row] = total / (len(found) * len(RECALLS))
    return result


def interval(draws: np.ndarray) -> list[float]:
    return [float(bound) for bound in np.percentile(draws, INTERVAL)]


def claimed(metric: Mapping) -> bool:
    """Whether a difference may be claimed: enough pairs, all of one sign, and the interval over people and pairs excludes zero."""
    low, high = metric['with_seeds']
    return len(metric['seeds']) >= PAIRS and len(set(np.sign(metric['seeds']))) == 1 and (low > 0 or high < 0)
