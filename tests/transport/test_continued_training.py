"""A training goes on as it would have with the version before the window: losses of 50 steps, recorded there (commit f3440f4).

The network is linear and its numbers are formulas, so that rounding stays rounding: in a deep one it doubles every other step.
"""

from __future__ import annotations

import pytest
import torch

from hdm_mmpose.transport import DotLoss

B, K, C, H, W = 2, 3, 12, 26, 22
SETTINGS = {
    'default': {},
    'paper': dict(entropic_lambda=1, cell_size=4, potential='shannon', supplier='relu', solver='sinkhorn', num_iters=60,
                  ground_distance='euclidean', reduction='sum'),
    'softplus': dict(epsilon=0.25, potential='shannon', supplier='softplus', ground_distance='euclidean', unbiased=False),
    'saturated at 2': dict(epsilon=0.25, supplier=dict(type='softmax', sharpness=5.0), ground_distance=dict(type='saturated', scale=2.0),
                           cross_entropy_weight=0.2, cross_entropy_blur=1.5),
    'softplus, saturated': dict(epsilon=0.5, potential='shannon', supplier='softplus', ground_distance='saturated', loss_weight=3.0),
    'naive, sharp': dict(subpixel=False, potential='sharp', supplier='relu_surrogate'),
}
# every seventh loss
RECORDED = {
    'default': [12.21496, 5.112092, 3.116676, 2.199937, 1.307459, 1.012206, 0.9285198, 0.8033239],
    'paper': [29.33291, 28.06879, 26.11842, 24.62089, 23.43028, 22.48631, 21.48142, 20.2307],
    'softplus': [12.79149, 12.56295, 12.15557, 11.77218, 11.45373, 11.18651, 10.95866, 10.76001],
    'saturated at 2': [3.154216, 3.127522, 3.073799, 3.008799, 2.938605, 2.864685, 2.791451, 2.731529],
    'softplus, saturated': [11.52453, 10.25426, 9.20449, 8.669521, 8.329527, 8.089763, 7.909022, 7.765777],
    'naive, sharp': [0.8247444, 0.8247405, 0.8247327, 0.8247229, 0.8247121, 0.8247009, 0.8246894, 0.8246779],
}


def losses(loss, steps: int = 50) -> list[float]:
    """Losses of gradient descent with momentum from a state in the middle of a training."""
    place = torch.arange(C * H * W, dtype=torch.float64).view(C, H, W)
    features = torch.stack([torch.sin(place * (0.37 + 0.011 * sample) + place.square() * 1e-5) for sample in range(B)])
    weight = 0.3 * torch.cos(torch.arange(K * C, dtype=torch.float64)).view(K, C)
    bias = 0.2 * torch.sin(torch.arange(K * H * W, dtype=torch.float64) / 17).view(K, H, W)
    momentum = [torch.zeros_like(weight), torch.zeros_like(bias)]
    index = torch.arange(B * K, dtype=torch.float64).view(B, K)
    dots = torch.stack([(7.3 * index + 1.6) % (W - 1), (5.9 * index + 3.25) % (H - 1)], -1).float()
    weights = torch.ones(B, K)
    weights[1, 0] = 0
    found = []
    for _ in range(steps):
        parameters = [each.detach().requires_grad_() for each in (weight, bias)]
        maps = (torch.einsum('kc,bchw->bkhw', parameters[0], features) + parameters[1]).float()
        value = loss(maps, dots, weights)
        found.append(value.item())
        for each, slope in enumerate(torch.autograd.grad(value, parameters)):
            momentum[each] = 0.9 * momentum[each] + slope
        weight, bias = weight - 2e-3 * momentum[0], bias - 2e-2 * momentum[1]
    return found


@pytest.mark.filterwarnings('ignore::FutureWarning')
@pytest.mark.parametrize('setting', SETTINGS)
def test_the_losses_go_on_as_they_were(setting: str) -> None:
    found = losses(DotLoss(**SETTINGS[setting]))
    assert found[::7] == pytest.approx(RECORDED[setting], rel=1e-4)
