"""Raw maps read through each supplier rule, and what maps without a distribution give."""

import pytest
import torch

from hdm_mmpose.decoding import decode_square, read_heatmap
from hdm_mmpose.transport import SUPPLIERS, build_supplier, sub_pixel_cpu

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


@pytest.mark.parametrize('blur', [0, 2])
def test_without_compiled_code(blur, monkeypatch):
    monkeypatch.setattr(sub_pixel_cpu, 'COMPILED', False)
    heatmap = torch.randn(3, 5, 12, 10, generator=torch.Generator().manual_seed(2))
    fast, slow = (read(heatmap, build_supplier('softplus'), blur) for read in (sub_pixel_cpu.read_heatmap_cpu, read_heatmap))
    assert all(torch.equal(a, b) for a, b in zip(fast, slow))
