"""The mode after a blur: against a search on a fine grid, and exact for the masses of a dot."""

import math

import pytest
import torch

from hdm_mmpose.decoding.mode import REACH, decode_blurred_mode
from hdm_mmpose.decoding.square import decode_square
from tests.transport.families import dot_map

SIZE = (13, 9)


def blurred_at(suppliers, point, blur):
    """The blurred mass of one map at any point, word by word."""
    return sum(
        suppliers[y, x].item() * math.exp(-((x - point[0]) ** 2 + (y - point[1]) ** 2) / (2 * blur**2))
        for y in range(suppliers.shape[0]) for x in range(suppliers.shape[1]))


@pytest.mark.parametrize('blur', [.3, 1, 2.5, 20])
def test_the_masses_of_a_dot_give_the_dot_back(blur):
    height, width = SIZE
    dots = torch.rand(500, 2, dtype=torch.float64) * torch.tensor([width - 1, height - 1])
    dots[:4] = torch.tensor([[0, 0], [width - 1, height - 1], [.5, .5], [width - 1.5, height - 1]], dtype=torch.float64)
    found, share = decode_blurred_mode(dot_map(dots, SIZE), blur)
    assert torch.allclose(found, dots, atol=1e-12, rtol=0)
    assert ((share > 0) & (share <= 1)).all()


@pytest.mark.parametrize('blur', [.7, 2])
def test_share_is_the_highest_blurred_mass_of_all_cells(blur):
    suppliers = torch.rand(4, *SIZE, dtype=torch.float64) ** 6
    suppliers /= suppliers.sum((1, 2), keepdim=True)
    dots, share = decode_blurred_mode(suppliers, blur)
    for one, dot, value in zip(suppliers, dots, share):
        table = {(x, y): blurred_at(one, (x, y), blur) for y in range(SIZE[0]) for x in range(SIZE[1])}
        best = max(table, key=table.__getitem__)
        assert value.item() == pytest.approx(table[best], abs=1e-12)
        assert (dot - torch.tensor(best)).abs().max() <= REACH + 1e-12


def test_a_sharp_cell_does_not_outweigh_a_heap():
    """What the square falls for: one cell a little higher, far from nine that hold the most together."""
    suppliers = torch.zeros(1, *SIZE, dtype=torch.float64)
    suppliers[0, 1, 1] = .37
    suppliers[0, 8:11, 5:8] = .07
    assert decode_square(suppliers)[0].tolist() == [[1, 1]]
    dots, share = decode_blurred_mode(suppliers, 2)
    assert dots[0].tolist() == pytest.approx([6, 9]) and .5 < share.item() < .63


@pytest.mark.parametrize('axis', [-1, -2])
def test_a_mirrored_map_gives_the_mirrored_dot(axis):
    suppliers = torch.rand(50, *SIZE, dtype=torch.float64)
    dots, share = decode_blurred_mode(suppliers, 1.5)
    mirrored, same = decode_blurred_mode(suppliers.flip(axis), 1.5)
    mirrored[:, -1 - axis] = SIZE[axis] - 1 - mirrored[:, -1 - axis]
    assert torch.allclose(mirrored, dots, atol=1e-9) and torch.allclose(same, share)


@pytest.mark.parametrize('size', [(2, 2), (2, 7), (9, 2)], ids=str)
def test_smallest_maps(size):
    dots, _ = decode_blurred_mode(torch.eye(size[0] * size[1]).view(-1, *size), 2)
    cells = torch.arange(size[0] * size[1])
    assert torch.allclose(dots, torch.stack([cells % size[1], cells // size[1]], -1).float())


def test_autocast_does_not_lower_it():
    suppliers = torch.rand(3, *SIZE)
    suppliers /= suppliers.sum((1, 2), keepdim=True)
    clean = decode_blurred_mode(suppliers, 2)
    with torch.autocast('cpu', torch.bfloat16):
        under = decode_blurred_mode(suppliers, 2)
    assert all(torch.equal(a, b) for a, b in zip(clean, under))
