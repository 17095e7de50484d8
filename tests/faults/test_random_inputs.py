"""Random configurations and inputs through loss and decoder: a finite result or a clear error, nothing else."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import torch

from hdm_mmpose.components import EMDHeatmapLoss, SubPixelDecoder

OPTIONS = dict(
    epsilon=[0.25, 1.0, 0.1, 0.03, 5.0, 100.0, 1e-4, 0, -1, float('nan'), None, 'small'],
    objective=['shannon', 'product', 'sharp', 'other'],
    supplier=['relu', 'softplus', 'softmax', 'relu_surrogate', dict(type='softplus', sharpness=0.3),
              dict(type='softmax', sharpness=40), dict(type='softplus', sharpness=-1), 'sigmoid'],
    solver=['newton', 'sinkhorn', 'simplex'],
    num_iters=[1, 3, 20, 0, 2.5],
    unbiased=[False, True],
    ground_distance=['euclidean', 'saturated', dict(type='saturated', scale=0.5), dict(type='saturated', scale=0), 'squared'],
    use_target_weight=[True, False],
    reduction=['mean', 'sum', 'none', 'max'],
    loss_weight=[1.0, 0.0, 30.0, -1.0],
    cross_entropy_weight=[0.0, 0.5, -2.0],
    cross_entropy_blur=[0.0, 1.0, 0.2, 40.0, -1.0, float('inf')],
    entropic_lambda=[None, 1, 0],
    cell_size=[None, 4],
)
SCALES = [0, 1e-30, 1e-6, 1e-2, 1, 30, 1e4]
CLEAR = 12  # a message of fewer characters says nothing


def pick(rng: np.random.Generator, choices: list, usual: float = 0.75):
    """Mostly the first, else any."""
    return choices[0] if rng.random() < usual else choices[rng.integers(len(choices))]


def heatmaps(rng: np.random.Generator) -> torch.Tensor:
    """(B, K, H, W) of many kinds and magnitudes."""
    shape = (*rng.integers(1, 4, 2), *rng.integers(1 if rng.random() < 0.05 else 2, 14, 2))
    maps = rng.normal(size=shape)
    kind = rng.integers(6)
    if kind == 1:
        maps = -np.abs(maps)
    elif kind == 2:
        maps = np.sign(maps)
    elif kind == 3:
        maps = np.zeros(shape)
        maps[..., -1, 0] = 1
    elif kind == 4:
        maps = np.full(shape, maps.flat[0])
    elif kind == 5:
        maps = np.exp(8 * maps)
    dtype = [torch.float32, torch.float64, torch.float16, torch.bfloat16][pick(rng, [0, 1, 2, 3], 0.6)]
    maps = torch.from_numpy(maps * SCALES[rng.integers(len(SCALES))]).to(dtype)
    return maps.clamp(-6e4, 6e4).requires_grad_()


def targets(rng: np.random.Generator, maps: torch.Tensor) -> torch.Tensor:
    """Dots in and around the map, on centres, edges and corners of cells; or dense maps; now and then of a wrong shape."""
    size = np.array(maps.shape[:1:-1])
    dots = rng.uniform(-2, size + 1, (*maps.shape[:2], 2))
    kind = rng.integers(4)
    if kind == 1:
        dots = np.round(dots * 2) / 2
    elif kind == 2:
        dots = dots * 1e6
    elif kind == 3:
        return torch.from_numpy(np.maximum(rng.normal(size=maps.shape), 0)).float()
    return torch.from_numpy(dots[..., :1] if rng.random() < 0.02 else dots).float()


def weights_for(rng: np.random.Generator, maps: torch.Tensor) -> torch.Tensor | None:
    weights = torch.from_numpy(rng.integers(0, 2, maps.shape[:2]) * rng.choice([1.0, 0.3])).float()
    return [None, weights, weights[..., None], weights[:, :0]][pick(rng, [1, 0, 2, 3], 0.6)]


def one(rng: np.random.Generator) -> str:
    """A random call; what it came to."""
    options = {name: pick(rng, choices, 0.9) for name, choices in OPTIONS.items()}
    maps = heatmaps(rng)
    target, weights = targets(rng, maps), weights_for(rng, maps)
    try:
        value, gradient = measure(options, maps, target, weights)
    except (ValueError, TypeError) as error:
        assert len(str(error)) > CLEAR and 'got' in str(error), f'{options}: {error}'
        result = 'clear error'
    else:
        if maps.dtype == torch.float16 and not gradient.isfinite().all():
            # The gradient of a scale-free loss grows as maps shrink, beyond what float16 holds; a gradient scaler skips such steps.
            value, gradient = measure(options, maps.detach().float().requires_grad_(), target, weights)
            assert gradient.abs().max() > torch.finfo(torch.float16).max
        assert value.isfinite().all() and gradient.isfinite().all(), f'{options}, {maps.dtype} {tuple(maps.shape)}: {value}'
        result = 'finite'
    decode(rng, maps, options)
    return result


def measure(options: dict, maps: torch.Tensor, target: torch.Tensor,
            weights: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss and gradient."""
    value = EMDHeatmapLoss(**options)(maps, target, weights)
    return value, torch.autograd.grad(value.sum(), maps)[0]


def decode(rng: np.random.Generator, maps: torch.Tensor, options: dict) -> None:
    """Whatever the loss said, the decoder gives points inside the map, or a clear error."""
    height, width = maps.shape[2:]
    stride = int(rng.integers(1, 9))
    try:
        decoder = SubPixelDecoder((width * stride, height * stride), (width, height), supplier=options['supplier'],
                                  alignment=pick(rng, ['center', 'udp', 'msra', 'corner']), score=pick(rng, ['mass', 'max', 'sum']),
                                  blur=pick(rng, [0, 1.0, 0.1, 40, -1, float('nan'), '1']))
        points, scores = decoder.batch_decode(maps.detach())
    except (ValueError, TypeError) as error:
        assert len(str(error)) > CLEAR and 'got' in str(error), error
        return
    points, scores = np.concatenate(points), np.concatenate(scores)
    assert np.isfinite(points).all() and (points >= -stride).all() and (points <= np.array([width, height]) * stride * 2).all()
    assert ((scores >= 0) & (scores <= 1)).all()


def run(count: int, seed: int) -> Counter:
    rng = np.random.default_rng(seed)
    return Counter(one(rng) for _ in range(count))


def test_some() -> None:
    results = run(300, seed=1)
    assert results['finite'] > 60 and results['clear error'] > 60


@pytest.mark.faults
def test_ten_thousand(saw: Callable) -> None:
    results = run(10_000, seed=0)
    assert results['finite'] > 2000 and results['clear error'] > 2000
    saw('10,000 random configurations and inputs through loss and decoder', 'a finite result or a clear error',
        f'{results["finite"]} finite, {results["clear error"]} clear errors, nothing else')


@pytest.mark.parametrize(('values', 'finite'), [([1e4, -1e4], True), ([1e4, 1e-8], True), ([math.nan, 1.0], False)], ids=str)
def test_extremes(values: list[float], finite: bool) -> None:
    """Documented: up to 1e4 in magnitude everything is finite; NaN stays NaN and in its own joint."""
    maps = torch.tensor(values).repeat(2, 2, 4, 3)[..., :5].requires_grad_()
    value = EMDHeatmapLoss(reduction='none')(maps, torch.ones(2, 2, 2))
    assert bool(value.isfinite().all()) == finite
