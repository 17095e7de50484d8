"""tools/dataset_converters/convert_lspet.py on an archive made up here; split and box rule on the real data where they are."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from tools.dataset_converters import convert_lspet

ROOT = Path(__file__).resolve().parent.parent

REAL = ROOT.parent / 'shared' / 'data' / 'lspet'
SIZES = [(90, 140), (151, 80), (60, 61), (200, 33), (77, 177), (120, 90)]


@pytest.fixture
def archive(tmp_path):
    rng = np.random.default_rng(3)
    joints = np.zeros((14, 3, len(SIZES)))
    (tmp_path / 'images').mkdir()
    for person, size in enumerate(SIZES):
        joints[:, :2, person] = rng.uniform(0, size, (14, 2))
        joints[:, 2, person] = 1
        noise = rng.integers(0, 255, (*size[::-1], 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / f'images/im{person + 1:05d}.jpg')
    joints[3, :, 4] = (-5, 7, 0)  # not annotated: coordinates mean nothing
    savemat(tmp_path / 'joints.mat', {'joints': joints})
    return tmp_path, joints


def converted(archive, out, split):
    convert_lspet.convert(archive, out, split)
    return {part: json.loads((out / 'annotations' / f'{part}.json').read_text()) for part in split}


def test_every_joint_keeps_its_name(archive, tmp_path):
    folder, joints = archive
    found = converted(folder, tmp_path / 'out', {'train': [2, 5], 'val': [1]})
    assert [image['id'] for image in found['train']['images']] == [2, 5]
    for part in found.values():
        names = part['categories'][0]['keypoints']
        for person in part['annotations']:
            keypoints = np.reshape(person['keypoints'], (14, 3))
            for k, name in enumerate(names):
                x, y, seen = joints[convert_lspet.LSP_JOINTS.index(name), :, person['id'] - 1]
                expected = (x, y, 2) if seen else (0, 0, 0)
                np.testing.assert_allclose(keypoints[k], expected, atol=6e-4)
    assert [person['num_keypoints'] for person in found['train']['annotations']] == [14, 13]


def test_box_is_that_of_the_annotated_joints_cut_at_the_border(archive, tmp_path):
    folder, joints = archive
    person = converted(folder, tmp_path / 'out', {'val': [5]})['val']['annotations'][0]
    points = joints[[k for k in range(14) if k != 3], :2, 4]
    low, high = points.min(0), points.max(0)
    low, high = low - (high - low) / 8 - 8, high + (high - low) / 8 + 8
    low, high = low.clip(min=0), np.minimum(high, SIZES[4])
    np.testing.assert_allclose(person['bbox'], [*low, *(high - low)], atol=6e-3)
    assert person['area'] == pytest.approx(np.prod(high - low), abs=0.01)


def test_crowdpose_dataset_reads_it(archive, tmp_path):
    from mmpose.datasets import CrowdPoseDataset
    from mmpose.utils import register_all_modules

    register_all_modules()
    folder, joints = archive
    found = converted(folder, tmp_path / 'out', {'val': [1, 6]})
    dataset = CrowdPoseDataset(
        data_root=str(tmp_path / 'out'), ann_file='annotations/val.json', data_prefix={'img': 'val/'}, test_mode=True)
    assert len(dataset) == 2
    assert [dataset.metainfo['keypoint_id2name'][k] for k in range(14)] == found['val']['categories'][0]['keypoints']
    neck = convert_lspet.LSP_JOINTS.index('neck')
    np.testing.assert_allclose(dataset[1]['keypoints'][0, 13], joints[neck, :2, 5], atol=6e-4)
    assert Path(dataset[1]['img_path']).is_file()


def test_bad_input_is_named(archive, tmp_path):
    folder, joints = archive
    with pytest.raises(ValueError, match='at least 7 persons, got 6'):
        convert_lspet.convert(folder, tmp_path / 'out', {'val': [7]})
    savemat(folder / 'joints.mat', {'joints': joints.transpose(1, 0, 2)})
    with pytest.raises(ValueError, match=r'\(14, 3, N\), got \(3, 14, 6\)'):
        convert_lspet.convert(folder, tmp_path / 'out', {'val': [1]})


def test_split_has_no_person_twice():
    split = json.loads(convert_lspet.SPLIT.read_text())
    numbers = split['train'] + split['val'] + split['test']
    assert {part: len(each) for part, each in split.items()} == {'train': 5000, 'val': 1000, 'test': 1226}
    assert len(set(numbers)) == 7226 and min(numbers) >= 1 and max(numbers) <= 10000


@pytest.mark.skipif(not REAL.is_dir(), reason=f'{REAL} is not there')
def test_split_and_box_rule_are_those_of_the_data():
    split = json.loads(convert_lspet.SPLIT.read_text())
    for part, numbers in split.items():
        real = json.loads((REAL / 'annotations' / f'{part}.json').read_text())
        assert [image['id'] for image in real['images']] == numbers
        assert real['categories'][0]['keypoints'] == list(convert_lspet.CROWDPOSE_JOINTS)
        for image, person in zip(real['images'], real['annotations']):
            keypoints = np.reshape(person['keypoints'], (14, 3))
            left, top, right, bottom = convert_lspet.box(keypoints[keypoints[:, 2] > 0, :2], (image['width'], image['height']))
            np.testing.assert_allclose(person['bbox'], [left, top, right - left, bottom - top], atol=0.011)
