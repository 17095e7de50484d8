"""tools/dataset_converters/convert_faces68.py on an archive made up here; split and picture rule on the real data where they are."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tools.dataset_converters import convert_faces68

ROOT = Path(__file__).resolve().parent.parent
REAL = ROOT.parent / 'shared' / 'data' / 'faces68'
NAMES = ('Ada_Byron_00.jpg', 'Ada_Byron_31.jpg', 'Al_Khwarizmi_51.jpg', 'Emmy_Noether_10.jpg', 'Left_Out_00.jpg')


def blob(frame, centre, size):
    """A dark dot whose centre of mass is the landmark."""
    y, x = np.mgrid[:frame.shape[0], :frame.shape[1]]
    frame[(x - centre[0])**2 + (y - centre[1])**2 <= size**2] = 0


@pytest.fixture
def archive(tmp_path):
    rng = np.random.default_rng(5)
    faces = {}
    for number, name in enumerate(NAMES):
        side = 400 if number == 2 else 100  # one is larger than 192 pixels
        points = rng.integers(side // 4, 3 * side // 4, (68, 2))
        points[0] = side // 4, side // 4
        frame = np.full((side + 20, side, 3), 255, np.uint8)
        if number == 2:
            points[1:] = points[1:].clip(min=side // 4 + 20)  # alone in its corner
            blob(frame, points[0], 6)
        faces[name] = points
        part = 'training' if number < 3 else 'test'
        (tmp_path / 'data' / part).mkdir(parents=True, exist_ok=True)
        Image.fromarray(frame).save(tmp_path / 'data' / part / name, quality=100)
    for part, names in (('training', NAMES[:3]), ('test', NAMES[3:])):
        with (tmp_path / 'data' / f'{part}_frames_keypoints.csv').open('w', newline='') as stream:
            writer = csv.writer(stream)
            writer.writerow(['', *range(136)])
            writer.writerows([name, *map(float, faces[name].ravel())] for name in names)
    marks = {name: convert_faces68.landmark_hash(points) for name, points in faces.items()}
    split = {'train': {'7': marks[NAMES[1]], '2': marks[NAMES[0]]}, 'val': {'3': marks[NAMES[2]]}, 'test': {'9': marks[NAMES[3]]}}
    return tmp_path, faces, split


def converted(archive, out):
    folder, faces, split = archive
    convert_faces68.convert(folder, out, split)
    return {part: json.loads((out / 'annotations' / f'{part}.json').read_text()) for part in split}


def test_faces_get_their_numbers_and_people_whatever_the_order_of_the_rows(archive, tmp_path):
    found = converted(archive, tmp_path / 'out')
    assert [(image['id'], image['file_name'], image['person']) for image in found['train']['images']] == [
        (2, 'train/00001.jpg', 0), (7, 'train/00006.jpg', 0)]
    assert [found[part]['images'][0]['person'] for part in ('val', 'test')] == [1, 2]
    assert sorted(file.name for file in (tmp_path / 'out').glob('t*/*.jpg')) == ['00001.jpg', '00006.jpg', '00008.jpg']


def test_a_picture_is_the_box_with_a_margin_and_its_landmarks_move_along(archive, tmp_path):
    found = converted(archive, tmp_path / 'out')
    points = archive[1][NAMES[0]]
    low, high = points.min(0), points.max(0)
    margin = math.ceil(0.35 * (high - low).max())
    image, face = (found['train'][key][0] for key in ('images', 'annotations'))
    start, end = np.maximum(low - margin, 0), np.minimum(high + margin, (100, 120))
    assert [image['width'], image['height']] == (end - start).tolist()
    np.testing.assert_allclose(np.reshape(face['keypoints'], (68, 3))[:, :2], points - start)
    np.testing.assert_allclose(face['bbox'], [*(low - start), *(high - low)])
    assert face['area'] == np.prod(high - low)


def test_in_a_reduced_picture_the_landmark_is_where_the_dot_is(archive, tmp_path):
    found = converted(archive, tmp_path / 'out')
    image, face = found['val']['images'][0], found['val']['annotations'][0]
    assert max(image['width'], image['height']) == 192
    dark = 255.0 - np.asarray(Image.open(tmp_path / 'out' / image['file_name']).convert('L'), dtype=float)
    dark[dark < 10] = 0  # what JPEG leaves around
    y, x = np.mgrid[:dark.shape[0], :dark.shape[1]]
    centre = (dark * x).sum() / dark.sum(), (dark * y).sum() / dark.sum()
    np.testing.assert_allclose(face['keypoints'][:2], centre, atol=0.05)


def test_bad_input_is_named(archive, tmp_path):
    folder, faces, split = archive
    with pytest.raises(ValueError, match=r'but lacks \[12\] \(1\)'):
        convert_faces68.convert(folder, tmp_path / 'out', {**split, 'test': {'12': '00000000'}})
    torn = {'train': {'2': split['train']['2']}, 'val': {'7': split['train']['7']}}
    with pytest.raises(ValueError, match=r"\['Ada_Byron'\] are in several"):
        convert_faces68.convert(folder, tmp_path / 'out', torn)
    file = folder / 'data' / 'test_frames_keypoints.csv'
    file.write_text(file.read_text() + 'Short_Row_00.jpg,1,2\n')
    with pytest.raises(ValueError, match='Short_Row_00.jpg .* 136 coordinates, got 2'):
        convert_faces68.convert(folder, tmp_path / 'out', split)


def test_split_has_no_face_twice():
    split = json.loads(convert_faces68.SPLIT.read_text())
    assert {part: len(faces) for part, faces in split.items()} == {'train': 2811, 'val': 507, 'test': 451}
    assert len({number for faces in split.values() for number in faces}) == 3769
    marks = [set(faces.values()) for faces in split.values()]
    assert not marks[0] & marks[1] and not marks[0] & marks[2] and not marks[1] & marks[2]


@pytest.mark.skipif(not REAL.is_dir(), reason=f'{REAL} is not there')
def test_split_and_picture_rule_are_those_of_the_data():
    split = json.loads(convert_faces68.SPLIT.read_text())
    people, whole = {}, 0
    for part, faces in split.items():
        real = json.loads((REAL / 'annotations' / f'{part}.json').read_text())
        assert [image['id'] for image in real['images']] == [int(number) for number in faces]
        people[part] = {image['person'] for image in real['images']}
        for image, face in zip(real['images'], real['annotations']):
            if max(image['width'], image['height']) == convert_faces68.LONGEST:
                continue  # its landmarks are rounded
            points = np.reshape(face['keypoints'], (68, 3))[:, :2]
            assert convert_faces68.landmark_hash(points) == faces[str(image['id'])]
            expected = convert_faces68.annotation(image['id'], points)
            assert {key: face[key] for key in expected} == expected
            margin = math.ceil(convert_faces68.MARGIN * max(face['bbox'][2:]))
            margins = [*points.min(0), *((image['width'], image['height']) - points.max(0))]
            assert max(margins) <= margin
            whole += max(margins) == margin
    assert whole > 3000  # the others are cut at a border on every side
    assert [len(people[part]) for part in ('train', 'val', 'test')] == [230, 41, 38]
    assert len(set.union(*people.values())) == 309
