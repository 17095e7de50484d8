"""``check --data``: annotation files, each with one thing wrong, read by the data set class itself."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip('mmpose', reason='the command checks configs of MMPose')

from mmengine.config import Config  # noqa: E402

from hdm_mmpose.__main__ import main  # noqa: E402
from hdm_mmpose.check.command import resolve_path  # noqa: E402
from hdm_mmpose.check.data import check_data  # noqa: E402

META = dict(dataset_name='three', paper_info={}, skeleton_info={}, joint_weights=[1.0] * 3, sigmas=[0.05] * 3, keypoint_info={
    index: dict(name=name, id=index, color=[0, 0, 0], type='', swap='') for index, name in enumerate('abc')})
PERSON = dict(id=7, image_id=1, category_id=1, bbox=[2, 3, 40, 50], area=900.0, iscrowd=0, num_keypoints=2,
              keypoints=[10, 10, 2, 20, 30, 1, 0, 0, 0])
CONTENT = dict(images=[dict(id=1, file_name='a.jpg', width=64, height=80), dict(id=2, file_name='b.jpg', width=64, height=80)],
               annotations=[PERSON, dict(PERSON, id=8), dict(PERSON, id=9, image_id=2)], categories=[dict(id=1, name='person')])
BOX = dict(image_id=1, category_id=1, bbox=[2, 3, 40, 50], score=0.9)


def edited(edit: Callable[[dict], object]) -> dict:
    content = copy.deepcopy(CONTENT)
    edit(content)
    return content


def dataset_of(content: object, folder: Path, **options) -> dict:
    for name in 'ab':
        (folder / f'{name}.jpg').write_bytes(b'a picture')
    (folder / 'empty.jpg').touch()
    (folder / 'file.json').write_text(content if isinstance(content, str) else json.dumps(content))
    return dict(type='CocoDataset', data_root=str(folder), ann_file='file.json', data_prefix=dict(img=''), metainfo=META, **options)


def found(content: object, folder: Path, **options) -> dict[str, str]:
    loader = 'val_dataloader' if options.get('test_mode') else 'train_dataloader'
    cfg = {loader: dict(dataset=dataset_of(content, folder, **options))}
    return {finding.rule: f'{finding.level}: {finding.what}' for finding in check_data(cfg)}


def person(index: int, **changes) -> Callable[[dict], None]:
    return lambda content: content['annotations'][index].update(changes)


def everyone(**changes) -> Callable[[dict], None]:
    return lambda content: [each.update(changes) for each in content['annotations']]


def without(key: str, index: int | None = None, among: str = 'annotations') -> Callable[[dict], None]:
    return lambda content: [each.pop(key) for place, each in enumerate(content[among]) if index in (None, place)]


def picture_ids(change: Callable[[int], object], images: bool = True, annotations: bool = True) -> Callable[[dict], None]:
    def edit(content: dict) -> None:
        for image in content['images'] if images else []:
            image['id'] = change(image['id'])
        for each in content['annotations'] if annotations else []:
            each['image_id'] = change(each['image_id'])
    return edit


CASES = {
    'joint-count': (person(1, keypoints=[1, 1, 2]), 'error: .* 1 annotation .id 8. with 1 joints, the data set has 3'),
    'not-finite': (person(0, keypoints=[float('nan'), 1, 2, 20, 30, 1, 0, 0, 0]), 'error: .* 1 annotation .id 7.'),
    'left-out': (person(0, bbox=[2, 3, -4, 5]), 'warning: .* leaves out 1 of 3 .*1 have a box without area.* .id 7.'),
    'all-outside': (person(1, keypoints=[100, 10, 2, 300, 30, 1, 0, 0, 0]), 'warning: .* 1 annotation .id 8.'),
    'no-picture': (lambda content: content['images'][0].update(file_name='c.jpg'), 'error: 1 of 2 pictures are not there: .*c.jpg'),
    'empty-picture': (lambda content: content['images'][0].update(file_name='empty.jpg'), 'error: 1 of 2 pictures are empty'),
    'no-categories': (lambda content: content.pop('categories'), 'no categories'),
    'no-persons': (lambda content: content['annotations'].clear(), 'takes none of 0 annotated persons'),
    'repeated-ids': (person(2, id=7), 'error: .* 1 ids stand at several annotations .id 7.'),
    'box-format': (everyone(bbox=[30, 40, 60, 75]), 'error: .* 3 of 3 boxes reach out of their pictures as x, y, width, height, and none'),
}


@pytest.mark.parametrize('rule', CASES)
def test_each_is_found_alone(rule: str, tmp_path: Path) -> None:
    edit, text = CASES[rule]
    findings = found(edited(edit), tmp_path)
    assert set(findings) - ({'not-read'} if rule == 'no-categories' else set()) == {rule}  # an older MMPose reads them itself
    assert re.search(text, findings[rule]), findings


@pytest.mark.parametrize(('edit', 'text'), [
    (without('id', 1), "reads 'id', which 1 annotation .* lacks"),
    (without('image_id'), "'image_id'"),
    (without('category_id', 2), r"reads 'category_id', which 1 annotation \(id 9\)"),
    (without('width', among='images'), "reads 'width', which 2 entries"),
    (without('file_name', 0, 'images'), "reads 'file_name', which 1 entry"),
    (without('id', 0, 'images'), "'id'"),
    (picture_ids(lambda number: f'p{number}'), 'cannot read .*TypeError'),
    (person(1, bbox=[1, 2, 3]), r'cannot read 1 annotation \(id 8\)'),
    (person(1, keypoints=[1, 2]), r'cannot read 1 annotation \(id 8\)'),
    (person(1, keypoints='text'), r'cannot read 1 annotation \(id 8\)'),
    (person(2, keypoints=[None, 1, 2, 20, 30, 1, 0, 0, 0]), 'annotation|not-finite'),
    (lambda content: content.update(images=5), 'cannot read'),
    (lambda content: content.update(annotations=None), 'cannot read'),
])
def test_what_the_class_cannot_read_is_named(edit: Callable[[dict], None], text: str, tmp_path: Path) -> None:
    findings = found(edited(edit), tmp_path)
    assert findings.keys() & {'not-read', 'not-finite'} and re.search(text, ' '.join(findings.values())), findings


@pytest.mark.parametrize(('edit', 'rule', 'text'), [
    (everyone(iscrowd=1), 'no-persons', '3 are crowds'),
    (everyone(num_keypoints=0), 'no-persons', '3 have no joint'),
    (person(0, iscrowd=1), 'left-out', r'1 are crowds .*with visible joints 1 annotation \(id 7\)'),
    (person(0, bbox=[200, 3, 40, 50]), 'left-out', 'outside the picture'),
    (person(0, image_id=77), 'left-out', 'belong to a picture that the file does not list'),
    (picture_ids(str, images=False), 'no-persons', '3 name their picture by text'),
    (without('bbox', 0), 'left-out', '1 have no bbox'),
    (lambda content: content['annotations'][0].update(num_keypoints=0), 'left-out', '1 have no joint'),
])
def test_who_takes_part_is_said(edit: Callable[[dict], None], rule: str, text: str, tmp_path: Path) -> None:
    findings = found(edited(edit), tmp_path)
    assert re.search(text, findings[rule]), findings


def test_nothing_is_found_in_a_good_file(tmp_path: Path) -> None:
    assert found(CONTENT, tmp_path) == {}
    spare = edited(lambda content: content['images'].append(dict(id=3, file_name='gone.jpg', width=8, height=8)))
    assert found(spare, tmp_path) == {}, 'pictures without persons are not read'
    unseen = edited(person(0, keypoints=[float('nan'), 1, 0, 20, 30, 1, 0, 0, 0]))
    assert found(unseen, tmp_path) == {}, 'coordinates of a joint that is not annotated are not looked at'
    nobody = edited(person(1, num_keypoints=0, keypoints=[0] * 9))
    assert found(nobody, tmp_path) == {}, "COCO's own file has persons without joints"
    assert found(CONTENT, tmp_path, data_mode='bottomup') == {}


@pytest.mark.parametrize(('boxes', 'wanted'), [
    ([BOX, dict(BOX, image_id=2)], {}),
    ([dict(BOX, category_id=0), dict(BOX, image_id=2, category_id=0)],
     {'boxes-dropped': 'error: .* 2 of 2 boxes .*for their category_id .0.'}),
    ([BOX, dict(BOX, image_id=2, category_id=3)], {'boxes-dropped': 'warning: .* 1 of 2 boxes'}),
    ([dict(BOX, image_id=99)], {'not-read': '99'}),
    ([{key: value for key, value in BOX.items() if key != 'score'}], {'not-read': "'score'.*1 of them"}),
    ([dict(BOX, image_id='1')], {'not-read': "image_id '1'"}),
    ({'annotations': [BOX]}, {'not-read': 'cannot read the boxes of .*boxes.json'}),
    ([dict(BOX, bbox=[30, 40, 60, 75]), dict(BOX, image_id=2, bbox=[30, 40, 60, 75])], {'box-format': 'boxes.json: 2 of 2 boxes'}),
    ([BOX] * 3, {}),
], ids=str)
def test_boxes_of_a_detector(boxes: object, wanted: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / 'boxes.json').write_text(json.dumps(boxes))
    findings = found(CONTENT, tmp_path, bbox_file=str(tmp_path / 'boxes.json'), test_mode=True)
    findings.pop('boxes-elsewhere', None)
    assert set(findings) == set(wanted), findings
    for rule, text in wanted.items():
        assert re.search(text, findings[rule]), findings


def test_boxes_of_other_pictures_are_noticed(tmp_path: Path) -> None:
    content = edited(lambda content: content['images'].append(dict(id=3, file_name='a.jpg', width=64, height=80)))
    (tmp_path / 'boxes.json').write_text(json.dumps([dict(BOX, image_id=3)]))
    assert set(found(content, tmp_path, bbox_file=str(tmp_path / 'boxes.json'), test_mode=True)) == {'boxes-elsewhere'}


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    assert set(found('{"images": [', tmp_path)) == {'not-json'}
    for content in ('[]', '5', '{}'):
        assert found(content, tmp_path).keys() & {'not-read', 'no-persons'}, content
    cfg = dict(type='CocoDataset', ann_file=str(tmp_path / 'gone.json'), bbox_file=str(tmp_path / 'boxes.json'), test_mode=True,
               metainfo=META)
    findings = check_data(dict(train_dataloader=dict(dataset=cfg)))
    assert [finding.rule for finding in findings] == ['no-boxes', 'no-annotations'] and 'gone.json' in findings[1].what


def test_wholebody_joints_stand_in_five_lists(tmp_path: Path) -> None:
    lists = dict(keypoints=17, foot_kpts=6, face_kpts=68, lefthand_kpts=21, righthand_kpts=21)
    rows = {name: [9, 9, 2] * count for name, count in lists.items()}
    boxes = {f'{part}_box': [2, 3, 9, 9] for part in ('face', 'lefthand', 'righthand')}
    valid = {f'{part}_valid': True for part in ('face', 'lefthand', 'righthand', 'foot')}
    content = edited(everyone(**rows, **boxes, **valid, num_keypoints=17, segmentation=[]))
    for kind in ('CocoWholeBodyDataset', 'CocoWholeBodyFaceDataset', 'CocoWholeBodyHandDataset'):
        dataset = dict(dataset_of(content, tmp_path), type=kind)
        del dataset['metainfo']
        assert check_data(dict(train_dataloader=dict(dataset=dataset))) == [], kind


def test_joints_are_those_of_the_file_not_those_a_converter_makes_of_them(tmp_path: Path) -> None:
    """MMPose's own recipe for COCO and AIC together: AIC's files have 14 joints, the model 17."""
    recipe = 'mmpose::body_2d_keypoint/topdown_heatmap/coco/td-hm-vis_res50_8xb64-210e_coco-aic-256x192-merge.py'
    if not Path(resolve_path(recipe)).is_file():
        pytest.skip('this MMPose has no recipe for COCO and AIC together')
    loader = Config.fromfile(resolve_path(recipe))
    _, aic = loader.train_dataloader.dataset.datasets
    for joints, wanted in ((14, []), (17, ['joint-count'])):
        content = edited(everyone(keypoints=[9, 9, 2] * joints))
        dataset_of(content, tmp_path)
        aic.update(data_root=str(tmp_path), ann_file='file.json', data_prefix=dict(img=''))
        dataset = dict(loader.train_dataloader.dataset, datasets=[aic])
        assert [finding.rule for finding in check_data(dict(train_dataloader=dict(dataset=dataset)))] == wanted


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    from tests.tiny_training import RECIPE, draw

    data = draw(tmp_path / 'data', train=2, val=1)
    options = [f'{loader}.dataset.data_root={data}/' for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader')]
    annotations = data / 'annotations' / 'person_keypoints_val2017.json'
    options += [f'{split}_evaluator.0.ann_file={annotations}' for split in ('val', 'test')]
    assert main(['check', str(RECIPE), '--data', '--cfg-options', *options]) == 0
    assert ': all parts agree\n' in capsys.readouterr().out
    next((data / 'val2017').glob('*.jpg')).unlink()
    assert main(['check', str(RECIPE), '--data', '--cfg-options', *options]) == 1
    assert '1 of 1 picture are not there' in capsys.readouterr().out
