r"""``emd.py`` as one Triton kernel: a program reads the map of one joint and writes its cost and its gradient.

What is computed, and why it is right, stands in ``suppliers``, ``demanders``, ``problem``, ``semi_dual``, ``newton``,
``sinkhorn`` and ``gradient``; this file only agrees with them (``tests/transport/test_triton_emd.py``).  It differs in four
choices that do not change the solution:

- The map is looked at from the dot: ``u`` and ``v`` count columns and rows from the *nearest* demander towards the other
  ones, so that the four demanders are always (0, 0), (1, 0), (0, 1), (1, 1).  Their masses are products, so demander 0 has
  the largest: it certainly takes part, and is the reference of the cost and the ground of the Laplacian.
- Potentials are kept in units of epsilon: ``beta = b / epsilon``.  ``K_m = exp(-excess_m / epsilon)``, m = 1, 2, 3, is
  computed once and stays in registers with the masses; an iteration is multiplications, one division and ten sums.  Where
  epsilon is so small that an exponential could leave its range, exponents are kept instead (``Plan.log_domain``).
- Newton's loop ends with the step that solves the problem, not with one more look at it: near the solution a damped step
  leaves about ``3/2 omega`` of the marginal error.  What is left is measured by the pass that computes cost and gradient.
- Maps too large for the registers are walked through in tiles, anew in every pass; the cache holds them.

Letters as in ``problem``; shapes stand beside the pointers.
"""

from __future__ import annotations

import ctypes
import functools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl
from torch import Tensor

from .newton import WARM_UP, step_budget
from .semi_dual import TOLERANCE

if TYPE_CHECKING:
    from .emd import EMDOptions

# Cells whose mass and K, 4 float32 numbers each, a thread keeps in its registers.
CELLS_PER_THREAD = 16
# Cells beyond which one program per joint is not the way to go.
LARGEST_MAP = 1 << 18
# K and products of K stay within the dtype while sqrt(2) / epsilon does not exceed this.
LARGEST_EXPONENT = {torch.float32: 40.0, torch.float64: 300.0}
TL_DTYPE = {torch.float32: tl.float32, torch.float64: tl.float64}


@dataclass(frozen=True)
class Plan:
    """What is fixed when the kernel is compiled; every function below takes it as ``P``.

    Attributes:
        height, width: of the map, in cells.
        tile: cells looked at together, a power of two.
        unroll: tiles handled in a row without a loop; with ``resident`` all of them.
        resident: whether masses and K of the whole map stay in registers.
        packed: sum several quantities in one exchange between warps.
        dtype: of the computation, float32 or float64.
        dense: whether the target is a map.
        gradient: whether it is wanted.
        supplier, sharpness, potential, unbiased, subpixel, solver: as in ``EMDOptions``.
        scale: of the saturated ground distance, 0 for the Euclidean one.
        log_domain: whether exponents are kept in place of K.
    """

    height: int
    width: int
    tile: int
    unroll: int
    resident: bool
    packed: bool
    dtype: tl.dtype
    dense: bool
    gradient: bool
    supplier: str
    sharpness: float
    potential: str
    unbiased: bool
    subpixel: bool
    solver: str
    scale: float
    log_domain: bool

    @property
    def cells(self) -> int:
        return self.height * self.width

    @property
    def groups(self) -> int:
        return -(-self.cells // (self.tile * self.unroll))

    @property
    def eq3(self) -> bool:
        """Whether masses are those of Eq. 3."""
        return self.supplier in ('relu', 'relu_surrogate')


# ---------------------------------------------------------------------------------------------------------------- numbers
@triton.jit
def _exp(x):
    """``e^x``; as a power of two it is two instructions."""
    return tl.exp2(x * 1.4426950408889634)


@triton.jit
def _log(x):
    """``log(x)``, of the smallest normal number where x is below it."""
    TINY: tl.constexpr = 2.0**-1022 if x.dtype == tl.float64 else 2.0**-126
    return tl.log(tl.maximum(x, TINY))


@triton.jit
def _log_of_product(s, r):
    """``log(max(s, gradient.SMALLEST) r)``: s goes up first, so that r cannot take the product out of range."""
    UP: tl.constexpr = 500 if s.dtype == tl.float64 else 60
    return tl.log(tl.maximum(s, 2.0**-126) * 2.0**UP * r) - UP * 0.6931471805599453


@triton.jit
def _positive(x):
    """x, at least about the smallest normal number."""
    LEAST: tl.constexpr = 1e-300 if x.dtype == tl.float64 else 1e-34
    return tl.maximum(x, LEAST)


@triton.jit
def _reciprocal(x):
    """``1 / x`` for x > 0, in two instructions; a division takes nine and is no more accurate in float32."""
    r = tl.rsqrt(x)
    return r * r


@triton.jit
def _log1p(e):
    """``log(1 + e) = 2 artanh(e / (2 + e))`` for e in [0, 1], to all digits however small e is."""
    TERMS: tl.constexpr = 17 if e.dtype == tl.float64 else 7
    s = e * _reciprocal(2.0 + e)
    q = s * s
    series = 0.0 * q + 1.0 / (2 * TERMS - 1)
    for i in tl.static_range(1, TERMS):
        series = series * q + 1.0 / (2 * (TERMS - i) - 1)
    return 2.0 * s * series


@triton.jit
def _expm1(x):
    """``e^x - 1``; near 0, where that would cancel, its Taylor series."""
    TERMS: tl.constexpr = 15 if x.dtype == tl.float64 else 8
    series = 0.0 * x + 1.0
    for i in tl.static_range(0, TERMS - 1):
        series = 1.0 + x * series * (1.0 / (TERMS - i))
    return tl.where(tl.abs(x) < 0.5, x * series, _exp(x) - 1.0)


@triton.jit
def _zeros(P: tl.constexpr):
    """(tile,)"""
    TILE: tl.constexpr = P.tile
    return tl.zeros([TILE], P.dtype)


@triton.jit
def _add4(a0, a1, a2, a3, b0, b1, b2, b3):
    return a0 + b0, a1 + b1, a2 + b2, a3 + b3


@triton.jit
def _add10(a0, a1, a2, a3, a4, a5, a6, a7, a8, a9, b0, b1, b2, b3, b4, b5, b6, b7, b8, b9):
    return a0 + b0, a1 + b1, a2 + b2, a3 + b3, a4 + b4, a5 + b5, a6 + b6, a7 + b7, a8 + b8, a9 + b9


@triton.jit
def _sum4(values, P: tl.constexpr):
    """The sums over the cells of four blocks (tile,)."""
    a0, a1, a2, a3 = values
    if P.packed:
        a0, a1, a2, a3 = tl.reduce((a0, a1, a2, a3), 0, _add4)
    else:
        a0, a1, a2, a3 = tl.sum(a0, 0), tl.sum(a1, 0), tl.sum(a2, 0), tl.sum(a3, 0)
    return a0, a1, a2, a3


@triton.jit
def _sum10(values, P: tl.constexpr):
    """The sums over the cells of ten blocks (tile,)."""
    a0, a1, a2, a3, a4, a5, a6, a7, a8, a9 = values
    if P.packed:
        a0, a1, a2, a3, a4, a5, a6, a7, a8, a9 = tl.reduce((a0, a1, a2, a3, a4, a5, a6, a7, a8, a9), 0, _add10)
    else:
        a0, a1, a2, a3 = tl.sum(a0, 0), tl.sum(a1, 0), tl.sum(a2, 0), tl.sum(a3, 0)
        a4, a5, a6 = tl.sum(a4, 0), tl.sum(a5, 0), tl.sum(a6, 0)
        a7, a8, a9 = tl.sum(a7, 0), tl.sum(a8, 0), tl.sum(a9, 0)
    return a0, a1, a2, a3, a4, a5, a6, a7, a8, a9


# -------------------------------------------------------------------------------------------------------------- suppliers
@triton.jit
def _scale_of(peak):
    """What Eq. 3 divides by first, 1 for an empty map; and whether it is one (``suppliers.EMPTY``)."""
    empty = peak <= 1e-30
    return tl.where(empty, 1.0, peak), empty


@triton.jit
def _raised(h, peak, P: tl.constexpr):
    """``x = sharpness h``; a map whose peak is so low that softplus(x) = e^x to rounding is raised as a whole."""
    LOWEST: tl.constexpr = -36.04365338911715 if h.dtype == tl.float64 else -15.942385152878742  # log of the rounding
    return P.sharpness * h - tl.minimum(P.sharpness * peak - LOWEST, 0.0)


@triton.jit
def _softplus(x):
    """``log(1 + e^x) = max(x, 0) + log(1 + e^-|x|)``."""
    return tl.maximum(x, 0.0) + _log1p(_exp(-tl.abs(x)))


@triton.jit
def _mass(h, peak, P: tl.constexpr):
    """``m(h)``, up to a factor per map."""
    if P.supplier == 'softplus':
        m = _softplus(_raised(h, peak, P))
    elif P.supplier == 'softmax':
        m = _exp(P.sharpness * (h - peak))
    else:
        scale, _ = _scale_of(peak)
        m = tl.maximum(h, 0.0) * (1.0 / scale)
    return m


@triton.jit
def _rate(h, s, peak, total, soft_total, P: tl.constexpr):
    """``m'(h) / sum m``: the factor between dL/dS and dL/dH."""
    if P.supplier == 'softmax':
        rate = P.sharpness * s
    elif P.supplier == 'relu':
        scale, empty = _scale_of(peak)
        rate = tl.where(empty, 0.0, tl.where(h > 0, 1.0 / (total * scale), 0.0))
    else:
        x = _raised(h, peak, P)
        e = _exp(-tl.abs(x))
        rate = tl.where(x >= 0, 1.0, e) * _reciprocal(1.0 + e) * (P.sharpness / soft_total)
    return rate


# ----------------------------------------------------------------------------------------------------- demanders and costs
@triton.jit
def _clamped(x, LAST: tl.constexpr):
    """x limited to [0, LAST]; a NaN stays one."""
    x = tl.where(x < 0, 0.0, x)
    return tl.where(x > LAST, 1.0 * LAST, x)


@triton.jit
def _nearest(x, LAST: tl.constexpr):
    """Of the two cells around x: the nearer one, the direction (+1 or -1) of the other, and the other's share of mass."""
    low = tl.floor(x)
    low = tl.where(low > LAST - 1, LAST - 1.0, low)
    right = x - low
    flipped = right > 0.5
    return low + tl.where(flipped, 1.0, 0.0), tl.where(flipped, -1.0, 1.0), tl.where(flipped, 1.0 - right, right)


@triton.jit
def _cost(distance, P: tl.constexpr):
    """``c(d)``: d, or ``scale (1 - e^(-d / scale))``."""
    if P.scale > 0:
        distance = -P.scale * _expm1(distance * (-1.0 / P.scale))
    return distance


@triton.jit
def _excess(square, distance, difference, P: tl.constexpr):
    """``c(d_m) - c(d_0)`` from ``d_0^2``, ``d_0`` and ``d_m^2 - d_0^2``: ``d_m - d_0 = (d_m^2 - d_0^2) / (d_m + d_0)``.

    The difference of the squares is a small integer, so nothing cancels.
    """
    delta = difference * _reciprocal(tl.sqrt(square + difference) + distance)
    if P.scale > 0:
        # counted from the nearer of the two, so that no exponent is positive
        nearer = distance + tl.minimum(delta, 0.0)
        size = _exp(nearer * (-1.0 / P.scale)) * _cost(tl.abs(delta), P)
        delta = tl.where(delta < 0, -size, size)
    return delta


@triton.jit
def _costs(i, dot, P: tl.constexpr):
    """Of the cells of tile i: ``C_n0``, and ``excess_nm = C_nm - C_n0`` for m = 1, 2, 3."""
    near_x, near_y, sign_x, sign_y = dot
    cells = i * P.tile + tl.arange(0, P.tile)
    row = cells // P.width
    # columns and rows from demander 0, positive towards the others
    u = ((cells - row * P.width).to(P.dtype) - near_x) * sign_x
    v = (row.to(P.dtype) - near_y) * sign_y
    square = u * u + v * v
    distance = tl.sqrt(square)
    e1 = _excess(square, distance, 1.0 - 2.0 * u, P)
    e2 = _excess(square, distance, 1.0 - 2.0 * v, P)
    e3 = _excess(square, distance, 2.0 - 2.0 * (u + v), P)
    return _cost(distance, P), e1, e2, e3


# ------------------------------------------------------------------------------------------------------------------ tiles
@triton.jit
def _read(i, map_ptr, P: tl.constexpr):
    """Tile i of a map (height, width), 0 beyond its end."""
    cells = i * P.tile + tl.arange(0, P.tile)
    return tl.load(map_ptr + cells, mask=cells < P.cells, other=0.0).to(P.dtype)


@triton.jit
def _inside(i, values, outside, P: tl.constexpr):
    """``values`` of tile i, ``outside`` beyond the end of the map."""
    return tl.where(i * P.tile + tl.arange(0, P.tile) < P.cells, values, outside)


@triton.jit
def _tile(i, m, view, P: tl.constexpr):
    """From masses m: suppliers, 0 beyond the end, and ``K_m = e^(-excess_m / epsilon)``, m = 1, 2, 3, or its logarithm."""
    _, peak, total, poison, epsilon, dot = view
    s = m * (1.0 / total) + poison
    if P.eq3:
        _, empty = _scale_of(peak)
        s = tl.where(empty, 1.0 / P.cells + poison, s)
    _, k1, k2, k3 = _costs(i, dot, P)
    factor = -1.0 / epsilon
    k1, k2, k3 = factor * k1, factor * k2, factor * k3
    if not P.log_domain:
        k1, k2, k3 = _exp(k1), _exp(k2), _exp(k3)
    return _inside(i, s, 0.0, P), k1, k2, k3


@triton.jit
def _tile_at(g, j, tiles, view, P: tl.constexpr):
    """Tile j of group g: kept, or computed from the heatmap again."""
    if P.resident:
        tile = tiles[j]
    else:
        heatmap_ptr, peak, _, _, _, _ = view
        i = g * P.unroll + j
        tile = _tile(i, _mass(_read(i, heatmap_ptr, P), peak, P), view, P)
    return tile


@triton.jit
def _dense_dot(target_ptr, P: tl.constexpr):
    """``x, y``: the centre of mass of a dense target; (inf, inf) where it is empty."""
    UNROLL: tl.constexpr = P.unroll
    GROUPS: tl.constexpr = P.groups
    total = _zeros(P)
    x = total
    y = total
    for g in range(GROUPS):
        for j in tl.static_range(UNROLL):
            i = g * P.unroll + j
            t = _read(i, target_ptr, P)
            t = tl.where(t < 0, 0.0, t)
            cells = i * P.tile + tl.arange(0, P.tile)
            row = cells // P.width
            total += t
            x += t * (cells - row * P.width).to(P.dtype)
            y += t * row.to(P.dtype)
    total, x, y, _ = _sum4((total, x, y, total), P)
    empty = total == 0
    total = tl.where(empty, 1.0, total)
    return tl.where(empty, float('inf'), x / total), tl.where(empty, float('inf'), y / total)


@triton.jit
def _survey(heatmap_ptr, P: tl.constexpr):
    """The map's ``peak``, the ``total`` of its masses and of softplus' masses, ``poison`` (0, or NaN for a map that is not
    finite), and, if ``resident``, the masses."""
    UNROLL: tl.constexpr = P.unroll
    GROUPS: tl.constexpr = P.groups
    maps = ()
    if P.resident:
        for j in tl.static_range(UNROLL):
            maps += (_read(j, heatmap_ptr, P),)
    highest = _zeros(P) - float('inf')
    zeros = _zeros(P)
    for g in range(GROUPS):
        for j in tl.static_range(UNROLL):
            i = g * P.unroll + j
            if P.resident:
                h = maps[j]
            else:
                h = _read(i, heatmap_ptr, P)
            highest = tl.maximum(highest, _inside(i, h, -float('inf'), P))
            zeros += 0.0 * h
    peak = tl.max(highest, 0)

    masses = ()
    total = _zeros(P)
    soft_total = total
    if P.resident:
        for j in tl.static_range(UNROLL):
            m = _inside(j, _mass(maps[j], peak, P), 0.0, P)
            total += m
            masses += (m,)
            if P.supplier == 'relu_surrogate':
                soft_total += _inside(j, _softplus(_raised(maps[j], peak, P)), 0.0, P)
    else:
        for g in range(GROUPS):
            for j in tl.static_range(UNROLL):
                i = g * P.unroll + j
                h = _read(i, heatmap_ptr, P)
                total += _inside(i, _mass(h, peak, P), 0.0, P)
                if P.supplier == 'relu_surrogate':
                    soft_total += _inside(i, _softplus(_raised(h, peak, P)), 0.0, P)
    total, soft_total, poison, _ = _sum4((total, soft_total, zeros, zeros), P)
    if P.supplier != 'relu_surrogate':
        soft_total = total
    return peak, total, soft_total, poison, masses


# -------------------------------------------------------------------------------------------------------------- semi-dual
@triton.jit
def _weights(b0, b1, b2, b3, P: tl.constexpr):
    """``e^(beta_m - top)``, or ``beta_m``; and ``top``."""
    top = tl.maximum(tl.maximum(b0, b1), tl.maximum(b2, b3))
    if not P.log_domain:
        b0, b1, b2, b3 = tl.exp(b0 - top), tl.exp(b1 - top), tl.exp(b2 - top), tl.exp(b3 - top)
    return b0, b1, b2, b3, top


@triton.jit
def _parts(tile, weights, P: tl.constexpr):
    """``part_m = e^(beta_m - top) K_m`` with K_0 = 1; ``r = 1 / sum_m part_m``; ``top``.  ``share_m = r part_m``."""
    _, k1, k2, k3 = tile
    w0, w1, w2, w3, top = weights
    if P.log_domain:
        t1, t2, t3 = k1 + w1, k2 + w2, k3 + w3
        top = tl.maximum(tl.maximum(t1, w0), tl.maximum(t2, t3))
        c0, c1, c2, c3 = _exp(w0 - top), _exp(t1 - top), _exp(t2 - top), _exp(t3 - top)
    else:
        c0, c1, c2, c3 = w0, w1 * k1, w2 * k2, w3 * k3
    return c0, c1, c2, c3, _reciprocal((c0 + c1) + (c2 + c3)), top


@triton.jit
def _received(tiles, view, weights, P: tl.constexpr):
    """``received_m = sum_n S_n share_nm``."""
    UNROLL: tl.constexpr = P.unroll
    GROUPS: tl.constexpr = P.groups
    a0 = _zeros(P)
    a1, a2, a3 = a0, a0, a0
    for g in range(GROUPS):
        for j in tl.static_range(UNROLL):
            tile = _tile_at(g, j, tiles, view, P)
            c0, c1, c2, c3, r, _ = _parts(tile, weights, P)
            q = tile[0] * r
            a0 += q * c0
            a1 += q * c1
            a2 += q * c2
            a3 += q * c3
    return _sum4((a0, a1, a2, a3), P)


@triton.jit
def _received_and_exchange(tiles, view, weights, P: tl.constexpr):
    """``received_m``, and ``exchange_ml = sum_n S_n share_nm share_nl`` for (m, l) = 01, 02, 03, 12, 13, 23."""
    UNROLL: tl.constexpr = P.unroll
    GROUPS: tl.constexpr = P.groups
    a0 = _zeros(P)
    a1, a2, a3, a01, a02, a03, a12, a13, a23 = a0, a0, a0, a0, a0, a0, a0, a0, a0
    for g in range(GROUPS):
        for j in tl.static_range(UNROLL):
            tile = _tile_at(g, j, tiles, view, P)
            c0, c1, c2, c3, r, _ = _parts(tile, weights, P)
            q = tile[0] * r
            p0, p1, p2, p3 = q * c0, q * c1, q * c2, q * c3
            s1, s2, s3 = r * c1, r * c2, r * c3
            a0 += p0
            a1 += p1
            a2 += p2
            a3 += p3
            a01 += p0 * s1
            a02 += p0 * s2
            a03 += p0 * s3
            a12 += p1 * s2
            a13 += p1 * s3
            a23 += p2 * s3
    return _sum10((a0, a1, a2, a3, a01, a02, a03, a12, a13, a23), P)


# ----------------------------------------------------------------------------------------------------- sinkhorn and newton
@triton.jit
def _scaled(w, mass, received, P: tl.constexpr):
    """One Sinkhorn iteration of one demander: ``e^beta mass / received``; those of mass 0 stay out."""
    if P.log_domain:
        w = tl.where(mass > 0, w + (_log(mass) - _log(received)), w)
    else:
        w *= mass / _positive(received)
    return w


@triton.jit
def _potential(w):
    """``log w``; of 0, as good as minus infinity."""
    return tl.where(w > 0, _log(w), -1e30)


@triton.jit
def _limited(x):
    return tl.minimum(tl.maximum(x, -1e30), 1e30)


@triton.jit
def _solve_laplacian(x01, x02, x03, x12, x13, x23, right1, right2, right3):
    """``L y = right`` with ``y_0 = 0``: demanders 3, 2, 1 are eliminated in turn, which leaves a Laplacian each time."""
    inverse3 = _reciprocal(_positive(x03 + x13 + x23))
    to1 = x13 * inverse3
    to2 = x23 * inverse3
    right1 += right3 * to1
    right2 += right3 * to2
    x01 += x03 * to1
    x02 += x03 * to2
    x12 += x13 * to2
    inverse2 = _reciprocal(_positive(x02 + x12))
    from2 = x12 * inverse2
    right1 += right2 * from2
    x01 += x02 * from2
    y1 = _limited(right1 * _reciprocal(_positive(x01)))
    y2 = _limited(right2 * inverse2) + from2 * y1
    y3 = _limited(right3 * inverse3) + to1 * y1 + to2 * y2
    return y1, y2, y3


@triton.jit
def _damping(omega):
    """``log(1 + omega) / omega``, 1 at 0."""
    return tl.where(omega < 1e-3, 1.0 - omega * (0.5 - omega * (1.0 / 3.0)), tl.log(1.0 + omega) / tl.maximum(omega, 1e-3))


@triton.jit
def _solve(tiles, view, mass, tolerance, sinkhorn_steps, newton_steps, P: tl.constexpr):
    """Potentials ``beta_m = b_m / epsilon``; those of demanders of mass 0 are as good as minus infinity."""
    d0, d1, d2, d3 = mass
    w0, w1, w2, w3 = d0, d1, d2, d3  # e^beta, or with log_domain beta
    if P.solver == 'sinkhorn':
        w0, w1, w2, w3 = 0.0 * d0 + 1.0, tl.where(d1 > 0, 1.0, d1), tl.where(d2 > 0, 1.0, d2), tl.where(d3 > 0, 1.0, d3)
    if P.log_domain:
        w0, w1, w2, w3 = _log(w0), _potential(w1), _potential(w2), _potential(w3)
    for _ in range(sinkhorn_steps):
        r0, r1, r2, r3 = _received(tiles, view, (w0, w1, w2, w3, 0.0 * d0), P)
        w0, w1, w2, w3 = _scaled(w0, d0, r0, P), _scaled(w1, d1, r1, P), _scaled(w2, d2, r2, P), _scaled(w3, d3, r3, P)
    b0, b1, b2, b3 = w0, w1, w2, w3
    if not P.log_domain:
        b0, b1, b2, b3 = _log(w0), _potential(w1), _potential(w2), _potential(w3)

    if P.solver == 'newton':
        step = 0
        going = newton_steps > 0
        while going:
            r0, r1, r2, r3, x01, x02, x03, x12, x13, x23 = _received_and_exchange(tiles, view, _weights(b0, b1, b2, b3, P), P)
            y1, y2, y3 = _solve_laplacian(x01, x02, x03, x12, x13, x23, d1 - r1, d2 - r2, d3 - r3)
            y1, y2, y3 = tl.where(d1 > 0, y1, 0.0), tl.where(d2 > 0, y2, 0.0), tl.where(d3 > 0, y3, 0.0)
            highest = tl.maximum(tl.maximum(y1, y2), tl.maximum(y3, 0.0))
            omega = highest - tl.minimum(tl.minimum(y1, y2), tl.minimum(y3, 0.0))
            damping = _damping(omega)
            b1 += damping * y1
            b2 += damping * y2
            b3 += damping * y3
            step += 1
            error = tl.abs(d0 - r0) + tl.abs(d1 - r1) + tl.abs(d2 - r2) + tl.abs(d3 - r3)
            # where something is not finite both comparisons with omega are false
            going = (step < newton_steps) & ((omega * error > 0.25 * tolerance) | (omega > 1.0))
    return b0, b1, b2, b3


# -------------------------------------------------------------------------------------------------------- cost and gradient
@triton.jit
def _priced(i, tile, view, weights, P: tl.constexpr):
    """Of each cell of a tile: shares, mean cost ``c``, and potential ``a`` (of ``sharp`` the first term, c)."""
    _, _, _, _, epsilon, dot = view
    c0, c1, c2, c3, r, top = _parts(tile, weights, P)
    s0, s1, s2, s3 = r * c0, r * c1, r * c2, r * c3
    reference, e1, e2, e3 = _costs(i, dot, P)
    c = reference + (s1 * e1 + s2 * e2 + s3 * e3)
    if P.potential == 'sharp':
        a = c
    else:
        log_r = _log_of_product(tile[0], r) if P.potential == 'shannon' else tl.log(r)
        a = reference + epsilon * (log_r - top)
    return s0, s1, s2, s3, c, a


@triton.jit
def _sharp(tiles, view, weights, P: tl.constexpr):
    """``u`` of ``L u = w`` (``gradient.py``), ``u_0 = 0``: pulls stay with their edges while demanders 3, 2, 1 go."""
    GROUPS: tl.constexpr = P.groups
    UNROLL: tl.constexpr = P.unroll
    _, _, _, _, _, dot = view
    x01 = _zeros(P)
    x02, x03, x12, x13, x23, q01, q02, q03, q12, q13, q23 = x01, x01, x01, x01, x01, x01, x01, x01, x01, x01, x01
    for g in range(GROUPS):
        for j in tl.static_range(UNROLL):
            tile = _tile_at(g, j, tiles, view, P)
            c0, c1, c2, c3, r, top = _parts(tile, weights, P)
            reference, e1, e2, e3 = _costs(g * P.unroll + j, dot, P)
            q = tile[0] * r
            p0, p1, p2 = q * c0, q * c1, q * c2
            s1, s2, s3 = r * c1, r * c2, r * c3
            x01 += p0 * s1
            x02 += p0 * s2
            x03 += p0 * s3
            x12 += p1 * s2
            x13 += p1 * s3
            x23 += p2 * s3
            q01 -= p0 * s1 * e1
            q02 -= p0 * s2 * e2
            q03 -= p0 * s3 * e3
            q12 += p1 * s2 * (e1 - e2)
            q13 += p1 * s3 * (e1 - e3)
            q23 += p2 * s3 * (e2 - e3)
    x01, x02, x03, x12 = _sum4((x01, x02, x03, x12), P)
    x13, x23, q01, q02 = _sum4((x13, x23, q01, q02), P)
    q03, q12, q13, q23 = _sum4((q03, q12, q13, q23), P)

    inverse3 = _reciprocal(_positive(x03 + x13 + x23))
    to0, to1, to2 = x03 * inverse3, x13 * inverse3, x23 * inverse3
    x01 += x03 * to1
    x02 += x03 * to2
    x12 += x13 * to2
    q01 += to1 * q03 - to0 * q13
    q02 += to2 * q03 - to0 * q23
    q12 += to2 * q13 - to1 * q23
    inverse2 = _reciprocal(_positive(x02 + x12))
    from0, from1 = x02 * inverse2, x12 * inverse2
    x01 += x02 * from1
    q01 += from1 * q02 - from0 * q12
    u1 = -q01 * _reciprocal(_positive(x01))
    u2 = from1 * u1 - (q02 + q12) * inverse2
    u3 = to1 * u1 + to2 * u2 - (q03 + q13 + q23) * inverse3
    return u1, u2, u3


@triton.jit(do_not_specialize=['sinkhorn_steps', 'newton_steps'])
def _emd_kernel(
    heatmap_ptr,  # (J, H, W) raw maps, any floating dtype
    target_ptr,  # (J, 2) dots, x then y; with P.dense (J, H, W) maps whose centres of mass are the dots
    cost_ptr,  # (J,) P.dtype, as all that follow
    error_ptr,  # (J,)
    dots_ptr,  # (J, 2), the dots as read
    gradient_ptr,  # (J, H, W); without P.gradient not touched
    epsilon_high,  # Triton passes Python's floats as float32: a float64 comes in two parts
    epsilon_low,
    tolerance,
    sinkhorn_steps,
    newton_steps,
    P: tl.constexpr,
):
    UNROLL: tl.constexpr = P.unroll
    GROUPS: tl.constexpr = P.groups
    joint = tl.program_id(0).to(tl.int64)
    heatmap_ptr += joint * P.cells
    gradient_ptr += joint * P.cells
    epsilon = tl.cast(epsilon_high, P.dtype) + tl.cast(epsilon_low, P.dtype)

    # demanders: Eq. 4, around the nearest cell
    if P.dense:
        x, y = _dense_dot(target_ptr + joint * P.cells, P)
    else:
        x = tl.load(target_ptr + 2 * joint).to(P.dtype)
        y = tl.load(target_ptr + 2 * joint + 1).to(P.dtype)
    if not P.subpixel:  # one demander: three of the four have mass 0
        x = tl.floor(x + 0.5)
        y = tl.floor(y + 0.5)
    tl.store(dots_ptr + 2 * joint, x)
    tl.store(dots_ptr + 2 * joint + 1, y)
    x = _clamped(x, P.width - 1)
    y = _clamped(y, P.height - 1)
    near_x, sign_x, far_x = _nearest(x, P.width - 1)
    near_y, sign_y, far_y = _nearest(y, P.height - 1)
    d0 = (1.0 - far_y) * (1.0 - far_x)
    d1 = (1.0 - far_y) * far_x
    d2 = far_y * (1.0 - far_x)
    d3 = far_y * far_x
    if P.unbiased:  # D' = R D, demanders.unbiased_mass
        side = tl.exp(-_cost(0.0 * x + 1.0, P) / epsilon)
        diagonal = tl.exp(-_cost(tl.sqrt(0.0 * x + 2.0), P) / epsilon)
        share = 1.0 / (1.0 + 2.0 * side + diagonal)
        edges = side * (d1 + d2)
        ends = side * (d0 + d3)
        d0, d3 = share * (d0 + edges + diagonal * d3), share * (d3 + edges + diagonal * d0)
        d1, d2 = share * (d1 + ends + diagonal * d2), share * (d2 + ends + diagonal * d1)

    # suppliers and K
    peak, total, soft_total, poison, masses = _survey(heatmap_ptr, P)
    view = (heatmap_ptr, peak, total, poison + 0.0 * x + 0.0 * y, epsilon, (near_x, near_y, sign_x, sign_y))
    tiles = ()
    if P.resident:
        for j in tl.static_range(UNROLL):
            tiles += (_tile(j, masses[j], view, P),)

    # potentials
    b0, b1, b2, b3 = _solve(tiles, view, (d0, d1, d2, d3), tolerance, sinkhorn_steps, newton_steps, P)
    weights = _weights(b0, b1, b2, b3, P)

    # cost <C, p> = sum_n S_n c_n, mean potential <a, S>, and how far the plan's column sums are from D
    a0 = _zeros(P)
    a1, a2, a3, cost, mean = a0, a0, a0, a0, a0
    for g in range(GROUPS):
        for j in tl.static_range(UNROLL):
            tile = _tile_at(g, j, tiles, view, P)
            s0, s1, s2, s3, c, a = _priced(g * P.unroll + j, tile, view, weights, P)
            a0 += tile[0] * s0
            a1 += tile[0] * s1
            a2 += tile[0] * s2
            a3 += tile[0] * s3
            cost += tile[0] * c
            mean += tile[0] * a
    r0, r1, r2, r3 = _sum4((a0, a1, a2, a3), P)
    cost, mean, _, _ = _sum4((cost, mean, mean, mean), P)
    tl.store(cost_ptr + joint, cost)
    tl.store(error_ptr + joint, tl.abs(d0 - r0) + tl.abs(d1 - r1) + tl.abs(d2 - r2) + tl.abs(d3 - r3))

    # dL/dH = rate (a - <a, S>)
    if P.gradient:
        u1, u2, u3 = cost, cost, cost  # read for sharp only
        if P.potential == 'sharp':
            u1, u2, u3 = _sharp(tiles, view, weights, P)
            mean = cost - (u1 * r1 + u2 * r2 + u3 * r3)
        for g in range(GROUPS):
            for j in tl.static_range(UNROLL):
                i = g * P.unroll + j
                tile = _tile_at(g, j, tiles, view, P)
                s0, s1, s2, s3, c, a = _priced(i, tile, view, weights, P)
                if P.potential == 'sharp':
                    a -= u1 * s1 + u2 * s2 + u3 * s3
                cells = i * P.tile + tl.arange(0, P.tile)
                rate = _rate(_read(i, heatmap_ptr, P), tile[0], peak, total, soft_total, P)
                tl.store(gradient_ptr + cells, rate * (a - mean), mask=cells < P.cells)


@triton.jit
def _scale_kernel(
    gradient_ptr,  # (J, cells) float32 or float64
    factor_ptr,  # (J,)
    output_ptr,  # (J, cells) any floating dtype
    cells,
    BLOCK: tl.constexpr,
):
    """``output = factor * gradient`` per joint; a factor of exactly 0 silences a joint even where its map is not finite."""
    joint = tl.program_id(0).to(tl.int64)
    cell = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = cell < cells
    factor = tl.load(factor_ptr + joint)
    gradient = tl.load(gradient_ptr + joint * cells + cell, mask=inside, other=0.0)
    scaled = tl.where(factor == 0, 0.0, gradient * factor.to(gradient.dtype))
    tl.store(output_ptr + joint * cells + cell, scaled.to(output_ptr.dtype.element_ty), mask=inside)


# Interpreted kernels run on CPU tensors, slowly: for tests (TRITON_INTERPRET=1 before Triton is imported).
INTERPRETED = not isinstance(_emd_kernel, triton.runtime.JITFunction)


# ----------------------------------------------------------------------------------------------------------------- launch
@dataclass(frozen=True)
class Launch:
    """How a map is laid over a multiprocessor.

    Attributes:
        num_warps: of 32 threads.
        tile: cells looked at together, a power of two.
        resident: whether the map stays in registers.
        registers: a thread's share at most; 128 let 512 threads run on a multiprocessor.
    """

    num_warps: int
    tile: int
    resident: bool
    registers: int = 128


def launch_of(cells: int, dtype: torch.dtype) -> Launch:
    """As few threads as can hold the map at ``CELLS_PER_THREAD``; without registers enough, a walk through tiles."""
    for num_warps in (4, 8, 16):
        tile = 32 * num_warps
        if cells * dtype.itemsize <= 4 * CELLS_PER_THREAD * tile:
            return Launch(num_warps, tile, True)
    return Launch(8, 256, False)


@functools.lru_cache(maxsize=64)
def plan_of(height: int, width: int, dtype: torch.dtype, options: EMDOptions, dense: bool, gradient: bool,
            launch: Launch | None = None) -> Plan:
    """The kernel for maps of this size under these options."""
    launch = launch or launch_of(height * width, dtype)
    return Plan(
        height=height, width=width, tile=launch.tile,
        unroll=triton.cdiv(height * width, launch.tile) if launch.resident else 2, resident=launch.resident,
        packed=not INTERPRETED, dtype=TL_DTYPE[dtype], dense=dense, gradient=gradient, supplier=options.supplier.name,
        sharpness=float(getattr(options.supplier, 'sharpness', 1.0)), potential=options.potential,
        unbiased=options.unbiased, subpixel=options.subpixel, solver=options.solver,
        scale=float(getattr(options.ground_distance, 'scale', 0.0)),
        log_domain=math.sqrt(2) / options.epsilon > LARGEST_EXPONENT[dtype],
    )


def emd_triton(heatmap: Tensor, target: Tensor, options: EMDOptions, gradient: bool, launch: Launch | None = None
               ) -> tuple[Tensor, ...]:
    """Cost (J,), marginal error (J,), converged (J,), dots (J, 2) and, if wanted, the gradient (J, H, W).

    Args:
        heatmap: (J, H, W) raw maps, any floating dtype.
        target: (J, 2) dots in cells, x then y, or (J, H, W) dense targets whose centres of mass are the dots.
        options: as for ``emd``.
        gradient: whether it is wanted; otherwise the last result is empty.
        launch: in place of ``launch_of``, for tuning.
    """
    joints, height, width = heatmap.shape
    dtype = torch.float64 if heatmap.dtype == torch.float64 else torch.float32
    launch = launch or launch_of(height * width, dtype)
    plan = plan_of(height, width, dtype, options, target.dim() == 3, gradient, launch)
    cost, error = heatmap.new_empty((2, joints), dtype=dtype)
    dots = heatmap.new_empty((joints, 2), dtype=dtype)
    slope = heatmap.new_empty(heatmap.shape if gradient else 0, dtype=dtype)
    steps = (WARM_UP, step_budget(options.epsilon)) if options.solver == 'newton' else (options.num_iters, 0)
    steps = steps if options.subpixel else (0, 0)  # a single demander: nothing to iterate
    tolerance = max(TOLERANCE[dtype], torch.finfo(dtype).eps / options.epsilon)
    high = ctypes.c_float(options.epsilon).value
    if joints:
        with torch.cuda.device_of(heatmap):  # Triton launches on the current device, whatever its arguments are on
            _emd_kernel[(joints,)](
                heatmap.contiguous(), target.contiguous(), cost, error, dots, slope, high, options.epsilon - high, tolerance,
                *steps, P=plan, num_warps=launch.num_warps, maxnreg=launch.registers,
            )
    return cost, error, error <= tolerance, dots, slope


def scale_triton(gradient: Tensor, factor: Tensor, dtype: torch.dtype) -> Tensor:
    """``factor[j] * gradient[j]`` (J, H, W) in ``dtype``, 0 where the factor is exactly 0: one read and one write."""
    output = torch.empty_like(gradient, dtype=dtype)
    joints, height, width = gradient.shape
    if joints:
        block = min(1024, triton.next_power_of_2(height * width))
        with torch.cuda.device_of(gradient):
            _scale_kernel[(joints, triton.cdiv(height * width, block))](
                gradient, factor.contiguous(), output, height * width, BLOCK=block)
    return output


def obstacle(heatmap: Tensor) -> str | None:
    """Why maps (J, H, W) like these are not for this file."""
    cells = heatmap.shape[1] * heatmap.shape[2]
    if cells > LARGEST_MAP:
        return f'heatmaps may have up to {LARGEST_MAP} cells, got {heatmap.shape[1]} x {heatmap.shape[2]}'
    return None
