"""Heatmaps and dots that the transport tests share: ordinary ones, and those where solvers usually break."""

from __future__ import annotations

import torch
from torch import Tensor

from hdm_mmpose.transport import TransportProblem, build_ground_distance, dot_demanders
from hdm_mmpose.transport.ground_distance import Euclidean, GroundDistance, Saturated

EPSILONS = (0.02, 0.05, 0.1, 0.25, 0.5, 1, 4)
# the scale is named, so that the class default may move without moving what the solvers are held to
GROUND_DISTANCES = (Euclidean(), Saturated(2.0))
SIZE = (6, 5)  # H, W


def dots_in(size: tuple[int, int]) -> Tensor:
    """(10, 2) dots: in general position, in the middle of a square, next to, on and beyond centres, edges and borders."""
    height, width = size
    x, y = width - 1, height - 1
    return torch.tensor(
        [
            [0.31 * x, 0.72 * y], [0.87 * x, 0.13 * y], [0.5, 0.5], [0.25, y],
            [1, 1], [1, 0.4 * y], [1 + 1e-7, 0.6 * y], [0, 0], [x, y], [-3, y + 5],
        ],
        dtype=torch.float64,
    )


def random_dots(count: int, size: tuple[int, int], seed: int = 0) -> Tensor:
    """(count, 2) dots anywhere between the outermost cell centres."""
    generator = torch.Generator().manual_seed(seed)
    last = torch.tensor([size[1] - 1, size[0] - 1], dtype=torch.float64)
    return torch.rand(count, 2, dtype=torch.float64, generator=generator) * last


def _blob(centre: Tensor, size: tuple[int, int], sigma: float) -> Tensor:
    y, x = (torch.arange(n, dtype=torch.float64) for n in size)
    squares = (x - centre[:, None, None, 0]) ** 2 + (y[:, None] - centre[:, None, None, 1]) ** 2
    return torch.exp(-squares / (2 * sigma**2))


def _cells(count: int, size: tuple[int, int], masses: dict[tuple[int, int], float]) -> Tensor:
    maps = torch.zeros(count, *size, dtype=torch.float64)
    for (y, x), mass in masses.items():
        maps[:, y, x] = mass
    return maps


def dot_map(dots: Tensor, size: tuple[int, int]) -> Tensor:
    """(J, H, W) the demanders themselves as a map."""
    demanders = dot_demanders(dots, size)
    cell = demanders.position[..., 1] * size[1] + demanders.position[..., 0]
    return torch.zeros(len(dots), size[0] * size[1], dtype=dots.dtype).scatter_add_(1, cell.long(), demanders.mass).view(-1, *size)


def _inside(dots: Tensor, size: tuple[int, int]) -> Tensor:
    return torch.minimum(dots.clamp(min=0), torch.tensor([size[1] - 1, size[0] - 1], dtype=dots.dtype))


def _noise(count: int, size: tuple[int, int]) -> Tensor:
    return torch.randn(count, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(7))


def _far_corner(dots: Tensor, size: tuple[int, int]) -> Tensor:
    last = torch.tensor([size[1] - 1, size[0] - 1], dtype=dots.dtype)
    return torch.where(dots < last / 2, last, 0.0)


MAPS = {
    'flat': lambda dots, size: torch.ones(len(dots), *size, dtype=torch.float64),
    'noise': lambda dots, size: _noise(len(dots), size).exp(),
    'relu of noise': lambda dots, size: (_noise(len(dots), size) - 0.8).relu() + _cells(len(dots), size, {(0, 1): 1e-3}),
    'one cell': lambda dots, size: _cells(len(dots), size, {(size[0] // 3, size[1] // 2): 1}),
    'two cells': lambda dots, size: _cells(len(dots), size, {(0, 0): 0.3, (size[0] - 1, size[1] - 1): 0.7}),
    'two and next to nothing': lambda dots, size: _cells(len(dots), size, {(0, 0): 1e-7, (1, 0): 0.4, (size[0] - 1, 1): 0.6}),
    'peak at the dot': lambda dots, size: _blob(_inside(dots, size), size, 0.9),
    'narrow peak at the dot': lambda dots, size: _blob(_inside(dots, size), size, 0.4),
    'peak near the dot': lambda dots, size: _blob(_inside(dots, size) + torch.tensor([1.3, -0.7]), size, 0.7),
    'misplaced by the whole map': lambda dots, size: _blob(_far_corner(dots, size), size, 0.8),
    'masses over 30 decades': lambda dots, size: 10 ** (_noise(len(dots), size) * 8).clamp(max=0),
    'the dot itself': lambda dots, size: dot_map(dots, size),
}


def suppliers_of(family: str, dots: Tensor, size: tuple[int, int]) -> Tensor:
    """(J, H, W) float64 masses that sum to 1."""
    maps = MAPS[family](dots, size)
    return maps / maps.sum((1, 2), keepdim=True)


def problem_of(
    family: str,
    epsilon: float,
    ground_distance: str | GroundDistance = 'euclidean',
    dtype: torch.dtype = torch.float64,
    size: tuple[int, int] = SIZE,
    dots: Tensor | None = None,
) -> TransportProblem:
    """One problem per dot of ``dots_in`` (or of ``dots``) for a family of maps."""
    dots = dots_in(size) if dots is None else dots
    suppliers = suppliers_of(family, dots, size).to(dtype)
    return TransportProblem(suppliers, dot_demanders(dots, size).to(dtype), epsilon, build_ground_distance(ground_distance))


def every_family(*args, **options) -> TransportProblem:
    """All families in one batch of 12 x 10 problems."""
    problems = [problem_of(family, *args, **options) for family in MAPS]
    demanders = problems[0].demanders
    return TransportProblem(
        torch.cat([problem.suppliers for problem in problems]),
        type(demanders)(demanders.position.repeat(len(MAPS), 1, 1), demanders.mass.repeat(len(MAPS), 1)),
        problems[0].epsilon,
        problems[0].ground_distance,
    )


def centred(values: Tensor, suppliers: Tensor) -> Tensor:
    """(J, N) without the free constant: minus the mean under the suppliers, as ``pull_back`` removes it."""
    return values - (values * suppliers.flatten(1)).sum(1, keepdim=True)
