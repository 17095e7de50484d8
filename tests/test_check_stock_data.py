"""``check --data`` is silent about a clean file in the format of each of MMPose's 2D data set classes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip('mmpose', reason='the data sets are MMPose\'s')

from mmpose.datasets.datasets.base import BaseCocoStyleDataset  # noqa: E402
from mmpose.datasets.datasets.utils import parse_pose_metainfo  # noqa: E402
from mmpose.registry import DATASETS  # noqa: E402
from mmpose.utils import register_all_modules  # noqa: E402

from hdm_mmpose.check.data import check_data  # noqa: E402

register_all_modules()
# In three dimensions, or of another kind of file, which the test below writes.
OTHERS = ('BaseCocoStyleDataset', 'MpiiDataset', 'UBody3dDataset', 'InterHand3DDataset', 'InterHand2DDoubleDataset')
CLASSES = sorted(name for name, kind in DATASETS.module_dict.items()
                 if isinstance(kind, type) and issubclass(kind, BaseCocoStyleDataset) and name not in OTHERS)
OPTIONS = {
    'PoseTrack18VideoDataset': dict(frame_indices=[-1, 0], frame_sampler_mode='fixed', frame_weights=(0.5, 0.5)),
    'DeepFashionDataset': dict(subset='full')}
PARTS = {'keypoints': 17, 'foot_kpts': 6, 'face_kpts': 68, 'lefthand_kpts': 21, 'righthand_kpts': 21}  # of COCO-WholeBody


def row(count: int) -> list[float]:
    """Visible joints inside the box."""
    points = np.random.default_rng(0).uniform(12, 50, (count, 2))
    return np.column_stack([points, np.full(count, 2)]).flatten().tolist()


def tiny_file(name: str, joints: int, folder: Path) -> dict:
    """Two pictures, three persons, with the keys of COCO and of the formats that are derived from it."""
    for picture in 'ab':
        (folder / f'{picture}.jpg').write_bytes(b'a picture')
    lists = {part: row(count) for part, count in PARTS.items()} if 'WholeBody' in name or name == 'UBody2dDataset' else {}
    person = dict(
        {'keypoints': row(joints), **lists}, category_id=1, bbox=[5, 6, 50, 60], area=3000.0, iscrowd=0, num_keypoints=joints,
        segmentation=[], center=[30.0, 36.0], scale=0.3, head_size=12.0, hand_type='right', hand_type_valid=1, attributes={},
        **{f'{part}_box': [8, 9, 20, 20] for part in ('face', 'lefthand', 'righthand')}, track_id=1, video_id=1, bbox_head=[5, 6, 9, 9],
        **{f'{part}_valid': True for part in ('face', 'lefthand', 'righthand', 'foot')})
    images = [dict(id=number, file_name=f'{picture}.jpg', width=80, height=90, crowdIndex=0.2, frame_id=number, vid_id='1', nframes=2,
                   is_labeled=True) for number, picture in ((1, 'a'), (2, 'b'))]
    persons = [dict(person, id=index + 1, image_id=1 + index // 2) for index in range(3)]
    category = dict(id=1, name='person', keypoints=[str(index) for index in range(joints)], skeleton=[])
    content = dict(images=images, annotations=persons, categories=[category])
    if name == 'HumanArt21Dataset':
        for each in persons:
            each['keypoints_21'] = each['keypoints']
    if name == 'PoseTrack18VideoDataset':  # it counts frames in the names of files
        for image in images:
            image['file_name'] = f'{image["id"]:06d}.jpg'
            (folder / image['file_name']).write_bytes(b'a picture')
    if name == 'MpiiTrbDataset':
        for each in persons:
            each['num_joints'] = joints
    return content


@pytest.mark.parametrize('name', CLASSES)
def test_a_clean_file_is_no_news(name: str, tmp_path: Path) -> None:
    kind = DATASETS.get(name)
    meta = kind.METAINFO if kind.METAINFO else dict(from_file='configs/_base_/datasets/deepfashion_full.py')
    joints = parse_pose_metainfo(dict(meta))['num_keypoints']
    (tmp_path / 'file.json').write_text(json.dumps(tiny_file(name, joints, tmp_path)))
    dataset = dict(type=name, data_root=str(tmp_path), ann_file='file.json', data_prefix=dict(img=''), **OPTIONS.get(name, {}))
    assert check_data(dict(train_dataloader=dict(dataset=dataset))) == []


def test_a_clean_file_of_mpii_is_no_news(tmp_path: Path) -> None:
    (tmp_path / '1.jpg').write_bytes(b'a picture')
    person = dict(image='1.jpg', center=[40.0, 45.0], scale=0.4, joints=np.random.default_rng(0).uniform(12, 70, (16, 2)).tolist(),
                  joints_vis=[1] * 16)
    (tmp_path / 'file.json').write_text(json.dumps([person, person]))
    dataset = dict(type='MpiiDataset', data_root=str(tmp_path), ann_file='file.json', data_prefix=dict(img=''))
    assert check_data(dict(train_dataloader=dict(dataset=dataset))) == []
    (tmp_path / 'file.json').write_text(json.dumps([person, {key: value for key, value in person.items() if key != 'scale'}]))
    (finding,) = check_data(dict(train_dataloader=dict(dataset=dataset)))
    assert finding.rule == 'not-read' and "'scale'" in finding.what
