"""Heatmaps that are not finite, under a gradient scaler: the step is skipped, training goes on."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from hdm_mmpose.components import EMDHeatmapLoss, SubPixelDecoder
from hdm_mmpose.transport import SUPPLIERS

pytestmark = pytest.mark.faults
BATCH, JOINTS, WIDTH, HEIGHT = 4, 3, 12, 16
STEPS, BAD = 12, 5
DEVICES = ['cpu', pytest.param('cuda', marks=pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device'))]


class Tampered(nn.Module):
    """A network whose map of one joint can be made not finite."""

    def __init__(self, value: float, joint: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, JOINTS, 1))
        self.value, self.joint, self.bad = value, joint, False

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        maps = self.layers(pictures)
        if self.bad:
            maps = maps.clone()
            maps[1, self.joint, 2, 2] = self.value
        return maps


def run(value: float, supplier: str, weight: float, device: str) -> tuple[list[bool], list[float], nn.Module]:
    """Train; whether each step moved the weights, the loss at each step, and the network."""
    torch.manual_seed(0)
    model = Tampered(value, joint=1).to(device)
    loss_function = EMDHeatmapLoss(supplier=supplier)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    scaler = torch.amp.GradScaler(device, init_scale=2.0**8)
    pictures = torch.rand(BATCH, 3, HEIGHT, WIDTH, device=device)
    dots = torch.rand(BATCH, JOINTS, 2, device=device) * 8
    weights = torch.ones(BATCH, JOINTS, device=device)
    weights[1, 1] = weight
    moved, losses = [], []
    for step in range(STEPS):
        model.bad = step == BAD
        before = [parameter.detach().clone() for parameter in model.parameters()]
        with torch.autocast(device, dtype=torch.bfloat16 if device == 'cpu' else torch.float16):
            loss = loss_function(model(pictures), dots, weights)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        moved.append(any(not torch.equal(*pair) for pair in zip(before, model.parameters())))
        losses.append(float(loss))
    return moved, losses, model


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('value', [float('nan'), float('inf'), -float('inf')], ids=str)
def test_step_is_skipped(value: float, device: str, saw: Callable) -> None:
    for supplier in SUPPLIERS:
        moved, losses, model = run(value, supplier, 1.0, device)
        assert [step for step, each in enumerate(moved) if not each] == [BAD], supplier
        assert all(parameter.isfinite().all() for parameter in model.parameters()), supplier
        assert sum(losses[-3:]) < sum(losses[:3]), supplier
    saw(f'{value} in a heatmap under GradScaler ({device}; each supplier rule)', 'the step is skipped, training goes on',
        f'step {BAD} of {STEPS} moved nothing, all others did; the loss went on falling')


@pytest.mark.parametrize('device', DEVICES)
def test_a_joint_that_does_not_count_may_be_anything(device: str, saw: Callable) -> None:
    moved, losses, model = run(float('nan'), 'softplus', 0.0, device)
    assert all(moved) and all(torch.tensor(losses).isfinite())
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    saw(f'nan in the heatmap of a joint of weight 0 ({device})', 'no effect', 'all losses and weights finite, no step skipped')


@pytest.mark.parametrize('value', [float('nan'), float('inf'), -float('inf')], ids=str)
def test_decoder_gives_a_point_and_score_0(value: float, saw: Callable) -> None:
    decoder = SubPixelDecoder(input_size=(WIDTH * 4, HEIGHT * 4), heatmap_size=(WIDTH, HEIGHT))
    maps = torch.rand(BATCH, JOINTS, HEIGHT, WIDTH)
    maps[2, 0] = value
    points, scores = decoder.decode_tensor(maps)
    assert points.isfinite().all() and scores.isfinite().all() and scores[2, 0] == 0
    assert (scores > 0).sum() == BATCH * JOINTS - 1
    saw(f'a heatmap of {value} is decoded', 'a finite point with score 0', 'a finite point with score 0')
