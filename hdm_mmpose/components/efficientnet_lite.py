"""EfficientNet-Lite as an MMPose backbone, and the neck that hands its finest map to a head.

Not imported with the package: a config names this module in ``custom_imports``, since MMDetection's backbones come with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmcv.cnn.bricks import Conv2dAdaptivePadding, ConvModule
from mmdet.models.backbones import EfficientNet
from mmpose.models.necks import FPN
from mmpose.registry import MODELS
from torch import Tensor, nn


@MODELS.register_module()
class EfficientNetLite(EfficientNet):
    """MMDetection's EfficientNet without squeeze-and-excitation and with ReLU6: EfficientNet-Lite0.

    Source: Google, "EfficientNet-Lite" (2020); Tan & Le, "EfficientNet", ICML 2019. ``tools/model_converters/
    efficientnet_lite0.py`` makes ImageNet weights for ``init_cfg``.

    Stages 0 to 6 have strides 2, 2, 4, 8, 16, 32, 32 and 32, 16, 24, 40, 112, 320, 1280 channels. Tensors stay in
    ``channels_last`` order, in which depthwise convolutions of a CPU take about half the time. Frozen stages compute no
    gradients and their batch normalisation stays in evaluation mode.

    Args:
        arch: ``'lite0'``.
        act_cfg: activation.
        **kwargs: those of ``mmdet.EfficientNet``, such as ``out_indices`` and ``frozen_stages``.
    """

    layer_settings = {'l': [[[*block[:2], 0, *block[3:]] for block in stage] for stage in EfficientNet.layer_settings['b']]}
    arch_settings = {'lite0': EfficientNet.arch_settings['b0']}

    def __init__(self, arch: str = 'lite0', act_cfg: dict = dict(type='ReLU6'), **kwargs: Any) -> None:  # noqa: B006
        super().__init__(arch=arch, act_cfg=act_cfg, **kwargs)
        pad_in_the_convolution(self)
        normalise_in_the_convolution(self)
        self.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return super().forward(x.contiguous(memory_format=torch.channels_last))


def pad_in_the_convolution(module: nn.Module) -> None:
    """Replace convolutions of stride 1 that pad in a step of their own: they pad alike on both sides, which the convolution can do."""
    for name, child in module.named_children():
        if isinstance(child, Conv2dAdaptivePadding) and child.stride == (1, 1):
            plain = nn.Conv2d(
                child.in_channels, child.out_channels, child.kernel_size, padding=tuple(side // 2 for side in child.kernel_size),
                groups=child.groups, bias=child.bias is not None)
            setattr(module, name, plain)
        else:
            pad_in_the_convolution(child)


def normalise_in_the_convolution(network: nn.Module) -> None:
    """Where batch normalisation is in evaluation mode, scale the convolution's weights by it on the fly, if this mmcv can (2.1 can)."""
    for module in network.modules():
        if isinstance(module, ConvModule) and type(module.conv) is nn.Conv2d and hasattr(module, 'turn_on_efficient_conv_bn_eval'):
            module.turn_on_efficient_conv_bn_eval()


@MODELS.register_module()
class FinestLevelFPN(FPN):
    """FPN that gives its finest map alone, and smooths no other: heatmap heads read one map.

    Args:
        **kwargs: those of MMPose's ``FPN``.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for level in range(1, len(self.fpn_convs)):
            self.fpn_convs[level] = nn.Identity()

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor]:
        return super().forward(inputs)[:1]
