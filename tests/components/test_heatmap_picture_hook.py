"""HeatmapPictureHook: what it draws, and that every backend gets it."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from hdm_mmpose.components import HeatmapPictureHook
from hdm_mmpose.components.emd_heatmap_loss import LastStep
from hdm_mmpose.components.heatmap_picture_hook import draw_tile, draw_tiles
from hdm_mmpose.transport import build_supplier
from tests.tiny_training import draw, tiny_config, train

WIDTH, HEIGHT, STRIDE = 9, 11, 8


def test_heat_is_where_the_mass_is_and_the_ring_where_the_dot_is() -> None:
    heat = np.zeros((HEIGHT, WIDTH), np.float32)
    heat[8, 2] = 1
    grey = np.full((HEIGHT * STRIDE, WIDTH * STRIDE, 3), 60, np.uint8)
    dots, none = np.array([[6.0, 3.0]]), np.zeros(1, bool)
    tile = draw_tile(grey, heat, dots, dots, none)
    assert tile.shape == grey.shape and tile.dtype == np.uint8
    y, x = np.unravel_index(tile.sum(-1).argmax(), tile.shape[:2])
    assert abs(x - 2.5 * STRIDE) <= STRIDE and abs(y - 8.5 * STRIDE) <= STRIDE
    plain, marked = (draw_tile(grey, heat * 0, dots, dots, counts) for counts in (none, ~none))
    rows, columns = (plain != marked).any(-1).nonzero()
    assert abs(columns.mean() - 6.5 * STRIDE) < 2 and abs(rows.mean() - 3.5 * STRIDE) < 2


def test_joints_that_do_not_count_and_broken_maps_are_survived() -> None:
    maps = torch.randn(2, 3, HEIGHT, WIDTH)
    maps[0, 0] = float('nan')
    step = LastStep(maps, torch.ones(2, 3, 2), torch.tensor([[True] * 3, [False] * 3]), torch.zeros(2, 3))
    pictures = [np.zeros((HEIGHT * STRIDE, WIDTH * STRIDE, 3), np.uint8)] * 2
    tiles = draw_tiles(pictures, step, build_supplier('softplus'))
    assert [tile.shape for tile in tiles] == [pictures[0].shape] * 2


def test_every_backend_gets_the_pictures(tmp_path: Path) -> None:
    pytest.importorskip('tensorboard', reason='one of the backends is TensorBoard')
    cfg = tiny_config(draw(tmp_path / 'data'), tmp_path / 'run')
    cfg.visualizer.vis_backends = [dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')]
    cfg.custom_hooks = [dict(type='HeatmapPictureHook', interval=2, persons=3), dict(type='TransportMonitorHook')]
    train(cfg).visualizer.close()  # flushes
    pictures = sorted((tmp_path / 'run').glob('*/vis_data/vis_image/heatmaps_*.png'))
    assert pictures
    assert cv2.imread(str(pictures[0])).shape == (128, 3 * 96, 3)
    events = [path for path in (tmp_path / 'run').rglob('events.out.tfevents.*')]
    assert any(b'heatmaps' in path.read_bytes() for path in events)


@pytest.mark.parametrize('options', [dict(interval=0), dict(persons=0), dict(interval=1.5), dict(persons=True)])
def test_bad_arguments_are_refused(options: dict) -> None:
    with pytest.raises(ValueError, match=f'{next(iter(options))} must be a positive integer'):
        HeatmapPictureHook(**options)
