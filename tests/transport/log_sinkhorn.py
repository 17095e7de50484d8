"""The default loss of one joint in float64, by Sinkhorn iterations in the log domain: the truth for the local solvers.

Nothing of ``hdm_mmpose`` is used, and no window: every cell of the map is a supplier.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Truth(NamedTuple):
    """Of one joint.

    Attributes:
        cost, cross_entropy: in cells and nats.
        loss: ``cost + companion * cross_entropy``.
        gradient: (H, W) of the loss.
        scale: the largest entry that one of its terms has before they cancel; of the transport alone, what it can have.
    """

    cost: float
    cross_entropy: float
    loss: float
    gradient: Tensor
    scale: float


def solve(
    heatmap: Tensor, dot: tuple[float, float], epsilon: float = 0.5, scale: float = 1.0, sharpness: float = 10.0,
    companion: float = 0.5, blur: float = 0.0, outside: float = -math.inf,
) -> Truth:
    """The loss of a map (H, W) and its dot (x, y) in cells; ``outside`` is the logit of an outside cell."""
    height, width = heatmap.shape
    x, y = (min(max(at, 0.0), size - 1.0) for at, size in zip(dot, (width, height)))
    left, upper = min(math.floor(x), width - 2), min(math.floor(y), height - 2)
    corners = [(left + i, upper + j) for j in (0, 1) for i in (0, 1)]
    mass = _double([(1 - abs(x - i)) * (1 - abs(y - j)) for i, j in corners])
    between = torch.cdist(_double(corners), _double(corners))
    unbiased = (_cost(between, scale) / -epsilon).softmax(1) @ mass

    logit = torch.cat([sharpness * heatmap.double().flatten(), _double([outside])])
    log_supply = logit.log_softmax(0)
    supply = log_supply.exp()
    places = torch.cartesian_prod(torch.arange(height), torch.arange(width)).flip(1).double()
    cost = torch.cat([_cost(torch.cdist(places, _double(corners)), scale), torch.full((1, 4), scale, dtype=torch.float64)])
    b = torch.zeros(4, dtype=torch.float64)
    for _ in range(100_000):
        exponent = (b - cost) / epsilon
        log_share = exponent - exponent.logsumexp(1, keepdim=True)
        change = unbiased.log() - (log_share + log_supply[:, None]).logsumexp(0)
        b = b + epsilon * change
        if change.abs().max() < 1e-13:
            break
    exponent = (b - cost) / epsilon
    potential = -epsilon * exponent.logsumexp(1)
    value = float((supply[:, None] * exponent.softmax(1) * cost).sum())

    dot_map = (_spread(y, height, blur)[:, None] * _spread(x, width, blur)).flatten()
    on = dot_map > 0
    cross_entropy = -float((dot_map[on] * log_supply[:-1][on]).sum())
    carried = (supply * (potential - (supply * potential).sum()))[:-1]
    terms = sharpness * carried, sharpness * companion * supply[:-1], sharpness * companion * dot_map
    largest = max(float(term.abs().max()) for term in terms) if companion else sharpness * scale * float(supply[:-1].max())
    return Truth(value, cross_entropy, value + companion * cross_entropy, (terms[0] + terms[1] - terms[2]).view(height, width), largest)


def _double(values: list) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def _cost(distance: Tensor, scale: float) -> Tensor:
    return -scale * torch.expm1(-distance / scale)


def _spread(at: float, size: int, blur: float) -> Tensor:
    """(size,) bilinear masses of a point, each spread by a Gaussian that reaches as far as the nearer border."""
    low = min(math.floor(at), size - 2)
    cells, spread = torch.arange(size, dtype=torch.float64), torch.zeros(size, dtype=torch.float64)
    for cell, mass in ((low, 1 - (at - low)), (low + 1, at - low)):
        offset = cells - cell
        bell = (offset == 0).double() if blur == 0 else (-((offset / blur) ** 2) / 2).exp()
        bell[offset.abs() > min(cell, size - 1 - cell)] = 0
        spread += mass * bell / bell.sum()
    return spread
