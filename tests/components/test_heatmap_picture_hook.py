"""HeatmapPictureHook: what it draws, and that every backend gets it."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmpose.codecs import MSRAHeatmap, UDPHeatmap

from hdm_mmpose.components import DotAnnotationCodec, EMDHeatmapLoss, HeatmapPictureHook, SubPixelDecoder
from hdm_mmpose.components.alignment import ALIGNMENTS, Alignment
from hdm_mmpose.components.heatmap_picture_hook import as_bgr, decoder_beside, draw_tile, draw_tiles, reader_of
from hdm_mmpose.transport import LastStep
from tests.tiny_training import draw, tiny_config, train

WIDTH, HEIGHT, STRIDE = 9, 11, 8
SIZE = WIDTH * STRIDE, HEIGHT * STRIDE


def test_heat_is_where_the_mass_is_and_the_ring_where_the_dot_is() -> None:
    heat = np.zeros((HEIGHT, WIDTH), np.float32)
    heat[8, 2] = 1
    grey = np.full((HEIGHT * STRIDE, WIDTH * STRIDE, 3), 60, np.uint8)
    dots, none = np.array([[6.0, 3.0]]), np.zeros(1, bool)
    alignment = Alignment('center', SIZE, (WIDTH, HEIGHT))
    tile = draw_tile(grey, heat, dots, dots, none, alignment)
    assert tile.shape == grey.shape and tile.dtype == np.uint8
    y, x = np.unravel_index(tile.sum(-1).argmax(), tile.shape[:2])
    assert abs(x - 2.5 * STRIDE) <= STRIDE and abs(y - 8.5 * STRIDE) <= STRIDE
    plain, marked = (draw_tile(grey, heat * 0, dots, dots, counts, alignment) for counts in (none, ~none))
    rows, columns = (plain != marked).any(-1).nonzero()
    assert abs(columns.mean() - 6.5 * STRIDE) < 2 and abs(rows.mean() - 3.5 * STRIDE) < 2


@pytest.mark.parametrize('name', ALIGNMENTS)
def test_everything_lies_where_the_alignment_says(name: str) -> None:
    """A joint at a pixel: ring, cross and the middle of the heat come to lie on it."""
    pixel = np.array([37.0, 29.0])
    alignment = Alignment(name, SIZE, (WIDTH, HEIGHT))
    cell = alignment.to_cells(pixel)
    black = np.zeros((HEIGHT * STRIDE, WIDTH * STRIDE, 3), np.uint8)
    columns, rows = np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT))
    slopes = np.maximum(0, 1 - np.abs(columns - cell[0]) / 3) * np.maximum(0, 1 - np.abs(rows - cell[1]) / 3)
    glow = draw_tile(black, slopes.astype(np.float32), cell[None], cell[None], np.zeros(1, bool), alignment).sum(-1).astype(float)
    glow[glow < glow.max() * 0.5] = 0
    middle = [(glow.sum(axis) * np.arange(glow.shape[1 - axis])).sum() / glow.sum() for axis in (0, 1)]
    np.testing.assert_allclose(middle, pixel, atol=0.8)
    marked = draw_tile(black, slopes.astype(np.float32) * 0, cell[None], cell[None], np.ones(1, bool), alignment)
    unmarked = draw_tile(black, slopes.astype(np.float32) * 0, cell[None], cell[None], np.zeros(1, bool), alignment)
    rows, columns = (marked != unmarked).any(-1).nonzero()
    assert (columns.min() + columns.max()) / 2 == pixel[0] and (rows.min() + rows.max()) / 2 == pixel[1]


def test_crosses_lie_where_the_head_decodes() -> None:
    """Three lone peaks in a row: the best square holds the first, the blurred mode is the middle one."""
    maps = torch.full((1, 1, HEIGHT, WIDTH), -1.0)
    maps[0, 0, 4, 1], maps[0, 0, 4, 5], maps[0, 0, 4, 3] = 1.0, 1.0, 0.99
    step = LastStep(maps, torch.tensor([[[3.0, 4.0]]]), torch.ones(1, 1, dtype=torch.bool), torch.zeros(1, 1))
    picture = [np.zeros((HEIGHT * STRIDE, WIDTH * STRIDE, 3), np.uint8)]
    for blur in (0.0, 2.0):
        decoder = SubPixelDecoder(SIZE, (WIDTH, HEIGHT), supplier='softplus', blur=blur)
        decoded = decoder.batch_decode(maps)[0][0][0, 0]
        red = draw_tiles(picture, step, decoder)[0].astype(int)
        x, y = np.rint(decoded).astype(int)
        assert red[y, x, 0] - red[y, x, 2] > 150, f'a cross at {decoded} under blur {blur}'
    assert abs(decoded[0] - 27.5) < 1  # cell 3, between them


class Head(torch.nn.Module):
    def __init__(self, decoder: object, loss: torch.nn.Module) -> None:
        super().__init__()
        self.decoder, self.loss_module = decoder, loss


def test_reader_is_the_decoder_of_the_head_of_the_loss() -> None:
    own = SubPixelDecoder(SIZE, (WIDTH, HEIGHT), 'udp', 'softplus')
    codec = DotAnnotationCodec(SIZE, (WIDTH, HEIGHT), supplier='relu')
    picture, maps = np.zeros((HEIGHT * STRIDE, WIDTH * STRIDE, 3), np.uint8), torch.zeros(1, 2, HEIGHT, WIDTH)
    for decoder in (own, codec):
        loss = EMDHeatmapLoss()
        model = torch.nn.Sequential(Head(object(), EMDHeatmapLoss()), Head(decoder, torch.nn.ModuleList([loss])))
        assert reader_of(decoder_beside(model, loss), loss, picture, maps) is decoder


@pytest.mark.parametrize(('decoder', 'alignment'), [
    (MSRAHeatmap(SIZE, (WIDTH, HEIGHT), sigma=2), 'msra'), (UDPHeatmap(SIZE, (WIDTH, HEIGHT), sigma=2), 'udp'),
    (object(), 'center'), (None, 'center')])
@pytest.mark.parametrize('supplier', ['relu', dict(type='softmax', sharpness=7.0)])
def test_decoders_of_others_give_their_alignment_to_the_square(decoder: object, alignment: str, supplier: str | dict) -> None:
    loss = EMDHeatmapLoss(supplier=supplier)
    found = decoder_beside(Head(decoder, loss), loss)
    reader = reader_of(found, loss, np.zeros((HEIGHT * STRIDE, WIDTH * STRIDE, 3), np.uint8), torch.zeros(1, 2, HEIGHT, WIDTH))
    assert (reader.alignment.name, reader.blur, reader.supplier) == (alignment, 0, loss.options.supplier)
    assert (reader.input_size, reader.heatmap_size) == (SIZE, (WIDTH, HEIGHT))


def test_joints_that_do_not_count_and_broken_maps_are_survived() -> None:
    maps = torch.randn(2, 3, HEIGHT, WIDTH)
    maps[0, 0] = float('nan')
    step = LastStep(maps, torch.ones(2, 3, 2), torch.tensor([[True] * 3, [False] * 3]), torch.zeros(2, 3))
    pictures = [np.zeros((HEIGHT * STRIDE, WIDTH * STRIDE, 3), np.uint8)] * 2
    tiles = draw_tiles(pictures, step, SubPixelDecoder(SIZE, (WIDTH, HEIGHT), supplier='softplus'))
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


def test_pictures_of_any_number_of_channels_are_drawn() -> None:
    picture = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    np.testing.assert_array_equal(as_bgr(picture), picture[..., :3])
    np.testing.assert_array_equal(as_bgr(picture[..., :3]), picture[..., :3])
    np.testing.assert_array_equal(as_bgr(picture[..., :1]), picture[..., [0, 0, 0]])
