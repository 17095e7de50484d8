r"""The default loss as two Triton programs: one joint each, its map read once forward and once backward.

What is computed, and why it is right, stands in ``local``, ``target``, ``demanders``, ``newton`` and ``companion``; this file only
agrees with them.  It knows one kind of loss: softmax suppliers, the product objective with unbiased demanders, a saturated distance,
the cross-entropy beside it.  ``obstacle`` refuses everything else by name.

With ``E = e^(-d / scale)`` costs are ``C = scale (1 - E)``, and a supplier enters through ``k = e^((scale - C) / epsilon) =
e^(E scale / epsilon)``: 1 wherever it is far away.  So all cells beyond a window of 32 x 32 round the dot's square are one supplier of
k = 1, cost ``scale`` and potential 0 (at 16 cells E is 1e-7), and the outside cell is part of it.  The window stays inside the map.

- The window is looked at from the dot: ``u`` and ``v`` count columns and rows from the *nearest* demander towards the others, which are
  then (0, 0), (1, 0), (0, 1), (1, 1).  Demander 0 has the largest mass and is the ground of Newton's Laplacian.
- ``w = e^(b / epsilon)`` sums to 1, so that the potential is ``-epsilon log sum_m w_m k_m``, 0 far away.
- Newton's loop ends with the step that solves the problem; what is left after it is measured.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda.libdevice import fast_logf

from .newton import step_budget

if TYPE_CHECKING:
    from .options import EMDOptions

# Interpreted kernels run on CPU tensors, slowly: for tests (TRITON_INTERPRET=1 before Triton is imported).
INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)
WINDOW = tl.constexpr(32)
CHUNK = tl.constexpr(1024)  # cells that a program reads at a time, four in a row by each thread
WARPS, REGISTERS = 4, 128  # of a program, of a thread: four programs share a multiprocessor
SAVED = tl.constexpr(10)  # numbers per joint for the backward pass
LARGEST_SCALE = 1.0  # e^-16, the error of a window of 32 x 32, stays below 2e-7
LARGEST_BLUR = 3.0  # cells, of which 5 fit between the dot and the window's edge
LARGEST_MAP, LARGEST_BATCH = 1 << 20, 65535  # cells that float32 counts, programs in a column of the grid
LARGEST_EXPONENT = 40.0  # of k, whose squares must stay in float32


@triton.jit
def _exp(x):
    """``e^x``; as a power of two it is two instructions."""
    return tl.exp2(x * 1.4426950408889634)


@triton.jit
def _log(x):
    """``log x`` in two instructions, to 1e-7 absolutely; Triton's own takes thirty."""
    return tl.log(x) if INTERPRETED else fast_logf(x)


@triton.jit
def _inverse(x):
    """``1 / x`` for x > 0 in two instructions."""
    root = tl.rsqrt(x)
    return root * root


@triton.jit
def _offset(cell, width, row_stride, column_stride, FLAT: tl.constexpr):
    """Where a cell lies; FLAT: rows follow one another as the cells in them do."""
    if FLAT:
        offset = cell * column_stride
    else:
        offset = cell // width * row_stride + cell % width * column_stride
    return offset


@triton.jit
def _gaussian(line_ptr, peak, size, stride):
    """Where the Gaussian through the three cells round the peak of a line is centred, and whether there is one."""
    middle = tl.minimum(tl.maximum(peak, 1), size - 2)
    fits = size >= 3
    before = tl.load(line_ptr + (middle - 1) * stride, mask=fits, other=0.0).to(tl.float32)
    at = tl.load(line_ptr + middle * stride, mask=fits, other=0.0).to(tl.float32)
    after = tl.load(line_ptr + (middle + 1) * stride, mask=fits, other=0.0).to(tl.float32)
    positive = tl.minimum(tl.minimum(before, at), after) > 0
    before, at, after = _log(tl.maximum(before, 1e-37)), _log(tl.maximum(at, 1e-37)), _log(tl.maximum(after, 1e-37))
    bend = (at - before) + (at - after)
    found = positive & (bend > 1e-6)
    return middle + 0.5 * (after - before) / tl.where(found, bend, 1.0), found


@triton.jit
def _moments(t, row, column):
    """Positive mass of a target's cells, and its sums of columns and rows counted from the peak."""
    t = tl.where(t < 0, 0.0, t)  # a NaN stays
    return tl.sum(t), tl.sum(t * column), tl.sum(t * row)


@triton.jit
def _axis(x, size):
    """Of one coordinate: lower cell, share of the upper one; from the nearer of the two: where it is, direction and share of the
    other; first cell of the window."""
    x = x + (x - x)  # an infinity, which no border stands for, is NaN
    x = tl.where(x < 0, 0.0, x)
    x = tl.where(x > size - 1, size - 1.0, x)
    low = tl.floor(x)
    low = tl.where(low > size - 2, size - 2.0, low)
    upper = x - low
    flipped = upper > 0.5
    start = tl.minimum(tl.maximum(low.to(tl.int32) - (WINDOW // 2 - 1), 0), tl.maximum(size - WINDOW, 0))
    return low, upper, low + tl.where(flipped, 1.0, 0.0), tl.where(flipped, -1.0, 1.0), tl.where(flipped, 1.0 - upper, upper), start


@triton.jit
def _spread(cell, low, upper, size, inverse_blur):
    """The companion's masses of the window's cells along one axis: bilinear, spread by a Gaussian symmetric about each of the two."""
    a = cell - low
    b = a - 1.0
    spread_a = tl.where(tl.abs(a) <= tl.minimum(low, size - 1 - low), _exp(-0.5 * (a * inverse_blur) * (a * inverse_blur)), 0.0)
    spread_b = tl.where(tl.abs(b) <= tl.minimum(low + 1, size - 2 - low), _exp(-0.5 * (b * inverse_blur) * (b * inverse_blur)), 0.0)
    return spread_a * ((1.0 - upper) / tl.sum(spread_a, 0)) + spread_b * (upper / tl.sum(spread_b, 0))


@triton.jit
def _seen_from(x, y, height, width):
    """Columns (1, WINDOW) and rows (WINDOW, 1) of the window, counted from the nearest demander of a dot towards the others."""
    _, _, near_x, sign_x, _, start_x = _axis(x, width)
    _, _, near_y, sign_y, _, start_y = _axis(y, height)
    cell = tl.arange(0, WINDOW)
    return ((start_x + cell - near_x) * sign_x)[None, :], ((start_y + cell - near_y) * sign_y)[:, None]


@triton.jit
def _view(maps_ptr, row_stride, column_stride, x, y, height, width, counts, inverse_blur):
    """The window: its rows and columns, which of its cells there are, the map there and the companion's dot; u and v; the dot, and
    the shares of the demanders across and down."""
    low_x, upper_x, _, _, far_x, start_x = _axis(x, width)
    low_y, upper_y, _, _, far_y, start_y = _axis(y, height)
    rows, columns = start_y + tl.arange(0, WINDOW), start_x + tl.arange(0, WINDOW)
    dot = (_spread(rows.to(tl.float32), low_y, upper_y, height, inverse_blur)[:, None]
           * _spread(columns.to(tl.float32), low_x, upper_x, width, inverse_blur)[None, :])
    u, v = _seen_from(x, y, height, width)
    rows, columns = rows[:, None], columns[None, :]
    inside = (rows < tl.where(counts, height, 0)) & (columns < width)
    h = tl.load(maps_ptr + rows * row_stride + columns * column_stride, mask=inside, other=0.0).to(tl.float32)
    return rows, columns, inside, h, dot, u, v, low_x + upper_x, low_y + upper_y, far_x, far_y


@triton.jit
def _nearness(u, v, scale):
    """``E_m = e^(-d_m / scale)`` of demanders (0, 0), (1, 0), (0, 1), (1, 1)."""
    factor = -1.4426950408889634 / scale
    uu, vv = u * u, v * v
    right, below = (u - 1.0) * (u - 1.0), (v - 1.0) * (v - 1.0)
    return (tl.exp2(tl.sqrt(uu + vv) * factor), tl.exp2(tl.sqrt(right + vv) * factor),
            tl.exp2(tl.sqrt(uu + below) * factor), tl.exp2(tl.sqrt(right + below) * factor))


@triton.jit
def _newton_step(x01, x02, x03, x12, x13, x23, right1, right2, right3):
    """``L y = right`` with ``y_0 = 0``: demanders 3, 2, 1 are eliminated in turn; times the damping; and the range of y."""
    TINY: tl.constexpr = 1e-34
    inverse3 = _inverse(tl.maximum(x03 + x13 + x23, TINY))
    to1, to2 = x13 * inverse3, x23 * inverse3
    right1 += right3 * to1
    right2 += right3 * to2
    inverse2 = _inverse(tl.maximum(x02 + x03 * to2 + x12 + x13 * to2, TINY))
    from2 = (x12 + x13 * to2) * inverse2
    right1 += right2 * from2
    y1 = right1 * _inverse(tl.maximum(x01 + x03 * to1 + (x02 + x03 * to2) * from2, TINY))
    y2 = right2 * inverse2 + from2 * y1
    y3 = right3 * inverse3 + to1 * y1 + to2 * y2
    high, low = tl.maximum(tl.maximum(y1, y2), tl.maximum(y3, 0.0)), tl.minimum(tl.minimum(y1, y2), tl.minimum(y3, 0.0))
    omega = tl.minimum(high - low, 1e30)
    damping = tl.where(omega < 1e-3, 1.0 - omega * (0.5 - omega / 3), _log(1.0 + omega) / tl.maximum(omega, 1e-3))
    return y1 * damping, y2 * damping, y3 * damping, omega


@triton.jit(do_not_specialize=['steps'], do_not_specialize_on_alignment=['weights_ptr'])
def _forward(
    maps_ptr, map_stride0, map_stride1, map_stride2, map_stride3,  # (B, K, H, W)
    target_ptr, target_stride0, target_stride1, target_stride2, target_stride3,  # (B, K, H, W); the last of (B, K, 2) is not read
    weights_ptr, weight_stride0, weight_stride1,  # (B, K); without WEIGHTED not read
    loss_ptr, cost_ptr, error_ptr,  # (B, K) float32
    dots_ptr, valid_ptr, saved_ptr,  # (B, K, 2) float32, (B, K) bool, (B, K, SAVED) float32
    height, width, cells,
    epsilon, scale, sharpness, companion, inverse_blur, outside,  # outside: logit / sharpness
    beside, across, steps,  # e^(-c(1) / epsilon), e^(-c(sqrt 2) / epsilon), Newton steps at most
    DENSE: tl.constexpr, WEIGHTED: tl.constexpr, FLAT_MAP: tl.constexpr, FLAT_TARGET: tl.constexpr,
):
    keypoint, batch = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    joint = batch * tl.num_programs(0) + keypoint
    maps_ptr += batch * map_stride0 + keypoint * map_stride1
    target_ptr += batch * target_stride0 + keypoint * target_stride1
    weight = tl.full((), 1.0, tl.float32)
    if WEIGHTED:
        weight = tl.load(weights_ptr + batch * weight_stride0 + keypoint * weight_stride1).to(tl.float32)
        weight = tl.where(weight > 0, weight, 0.0)
        cells = tl.where(weight > 0, cells, 0)  # a joint that does not count is not read
    rate = sharpness * 1.4426950408889634
    inverse_width = 1.0 / width

    # one walk over map and target: peak and mass of the softmax, peak and mass of the target
    LOWEST: tl.constexpr = -6e4 if maps_ptr.dtype.element_ty == tl.float16 else -1e30
    four = tl.arange(0, CHUNK // 4)[:, None] * 4 + tl.arange(0, 4)[None, :]
    high = tl.full([CHUNK // 4], LOWEST, tl.float32)
    low = tl.zeros([CHUNK // 4], tl.float32)
    total, mass = low, low
    best = tl.full([CHUNK // 4, 4], -1e30, tl.float32)
    place = tl.zeros([CHUNK // 4, 4], tl.int32)
    for start in range(0, cells, CHUNK):
        cell = start + four
        h = tl.load(maps_ptr + _offset(cell, width, map_stride2, map_stride3, FLAT_MAP), mask=cell < cells, other=LOWEST).to(tl.float32)
        higher = tl.maximum(high, tl.max(h, 1))
        total = total * tl.exp2(rate * (high - higher)) + tl.sum(tl.exp2(rate * (h - higher[:, None])), 1)
        high, low = higher, tl.minimum(low, tl.min(h, 1))
        if DENSE:
            t = tl.load(target_ptr + _offset(cell, width, target_stride2, target_stride3, FLAT_TARGET), mask=cell < cells, other=-1e30)
            t = t.to(tl.float32)
            place = tl.where(t > best, cell, place)
            best = tl.where(t > best, t, best)
            mass += tl.sum(tl.where(t < 0, 0.0, t), 1)
    top = tl.maximum(tl.max(high), outside)
    total = tl.sum(total * tl.exp2(rate * (high - top))) + tl.exp2(rate * (outside - top)) + 0.0 * tl.min(low)  # NaN for an infinity

    # the dot
    counts = weight > 0
    if DENSE:
        mass, peak = tl.sum(mass), tl.max(best)
        first = tl.min(tl.where(best == peak, place, cells))
        row = tl.floor((first + 0.5) * inverse_width).to(tl.int32)
        column = first - row * width
        peak += 0.0 * mass
        negative = counts & (peak < 0)
        counts = counts & ((peak > 1e-30) | (peak != peak))
        x, found_x = _gaussian(target_ptr + row * target_stride2, column, width, target_stride3)
        y, found_y = _gaussian(target_ptr + column * target_stride3, row, height, target_stride2)
        # or its centre of mass, counted from the peak: all of it within a cell, as usual, or one more walk
        i, j = (tl.arange(0, 4) - 1)[:, None], (tl.arange(0, 4) - 1)[None, :]
        around = (i < 2) & (j < 2) & (row + i >= 0) & (row + i < height) & (column + j >= 0) & (column + j < width)
        t = tl.load(target_ptr + (row + i) * target_stride2 + (column + j) * target_stride3, mask=around, other=0.0)
        compact, dx, dy = _moments(t.to(tl.float32), i, j)
        spread = (tl.abs(mass - compact) > 3e-7 * mass) & ((found_x & found_y) == 0)
        compact, dx, dy = tl.where(spread, mass, compact), tl.where(spread, 0.0, dx), tl.where(spread, 0.0, dy)
        for start in range(0, tl.where(spread, cells, 0), CHUNK):
            cell = start + four
            part = tl.load(target_ptr + _offset(cell, width, target_stride2, target_stride3, FLAT_TARGET), mask=cell < cells, other=0.0)
            line = tl.floor((cell + 0.5) * inverse_width)
            _, more_x, more_y = _moments(part.to(tl.float32), line - row, cell - line * width - column)
            dx += more_x
            dy += more_y
        compact = tl.where(counts, compact, 1.0)
        x = tl.where(found_x, x, column + dx / compact) + 0.0 * mass
        y = tl.where(found_y, y, row + dy / compact) + 0.0 * mass
    else:
        negative = weight < 0
        x = tl.load(target_ptr).to(tl.float32)
        y = tl.load(target_ptr + target_stride2).to(tl.float32)
    x, y = tl.where(counts, x, 0.0), tl.where(counts, y, 0.0)
    top, total = tl.where(counts, top, 0.0), tl.where(counts, total, 1.0)
    _, _, inside, h, dot, u, v, dot_x, dot_y, far_x, far_y = _view(
        maps_ptr, map_stride2, map_stride3, x, y, height, width, counts, inverse_blur)
    inverse_total = 1.0 / total
    unsaid = tl.where(negative, float('nan'), 0.0)
    saved_ptr += joint * SAVED
    tl.store(saved_ptr + 1, x)
    tl.store(saved_ptr + 2, y)
    tl.store(saved_ptr + 3, top)
    tl.store(saved_ptr + 4, inverse_total)
    tl.store(valid_ptr + joint, counts)
    tl.store(dots_ptr + 2 * joint, dot_x + unsaid)
    tl.store(dots_ptr + 2 * joint + 1, dot_y + unsaid)

    # demanders D' = R D (demanders.unbiased_mass)
    d0, d1, d2, d3 = (1.0 - far_x) * (1.0 - far_y), far_x * (1.0 - far_y), (1.0 - far_x) * far_y, far_x * far_y
    share = 1.0 / (1.0 + 2.0 * beside + across)
    sides, ends = beside * (d1 + d2), beside * (d0 + d3)
    d0, d3 = share * (d0 + sides + across * d3), share * (d3 + sides + across * d0)
    d1, d2 = share * (d1 + ends + across * d2), share * (d2 + ends + across * d1)

    # suppliers in the window and beyond it
    s = tl.where(inside, tl.exp2(rate * (h - top)), 0.0) * inverse_total
    rest = tl.maximum(1.0 - tl.sum(s), 0.0)
    cross_entropy = _log(total) - sharpness * tl.sum(tl.where(dot > 0, dot * (h - top), 0.0))
    e0, e1, e2, e3 = _nearness(u, v, scale)
    exponent = 1.4426950408889634 * scale / epsilon
    k1, k2, k3 = tl.exp2(exponent * (e1 - e0)), tl.exp2(exponent * (e2 - e0)), tl.exp2(exponent * (e3 - e0))  # in parts of k0

    # two steps of Sinkhorn, then Newton
    w0, w1, w2, w3 = d0, d1, d2, d3
    for _ in range(2):
        n1, n2, n3 = w1 * k1, w2 * k2, w3 * k3
        p = s * _inverse(w0 + n1 + n2 + n3)
        w0, w1 = d0 / (tl.sum(p) + rest), w1 * d1 / (tl.sum(n1 * p) + rest * w1)
        w2, w3 = w2 * d2 / (tl.sum(n2 * p) + rest * w2), w3 * d3 / (tl.sum(n3 * p) + rest * w3)
        norm = 1.0 / (w0 + w1 + w2 + w3)
        w0, w1, w2, w3 = w0 * norm, w1 * norm, w2 * norm, w3 * norm
    step = 0
    going = counts
    while going:
        n1, n2, n3 = w1 * k1, w2 * k2, w3 * k3
        inverse = _inverse(w0 + n1 + n2 + n3)
        p = s * inverse
        q = p * inverse
        r1, r2, r3 = tl.sum(n1 * p) + rest * w1, tl.sum(n2 * p) + rest * w2, tl.sum(n3 * p) + rest * w3
        x01, x02, x03 = (tl.sum(n1 * q) + rest * w1) * w0, (tl.sum(n2 * q) + rest * w2) * w0, (tl.sum(n3 * q) + rest * w3) * w0
        x12 = tl.sum(n1 * n2 * q) + rest * w1 * w2
        x13 = tl.sum(n1 * n3 * q) + rest * w1 * w3
        x23 = tl.sum(n2 * n3 * q) + rest * w2 * w3
        y1, y2, y3, omega = _newton_step(x01, x02, x03, x12, x13, x23, d1 - r1, d2 - r2, d3 - r3)
        w1, w2, w3 = w1 * _exp(y1), w2 * _exp(y2), w3 * _exp(y3)
        norm = 1.0 / (w0 + w1 + w2 + w3)
        w0, w1, w2, w3 = w0 * norm, w1 * norm, w2 * norm, w3 * norm
        step += 1
        error = tl.abs(d1 - r1) + tl.abs(d2 - r2) + tl.abs(d3 - r3)
        going = (step < steps) & ((omega * error > 1e-7) | (omega > 1.0))  # false where something is no number

    # cost sum_n S_n sum_m share_nm C_nm, mean potential <f, S>, and how far the plan's column sums are from D'
    e0, e1, e2, e3 = _nearness(u + 0.0 * w0, v + 0.0 * w0, scale)  # anew: what is kept must fit into the registers
    n0, n1 = w0 * tl.exp2(exponent * e0), w1 * tl.exp2(exponent * e1)
    n2, n3 = w2 * tl.exp2(exponent * e2), w3 * tl.exp2(exponent * e3)
    z = n0 + n1 + n2 + n3
    p = s * _inverse(z)
    cost = scale * (tl.sum(p * (n0 * (1.0 - e0) + n1 * (1.0 - e1) + n2 * (1.0 - e2) + n3 * (1.0 - e3))) + rest)
    mean = -epsilon * tl.sum(s * _log(z))
    r0, r1 = tl.sum(n0 * p) + rest * w0, tl.sum(n1 * p) + rest * w1
    r2, r3 = tl.sum(n2 * p) + rest * w2, tl.sum(n3 * p) + rest * w3
    error = tl.abs(d0 - r0) + tl.abs(d1 - r1) + tl.abs(d2 - r2) + tl.abs(d3 - r3)

    weight = tl.where(counts, weight, 0.0)
    tl.store(loss_ptr + joint, tl.where(counts, weight * (cost + companion * cross_entropy), 0.0))
    tl.store(cost_ptr + joint, tl.where(counts, cost, 0.0))
    tl.store(error_ptr + joint, tl.where(counts, error, 0.0))
    tl.store(saved_ptr, weight)
    tl.store(saved_ptr + 5, mean)
    tl.store(saved_ptr + 6, w0)
    tl.store(saved_ptr + 7, w1)
    tl.store(saved_ptr + 8, w2)
    tl.store(saved_ptr + 9, w3)


@triton.jit
def _backward(
    maps_ptr, map_stride0, map_stride1, map_stride2, map_stride3,  # (B, K, H, W)
    gradient_ptr, gradient_stride0, gradient_stride1, gradient_stride2, gradient_stride3,  # (B, K, H, W)
    grad_ptr, grad_stride0, grad_stride1,  # (B, K)
    saved_ptr,  # (B, K, SAVED) float32
    height, width, cells,
    epsilon, scale, sharpness, companion, inverse_blur,
    FLAT_MAP: tl.constexpr, FLAT_GRADIENT: tl.constexpr,
):
    keypoint, batch = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    joint = batch * tl.num_programs(0) + keypoint
    maps_ptr += batch * map_stride0 + keypoint * map_stride1
    gradient_ptr += batch * gradient_stride0 + keypoint * gradient_stride1
    saved_ptr += joint * SAVED
    weight, x, y = tl.load(saved_ptr), tl.load(saved_ptr + 1), tl.load(saved_ptr + 2)
    top, inverse_total, mean = tl.load(saved_ptr + 3), tl.load(saved_ptr + 4), tl.load(saved_ptr + 5)
    w0, w1, w2, w3 = tl.load(saved_ptr + 6), tl.load(saved_ptr + 7), tl.load(saved_ptr + 8), tl.load(saved_ptr + 9)
    factor = tl.load(grad_ptr + batch * grad_stride0 + keypoint * grad_stride1).to(tl.float32)
    factor = tl.where((factor == 0) | (weight == 0), 0.0, factor * weight * sharpness)
    counts = factor != 0
    rate = sharpness * 1.4426950408889634
    slope = factor * inverse_total

    # S (f - <f, S>) + companion S with f = 0, everywhere
    level = slope * (companion - mean)
    count = tl.where(counts, cells, 0)  # what is not wanted is not read
    four = tl.arange(0, CHUNK // 4)[:, None] * 4 + tl.arange(0, 4)[None, :]
    for start in range(0, cells, CHUNK):
        cell = start + four
        h = tl.load(maps_ptr + _offset(cell, width, map_stride2, map_stride3, FLAT_MAP), mask=cell < count, other=0.0)
        g = tl.where(counts, tl.exp2(rate * (h.to(tl.float32) - top)) * level, 0.0)
        tl.store(gradient_ptr + _offset(cell, width, gradient_stride2, gradient_stride3, FLAT_GRADIENT),
                 g.to(gradient_ptr.dtype.element_ty), mask=cell < cells)

    # and anew in the window, where f and the dot are not 0
    tl.debug_barrier()
    rows, columns, inside, h, dot, u, v, _, _, _, _ = _view(
        maps_ptr, map_stride2, map_stride3, x, y, height, width, counts, inverse_blur)
    e0, e1, e2, e3 = _nearness(u, v, scale)
    exponent = 1.4426950408889634 * scale / epsilon
    z = w0 * tl.exp2(exponent * e0) + w1 * tl.exp2(exponent * e1) + w2 * tl.exp2(exponent * e2) + w3 * tl.exp2(exponent * e3)
    g = tl.exp2(rate * (h - top)) * slope * (companion - mean - epsilon * _log(z)) - factor * companion * dot
    tl.store(gradient_ptr + rows * gradient_stride2 + columns * gradient_stride3, g.to(gradient_ptr.dtype.element_ty), mask=inside)


def _flat(maps: Tensor) -> bool:
    return maps.stride(-2) == maps.shape[-1] * maps.stride(-1)


@functools.lru_cache(maxsize=64)
def _numbers(options: EMDOptions) -> tuple[float, ...]:
    return tuple(options.numbers.tolist())


def _arguments(options: EMDOptions) -> tuple[float, ...]:
    """epsilon, scale, sharpness, companion's weight, 1 / its blur, logit of the outside cell / sharpness."""
    epsilon, scale, sharpness, companion, blur, outside = _numbers(options)
    return epsilon, scale, sharpness, companion, 1 / max(blur, 1e-4), outside / sharpness


def forward(maps: Tensor, target: Tensor, weights: Tensor | None, options: EMDOptions) -> tuple[Tensor, ...]:
    """The loss of each joint and what the backward pass needs.

    Args:
        maps: (B, K, H, W) raw maps, any strides; float16, bfloat16 or float32.
        target: (B, K, H, W) dense, or (B, K, 2) dots in heatmap cells, x then y.
        weights: (B, K), or None for 1; what is not positive counts as 0.
        options: for which ``obstacle`` is None.

    Returns:
        ``loss``, ``cost``, ``error`` (B, K) float32, ``dots`` (B, K, 2), ``valid`` (B, K) bool, ``saved`` (B, K, SAVED).  All are 0
        where a joint does not count.
    """
    batch, keypoints, height, width = maps.shape
    loss, cost, error = (maps.new_empty((batch, keypoints), dtype=torch.float32) for _ in range(3))
    valid = maps.new_empty((batch, keypoints), dtype=torch.bool)
    dots, saved = (maps.new_empty((batch, keypoints, count), dtype=torch.float32) for count in (2, SAVED.value))
    epsilon, scale, *numbers = _arguments(options)
    beside, across = (math.exp(scale * math.expm1(-distance / scale) / epsilon) for distance in (1, math.sqrt(2)))
    dense = target.dim() == 4
    if batch * keypoints:
        with torch.cuda.device_of(maps):  # Triton launches on the current device, whatever its arguments are on
            _forward[(keypoints, batch)](
                maps, *maps.stride(), target, *target.stride(), *(() if dense else (0,)),
                *((maps, 0, 0) if weights is None else (weights, *weights.stride())),
                loss, cost, error, dots, valid, saved, height, width, height * width,
                epsilon, scale, *numbers, beside, across, step_budget(epsilon),
                DENSE=dense, WEIGHTED=weights is not None, FLAT_MAP=_flat(maps), FLAT_TARGET=dense and _flat(target),
                num_warps=WARPS, maxnreg=REGISTERS,
            )
    return loss, cost, error, dots, valid, saved


def backward(maps: Tensor, target: Tensor, saved: Tensor, grad: Tensor, options: EMDOptions) -> Tensor:
    """``grad[b, k] * dloss[b, k] / dmaps`` (B, K, H, W) in the dtype of maps, exactly 0 where a joint does not count or grad is 0.

    Args:
        maps, target, options: as given to ``forward``.
        saved: its last result.
        grad: (B, K), any strides.
    """
    batch, keypoints, height, width = maps.shape
    gradient = torch.empty_like(maps)
    if batch * keypoints:
        with torch.cuda.device_of(maps):
            _backward[(keypoints, batch)](
                maps, *maps.stride(), gradient, *gradient.stride(), grad, *grad.stride(), saved, height, width,
                height * width, *_arguments(options)[:5], FLAT_MAP=_flat(maps), FLAT_GRADIENT=_flat(gradient), num_warps=WARPS,
            )
    return gradient


def obstacle(maps: Tensor, target: Tensor, options: EMDOptions) -> str | None:
    """Why this file does not compute this, or None."""
    for name, has, wants in (
        ('supplier', options.supplier.name, 'softmax'), ('objective', options.objective, 'product'),
        ('unbiased', options.unbiased, True), ('ground_distance', options.ground_distance.name, 'saturated'),
        ('subpixel', options.subpixel, True), ('solver', options.solver, 'newton'),
    ):
        if has != wants:
            return f'the kernel knows {name}={wants!r} only, got {has!r}'
    epsilon, scale, _, _, blur, _ = _numbers(options)
    whole = max(maps.shape[-2:]) <= WINDOW.value
    if not whole and (scale > LARGEST_SCALE or blur > LARGEST_BLUR):
        return (f'maps of more than {WINDOW.value} x {WINDOW.value} cells need a ground distance of scale <= {LARGEST_SCALE} and '
                f'cross_entropy_blur <= {LARGEST_BLUR}, got {scale} and {blur} for {maps.shape[-2]} x {maps.shape[-1]} cells')
    if scale > LARGEST_EXPONENT * epsilon:
        return f'epsilon must be at least scale / {LARGEST_EXPONENT}, got epsilon {epsilon} and scale {scale}'
    if maps.shape[-2] * maps.shape[-1] > LARGEST_MAP or maps.shape[0] > LARGEST_BATCH:
        return f'maps may have up to {LARGEST_MAP} cells and batches {LARGEST_BATCH} samples, got {tuple(maps.shape)}'
    if maps.dtype not in (torch.float16, torch.bfloat16, torch.float32):
        return f'maps must be float16, bfloat16 or float32, got {maps.dtype}'
    return None
