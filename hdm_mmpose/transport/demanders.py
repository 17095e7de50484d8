r"""Demanders: the annotated dot as a distribution over the four heatmap cells around it (paper Sec. 3.2, Eq. 4).

Heatmap cells have their centres at integer coordinates::

      x    0     1     2            a dot at (1.25, 0.5) lies among the cells (1,0) (2,0) (1,1) (2,1)
    y 0    o     o     o            and gives them the masses .375 .125 .375 .125 : they sum to 1
                  \.                and their centroid is the dot.
      1    o     o     o
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .ground_distance import GroundDistance


@dataclass(frozen=True)
class Demanders:
    """``M`` demanders for each of ``J`` joints.

    Attributes:
        position: (J, M, 2) cell coordinates, x then y, integers stored as floats.
        mass: (J, M) units of mass each demander requires, summing to 1 over M.
    """

    position: Tensor
    mass: Tensor

    def to(self, dtype: torch.dtype) -> Demanders:
        """The same demanders in another floating dtype."""
        return Demanders(self.position.to(dtype), self.mass.to(dtype))

    def __getitem__(self, joints: slice) -> Demanders:
        return Demanders(self.position[joints], self.mass[joints])


def dot_demanders(dots: Tensor, size: tuple[int, int]) -> Demanders:
    """The four bilinear demanders of each dot (Eq. 4 with ``g`` = 1 cell).

    A dot beyond the outermost cell centres is clamped to them.  A dot on a cell centre or edge gives demanders of mass
    exactly 0, which the solvers leave out.

    >>> dot_demanders(torch.tensor([[1.25, 0.5]]), size=(3, 4)).mass
    tensor([[0.3750, 0.1250, 0.3750, 0.1250]])

    Args:
        dots: (J, 2) dots in heatmap cells, x then y.
        size: (H, W) of the heatmap, at least 2 x 2.

    Returns:
        Demanders with M = 4: upper left, upper right, lower left, lower right.
    """
    height, width = size
    if height < 2 or width < 2:
        raise ValueError(f'heatmap must have at least 2 x 2 cells, got H x W = {height} x {width}')
    (x, x_mass), (y, y_mass) = _pair(dots[:, 0], width), _pair(dots[:, 1], height)
    mass = y_mass[:, :, None] * x_mass[:, None, :]  # (J, y, x)
    x, y = x[:, None, :].expand_as(mass), y[:, :, None].expand_as(mass)
    return Demanders(torch.stack([x, y], dim=-1).flatten(1, 2), mass.flatten(1))


def _pair(coordinate: Tensor, cells: int) -> tuple[Tensor, Tensor]:
    """The two cells next to each coordinate (J,), and its bilinear masses on them; both (J, 2)."""
    coordinate = coordinate.clamp(0, cells - 1)
    first = coordinate.floor().clamp(max=cells - 2)
    return torch.stack([first, first + 1], -1), torch.stack([first + 1 - coordinate, coordinate - first], -1)


def naive_demander(dots: Tensor, size: tuple[int, int]) -> Demanders:
    """One demander of mass 1 at the centre of the cell that holds the dot (the naive variant of Tab. 4).

    Args:
        dots: (J, 2) dots in heatmap cells, x then y; half-way ones go to the larger cell, those outside to the border.
        size: (H, W) of the heatmap.
    """
    cell = clamp(nearest_cell(dots), size)
    return Demanders(cell[:, None, :], torch.ones_like(cell[:, :1]))


def clamp(dots: Tensor, size: tuple[int, int]) -> Tensor:
    """Dots (..., 2) moved to the outermost cell centres of a map (H, W) where they lie beyond; NaN stays."""
    return torch.stack([dots[..., 0].clamp(0, size[1] - 1), dots[..., 1].clamp(0, size[0] - 1)], -1)


def nearest_cell(dots: Tensor) -> Tensor:
    """The cell (J, 2) that holds each dot (J, 2); half-way dots go to the larger one."""
    return (dots + 0.5).floor()


def unbiased_mass(mass: Tensor, epsilon: float, ground_distance: GroundDistance) -> Tensor:
    r"""Demander masses with which the entropic ``product`` problem is minimised by the dot itself, for every epsilon.

    With plain masses ``D`` the regularised problem is minimised by a shrunken blob, not by ``S = D``.  Let ``c`` be the
    ground distance, ``k(d) = exp(-c(d) / epsilon)`` and ``R`` the 4 x 4 matrix of ``k`` between the corners of the unit
    square, rows normalised to 1.  Use ``D' = R D``.

    Proof that ``S = D`` then minimises the objective ``W(S) = OT(S, D')`` of the ``product`` potential.

    1. The square's symmetries map any corner to any other, so all rows of ``R`` hold the same four numbers before and
       after normalisation: ``R`` is symmetric and doubly stochastic.
    2. At ``S = D`` the plan ``p_nm = D_n R_nm`` has row sums ``D`` and column sums ``R D = D'``, and it has the form
       ``u_n k_nm v_m`` with ``v = 1``: it is *the* entropic plan, with demander potential 0.
    3. The gradient of ``W`` at ``D`` is the supplier potential ``f_n = -epsilon log sum_m k_nm``.  By 1 it takes one
       value ``f*`` on the four corners.
    4. Anywhere else ``f_n >= f*``: for a cell (i, j) relative to the square's corner, moving i (likewise j) to the
       nearer of 0 and 1 turns the offsets {|i|, |i - 1|} into {0, 1} or {1, 0}, none of which grows.  So each of the
       four distances shrinks or stays, and ``k`` decreases with distance: ``sum_m k_nm`` is largest on the square.
    5. ``W`` is convex, and ``<f, S - D> = <f, S> - f* >= 0`` for every distribution ``S``: D is a minimiser.

    The argument uses only that ``c`` increases.  See ``docs/method.md`` for why ``shannon`` has no such correction.

    Args:
        mass: (J, 4) bilinear masses in the order of :func:`dot_demanders`.
        epsilon: entropic parameter in heatmap cells.
        ground_distance: the problem's ground distance.

    Returns:
        (J, 4) masses ``R D``, summing to 1.
    """
    cost = ground_distance.cost(torch.tensor([0.0, 1.0, 2**0.5], dtype=torch.float64, device='cpu'))
    stay, beside, across = (cost / -epsilon).exp().tolist()
    total = stay + 2 * beside + across
    square = mass.view(-1, 2, 2)
    given = stay * square + beside * (square.flip(1) + square.flip(2)) + across * square.flip(1, 2)
    return given.flatten(1) / total
