"""Two thousand training steps and decodings do not make the process grow."""

from __future__ import annotations

import gc
from collections.abc import Callable

import pytest
import torch
from torch import nn

from hdm_mmpose.components import EMDHeatmapLoss, SubPixelDecoder

psutil = pytest.importorskip('psutil', reason='measuring memory needs psutil')
pytestmark = pytest.mark.faults
STEPS, SETTLED = 2000, 500
ALLOWED = 8 * 2**20  # bytes; one leaked batch per step would be 100 MiB


def test_steady_memory(saw: Callable) -> None:
    model = nn.Conv2d(3, 17, 3, padding=1)
    loss, decoder = EMDHeatmapLoss(), SubPixelDecoder(input_size=(96, 128), heatmap_size=(24, 32))
    loss.keep_last_step = True
    optimizer = torch.optim.Adam(model.parameters())
    process, sizes = psutil.Process(), []
    for step in range(STEPS):
        maps = model(torch.rand(2, 3, 32, 24))
        optimizer.zero_grad()
        loss(maps, torch.rand(2, 17, 2) * 20).backward()
        optimizer.step()
        decoder.batch_decode(maps.detach())
        if step >= SETTLED and step % 100 == 0:
            gc.collect()
            sizes.append(process.memory_info().rss)
    growth = max(sizes[-3:]) - min(sizes[:3])
    assert growth < ALLOWED, [size // 2**20 for size in sizes]
    saw(f'{STEPS} training steps and decodings', f'memory grows by less than {ALLOWED // 2**20} MiB after step {SETTLED}',
        f'{growth / 2**20:.1f} MiB')
