"""tools/studies/pairs.py and domains.py: AP against COCOeval, metrics against those of the tables, intervals against closed forms."""

import json

import numpy as np
import pytest
from mmpose.evaluation.metrics import NME

from tools.studies import pairs
from tools.studies.domains import DOMAINS, crowdpose_sigmas, face_contributions, face_people, measure_faces, person_contributions
from tools.studies.metrics import measure


def people(folder, persons, joints, seed, noise, missing=True):
    """Annotations and predictions of made-up persons, as files."""
    rng = np.random.default_rng(seed)
    images, annotations, results = [], [], []
    for n in range(1, persons + 1):
        points = rng.uniform(10, 90, (joints, 2))
        seen = rng.random(joints) < 0.8 if missing else np.ones(joints, bool)
        keypoints = np.concatenate([points * seen[:, None], 2.0 * seen[:, None]], 1)
        guess = points + rng.normal(0, noise, points.shape) * rng.exponential(1)
        images.append({'id': n, 'width': 100, 'height': 100, 'person': n // 2})
        annotations.append({
            'id': n, 'image_id': n, 'category_id': 1, 'iscrowd': 0, 'bbox': [5, 5, 80, 60 + n % 30], 'area': 3000.0 + 10 * n,
            'num_keypoints': int(seen.sum()), 'keypoints': keypoints.ravel().tolist()})
        results.append({
            'image_id': n, 'category_id': 1, 'score': round(float(rng.random()), 1),  # rounded: there are ties
            'keypoints': np.concatenate([guess, rng.random((joints, 1))], 1).ravel().tolist()})
    category = {'id': 1, 'name': 'person', 'keypoints': [str(k) for k in range(joints)], 'skeleton': []}
    truth, found = folder / f'truth{seed}.json', folder / f'found{seed}.json'
    truth.write_text(json.dumps({'images': images, 'annotations': annotations, 'categories': [category]}))
    found.write_text(json.dumps(results))
    return found, truth


@pytest.mark.parametrize('noise', [1.0, 6.0])
def test_metrics_from_contributions_are_those_of_the_tables(tmp_path, noise):
    found, truth = people(tmp_path, 61, 14, seed=3, noise=noise)
    expected = measure(found, truth, crowdpose_sigmas())
    shares = person_contributions(found, truth)
    for metric, each in shares.items():
        value = pairs.value(metric, each, np.ones((1, each.shape[1])))
        np.testing.assert_allclose(value, expected[metric], atol=1e-12, err_msg=metric)
    assert 0.02 < expected['AP'] < 0.98


def test_ap_of_a_sample_is_that_of_the_persons_repeated(tmp_path):
    found, truth = people(tmp_path, 17, 14, seed=5, noise=4.0)
    shares = person_contributions(found, truth)['AP']
    weights = np.random.default_rng(1).multinomial(17, np.full(17, 1 / 17), size=6)
    for counts in weights:
        repeated = np.repeat(shares, counts, axis=1)
        np.testing.assert_allclose(
            pairs.value('AP', shares, counts[None]), pairs.value('AP', repeated, np.ones((1, repeated.shape[1]))), atol=1e-12)


def test_faces_are_measured_as_mmpose_measures_them(tmp_path):
    found, truth = people(tmp_path, 9, 68, seed=2, noise=2.0, missing=False)
    metric = NME(norm_mode='keypoint_distance', keypoint_indices=[36, 45])
    persons = json.loads(truth.read_text())['annotations']
    samples = [{
        'pred_instances': {'keypoints': np.reshape(guess['keypoints'], (1, 68, 3))[..., :2]},
        'gt_instances': {'keypoints': np.reshape(person['keypoints'], (1, 68, 3))[..., :2], 'keypoints_visible': np.ones((1, 68))}}
        for person, guess in zip(persons, json.loads(found.read_text()))]
    metric.dataset_meta = {'dataset_name': '300w', 'keypoint_id2name': {k: f'kpt-{k}' for k in range(68)}}
    metric.process([], samples)
    measured = measure_faces(found, truth)
    assert measured['NME'] == pytest.approx(metric.compute_metrics(metric.results)['NME'])
    shares = face_contributions(found, truth)
    for name, each in shares.items():
        assert pairs.value(name, each, np.ones((1, 9)))[0] == pytest.approx(measured[name]), name
    assert 0 < measured['within@0.02'] < measured['within@0.04'] < measured['within@0.08'] < 1


def test_a_face_without_a_number_counts_as_far_off(tmp_path):
    found, truth = people(tmp_path, 3, 68, seed=4, noise=1.0, missing=False)
    results = json.loads(found.read_text())
    results[1]['keypoints'][0] = float('nan')
    found.write_text(json.dumps(results))
    measured = measure_faces(found, truth)
    assert measured['not_finite'] == pytest.approx(1 / (3 * 68)) and measured['NME'] > 1


def test_interval_is_that_of_the_mean_difference():
    rng = np.random.default_rng(7)
    persons, gain = 400, rng.normal(0.05, 0.2, 400)
    base = rng.random(persons)
    one = {'mean_OKS': np.stack([base + gain, np.ones(persons)])}
    two = {'mean_OKS': np.stack([base, np.ones(persons)])}
    found = pairs.differences([(one, two)] * 3, draws=4000)
    metric = found['metrics']['mean_OKS']
    half = 1.96 * gain.std() / np.sqrt(persons)
    assert metric['difference'] == pytest.approx(gain.mean()) and metric['seeds'] == pytest.approx([gain.mean()] * 3)
    np.testing.assert_allclose(metric['interval'], [gain.mean() - half, gain.mean() + half], atol=0.1 * half)
    np.testing.assert_allclose(metric['with_seeds'], metric['interval'])  # seeds that say the same
    assert pairs.claimed(metric) and found['persons'] == persons


def test_seeds_that_disagree_widen_the_second_interval_alone():
    rng = np.random.default_rng(8)
    base = rng.random(300)
    pair = [({'mean_OKS': np.stack([base + shift, np.ones(300)])}, {'mean_OKS': np.stack([base, np.ones(300)])}) for shift in (-0.1, 0.3)]
    metric = pairs.differences(pair)['metrics']['mean_OKS']
    assert metric['difference'] == pytest.approx(0.1)
    np.testing.assert_allclose(metric['interval'], 0.1, atol=1e-9)  # all persons gain the same
    np.testing.assert_allclose(metric['with_seeds'], [-0.1, 0.3])
    assert not pairs.claimed(metric)


@pytest.mark.parametrize(('interval', 'seeds', 'wanted'), [
    ([0.1, 0.5], [0.2, 0.3, 0.4], True), ([-0.5, -0.1], [-0.2, -0.3, -0.4], True), ([-0.1, 0.5], [0.2, 0.3, 0.4], False),
    ([0.1, 0.5], [0.2, -0.1, 0.8], False), ([0.1, 0.5], [0.2, 0.3], False)])
def test_a_claim_needs_three_pairs_of_one_sign_and_an_interval_over_them(interval, seeds, wanted):
    assert pairs.claimed({'interval': [0.2, 0.3], 'with_seeds': interval, 'seeds': seeds}) is wanted


def test_pictures_of_one_person_are_drawn_together(tmp_path):
    rng = np.random.default_rng(9)
    gain = rng.normal(0.05, 0.2, 50)
    one, two = ({'NME': np.stack([np.repeat(share, 8), np.ones(400)])} for share in (gain, np.zeros(50)))
    each = pairs.differences([(one, two)], draws=4000)['metrics']['NME']['interval']
    found = pairs.differences([(one, two)], draws=4000, people=np.repeat(np.arange(50), 8))
    assert (found['persons'], found['people']) == (400, 50)
    together = found['metrics']['NME']['interval']
    half = 1.96 * gain.std() / np.sqrt(50)
    np.testing.assert_allclose(together, [gain.mean() - half, gain.mean() + half], atol=0.1 * half)
    assert np.diff(together) / np.diff(each) == pytest.approx(np.sqrt(8), rel=0.1)
    assert face_people(people(tmp_path, 5, 68, seed=1, noise=1.0)[1]).tolist() == [0, 1, 1, 2, 2]
    assert (DOMAINS['persons'].primary, DOMAINS['faces'].primary) == ('AP', 'NME')
    assert DOMAINS['faces'].people is face_people and DOMAINS['persons'].people is None


def test_every_domain_gives_intervals_for_its_main_metrics(tmp_path):
    for domain, joints in (('persons', 14), ('faces', 68)):
        found, truth = people(tmp_path, 4, joints, seed=joints, noise=1.0)
        kept = set(DOMAINS[domain].contributions(found, truth))
        assert set(DOMAINS[domain].columns) - {'AP75'} <= kept, domain
        assert set(DOMAINS[domain].lower_is_better) <= kept
