"""The demo data set: the same every time, its joints exactly where they are drawn, readable as COCO."""

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest

from tools.dataset_converters import demo_canvas, demo_figure
from tools.dataset_converters import make_demo_data as demo


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """A small data set, 40 + 3 pictures."""
    folder = tmp_path_factory.mktemp('demo') / 'set'
    assert demo.make_data(folder, train=40, val=3, seed=7)
    return folder


@pytest.fixture(scope='module')
def annotations(data):
    return json.loads((data / 'annotations' / 'person_keypoints_train2017.json').read_text())['annotations']


def centroid(weights):
    """x, y of the centroid of (H, W)."""
    rows, columns = np.indices(weights.shape)
    return np.array([(weights * columns).sum(), (weights * rows).sum()]) / weights.sum()


def figures(count):
    """Persons with the pictures they stand in."""
    for index in range(count):
        rng = np.random.default_rng([11, index])
        yield demo_canvas.draw_background(rng), demo.sample_person(rng, [])


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob('*')) if path.is_file()}


# ------------------------------------------------------------------------------------------------------ determinism


def test_the_same_arguments_give_the_same_bytes(data, tmp_path):
    demo.make_data(tmp_path / 'again', train=40, val=3, seed=7)
    assert files(tmp_path / 'again') == files(data)


def test_another_seed_gives_other_pictures(data, tmp_path):
    demo.make_data(tmp_path / 'other', train=2, val=1, seed=8)
    assert not np.array_equal(*(cv2.imread(str(f / 'train2017' / '000000000001.jpg')) for f in (data, tmp_path / 'other')))


def test_a_larger_set_begins_like_a_smaller_one(data, tmp_path):
    demo.make_data(tmp_path / 'few', train=3, val=3, seed=7)
    for name in ('train2017/000000000003.jpg', 'val2017/000000000002.jpg', 'annotations/person_keypoints_val2017.json'):
        assert (tmp_path / 'few' / name).read_bytes() == (data / name).read_bytes()


def test_training_and_held_out_pictures_differ(data):
    first = [(data / f'{split}2017' / '000000000001.jpg').read_bytes() for split in ('train', 'val')]
    assert first[0] != first[1]


# ------------------------------------------------------------------------------------------------------- exactness


@pytest.mark.parametrize('radius', [1.4, 2.3, 3.75])
def test_the_centroid_of_a_disc_is_the_joint(radius):
    rng = np.random.default_rng(0)
    errors = []
    for joint in demo_canvas.to_fixed_point(rng.uniform(8, 22, (200, 2))) / 256:
        canvas = demo_canvas.Canvas(np.zeros((31, 37, 3), np.uint8))
        canvas.hull(joint[None], np.array([radius]), (255, 255, 255))
        errors.append(centroid(canvas.picture()[..., 0].astype(float)) - joint)
    assert np.abs(errors).max() < 0.02
    assert np.abs(np.mean(errors, axis=0)).max() < 0.005


def test_every_visible_joint_of_a_figure_is_drawn_at_its_coordinates():
    """The picture changes with the colour of one joint's disc exactly around that joint."""
    checked = 0
    for background, person in figures(4):
        for joint in range(17):
            pictures = []
            for colour in ((0, 0, 0), (255, 255, 255)):
                parts = [replace(part, colour=colour) if part.joint == joint else part for part in person.figure.parts]
                parts.sort(key=lambda part: part.joint == joint)  # last: nothing covers it
                canvas = demo_canvas.Canvas(background)
                demo.draw_person(canvas, replace(person, figure=replace(person.figure, parts=tuple(parts))), 0)
                pictures.append(canvas.picture()[..., 0].astype(float))
            expected = person.joints[joint]
            if ((expected > 5) & (expected < np.array(demo_canvas.PICTURE_SIZE) - 6)).all():
                np.testing.assert_allclose(centroid(pictures[1] - pictures[0]), expected, atol=0.02)
                checked += 1
    assert checked > 40


def test_the_file_holds_the_drawn_numbers(annotations):
    for annotation in annotations:
        joints = np.array(annotation['joints'])
        assert joints.shape == (17, 2)
        assert np.array_equal(joints * 256, np.rint(joints * 256)), 'on the grid that is drawn'
        assert np.array_equal(joints.astype(np.float32).astype(float), joints), 'float32 loses nothing'
        keypoints = np.array(annotation['keypoints']).reshape(17, 3)
        inside = keypoints[:, 2] > 0
        assert np.array_equal(keypoints[inside, :2], joints[inside])
        assert not keypoints[~inside].any()


# ------------------------------------------------------------------------------------------------------------- flags


def test_flags(annotations):
    width, height = demo_canvas.PICTURE_SIZE
    flags = np.array([annotation['keypoints'][2::3] for annotation in annotations])
    joints = np.array([annotation['joints'] for annotation in annotations])
    inside = ((joints >= 0) & (joints <= [width - 1, height - 1])).all(-1)
    assert np.array_equal(flags > 0, inside)
    shares = [(flags == flag).mean() for flag in (0, 1, 2)]
    assert shares[0] > 0.005 and shares[1] > 0.1 and shares[2] > 0.5, shares
    assert [annotation['num_keypoints'] for annotation in annotations] == (flags > 0).sum(1).tolist()


def test_a_covered_joint_is_occluded_and_an_uncovered_one_visible():
    background, person = next(figures(1))
    canvas = demo_canvas.Canvas(background)
    demo.draw_person(canvas, person, 0)
    before = demo.visibility(canvas, person.joints, 0)
    covered = int(np.nonzero(before == 2)[0][0])
    canvas.hull(person.joints[covered][None], np.array([4.0]), (0, 0, 0))
    after = demo.visibility(canvas, person.joints, 0)
    assert after[covered] == 1
    assert (before == 2).sum() > 5
    assert (after <= before).all()


def test_the_far_shoulder_of_a_figure_seen_from_the_side_is_drawn_before_the_trunk():
    rng = np.random.default_rng(3)
    checked = 0
    for _ in range(200):
        figure = demo_figure.sample_figure(rng)
        near, far = sorted((5, 6), key=lambda joint: -figure.joints[joint, 2])
        if figure.joints[near, 2] - figure.joints[far, 2] > 0.6:
            order = [part.joint for part in figure.parts]
            trunk = next(place for place, part in enumerate(figure.parts) if len(part.centres) == 4)
            assert order.index(far) < trunk < order.index(near)
            checked += 1
    assert checked > 5


def test_left_is_on_the_right_of_a_figure_that_faces_the_viewer():
    frame = demo_figure.make_frame(yaw=0.0, lean=0.0)
    np.testing.assert_allclose(frame.left, [1, 0, 0], atol=1e-12)
    np.testing.assert_allclose(frame.front, [0, 0, 1], atol=1e-12)
    np.testing.assert_allclose(np.cross(frame.front, frame.up), frame.left, atol=1e-12)


# -------------------------------------------------------------------------------------------------------------- COCO


@pytest.mark.parametrize('split', ['train', 'val'])
def test_coco_reads_it(data, split):
    coco = pytest.importorskip('xtcocotools.coco', reason='xtcocotools is not installed')
    loaded = coco.COCO(str(data / 'annotations' / f'person_keypoints_{split}2017.json'))
    (person,) = loaded.loadCats(loaded.getCatIds(catNms=['person']))
    assert len(person['keypoints']) == 17
    assert np.array(person['skeleton']).shape == (19, 2)
    assert len(loaded.getImgIds()) == {'train': 40, 'val': 3}[split]
    for image in loaded.loadImgs(loaded.getImgIds()):
        picture = cv2.imread(str(data / f'{split}2017' / image['file_name']))
        assert picture.shape == (image['height'], image['width'], 3)
        annotations = loaded.loadAnns(loaded.getAnnIds(imgIds=image['id']))
        assert 1 <= len(annotations) <= 4
        for annotation in annotations:
            x, y, w, h = annotation['bbox']
            assert 0 <= x < x + w <= image['width'] and 0 <= y < y + h <= image['height']
            assert 0 < annotation['area'] <= w * h
            shown = np.array(annotation['keypoints']).reshape(17, 3)
            assert (shown[shown[:, 2] > 0, :2] >= [x - 1, y - 1]).all()
            assert (shown[shown[:, 2] > 0, :2] <= [x + w, y + h]).all()


# ------------------------------------------------------------------------------------------------- being interrupted


def test_a_complete_set_is_reused(tmp_path):
    folder = tmp_path / 'set'
    assert demo.make_data(folder, 2, 1, 0)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob('*')}
    assert not demo.make_data(folder, 2, 1, 0)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob('*')} == before
    assert demo.make_data(folder, 3, 1, 0), 'other arguments: drawn again'
    assert len(list((folder / 'train2017').iterdir())) == 3


def test_an_interrupted_call_leaves_nothing_and_the_next_succeeds(tmp_path, monkeypatch):
    folder = tmp_path / 'set'
    draw = demo.make_picture

    def interrupted(seed, split, index):
        if index == 1:
            raise KeyboardInterrupt
        return draw(seed, split, index)

    with monkeypatch.context() as patched:
        patched.setattr(demo, 'make_picture', interrupted)
        with pytest.raises(KeyboardInterrupt):
            demo.make_data(folder, 2, 1, 0)
    assert not folder.exists()
    assert demo.make_data(folder, 2, 1, 0)
    assert [path.name for path in tmp_path.iterdir()] == ['set']


def test_what_somebody_else_wrote_is_left_alone(tmp_path):
    (tmp_path / 'precious').mkdir()
    (tmp_path / 'precious' / 'file').write_text('mine')
    with pytest.raises(FileExistsError, match='precious'):
        demo.make_data(tmp_path / 'precious', 2, 1, 0)
    assert (tmp_path / 'precious' / 'file').read_text() == 'mine'


@pytest.mark.parametrize(('numbers', 'named'), [((0, 1, 0), 'train'), ((1, 0, 0), 'val'), ((1, 1, -1), 'seed')])
def test_numbers_out_of_range(tmp_path, numbers, named):
    with pytest.raises(ValueError, match=f'{named} must be at least'):
        demo.make_data(tmp_path / 'set', *numbers)
