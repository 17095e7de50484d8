"""The shortcuts give what ``read_heatmap`` gives, on every kind of map."""

import pytest
import torch

from hdm_mmpose.transport import sub_pixel_cpu
from hdm_mmpose.transport.sub_pixel import read_heatmap
from hdm_mmpose.transport.sub_pixel_cpu import read_heatmap_cpu
from hdm_mmpose.transport.suppliers import SUPPLIERS, Softplus, build_supplier

RULES = [*sorted(SUPPLIERS), dict(type='softplus', sharpness=.7), dict(type='softmax', sharpness=20.)]


def blobs(*shape, height, width=1.5, noise=.05, background=0., seed=0):
    """Maps with one Gaussian blob each."""
    generator = torch.Generator().manual_seed(seed)
    rows, columns = shape[-2:]
    centre = torch.rand(*shape[:-2], 2, generator=generator) * torch.tensor([columns - 1, rows - 1])
    x = (torch.arange(columns) - centre[..., 0, None])[..., None, :]
    y = (torch.arange(rows) - centre[..., 1, None])[..., :, None]
    return background + height * torch.exp(-(x**2 + y**2) / (2 * width**2)) + noise * torch.randn(shape, generator=generator)


def same(heatmap, rule, tolerance=2e-5):
    before = heatmap.clone()
    fast, slow = read_heatmap_cpu(heatmap, rule), read_heatmap(heatmap, rule)
    assert torch.equal(heatmap.nan_to_num(), before.nan_to_num()), 'the input was written to'
    assert fast.dots.shape == slow.dots.shape and fast.share.shape == slow.share.shape == heatmap.shape[:-2]
    assert torch.equal(fast.peak, slow.peak)
    torch.testing.assert_close(fast.dots, slow.dots, atol=tolerance, rtol=0)
    torch.testing.assert_close(fast.share, slow.share, atol=1e-9, rtol=tolerance)


@pytest.mark.parametrize('spec', RULES, ids=str)
@pytest.mark.parametrize('size', [(2, 2), (2, 9), (3, 1024), (4, 6), (5, 5), (6, 5), (9, 3), (17, 4), (31, 24), (96, 72)], ids=str)
def test_every_height_is_covered_by_strips(spec, size):
    rule = build_supplier(spec)
    same(torch.randn(3, 5, *size, generator=torch.Generator().manual_seed(1)), rule)
    same(blobs(3, 5, *size, height=1.), rule)
    same(blobs(3, 5, *size, height=2., background=-1., width=.6), rule)


@pytest.mark.parametrize('spec', RULES, ids=str)
def test_each_row_can_hold_the_best_square(spec):
    """A square of ones, one map per place; on a background that makes every other strip negligible."""
    height, width = 29, 3
    places = [(x, y) for y in range(height - 1) for x in range(width - 1)]
    heatmap = torch.full((len(places), height, width), -3.)
    for joint, (x, y) in enumerate(places):
        heatmap[joint, y:y + 2, x:x + 2] = 1
    reading = read_heatmap_cpu(heatmap, build_supplier(spec))
    torch.testing.assert_close(reading.dots, torch.tensor(places) + .5)


@pytest.mark.parametrize('spec', RULES, ids=str)
def test_four_middling_cells_beat_one_high_cell_in_another_strip(spec):
    heatmap = torch.full((4, 40, 6), -5.)
    heatmap[:, 2, 1] = 1
    heatmap[:, 30:32, 3:5] = torch.tensor([.3, .6, .9, .99])[:, None, None]
    same(heatmap, build_supplier(spec))


@pytest.mark.parametrize('spec', RULES, ids=str)
@pytest.mark.parametrize('shift', [-300., -30., -3., 0., 3., 30., 300., 3000.])
def test_any_height_of_the_map(spec, shift):
    """Far from 0 products overflow and exponentials underflow: those maps take the slow way."""
    tolerance = 2e-5 + 5e-6 * abs(shift)  # what float32 leaves of the differences after a shift
    same(blobs(2, 3, 20, 14, height=1., seed=5) + shift, build_supplier(spec), tolerance)


@pytest.mark.parametrize('spec', RULES, ids=str)
def test_odd_maps_among_usual_ones(spec):
    heatmap = blobs(3, 5, 12, 10, height=1., seed=6)
    heatmap[0, 0] = -1
    heatmap[0, 1] = 0
    heatmap[0, 2, 3, 4] = torch.nan
    heatmap[0, 3] = torch.nan
    heatmap[1, 0, 11, 9] = torch.inf
    heatmap[1, 1] = torch.inf
    heatmap[1, 2] = -torch.inf
    heatmap[1, 3, :, :3] = -torch.inf
    heatmap[2, 0] *= 1e-25
    heatmap[2, 1] *= 1e-35
    heatmap[2, 2] *= 1e3
    same(heatmap, build_supplier(spec))


def test_small_weights_keep_their_digits():
    """Under softplus a map far below zero is a softmax: its shares are those of exponentials, to rounding."""
    heatmap = blobs(4, 32, 8, height=1., seed=7) - 4  # sharpness * H about -20: 1 + e^x would be 1
    share = read_heatmap_cpu(heatmap, Softplus(5.)).share
    expected = read_heatmap(heatmap.double(), Softplus(5.)).share
    torch.testing.assert_close(share.double(), expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize('name', sorted(SUPPLIERS))
def test_many_blocks(name, monkeypatch):
    monkeypatch.setattr(sub_pixel_cpu, 'BLOCK_CELLS', 700)
    same(torch.randn(4, 3, 20, 14, generator=torch.Generator().manual_seed(8)), build_supplier(name))


@pytest.mark.parametrize('name', sorted(SUPPLIERS))
def test_strided_and_offset_memory(name):
    heatmap = torch.randn(3, 14, 4, 20, generator=torch.Generator().manual_seed(9))
    same(heatmap.transpose(1, 3)[1:, 2:], build_supplier(name))
    same(heatmap[1:], build_supplier(name))
    same(heatmap[0, 0], build_supplier(name))


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes(dtype):
    heatmap = blobs(2, 3, 20, 14, height=1.).to(dtype)
    same(heatmap, build_supplier('softplus'))


def test_no_maps_at_all():
    reading = read_heatmap_cpu(torch.zeros(0, 17, 9, 5), build_supplier('softplus'))
    assert reading.dots.shape == (0, 17, 2) and reading.share.shape == (0, 17)


def test_an_unknown_rule_is_read_without_shortcut():

    class Other(Softplus):
        name = 'other'

    heatmap = torch.randn(2, 3, 9, 7, generator=torch.Generator().manual_seed(10))
    fast, slow = read_heatmap_cpu(heatmap, Other(2.)), read_heatmap(heatmap, Other(2.))
    assert all(torch.equal(a, b) for a, b in zip(fast, slow, strict=True))
