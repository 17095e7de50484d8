"""``EMDHeatmapLoss()`` without MMPose around it: the benchmarks run where torch alone is installed.

A test compares it with the class, so that it stays what users get.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hdm_mmpose.transport import EMDOptions, build_ground_distance, build_supplier, cross_entropy, emd

OPTIONS = EMDOptions(
    epsilon=0.5, potential='product', supplier=build_supplier('softmax'), unbiased=True,
    ground_distance=build_ground_distance('saturated'),
)
CROSS_ENTROPY_WEIGHT = 0.5


def with_cross_entropy(maps: Tensor, targets: Tensor, options: EMDOptions, weight: float, counts: Tensor | None = None) -> Tensor:
    """(J,) transport cost in cells plus ``weight`` times the cross-entropy with the dot in nats.

    Args:
        maps: (J, H, W).
        targets: dots (J, 2) in cells, x then y, or dense targets (J, H, W).
        options: of the transport cost.
        weight: 0 for the transport cost alone, under any supplier rule.
        counts: (J,) bool, which joints take part; the others' values mean nothing. Default: all.
    """
    measured = emd(maps, targets, options)
    if not weight:
        return measured.cost
    if counts is not None:
        maps = torch.where(counts[:, None, None], maps, 0)
    return measured.cost + weight * cross_entropy(maps, measured.dots, options.supplier)
