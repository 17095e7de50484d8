"""The square rule against a loop in float64."""

import numpy as np
import pytest
import torch

from hdm_mmpose.decoding import decode_square
from hdm_mmpose.transport import dot_demanders


def slow_square(masses):
    """Sec. 3.4 word by word, for one map: (x, y) of the dot and the mass of the square."""
    masses = np.asarray(masses, dtype=np.float64)
    height, width = masses.shape
    corners = [(x, y) for y in range(height - 1) for x in range(width - 1)]
    x, y = max(corners, key=lambda corner: masses[corner[1]:corner[1] + 2, corner[0]:corner[0] + 2].sum())
    square = masses[y:y + 2, x:x + 2]
    share = square / square.sum()
    dot = sum(share[j, i] * np.array([x + i, y + j]) for i in (0, 1) for j in (0, 1))
    return dot, square.sum()


def random_suppliers(*shape, dtype=torch.float64, seed=0):
    masses = torch.rand(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))
    return masses / masses.sum((-2, -1), keepdim=True)


@pytest.mark.parametrize(('dtype', 'tolerance'), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_decode_square_agrees_with_the_loop(dtype, tolerance):
    suppliers = random_suppliers(2, 3, 7, 5).to(dtype)
    dots, mass = decode_square(suppliers)
    assert dots.shape == (2, 3, 2) and mass.shape == (2, 3) and dots.dtype == mass.dtype == dtype
    for sample in range(2):
        for joint in range(3):
            dot, share = slow_square(suppliers[sample, joint])
            assert dots[sample, joint].numpy() == pytest.approx(dot, abs=tolerance)
            assert mass[sample, joint].item() == pytest.approx(share, abs=tolerance)


def test_decode_square_by_hand():
    suppliers = torch.tensor([[0, 0, 0, 0], [0, 0, .1, .2], [.1, 0, .3, .3]], dtype=torch.float64)
    dots, mass = decode_square(suppliers)
    assert mass.item() == pytest.approx(.9)
    assert dots.tolist() == pytest.approx([2 + .5 / .9, 1 + .6 / .9])


@pytest.mark.parametrize('size', [(2, 2), (2, 7), (9, 2)], ids=str)
def test_decode_square_of_the_smallest_maps(size):
    suppliers = random_suppliers(4, *size)
    for joint, (dot, mass) in enumerate(zip(*decode_square(suppliers))):
        expected, share = slow_square(suppliers[joint])
        assert dot.numpy() == pytest.approx(expected) and mass.item() == pytest.approx(share)


def test_bilinear_masses_come_back_exactly():
    size = (11, 8)
    generator = torch.Generator().manual_seed(1)
    dots = torch.rand(500, 2, dtype=torch.float64, generator=generator) * torch.tensor([size[1] - 1, size[0] - 1])
    dots[0], dots[1], dots[2], dots[3] = (torch.tensor(d, dtype=torch.float64) for d in ((0, 0), (7, 10), (3, 4), (2.5, 6)))
    demanders = dot_demanders(dots, size)
    cell = (demanders.position[..., 1] * size[1] + demanders.position[..., 0]).long()
    suppliers = torch.zeros(500, size[0] * size[1], dtype=torch.float64).scatter_(1, cell, demanders.mass)
    decoded, mass = decode_square(suppliers.view(500, *size))
    assert torch.allclose(decoded, dots, atol=1e-13, rtol=0)
    assert torch.allclose(mass, torch.ones(500, dtype=torch.float64))


def test_decode_square_does_not_look_around_the_edge():
    """Mass at the right end of one row and the left end of the next is no square."""
    suppliers = torch.zeros(4, 5)
    suppliers[1, 4] = suppliers[2, 0] = suppliers[2, 4] = suppliers[3, 0] = .25
    dots, mass = decode_square(suppliers)
    assert dots.tolist() == [4, 1.5] and mass.item() == .5


def test_decode_square_of_nothing_is_finite():
    dots, mass = decode_square(torch.stack([torch.zeros(3, 4), torch.full((3, 4), torch.nan)]))
    assert dots[0].tolist() == [.5, .5] and mass[0] == 0
    assert dots.isfinite().all()


@pytest.mark.parametrize('shape', [(5,), (3, 1, 5), (1, 2)], ids=str)
def test_decode_square_refuses_maps_without_squares(shape):
    with pytest.raises(ValueError, match=r'suppliers must have shape .* got \('):
        decode_square(torch.rand(shape))
