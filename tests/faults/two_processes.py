"""Two processes under torchrun: ``two_processes.py DATA WORK_DIR``; prints what the test looks at."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from mmengine.config import ConfigDict
from mmengine.dist import get_rank, init_dist
from mmengine.model import MMDistributedDataParallel
from mmengine.runner import Runner
from torch import nn

from hdm_mmpose import compat
from hdm_mmpose.components import EMDHeatmapLoss
from tests.tiny_training import scalars, tiny_config

SIZES = {0: 3, 1: 1}  # persons in the last batch of each rank


def inputs(rank: int, visible: dict[int, float]) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(rank)
    count = SIZES[rank]
    return (torch.randn(count, 3, 8, 6, generator=generator), torch.rand(count, 2, 2, generator=generator) * 5,
            torch.full((count, 2), visible[rank]))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Conv2d(3, 2, 1)


def mean_gradient(visible: dict[int, float]) -> torch.Tensor:
    """What the two should agree on: the mean of the gradients that each has alone."""
    alone = []
    for rank in SIZES:
        model = network()
        pictures, dots, weights = inputs(rank, visible)
        EMDHeatmapLoss()(model(pictures), dots, weights).backward()
        alone.append(model.weight.grad)
    return sum(alone) / len(alone)


def check_gradients() -> None:
    for visible in ({0: 1.0, 1: 1.0}, {0: 1.0, 1: 0.0}, {0: 0.0, 1: 0.0}):
        model = MMDistributedDataParallel(network())
        pictures, dots, weights = inputs(get_rank(), visible)
        EMDHeatmapLoss()(model(pictures), dots, weights).backward()
        gradient = model.module.weight.grad
        torch.testing.assert_close(gradient, mean_gradient(visible))
        print(f'rank {get_rank()} visible {list(visible.values())} gradient {float(gradient.abs().sum()):.3f}', flush=True)


def check_training(data: str, work_dir: str) -> None:
    """A real run on seven persons: the ranks get four and three, in batches of two, and the second sees no joint."""
    cfg = tiny_config(Path(data), Path(work_dir), launcher='pytorch', train_dataloader__batch_size=2)
    cfg.train_dataloader.sampler = dict(type='DefaultSampler', shuffle=False, round_up=False)
    cfg.train_dataloader.drop_last = False
    cfg.custom_hooks = [ConfigDict(type='TransportMonitorHook')]
    cfg.model_wrapper_cfg = dict(type='MMDistributedDataParallel', broadcast_buffers=False)
    runner = Runner.from_cfg(cfg)
    runner.train()
    weights = nn.utils.parameters_to_vector(runner.model.parameters())
    print(f'rank {get_rank()} trained {bool(weights.isfinite().all())} sum {float(weights.double().sum()):.9f}', flush=True)
    if get_rank() == 0:
        print('losses', [line['loss'] for line in scalars(Path(work_dir)) if 'loss' in line], flush=True)


if __name__ == '__main__':
    compat.apply()
    init_dist('pytorch', backend='gloo')
    check_gradients()
    check_training(*sys.argv[1:])
