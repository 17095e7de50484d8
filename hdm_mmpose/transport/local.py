r"""Transport in a window round the dot: exact in float32 when the ground distance saturates, at a few passes over the map.

Far from the dot a saturated distance costs ``limit`` whichever demander the mass goes to.  So all far cells behave as one
supplier of cost ``limit``, whose mass is shared as the demanders' masses weigh, and only a window of cells needs a solver.

- **Two windows.**  Costs and potentials are evaluated on the cells within ``reach(1e-7)`` of the dot's square (32 x 32 for a
  scale of 1).  The demander potentials are solved for on a smaller one (10 x 10 for epsilon = 0.5): everything outside it is
  one more supplier, which carries the mass-weighted *mean* of the kernel ``exp(-excess / epsilon)``, so that what is lost is of
  second order.  ``docs/method.md`` has the measured errors.
- **One table.**  The window is counted from the *nearest* demander towards the other ones, so that the demanders are always
  (0, 0), (1, 0), (0, 1), (1, 1) and costs and kernel are the same numbers for all joints: no square root, no exponential per
  joint, and an iteration is three small matrix products.  Demander 0 has the largest mass, which fixes the elimination's order.
- **Weights instead of potentials.**  ``w_m = exp(b_m / epsilon)``, 0 for a demander without mass: nothing is masked.

What is solved, and why the solver is right, stands in ``semi_dual`` and ``newton``; far cells serve as the zero of all potentials.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import torch
from torch import Tensor

from .companion import dot_masses
from .demanders import clamp, unbiased_mass
from .gradient import SMALLEST
from .ground_distance import GroundDistance
from .options import EMDOptions
from .suppliers import Softmax, compute_dtype
from .target import Annotation, annotate, may_look

FAR = 1.2e-7  # of the limit: what float32 does not see
MEAN = 0.0135  # of epsilon: differences of cost that their mean may stand for
LARGEST_EXPONENT = 40.0  # of a kernel's entry: what float32 holds with room for products
SMALLEST_LOG = math.log(1e-30)  # of a mass beside the largest; less is nothing: denormals take a processor many times as long
PAIRS = ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3))
SINKHORN_STEPS = 2
CHUNK_CELLS = 1 << 18  # of a processor: what is worked on stays in its cache, and memory is used again


def newton_steps(epsilon: float) -> int:
    return min(64, math.ceil(2 + 0.6 / epsilon))


class Table(NamedTuple):
    """What is the same for all joints; n cells of the evaluated window, k of the solved one.

    Attributes:
        x, y: columns and rows of the window, counted from the nearest demander towards the others.
        inner: the solved window in the evaluated one, two slices.
        reference: (n,) cost to demander 0.
        kernel: (4, n) ``exp(-excess / epsilon)``.
        costly: (4, n) ``kernel * excess``.
        ring: (n, 4) kernel of the cells that are evaluated and not solved.
        solved: (4, k) kernel.
        pairs: (6, k) products of the kernel for two demanders, ``first`` and ``second`` (6,) of ``PAIRS``.
        corner: row and column of the nearest demander in the window.
        limit: the cost of a far cell.
    """

    x: Tensor
    y: Tensor
    inner: tuple[slice, slice]
    reference: Tensor
    kernel: Tensor
    costly: Tensor
    ring: Tensor
    solved: Tensor
    pairs: Tensor
    first: Tensor
    second: Tensor
    corner: tuple[int, int]
    limit: float

    def corner_of(self, values: Tensor) -> Tensor:
        """(J, 2, 2) the demanders' cells, y then x, of values (J, n) in the window: a view."""
        y, x = self.corner
        return values.view(-1, len(self.y), len(self.x))[:, y : y + 2, x : x + 2]


def radii(distance: GroundDistance, epsilon: float, size: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Half of the height and width of the evaluated and of the solved window."""
    outer = math.ceil(distance.reach(FAR) - 0.01)
    inner = math.ceil(distance.reach(min(0.5, MEAN * epsilon / distance.limit)))
    outer = max(outer, inner)
    return (min(outer, size[0]), min(outer, size[1])), (min(inner, size[0]), min(inner, size[1]))


@functools.lru_cache(maxsize=64)
def is_local(options: EMDOptions, dtype: torch.dtype, size: tuple[int, int]) -> bool:
    """Whether this path computes maps of this size: the distance saturates within them, and float32 is asked for."""
    distance = options.ground_distance
    if dtype == torch.float64 or options.solver != 'newton' or options.objective == 'sharp':
        return False
    if not math.isfinite(distance.limit) or not math.isfinite(distance.reach(FAR)):
        return False
    widest = float(distance.cost(torch.tensor(2**0.5, dtype=torch.float64, device='cpu')))
    (height, width) = radii(distance, options.epsilon, size)[1]
    return widest / options.epsilon <= LARGEST_EXPONENT and 4 * height * width <= size[0] * size[1]


@functools.lru_cache(maxsize=16)
def table(distance: GroundDistance, epsilon: float, size: tuple[int, int], dtype: torch.dtype, device: torch.device) -> Table:
    (outer_y, outer_x), (inner_y, inner_x) = radii(distance, epsilon, size)
    x, y = (torch.arange(1 - outer, outer + 1, device=device) for outer in (outer_x, outer_y))
    wide_x, wide_y = x.double(), y.double()
    square = torch.stack([(wide_y - j)[:, None] ** 2 + (wide_x - i) ** 2 for j in (0, 1) for i in (0, 1)])  # (4, y, x)
    far = square.sqrt()
    excess = distance.excess(far[0], (square - square[0]) / (far + far[0]).clamp(min=1e-30))
    kernel = (excess / -epsilon).exp()
    inner = (slice(outer_y - inner_y, outer_y + inner_y), slice(outer_x - inner_x, outer_x + inner_x))
    solved = kernel[:, inner[0], inner[1]].flatten(1)
    ring = kernel.clone()
    ring[:, inner[0], inner[1]] = 0
    first, second = torch.tensor(PAIRS, device=device).unbind(1)
    pairs = solved[first] * solved[second]
    return Table(
        x, y, inner, distance.cost(far[0]).flatten().to(dtype), kernel.flatten(1).to(dtype), (kernel * excess).flatten(1).to(dtype),
        ring.flatten(1).T.contiguous().to(dtype), solved.to(dtype), pairs.to(dtype), first, second,
        (outer_y - 1, outer_x - 1), distance.limit)


class Solution(NamedTuple):
    """Per joint: weights (J, 4) for which ``sum_m w_m K_m = 1`` at the nearest demander, marginal error, mass in and beyond the window."""

    weight: Tensor
    error: Tensor
    held: Tensor
    beyond: Tensor


def solve(cells: Tensor, unit: Tensor, mass: Tensor, table: Table, steps: int) -> Solution:
    """Solve for the demanders' weights.

    Args:
        cells: (J, n) supplier masses in the window, in a ``unit`` (J,); 0 outside the map.
        mass: (J, 4) of the demanders, nearest first.
        steps: of Newton, at most.
    """
    inside = cells.view(-1, len(table.y), len(table.x))[:, table.inner[0], table.inner[1]].flatten(1) * unit[:, None]
    ring, held = times(cells, table.ring) * unit[:, None], cells.sum(-1) * unit
    # a matrix product adds up in sequence, and loses digits that only a mean can spare
    lump = (1 - inside.sum(-1)).clamp(min=0)
    beyond = (1 - held).clamp(min=0)
    beyond_or_nothing = (beyond + torch.finfo(ring.dtype).tiny)[:, None]  # 1 is as good a mean as any where there is nothing outside
    mean = (ring + beyond_or_nothing) / (ring[:, :1] + beyond_or_nothing)
    mean_pairs = mean.index_select(1, table.first) * mean.index_select(1, table.second)
    weight, look = mass, may_look(mass)
    for step in range(SINKHORN_STEPS + steps + 1):
        total = times(weight, table.solved)
        ratio = inside / total
        lump_total = (weight * mean).sum(-1)
        lump_ratio = lump / lump_total
        pulled = times(ratio, table.solved.T) + mean * lump_ratio[:, None]
        received = weight * pulled
        missing = mass - received
        error = missing.abs().sum(-1)
        # "not >" lets joints that are not finite count as finished
        if step == SINKHORN_STEPS + steps or (look and not (error > 5e-7).any()):
            break
        if step < SINKHORN_STEPS:
            weight = mass / pulled
            continue
        exchange = times(ratio / total, table.pairs.T) + mean_pairs * (lump_ratio / lump_total)[:, None]
        exchange = exchange * weight.index_select(1, table.first) * weight.index_select(1, table.second)
        weight = weight * newton_factor(exchange, missing)
    nearest = table.kernel[:, table.corner[0] * len(table.x) + table.corner[1]]
    return Solution(weight / (weight * nearest).sum(-1, keepdim=True), error, held, beyond)


def newton_factor(exchange: Tensor, missing: Tensor) -> Tensor:
    """``exp`` of the damped Newton step (J, 4) in units of epsilon (``newton.py``).

    The elimination of ``laplacian.solve_laplacian`` written out, last demander first, demander 0 at rest.

    Args:
        exchange: (J, 6) edge weights of ``PAIRS``.
        missing: (J, 4) mass.
    """
    least = torch.finfo(exchange.dtype).tiny * 1e4
    w01, w02, w03, w12, w13, w23 = exchange.unbind(-1)
    _, m1, m2, m3 = missing.unbind(-1)
    degree = (w03 + w13 + w23).clamp(min=least)
    head3, flow31, flow32 = (m3 / degree).clamp(-1e30, 1e30), w13 / degree, w23 / degree
    m1, m2 = m1 + m3 * flow31, m2 + m3 * flow32
    w01, w02, w12 = w01 + w03 * flow31, w02 + w03 * flow32, w12 + w13 * flow32
    degree = (w02 + w12).clamp(min=least)
    head2, flow21 = (m2 / degree).clamp(-1e30, 1e30), w12 / degree
    m1, w01 = m1 + m2 * flow21, w01 + w02 * flow21
    x1 = (m1 / w01.clamp(min=least)).clamp(-1e30, 1e30)
    x2 = head2 + flow21 * x1
    x3 = head3 + flow31 * x1 + flow32 * x2
    delta = torch.stack([torch.zeros_like(x1), x1, x2, x3], -1)
    omega = (delta.amax(-1) - delta.amin(-1)).clamp(min=torch.finfo(delta.dtype).tiny)
    return (delta * (omega.log1p() / omega)[:, None]).exp()


def times(left: Tensor, right: Tensor) -> Tensor:
    """Matrix product in full precision: a GPU may round one to TF32."""
    if left.device.type == 'cpu':
        return left @ right
    if left.shape[1] > right.shape[1]:
        return torch.stack([(left * column).sum(-1) for column in right.unbind(1)], -1)
    product = left[:, :1] * right[0]
    for m in range(1, len(right)):
        product = product.addcmul_(left[:, m, None], right[m])
    return product


def forward(
    maps: Tensor, target: Tensor, weights: Tensor | None, options: EMDOptions, wants_gradient: bool = True
) -> tuple[Tensor, ...]:
    """Where ``is_local``: (loss, cost, error, dots, valid, gradient), each (B, K, ...), ``gradient`` empty unless wanted.

    Under the softmax rule the loss includes the cross-entropy: its gradient is ``sharpness (S - D)`` on the same ``S``.
    """
    (batch, joints, *size), dtype = maps.shape, compute_dtype(maps)
    note = annotate(target, weights, options, dtype, (size[0], size[1]))
    window = table(options.ground_distance, options.epsilon, (size[0], size[1]), dtype, maps.device)
    flat = one_more(maps, dtype) if wants_gradient else None
    step = batch if maps.device.type != 'cpu' else CHUNK_CELLS // max(1, joints * size[0] * size[1])
    found = []
    for first in range(0, max(1, batch), max(1, step)):
        some = maps[first : first + max(1, step)]
        part = slice(first * joints, (first + len(some)) * joints)
        cells = slice(part.start * size[0] * size[1], part.stop * size[0] * size[1] + 1)
        found.append(_some(some, Annotation(*(each[part] for each in note)), options, window, None if flat is None else flat[cells]))
    loss, cost, error = (torch.cat(each) for each in zip(*found))
    loss = torch.where(note.valid, note.weight * loss, 0.0)
    gradient = note.dots.new_empty(0) if flat is None else silence(flat[:-1].view(len(loss), -1), note.valid).view(maps.shape)
    return (*(each.view(batch, joints, *each.shape[1:]) for each in (loss, cost, error, note.dots, note.valid)), gradient)


def _some(maps: Tensor, note: Annotation, options: EMDOptions, window: Table, out: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """(J,) loss without its weight, cost and marginal error of maps (B, K, H, W); the gradient goes to ``out`` (J N + 1,)."""
    view = look_at(note.dots, (maps.shape[2], maps.shape[3]), window)
    rule = options.supplier
    supply = read_softmax(maps, view, options, rule.sharpness) if type(rule) is Softmax else read_rule(maps, view, options)
    cells = view.of(supply.masses)
    mass = unbiased_mass(view.mass, options.epsilon, options.ground_distance) if options.unbiased else view.mass
    found = solve(cells, supply.unit, mass, window, newton_steps(options.epsilon))
    total = times(found.weight, window.kernel)
    mean_cost = torch.addcdiv(window.reference, times(found.weight, window.costly), total)
    cost = window.limit * found.beyond + (cells * mean_cost).sum(-1) * supply.unit + supply.poison
    companion = options.cross_entropy_weight
    loss = cost + companion * supply.cross_entropy
    if out is None:
        return loss, cost, found.error
    # potentials count from that of the nearest demander's cell: near it they are small, and keep their digits
    potential = torch.add(window.reference, total.log_(), alpha=-options.epsilon, out=mean_cost)
    far = window.limit - options.epsilon * found.weight.sum(-1).log()
    inside, logarithm = (cells * potential).sum(-1) * supply.unit, None
    # the mean potential, from that of the nearest demander's cell and from that of the far cells
    mean, below = inside + found.beyond * far, far * found.held - inside
    masses, rate = rows_of(supply.masses, len(cost)), rows_of(supply.rate, len(cost))
    if options.objective == 'shannon':
        logarithm = (masses * supply.unit[:, None]).clamp_(min=SMALLEST).log_().mul_(options.epsilon)
        entropy = (logarithm * masses).sum(-1) * supply.unit
        mean, below = mean + entropy, below - entropy
    weight = note.weight * supply.slope
    factor = weight * supply.unit
    near = cells if supply.rate is supply.masses else view.of(supply.rate)
    near = potential.add_((companion - mean + supply.poison)[:, None]).mul_(near.mul_(factor[:, None]))
    if companion and supply.dense is None:
        window.corner_of(near).sub_((companion * weight[:, None] * view.mass).view(-1, 2, 2))
    gradient = torch.mul(rate, (factor * (companion + below + supply.poison))[:, None], out=rows_of(out, len(cost)))
    out.scatter_(0, view.cells, near.flatten())  # of cells that are not on the map into the last entry, which is nobody's
    if logarithm is not None:
        gradient.addcmul_(logarithm.mul_(rate), factor[:, None])
    if companion and supply.dense is not None:
        gradient.addcmul_(supply.dense, (weight * companion)[:, None], value=-1)
    return loss, cost, found.error


def silence(gradient: Tensor, speaks: Tensor) -> Tensor:
    """Maps (..., H, W) or rows (..., N) of joints that do not speak (...) set to 0, whatever they hold."""
    if not may_look(speaks):
        return torch.where(speaks.view(*speaks.shape, *[1] * (gradient.dim() - speaks.dim())), gradient, 0.0)
    if not speaks.all():
        gradient[~speaks] = 0
    return gradient


class View(NamedTuple):
    """Where the window of each joint lies on its map.

    Attributes:
        cells: (J n,) in the flat maps (J N,), ``J N`` for cells that are not on the map.
        mass: (J, 4) bilinear masses of the demanders, nearest first.
        corner: (J, 4) their cells in the flat map (N,).
        dots: (J, 2)
    """

    cells: Tensor
    mass: Tensor
    corner: Tensor
    dots: Tensor

    def of(self, flat: Tensor) -> Tensor:
        """(J, n) the window's cells of maps (J N + 1,)."""
        return flat.index_select(0, self.cells).view(len(self.dots), -1)


def look_at(dots: Tensor, size: tuple[int, int], table: Table) -> View:
    """Find the window of each dot (J, 2) on maps of this size (H, W)."""
    somewhere = dots.nan_to_num(nan=0.0)
    near = clamp((somewhere + 0.5).floor(), size)
    on_border = near == clamp(near + 1, size)
    ahead = torch.where((somewhere >= near) & ~on_border, 1, -1)  # the square stays on the map
    off = (dots - near).abs()
    beside = torch.stack([1 - off, off], -1)  # (J, x and y, near and far)
    mass = (beside[:, 1, :, None] * beside[:, 0, None, :]).flatten(1)
    start = near.long()
    column, row = start[:, :1] + ahead[:, :1] * table.x, start[:, 1:] + ahead[:, 1:] * table.y
    first = torch.arange(len(dots), device=dots.device)[:, None] * (size[0] * size[1])
    nowhere = len(dots) * size[0] * size[1]
    rows = torch.where((row >= 0) & (row < size[0]), row * size[1] + first, nowhere)
    columns = torch.where((column >= 0) & (column < size[1]), column, nowhere)
    index = (rows[:, :, None] + columns[:, None]).clamp_(max=nowhere)
    corner = (table.corner_of(index.flatten(1)) - first[..., None]).flatten(1)
    return View(index.flatten(), mass, corner, dots)


class Supply(NamedTuple):
    """Suppliers ``S = masses unit`` and ``dS_k / dH_n = slope unit rate_n ((k == n) - S_k)``.

    Attributes:
        masses: (J N + 1,), see ``one_more``.
        rate: (J N + 1,); the very same tensor as ``masses`` for a softmax.
        unit: (J,)
        slope: a number.
        cross_entropy: (J,) with the dot, in nats; 0 where it is not wanted.
        dense: (J, N) what it pulls up, as ``slope`` times this; None for the softmax of the dot's four masses.
        poison: (J,) 0, or NaN for a map that is not finite.
    """

    masses: Tensor
    rate: Tensor
    unit: Tensor
    slope: float
    cross_entropy: Tensor | float
    dense: Tensor | None
    poison: Tensor


def read_rule(maps: Tensor, view: View, options: EMDOptions) -> Supply:
    """Suppliers of maps (B, K, H, W) by any rule, and the cross-entropy."""
    wide, rule = maps.to(compute_dtype(maps)), options.supplier
    cross_entropy: Tensor | float = 0.0
    dense: Tensor | None = None
    masses, rate = rule.masses_and_rate(wide)
    flat_masses, flat_rate = one_more(maps, wide.dtype), one_more(maps, wide.dtype)
    for buffer, values in ((flat_masses, masses), (flat_rate, rate)):
        buffer[:-1].view(maps.shape).copy_(values)
    if options.cross_entropy_weight:
        dense = dot_masses(view.dots, (maps.shape[2], maps.shape[3]), options.cross_entropy_blur)
        wide = wide.flatten(0, 1)
        cross_entropy = -(dense * rule.log_masses(wide)).sum((1, 2))
        dense = dense.mul_(rule.log_slope(wide)).flatten(1)
    poison = masses[..., 0, 0].flatten() * 0
    return Supply(flat_masses, flat_rate, torch.ones_like(poison), 1.0, cross_entropy, dense, poison)


def one_more(maps: Tensor, dtype: torch.dtype) -> Tensor:
    """(J N + 1,) uninitialised, but for the last entry, which is 0: the value of cells that are not on the map."""
    flat = maps.new_empty(maps.numel() + 1, dtype=dtype)
    flat[-1] = 0
    return flat


def rows_of(flat: Tensor, joints: int) -> Tensor:
    """(J, N) a view of (J N + 1,)."""
    return flat[:-1].view(joints, -1)


def read_softmax(maps: Tensor, view: View, options: EMDOptions, sharpness: float) -> Supply:
    """Suppliers of maps (B, K, H, W) of any strides by a softmax, and the cross-entropy.

    Not ``torch.softmax``: ``sharpness H`` is rounded by 1e-6 for a peak of 1, and its sum forgets what is small beside the peak.
    """
    dtype, joints = compute_dtype(maps), len(view.dots)
    peak, low = (each.to(dtype) for each in (maps.amax((2, 3), keepdim=True), maps.amin((2, 3), keepdim=True)))
    flat = one_more(maps, dtype)
    torch.sub(maps.to(dtype), peak, out=flat[:-1].view(maps.shape))  # in rows, however the maps lie in memory
    exponent = rows_of(flat, joints).mul_(sharpness)
    cross_entropy: Tensor | float = 0.0
    dense: Tensor | None = None
    if options.cross_entropy_weight and options.cross_entropy_blur:
        dense = dot_masses(view.dots, (maps.shape[2], maps.shape[3]), options.cross_entropy_blur).flatten(1)
        cross_entropy = -(dense * exponent).sum(-1)
    elif options.cross_entropy_weight:
        cross_entropy = -torch.where(view.mass > 0, view.mass * exponent.gather(1, view.corner), 0.0).sum(-1)
    if may_look(low) and bool(((low - peak) * sharpness < SMALLEST_LOG).any()):
        torch.threshold_(exponent, SMALLEST_LOG, -math.inf)
    total = exponent.exp_().sum(-1)
    return Supply(flat, flat, 1 / total, sharpness, total.log() + cross_entropy, dense, ((peak + low) * 0).flatten())
