"""Heatmaps to measure on: what networks give, and what solvers find hard."""

from __future__ import annotations

import torch
from torch import Tensor

from hdm_mmpose.transport import dot_demanders


def random_dots(joints: int, size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """(J, 2) float64 dots in cells, x then y, anywhere between the outermost centres."""
    last = torch.tensor([size[1] - 1, size[0] - 1], dtype=torch.float64)
    return torch.rand(joints, 2, dtype=torch.float64, generator=generator) * last


def blobs(centre: Tensor, size: tuple[int, int], sigma: float) -> Tensor:
    """(J, H, W) Gaussians of height 1 around (J, 2) centres; ``sigma`` in cells."""
    y, x = (torch.arange(n, dtype=centre.dtype) for n in size)
    square = (x - centre[:, None, None, 0]) ** 2 + (y[:, None] - centre[:, None, None, 1]) ** 2
    return torch.exp(square / (-2 * sigma**2))


def dot_maps(dots: Tensor, size: tuple[int, int]) -> Tensor:
    """(J, H, W) the four bilinear masses of each dot."""
    demanders = dot_demanders(dots, size)
    cell = (demanders.position[..., 1] * size[1] + demanders.position[..., 0]).long()
    flat = torch.zeros(len(dots), size[0] * size[1], dtype=dots.dtype)
    return flat.scatter_add_(1, cell, demanders.mass).view(-1, *size)


def network_like(dots: Tensor, size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Raw maps (J, H, W) of a half-trained network: a blob a cell or two from the dot, noise, and a level below 0."""
    around = dots + torch.randn(dots.shape, dtype=dots.dtype, generator=generator)
    noise = 0.1 * torch.randn(len(dots), *size, dtype=dots.dtype, generator=generator)
    return 2 * blobs(around, size, 1.5) - 0.7 + noise


def families(dots: Tensor, size: tuple[int, int], generator: torch.Generator) -> dict[str, Tensor]:
    """Masses (J, H, W) by the name of their family; each sums to 1."""
    noise = torch.randn(len(dots), *size, dtype=dots.dtype, generator=generator)
    last = torch.tensor([size[1] - 1, size[0] - 1], dtype=dots.dtype)
    cells = torch.zeros(len(dots), *size, dtype=dots.dtype)
    one, two = cells.clone(), cells.clone()
    one[:, size[0] // 3, size[1] // 2] = 1
    two[:, 0, 0], two[:, -1, -1] = 0.3, 0.7
    maps = {
        'flat': cells + 1,
        'noise': noise.exp(),
        'relu of noise': (noise - 1).relu(),
        'one cell': one,
        'two cells': two,
        'peak at the dot': blobs(dots, size, 1.0),
        'narrow peak at the dot': blobs(dots, size, 0.4),
        'peak near the dot': blobs((dots + torch.tensor([1.3, -0.7])).clamp(min=0).minimum(last), size, 1.0),
        'misplaced by the whole map': blobs(torch.where(dots < last / 2, last, 0.0), size, 1.0),
        'the dot itself': dot_maps(dots, size),
    }
    return {name: masses / masses.sum((1, 2), keepdim=True) for name, masses in maps.items()}
