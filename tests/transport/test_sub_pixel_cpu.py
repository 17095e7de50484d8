"""The compiled code gives what ``read_heatmap`` gives, on every kind of map."""

import subprocess
import sys

import pytest
import torch
from torch._subclasses import FakeTensorMode

from hdm_mmpose.decoding import read_heatmap
from hdm_mmpose.transport import sub_pixel_cpu
from hdm_mmpose.transport.sub_pixel_cpu import read_heatmap_cpu
from hdm_mmpose.transport.suppliers import SUPPLIERS, Softplus, build_supplier

pytestmark = pytest.mark.skipif(
    not sub_pixel_cpu.COMPILED, reason='hdm_mmpose is not installed with a compiler: nothing to compare read_heatmap with')
RULES = [*sorted(SUPPLIERS), dict(type='softplus', sharpness=.7), dict(type='softmax', sharpness=20.)]


def blobs(*shape, height, width=1.5, noise=.05, background=0., seed=0):
    """Maps with one Gaussian blob each."""
    generator = torch.Generator().manual_seed(seed)
    rows, columns = shape[-2:]
    centre = torch.rand(*shape[:-2], 2, generator=generator) * torch.tensor([columns - 1, rows - 1])
    x = (torch.arange(columns) - centre[..., 0, None])[..., None, :]
    y = (torch.arange(rows) - centre[..., 1, None])[..., :, None]
    return background + height * torch.exp(-(x**2 + y**2) / (2 * width**2)) + noise * torch.randn(shape, generator=generator)


def same(heatmap, rule, tolerance=2e-5, blur=0):
    before = heatmap.clone()
    fast, slow = read_heatmap_cpu(heatmap, rule, blur), read_heatmap(heatmap, rule, blur)
    assert torch.equal(heatmap.nan_to_num(), before.nan_to_num()), 'the input was written to'
    assert fast.dots.shape == slow.dots.shape and fast.share.shape == slow.share.shape == heatmap.shape[:-2]
    assert torch.equal(fast.peak, slow.peak)
    torch.testing.assert_close(fast.dots, slow.dots, atol=tolerance, rtol=1e-7)  # one unit in the last place
    torch.testing.assert_close(fast.share, slow.share, atol=1e-9, rtol=tolerance)


@pytest.mark.parametrize('spec', RULES, ids=str)
@pytest.mark.parametrize('size', [(2, 2), (2, 9), (3, 1024), (4, 6), (5, 5), (6, 5), (9, 3), (17, 4), (31, 24), (96, 72)], ids=str)
def test_every_size(spec, size):
    rule = build_supplier(spec)
    same(torch.randn(3, 5, *size, generator=torch.Generator().manual_seed(1)), rule)
    same(blobs(3, 5, *size, height=1.), rule)
    same(blobs(3, 5, *size, height=2., background=-1., width=.6), rule)


@pytest.mark.parametrize('spec', RULES, ids=str)
def test_each_row_can_hold_the_best_square(spec):
    """A square of ones, one map per place; on a background that makes every other row negligible."""
    height, width = 29, 3
    places = [(x, y) for y in range(height - 1) for x in range(width - 1)]
    heatmap = torch.full((len(places), height, width), -3.)
    for joint, (x, y) in enumerate(places):
        heatmap[joint, y:y + 2, x:x + 2] = 1
    reading = read_heatmap_cpu(heatmap, build_supplier(spec))
    torch.testing.assert_close(reading.dots, torch.tensor(places) + .5)


@pytest.mark.parametrize('spec', RULES, ids=str)
def test_four_middling_cells_beat_one_high_cell_in_another_row(spec):
    heatmap = torch.full((4, 40, 6), -5.)
    heatmap[:, 2, 1] = 1
    heatmap[:, 30:32, 3:5] = torch.tensor([.3, .6, .9, .99])[:, None, None]
    same(heatmap, build_supplier(spec))


@pytest.mark.parametrize('spec', RULES, ids=str)
@pytest.mark.parametrize('shift', [-300., -30., -3., 0., 3., 30., 300., 3000.])
def test_any_height_of_the_map(spec, shift):
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


@pytest.mark.parametrize('spec', RULES, ids=str)
@pytest.mark.parametrize('blur', [.3, 1, 2, 4])
def test_blurred_mode(spec, blur):
    rule = build_supplier(spec)
    for size in (40, 37), (9, 5), (2, 3):
        same(blobs(3, 5, *size, height=2., background=-1., width=1.2), rule, blur=blur)
        same(blobs(3, 5, *size, height=1., noise=.2, seed=3), rule, blur=blur)


@pytest.mark.parametrize('spec', RULES, ids=str)
def test_no_better_place_is_missed(spec):
    """Shares of random maps of all sizes: what is skipped is never the best. Flat maps too, where the place itself is anyone's."""
    rule, generator = build_supplier(spec), torch.Generator().manual_seed(12)
    for _ in range(150):
        height, width, blur, flatness = (torch.rand(4, generator=generator) * torch.tensor([40, 40, 12, 4])).tolist()
        heatmap = torch.randn(4, 2 + int(height), 2 + int(width), generator=generator) * 10**-flatness
        fast, exact = read_heatmap_cpu(heatmap, rule, .1 + blur), read_heatmap(heatmap.double(), rule, .1 + blur)
        torch.testing.assert_close(fast.share.double(), exact.share, atol=5e-6, rtol=0)


@pytest.mark.parametrize('blur', [7.5, 16])
def test_a_gaussian_wider_than_the_map(blur):
    same(blobs(3, 5, 25, 20, height=2., background=-1., width=1.2), build_supplier('softmax'), blur=blur)


@pytest.mark.parametrize('spec', RULES, ids=str)
def test_each_cell_can_be_the_mode(spec):
    """One map per cell, a heap there; a single higher cell, with less around it, far away."""
    height, width = 23, 18
    heatmap = torch.full((height * width, height, width), -3.)
    for joint in range(len(heatmap)):
        y, x = divmod(joint, width)
        heatmap[joint, (y + 11) % height, (x + 9) % width] = .3 + 1e-3
        heatmap[joint, max(y - 1, 0):y + 2, max(x - 1, 0):x + 2] = .2
        heatmap[joint, y, x] = .3
    same(heatmap, build_supplier(spec), blur=1.5)


def test_of_equal_modes_the_first_in_reading_order_counts():
    heatmap = torch.full((3, 30, 20), -5.)
    for joint, cells in enumerate([[(4, 15), (4, 3)], [(25, 3), (6, 15)], [(29, 19), (0, 0)]]):
        for y, x in cells:
            heatmap[joint, y, x] = 1
    for blur in 0, 1:
        dots = read_heatmap_cpu(heatmap, build_supplier('softmax'), blur).dots
        torch.testing.assert_close(dots, torch.tensor([[3., 4.], [15., 6.], [0., 0.]]), atol=1e-30, rtol=0)


@pytest.mark.parametrize('name', sorted(SUPPLIERS))
def test_odd_maps_blurred(name):
    heatmap = torch.randn(3, 5, 13, 9, generator=torch.Generator().manual_seed(4))
    heatmap[0, 0] = 0
    heatmap[0, 1, 3, 3] = torch.nan
    heatmap[0, 2, 3, 3] = torch.inf
    heatmap[0, 3, 3, 3] = -torch.inf
    same(heatmap, build_supplier(name), blur=2)
    share = read_heatmap_cpu(heatmap, build_supplier(name), 2).share
    assert share[0, 1] == share[0, 2] == 0


@pytest.mark.parametrize('blur', [0, 2])
@pytest.mark.parametrize('count', [1, 63, 128, 200])
def test_several_threads(count, blur):
    heatmap = blobs(count, 20, 14, height=1., seed=8)
    heatmap[-1, 2, 2] = torch.nan
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        same(heatmap, build_supplier('softmax'), blur=blur)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize('blur', [0, 2])
@pytest.mark.parametrize('size', [(2, 2), (5, 3), (17, 9), (4, 16), (4, 17)], ids=str)
def test_memory_around_the_maps_means_nothing(size, blur):
    memory = torch.full((7, *size), torch.nan)
    memory[2:5] = torch.randn(3, *size, generator=torch.Generator().manual_seed(11))
    same(memory[2:5], build_supplier('softmax'), blur=blur)


@pytest.mark.parametrize('blur', [0, 2])
def test_torchs_defaults_do_not_matter(blur):
    heatmap = blobs(40, 12, 10, height=1.)
    expected = read_heatmap(heatmap, Softplus(5.), blur)
    for set_default, value, usual in ((torch.set_default_dtype, torch.float64, torch.float32),
                                      (torch.set_default_dtype, torch.bfloat16, torch.float32),
                                      (torch.set_default_device, 'meta', None)):
        set_default(value)
        try:
            reading = read_heatmap_cpu(heatmap, Softplus(5.), blur)
        finally:
            set_default(usual)
        for one, other in zip(reading, expected):
            torch.testing.assert_close(one, other, atol=2e-5, rtol=0)


def test_tensors_that_are_not_what_stands_in_memory():
    heatmap = blobs(3, 12, 10, height=1.)
    rule = build_supplier('softmax')
    assert read_heatmap_cpu(heatmap.to('meta'), rule).dots.device.type == 'meta'
    with FakeTensorMode():
        assert read_heatmap_cpu(torch.zeros(3, 12, 10), rule, 2).dots.shape == (3, 2)
    same(torch._neg_view(heatmap), rule)
    same(torch._efficientzerotensor((3, 5, 4)), build_supplier('relu'))
    assert read_heatmap_cpu(torch.nn.Parameter(heatmap), rule).dots.requires_grad is False
    assert read_heatmap_cpu(torch.nn.Parameter(heatmap.double()), rule).dots.requires_grad is False


@pytest.mark.parametrize('blur', [-2., float('nan'), 1e-50, 1e-4, 40.])
def test_other_blurs_are_read_heatmaps(blur):
    heatmap = blobs(3, 12, 10, height=1.)
    fast, slow = (read(heatmap, build_supplier('softmax'), blur) for read in (read_heatmap_cpu, read_heatmap))
    assert all(torch.equal(a, b) for a, b in zip(fast, slow))


def test_a_row_that_is_a_little_better_is_not_skipped():
    """Bounds of rows fall from the one with two heaps to the one with one, which is better; and by the order of equals."""
    heatmap = torch.zeros(2, 30, 36)
    heatmap[0, 5, 3] = heatmap[0, 5, 30] = heatmap[1, 5, 15] = heatmap[1, 25, 3] = heatmap[1, 25, 30] = 1
    heatmap[0, 25, 15] = 1.0005
    assert read_heatmap_cpu(heatmap, build_supplier('relu'), 1.).dots.tolist() == [[15, 25], [15, 5]]


def test_masses_beyond_float32():
    share = read_heatmap_cpu(torch.full((1, 9, 9), 1e38), Softplus(5.), 2).share
    assert share.tolist() == [0]
    heatmap = torch.zeros(1, 9, 9)
    heatmap[0, 4, 4:6] = torch.tensor([1.5e38, .6e38])
    same(heatmap, Softplus(1.), blur=.3)


def test_after_a_fork_in_which_the_threads_are_lost():
    script = """
import os, torch
from hdm_mmpose.transport.sub_pixel_cpu import read_heatmap_cpu
from hdm_mmpose.transport.suppliers import Softmax
torch.set_num_threads(2)
maps = torch.randn(400, 20, 14)
read_heatmap_cpu(maps, Softmax(), 2)
child = os.fork()
if not child:
    read_heatmap_cpu(maps, Softmax(), 2)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
"""
    subprocess.run([sys.executable, '-c', script], check=True, timeout=60)


def test_compiled_code_refuses_what_it_cannot_do():
    maps, found = torch.zeros(1, 1, 5), torch.zeros(1, 5)
    with pytest.raises(ValueError, match='at least 2 x 2'):
        sub_pixel_cpu._sub_pixel_cpu.read_heatmaps(maps.data_ptr(), found.data_ptr(), 1, 1, 5, 1, 0, 1., 0., 1.5, 1., 1.5, 10)


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


def test_an_unknown_rule_is_not_guessed():

    class Other(Softplus):
        name = 'other'

    heatmap = torch.randn(2, 3, 9, 7, generator=torch.Generator().manual_seed(10))
    fast, slow = read_heatmap_cpu(heatmap, Other(2.)), read_heatmap(heatmap, Other(2.))
    assert all(torch.equal(a, b) for a, b in zip(fast, slow))
