"""``check --data``: annotation files in COCO's format, each with one thing wrong."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip('mmpose', reason='the command checks configs of MMPose')

from mmengine.config import Config  # noqa: E402

from hdm_mmpose.__main__ import main  # noqa: E402
from hdm_mmpose.check.command import resolve_path  # noqa: E402
from hdm_mmpose.check.data import check_data, check_dataset  # noqa: E402

PERSON = dict(id=7, image_id=1, category_id=1, bbox=[2, 3, 40, 50], keypoints=[10, 10, 2, 20, 30, 1, 0, 0, 0])
CONTENT = dict(images=[dict(id=1, file_name='a.jpg', width=64, height=80)], annotations=[PERSON, dict(PERSON, id=8)],
               categories=[dict(id=1, name='person')])


def edited(edit: Callable[[dict], object]) -> dict:
    content = copy.deepcopy(CONTENT)
    edit(content)
    return content


def found(content: object, folder: Path, joints: int | None = 3) -> dict[str, str]:
    (folder / 'a.jpg').write_bytes(b'a picture')
    (folder / 'empty.jpg').touch()
    (folder / 'file.json').write_text(content if isinstance(content, str) else json.dumps(content))
    dataset = dict(type='CocoDataset', data_root=str(folder), ann_file='file.json', data_prefix=dict(img=''))
    return {finding.rule: finding.what for finding in check_dataset('train_dataloader.dataset', dataset, joints)}


def person(index: int, **changes) -> Callable[[dict], None]:
    return lambda content: content['annotations'][index].update(changes)


CASES = {
    'joint-count': (person(1, keypoints=[1, 1, 2]), '1 annotation (id 8) with 1 joints, the data set has 3'),
    'not-finite': (person(0, keypoints=[float('nan'), 1, 2, 20, 30, 1, 0, 0, 0]), '1 annotation (id 7)'),
    'bad-box': (person(0, bbox=[2, 3, -4, 5]), '1 annotation (id 7)'),
    'all-outside': (person(1, keypoints=[100, 10, 2, 20, 300, 1, 0, 0, 0]), '1 annotation (id 8)'),
    'no-picture': (lambda content: content['images'][0].update(file_name='b.jpg'), '1 of 1 pictures'),
    'empty-picture': (lambda content: content['images'][0].update(file_name='empty.jpg'), '1 of 1 pictures'),
    'format': (lambda content: content['images'][0].pop('file_name'), "not as COCO writes it: KeyError: 'file_name'"),
    'no-categories': (lambda content: content.pop('categories'), 'no categories'),
    'no-persons': (lambda content: content['annotations'].clear(), 'no person with joints'),
}


@pytest.mark.parametrize('rule', CASES)
def test_each_is_found_alone(rule: str, tmp_path: Path) -> None:
    edit, text = CASES[rule]
    findings = found(edited(edit), tmp_path)
    assert set(findings) == {rule} and text in findings[rule]


def test_nothing_is_found_in_a_good_file_or_a_format_not_known(tmp_path: Path) -> None:
    assert found(CONTENT, tmp_path) == {}
    assert found([dict(image='a.jpg')], tmp_path) == {}
    spare = edited(lambda content: content['images'].append(dict(id=2, file_name='gone.jpg', width=8, height=8)))
    assert found(spare, tmp_path) == {}, 'pictures without persons are not read'
    unseen = edited(person(0, keypoints=[float('nan'), 1, 0, 20, 30, 1, 0, 0, 0]))
    assert found(unseen, tmp_path) == {}, 'coordinates of a joint that is not annotated are not looked at'


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    assert set(found('{"images": [', tmp_path)) == {'not-json'}
    (finding,) = check_dataset('x', dict(ann_file=str(tmp_path / 'gone.json')), 17)
    assert finding.rule == 'no-annotations' and 'gone.json' in finding.what


def test_joints_are_those_of_the_file_not_those_a_converter_makes_of_them(tmp_path: Path) -> None:
    """MMPose's own recipe for COCO and AIC together: AIC's files have 14 joints, the model 17."""
    (tmp_path / 'a.jpg').write_bytes(b'a picture')
    recipe = 'mmpose::body_2d_keypoint/topdown_heatmap/coco/td-hm-vis_res50_8xb64-210e_coco-aic-256x192-merge.py'
    loader = Config.fromfile(resolve_path(recipe))
    _, aic = loader.train_dataloader.dataset.datasets
    for joints, wanted in ((14, []), (17, ['joint-count'])):
        content = edited(lambda content, joints=joints: [each.update(keypoints=[9, 9, 2] * joints) for each in content['annotations']])
        (tmp_path / 'file.json').write_text(json.dumps(content))
        aic.update(data_root=str(tmp_path), ann_file='file.json', data_prefix=dict(img=''))
        dataset = dict(loader.train_dataloader.dataset, datasets=[aic])
        assert [finding.rule for finding in check_data(dict(train_dataloader=dict(dataset=dataset)))] == wanted


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    from tests.tiny_training import RECIPE, draw

    data = draw(tmp_path / 'data', train=2, val=1)
    options = [f'{loader}.dataset.data_root={data}/' for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader')]
    assert main(['check', str(RECIPE), '--data', '--cfg-options', *options]) == 0
    next((data / 'val2017').glob('*.jpg')).unlink()
    assert main(['check', str(RECIPE), '--data', '--cfg-options', *options]) == 1
    assert '1 of 1 pictures are not in' in capsys.readouterr().out


def test_missing_boxes_of_a_detector_are_named(tmp_path: Path) -> None:
    dataset = dict(ann_file=str(tmp_path / 'gone.json'), bbox_file=str(tmp_path / 'boxes.json'))
    assert [finding.rule for finding in check_dataset('x', dataset, 17)] == ['no-boxes', 'no-annotations']
