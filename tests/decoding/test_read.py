"""Raw maps read through each supplier rule, and what maps without a distribution give."""

import numpy as np
import pytest
import torch

from hdm_mmpose.decoding import decode_square, mode, read, read_heatmap
from hdm_mmpose.transport import SUPPLIERS, build_supplier

RULES = sorted(SUPPLIERS)


@pytest.mark.parametrize('name', RULES)
def test_read_heatmap_reads_through_the_rule(name):
    rule = build_supplier(name)
    heatmap = torch.randn(2, 3, 7, 5, generator=torch.Generator().manual_seed(2))
    reading = read_heatmap(heatmap, rule)
    dots, share = decode_square(rule(heatmap))
    assert torch.equal(reading.dots, dots) and torch.allclose(reading.share, share)
    assert torch.equal(reading.peak, heatmap.amax((-2, -1)))


def odd_maps():
    """Maps that break a decoder, and the cell (x, y) of each one's maximum."""
    generator = torch.Generator().manual_seed(3)
    usual = torch.randn(6, 7, 5, generator=generator)
    usual[0] = -usual[0].abs() - 1
    usual[0, 4, 3] = -.5  # empty under relu
    usual[1] = 0
    usual[2, 3, 1] = torch.nan
    usual[3] = torch.nan
    usual[4, 6, 2] = torch.inf
    usual[5] = -torch.inf
    return usual, torch.tensor([[3, 4], [0, 0], [1, 3], [0, 0], [2, 6], [0, 0]])


@pytest.mark.parametrize('name', RULES)
def test_maps_without_a_distribution_give_their_highest_cell_and_nothing_else(name):
    maps, cells = odd_maps()
    reading = read_heatmap(maps, build_supplier(name))
    hopeless = [0, 1, 2, 3, 4, 5] if name.startswith('relu') else [2, 3, 4, 5]
    assert torch.equal(reading.dots[hopeless], cells[hopeless].float())
    assert (reading.share[hopeless] == 0).all() and (reading.peak[hopeless] == 0).all()
    assert all(values.isfinite().all() for values in reading)
    if not name.startswith('relu'):
        assert (reading.share[:2] > 0).all()


@pytest.mark.parametrize('name', RULES)
def test_minus_infinity_is_no_mass(name):
    heatmap = torch.full((6, 4), -torch.inf)
    heatmap[2, 1] = heatmap[2, 2] = .5
    reading = read_heatmap(heatmap, build_supplier(name))
    assert reading.dots.tolist() == [1.5, reading.dots[1]] and reading.share == 1 and reading.peak == .5
    assert reading.dots[1] == 2


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_is_lifted(dtype):
    heatmap = torch.randn(2, 3, 7, 5, generator=torch.Generator().manual_seed(4)).to(dtype)
    low, high = (read_heatmap(maps, build_supplier('softplus')) for maps in (heatmap, heatmap.float()))
    assert low.dots.dtype == torch.float32
    assert all(torch.equal(a, b) for a, b in zip(low, high))


def masses_of(heatmap, rule):
    """Supplier masses of one map, up to a factor, from the definitions in ``suppliers``; float64."""
    heatmap = np.maximum(heatmap, -1e30)
    if rule.name == 'softmax':
        return np.exp(rule.sharpness * (heatmap - heatmap.max()))
    if rule.name == 'softplus':
        low = min(rule.sharpness * heatmap.max() + 30, 0)  # so far below zero softplus is an exponential: any factor will do
        return np.exp(np.minimum(rule.sharpness * heatmap - low, 30)) if low else np.logaddexp(0, rule.sharpness * heatmap)
    return np.maximum(heatmap, 0)


def window_at(dot, masses):
    """Masses weighted by the window around a dot (x, y)."""
    rows, columns = np.indices(masses.shape)
    along_x, along_y = (np.clip((mode.FLAT + mode.TAPER - np.abs(at - here)) / mode.TAPER, 0, 1) for at, here in zip((columns, rows), dot))
    return masses * along_x * along_y


def centroid_of(masses):
    rows, columns = np.indices(masses.shape)
    return np.array([(masses * columns).sum(), (masses * rows).sum()]) / masses.sum()


def dot_from(cell, masses, blur):
    """The dot that belongs to a best cell, or to the best square's upper left one; (x, y)."""
    x, y = cell
    if not blur:
        return cell + centroid_of(masses[y:y + 2, x:x + 2])
    dot = cell
    for _ in range(mode.STEPS):
        seen = window_at(dot, masses)
        dot = np.clip(centroid_of(seen), cell - mode.REACH, cell + mode.REACH) if seen.sum() > 0 else dot
    return dot


def dense_reference(heatmap, rule, blur):
    """Masses of one map, its best cells (N, 2), x then y, all those that float32 may take for the best, and its share.

    Whole maps, NumPy, float64; masses are None for a map without a usable distribution.
    """
    heatmap = heatmap.double().numpy()
    if not np.isfinite(heatmap.max()) or (rule.name.startswith('relu') and heatmap.max() <= 1e-30):
        return None, np.argwhere(heatmap == heatmap.max() if heatmap.max() == heatmap.max() else np.isnan(heatmap))[:1, ::-1], 0.
    masses = masses_of(heatmap, rule)
    masses = masses / masses.sum()
    if blur:
        across = [np.exp(-np.subtract.outer(np.arange(n), np.arange(n)) ** 2 / (2 * blur**2)) for n in heatmap.shape]
        value = across[0] @ masses @ across[1]
    else:
        value = masses[1:, 1:] + masses[1:, :-1] + masses[:-1, 1:] + masses[:-1, :-1]
    return masses, np.argwhere(value >= value.max() * (1 - 1e-5))[:, ::-1], value.max()


def hard_maps(height, width):
    """Noise, blobs, heaps beside each other and far apart, plateaus, ties, borders, and what is not finite; (N, H, W)."""
    generator = torch.Generator().manual_seed(height * width)

    def blob(x, y, size):
        rows, columns = torch.arange(height)[:, None], torch.arange(width)
        return torch.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * size**2))

    def noise(strength):
        return strength * torch.randn(height, width, generator=generator)

    x, y = .37 * (width - 1), .81 * (height - 1)
    right, below = width - 1, height - 1
    maps = [noise(1), noise(.01), noise(1e-6) + 1, noise(.1) + blob(x, y, 2), 2 * blob(x, y, .7) - 1,
            blob(x, y, 2) + 1.0005 * blob(right - x, 0, 2), blob(0, y, 1.5) + blob(right, y, 1.5), blob(x, 0, 4) + blob(x, below, 4.2),
            torch.zeros(height, width), torch.ones(height, width), -torch.ones(height, width), (blob(x, y, 3) > .5).float(),
            blob(0, 0, 1), blob(right, below, 1), blob(x, y, 1) - 4, 1e3 * blob(x, y, 1), 1e-25 * blob(x, y, 1)]
    for cell, value in (((0, 0), torch.nan), ((-1, -1), torch.inf), ((height // 2, width // 2), -torch.inf)):
        maps.append(noise(1))
        maps[-1][cell] = value
    return torch.stack([*maps, torch.full((height, width), torch.nan), torch.full((height, width), -torch.inf)])


@pytest.mark.parametrize('blur', [0, .3, 2, 7.5])
@pytest.mark.parametrize('spec', [*RULES, dict(type='softplus', sharpness=.7)], ids=str)
@pytest.mark.parametrize('size', [(2, 2), (2, 9), (13, 2), (9, 5), (40, 37)], ids=str)
def test_hard_maps_against_whole_maps_in_float64(size, spec, blur, monkeypatch):
    """To 1e-5 cells, whichever way they are read; where float32 cannot tell two places apart, one of the two."""
    monkeypatch.setattr(read, 'CELLS_AT_ONCE', 3 * size[0] * size[1])  # several parts, the last one not full
    rule, maps = build_supplier(spec), hard_maps(*size)
    before = maps.clone()
    readings = [read_heatmap(maps, rule, blur, traceable) for traceable in (False, True)]
    assert torch.equal(maps.nan_to_num(), before.nan_to_num()), 'the input was written to'
    for number, heatmap in enumerate(maps):
        masses, cells, share = dense_reference(heatmap, rule, blur)
        for reading in readings:
            dot = reading.dots[number].numpy()
            near = cells[np.abs(cells - dot).max(-1) <= mode.REACH + 1e-4]
            wanted = near if masses is None else [dot_from(cell, masses, blur) for cell in near]
            off = min((np.abs(dot - each).max() for each in wanted), default=np.inf)
            assert dot.dtype == np.float32 and off <= 1e-5, (number, off, dot, wanted)
            assert reading.share[number].item() == pytest.approx(share, rel=2e-5, abs=1e-6), number


@pytest.mark.parametrize('spec', RULES)
def test_each_cell_can_be_the_mode(spec):
    """One map per cell, a heap there, and a single higher cell with less around it far away: the search misses none."""
    height, width = 23, 18
    heatmap = torch.full((height * width, height, width), -3.)
    for joint in range(len(heatmap)):
        y, x = divmod(joint, width)
        heatmap[joint, (y + 11) % height, (x + 9) % width] = .3 + 1e-3
        heatmap[joint, max(y - 1, 0):y + 2, max(x - 1, 0):x + 2] = .2
        heatmap[joint, y, x] = .3
    searched, whole = (read_heatmap(heatmap, build_supplier(spec), 1.5, traceable) for traceable in (False, True))
    torch.testing.assert_close(searched, whole, atol=1e-5, rtol=0)
    cells = torch.arange(height * width)
    assert ((whole.dots - torch.stack([cells % width, cells // width], -1)).abs() < 1).all()


def test_of_equal_modes_the_first_in_reading_order_counts():
    heatmap = torch.full((3, 30, 20), -5.)
    for joint, cells in enumerate([[(4, 15), (4, 3)], [(25, 3), (6, 15)], [(29, 19), (0, 0)]]):
        for y, x in cells:
            heatmap[joint, y, x] = 1
    for blur, traceable in ((0, False), (1, False), (0, True), (1, True)):
        dots = read_heatmap(heatmap, build_supplier('softmax'), blur, traceable).dots
        torch.testing.assert_close(dots, torch.tensor([[3., 4.], [15., 6.], [0., 0.]]), atol=1e-30, rtol=0)


def test_a_row_that_is_a_little_better_is_not_skipped():
    """The row with two heaps has the higher bound, the one with a single heap the higher mode."""
    heatmap = torch.zeros(1, 30, 36)
    heatmap[0, 5, 3] = heatmap[0, 5, 30] = 1
    heatmap[0, 25, 15] = 1.0005
    assert read_heatmap(heatmap, build_supplier('relu'), 1.).dots.tolist() == [[15, 25]]


@pytest.mark.parametrize('shape', [(0, 17, 9, 5), (2, 0, 4, 4)], ids=str)
def test_no_maps_at_all(shape):
    for traceable in (False, True):
        reading = read_heatmap(torch.zeros(shape), build_supplier('softplus'), 2, traceable)
        assert reading.dots.shape == (*shape[:2], 2) and reading.share.shape == shape[:2]


def test_memory_layout_does_not_matter():
    heatmap = torch.randn(3, 14, 4, 20, generator=torch.Generator().manual_seed(9)).transpose(1, 3)[1:, 2:]
    for one, other in zip(*(read_heatmap(maps, build_supplier('softmax'), 2) for maps in (heatmap, heatmap.contiguous()))):
        torch.testing.assert_close(one, other)
