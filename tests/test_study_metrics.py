"""tools/studies/metrics.py against numbers known by hand and against MMPose's own metrics."""

import json

import numpy as np
import pytest

from tools.studies import metrics as study_metrics

NAMES = [f'joint_{k}' for k in range(14)]
SIGMAS = np.linspace(0.05, 0.11, 14)


def people(count, seed=0):
    """Annotated points (N, 14, 2), which are known (N, 14), boxes (N, 4)."""
    rng = np.random.default_rng(seed)
    truth = rng.uniform(10, 90, (count, 14, 2))
    known = rng.random((count, 14)) > 0.15
    known[:, [0, 7]] = True
    low, high = truth.min(1) - 5, truth.max(1) + 5
    return truth, known, np.concatenate([low, high - low], -1)


def write(tmp_path, guess, scores, truth, known, boxes):
    """Both files in COCO format, as the converter and CocoMetric write them."""
    images = [{'id': n + 1, 'file_name': f'{n}.jpg', 'width': 100, 'height': 100} for n in range(len(truth))]
    annotations, results = [], []
    for n in range(len(truth)):
        points = np.concatenate([np.where(known[n][:, None], truth[n], 0), 2 * known[n][:, None]], -1)
        annotations.append({
            'id': n + 1, 'image_id': n + 1, 'category_id': 1, 'iscrowd': 0, 'bbox': boxes[n].tolist(),
            'area': float(boxes[n, 2] * boxes[n, 3]), 'num_keypoints': int(known[n].sum()),
            'keypoints': points.ravel().tolist()})
        found = np.concatenate([guess[n], np.ones((14, 1))], -1)
        results.append({'image_id': n + 1, 'category_id': 1, 'keypoints': found.ravel().tolist(), 'score': float(scores[n])})
    categories = [{'id': 1, 'name': 'person', 'keypoints': NAMES, 'skeleton': []}]
    (tmp_path / 'val.json').write_text(json.dumps({'images': images, 'annotations': annotations, 'categories': categories}))
    (tmp_path / 'own.keypoints.json').write_text(json.dumps(results))
    return tmp_path / 'own.keypoints.json', tmp_path / 'val.json'


def test_perfect_predictions(tmp_path):
    truth, known, boxes = people(7)
    found = study_metrics.measure(*write(tmp_path, truth, np.ones(7), truth, known, boxes), SIGMAS)
    for key in ('AP', 'AP50', 'AP75', 'AP90', 'AR', 'mean_OKS', 'PCK@0.05', 'PCK@0.2', 'PCKtorso@0.2', 'AUC'):
        assert found[key] == pytest.approx(1), key
    for key in ('mean_error', 'median_error', 'bias_x', 'bias_y'):
        assert found[key] == pytest.approx(0, abs=1e-9), key


def test_a_common_shift_is_the_bias(tmp_path):
    truth, known, boxes = people(9)
    shift = np.array([1.25, -0.5])
    found = study_metrics.measure(*write(tmp_path, truth + shift, np.ones(9), truth, known, boxes), SIGMAS)
    assert found['bias_x'] == pytest.approx(1.25)
    assert found['bias_y'] == pytest.approx(-0.5)
    assert found['mean_error'] == pytest.approx(np.hypot(1.25, 0.5))
    assert found['median_error'] == pytest.approx(np.hypot(1.25, 0.5))


@pytest.mark.parametrize('bad', [np.nan, np.inf])
def test_what_is_not_finite_is_not_found(tmp_path, bad):
    """COCOeval by itself gives a run that diverged an AP of 100 %."""
    truth, known, boxes = people(12)
    found = study_metrics.measure(*write(tmp_path, np.full_like(truth, bad), np.full(12, bad), truth, known, boxes), SIGMAS)
    assert found['AP'] == found['AP50'] == found['PCK@0.2'] == found['AUC'] == 0 and found['not_finite'] == 1
    assert found['mean_error'] == np.inf
    guess = truth.copy()
    guess[3] = bad
    found = study_metrics.measure(*write(tmp_path, guess, np.ones(12), truth, known, boxes), SIGMAS)
    share = known[3].sum() / known.sum()
    assert found['not_finite'] == pytest.approx(share) and found['PCK@0.05'] == pytest.approx(1 - share)
    assert 0 < found['AP'] < 1 and found['median_error'] == 0


def test_pixel_metrics_by_hand():
    truth = np.zeros((1, 14, 2))
    truth[0, 7] = (30, 40)  # right hip: 50 px from the left shoulder
    guess = truth.copy()
    guess[0, 2, 0] = 12  # 0.12 of the box, 0.24 of the torso
    guess[0, 3, 1] = 6  # 0.06 and 0.12
    guess[0, 4] = 99  # not annotated
    known = np.zeros((1, 14), bool)
    known[0, [0, 2, 3, 7]] = True
    found = study_metrics.pixel_metrics(guess, truth, known, np.array([100.0]), NAMES)
    assert [found[f'PCK@{t}'] for t in (0.05, 0.1, 0.2)] == [0.5, 0.75, 1.0]
    assert found['PCKtorso@0.2'] == 0.75
    assert found['mean_error'] == pytest.approx(4.5) and found['median_error'] == pytest.approx(3)
    assert found['bias_x'] == 0 and found['bias_y'] == pytest.approx(2)  # the joint 12 px off is not counted
    # exact at every threshold; 12 px from 0.12 on (17 of 40), 6 px from 0.06 on (29 of 40)
    assert found['AUC'] == pytest.approx((2 + 17 / 40 + 29 / 40) / 4)
    assert found['per_joint']['joint_2'] == 0 and found['per_joint']['joint_3'] == 1
    assert np.isnan(found['per_joint']['joint_4'])


def test_agrees_with_mmpose(tmp_path):
    from mmpose.evaluation.functional import keypoint_pck_accuracy
    from mmpose.evaluation.metrics import CocoMetric

    count = 40
    truth, known, boxes = people(count, seed=5)
    rng = np.random.default_rng(6)
    guess = truth + rng.normal(0, rng.uniform(1, 14, (count, 1, 1)), truth.shape)
    results, annotations = write(tmp_path, guess, rng.random(count), truth, known, boxes)
    found = study_metrics.measure(results, annotations, SIGMAS)
    metric = CocoMetric(ann_file=str(annotations))
    metric.dataset_meta = {'sigmas': SIGMAS, 'num_keypoints': 14}
    stock = dict(metric._do_python_keypoint_eval(str(tmp_path / 'own')))
    assert 0.05 < stock['AP'] < 0.95
    for ours, theirs in (('AP', 'AP'), ('AP50', 'AP .5'), ('AP75', 'AP .75'), ('AR', 'AR')):
        assert found[ours] == pytest.approx(stock[theirs]), ours
    assert found['AP50'] > found['AP75'] > found['AP90']
    side = np.repeat(boxes[:, 2:].max(-1)[:, None], 2, -1)
    for threshold in (0.05, 0.1, 0.2):
        by_joint, _, _ = keypoint_pck_accuracy(guess, truth, known, np.array([threshold]), side)
        # MMPose averages over the joints, this over all annotated points
        expected = (by_joint * known.sum(0)).sum() / known.sum()
        assert found[f'PCK@{threshold}'] == pytest.approx(expected, abs=1e-6)
    by_joint, _, _ = keypoint_pck_accuracy(guess, truth, known, np.array([0.1]), side)
    np.testing.assert_allclose([found['per_joint'][name] for name in NAMES], by_joint, atol=1e-6)


def test_a_picture_without_prediction_is_named(tmp_path):
    truth, known, boxes = people(3)
    results, annotations = write(tmp_path, truth, np.ones(3), truth, known, boxes)
    results.write_text(json.dumps(json.loads(results.read_text())[:2]))
    with pytest.raises(ValueError, match=r'none for \[3\] \(1\)'):
        study_metrics.measure(results, annotations, SIGMAS)
