"""MMPose's own ways into a trained model, with a config and a checkpoint of this package: pictures, a folder, a video file."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

pytest.importorskip('mmpose', reason="inference is MMPose's")

from mmpose.apis import MMPoseInferencer, inference_topdown, init_model  # noqa: E402

from hdm_mmpose.features import loads_safely  # noqa: E402
from tests.tiny_training import by_iterations, draw, tiny_config, train  # noqa: E402

FRAMES = 3


@pytest.fixture(scope='module')
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str, Path]:
    """Config, checkpoint (as the runner writes it, with everything a resumed training needs) and a folder of pictures."""
    folder = tmp_path_factory.mktemp('trained')
    data = draw(folder / 'data')
    cfg = tiny_config(data, folder / 'run')
    cfg.dump(folder / 'config.py')  # with the val pipeline, which the inferencer takes its own from
    train(by_iterations(cfg, 2))
    return str(folder / 'config.py'), str(folder / 'run' / 'iter_2.pth'), data / 'val2017'


@pytest.fixture(scope='module')
def inferencer(trained: tuple[str, str, Path]) -> MMPoseInferencer:
    config, checkpoint, _ = trained
    return MMPoseInferencer(pose2d=config, pose2d_weights=checkpoint, det_model='whole_image', device='cpu', scope='mmpose')


def pictures(folder: Path) -> list[Path]:
    return sorted(folder.glob('*.jpg'))


def check(instances: list[dict], shape: tuple[int, ...]) -> None:
    assert len(instances) == 1
    points, scores = np.array(instances[0]['keypoints']), np.array(instances[0]['keypoint_scores'])
    assert points.shape == (17, 2) and scores.shape == (17,)
    assert np.isfinite(points).all() and ((scores >= 0) & (scores <= 1)).all()
    reach = 1.25 * max(shape[:2]) / 0.75 / 2  # a box is padded by a quarter and fitted to the network's proportions
    assert (np.abs(points - np.array(shape[1::-1]) / 2) <= reach + 1).all()


def test_topdown_on_boxes(trained: tuple[str, str, Path]) -> None:
    config, checkpoint, folder = trained
    model = init_model(config, checkpoint, device='cpu')
    boxes = np.array([[10, 10, 120, 170], [60.5, 20, 200, 180]], np.float32)
    results = inference_topdown(model, str(pictures(folder)[0]), boxes)
    assert len(results) == 2
    for result, (left, top, right, bottom) in zip(results, boxes):
        points = result.pred_instances.keypoints[0]
        assert points.shape == (17, 2) and np.isfinite(points).all()
        center, size = np.array([left + right, top + bottom]) / 2, max(right - left, bottom - top)
        assert (np.abs(points - center) < size).all()


def test_inferencer_says_what_topdown_says(inferencer: MMPoseInferencer, trained: tuple[str, str, Path]) -> None:
    config, checkpoint, folder = trained
    picture = cv2.imread(str(pictures(folder)[1]))
    (said,) = inferencer(picture)
    ((instance,),) = said['predictions']
    (wanted,) = inference_topdown(init_model(config, checkpoint, device='cpu'), picture)
    np.testing.assert_allclose(instance['keypoints'], wanted.pred_instances.keypoints[0], atol=1e-3)
    check([instance], picture.shape)


def test_folder_of_pictures(inferencer: MMPoseInferencer, trained: tuple[str, str, Path], tmp_path: Path) -> None:
    folder = trained[2]
    said = list(inferencer(str(folder), vis_out_dir=str(tmp_path / 'drawn'), pred_out_dir=str(tmp_path / 'said')))
    assert len(said) == len(pictures(folder))
    for path in pictures(folder):
        picture, drawn = cv2.imread(str(path)), cv2.imread(str(tmp_path / 'drawn' / path.name))
        assert drawn.shape == picture.shape and (drawn != picture).any()
        check(json.loads((tmp_path / 'said' / f'{path.stem}.json').read_text()), picture.shape)


def test_video_file(inferencer: MMPoseInferencer, trained: tuple[str, str, Path], tmp_path: Path) -> None:
    frames = [cv2.resize(cv2.imread(str(path)), (256, 192)) for path in pictures(trained[2])[:FRAMES]]
    writer = cv2.VideoWriter(str(tmp_path / 'walk.mp4'), cv2.VideoWriter_fourcc(*'mp4v'), 10, (256, 192))
    for frame in frames:
        writer.write(frame)
    writer.release()
    list(inferencer(str(tmp_path / 'walk.mp4'), vis_out_dir=str(tmp_path / 'drawn'), pred_out_dir=str(tmp_path / 'said')))
    (said,) = (tmp_path / 'said').glob('*.json')
    for frame in json.loads(said.read_text()):
        check(frame['instances'], frames[0].shape)
    drawn = cv2.VideoCapture(str(next((tmp_path / 'drawn').rglob('walk.mp4'))))
    assert int(drawn.get(cv2.CAP_PROP_FRAME_COUNT)) == FRAMES


def test_photographs(inferencer: MMPoseInferencer, shared_data: Path, tmp_path: Path) -> None:
    """COCO's sample pictures are read, drawn on and answered; where the joints come to lie is not what two steps teach."""
    folder = shared_data / 'coco_sample'
    said = list(inferencer(str(folder), vis_out_dir=str(tmp_path)))
    assert len(said) == len(pictures(folder)) > 0
    for path, each in zip(pictures(folder), said):
        picture, drawn = cv2.imread(str(path)), cv2.imread(str(tmp_path / path.name))
        assert drawn.shape == picture.shape and (drawn != picture).any()
        check(each['predictions'][0], picture.shape)


@pytest.mark.skipif(not loads_safely(), reason='this torch cannot be told what its safe loader may read')
def test_checkpoint_needs_the_safe_loader_only(trained: tuple[str, str, Path]) -> None:
    """What inference loads is loaded without running any code from the file."""
    saved = torch.load(trained[1], map_location='cpu', weights_only=True)
    assert {'state_dict', 'optimizer', 'message_hub', 'meta'} <= saved.keys()
