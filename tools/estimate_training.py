#!/usr/bin/env python
"""How long a row trains and how much memory it takes, estimated without training it.

Counted are the floating-point operations of a forward pass and the bytes it keeps for the backward pass, on one picture. Time
is three forward passes (the backward pass costs two) for every person and epoch at an assumed sustained speed; memory is what
is kept, times the batch, plus weights, gradients and two moments of Adam. Loss, data loading and validation are left out.
These are estimates, to be replaced by the first measured epoch.

    python tools/estimate_training.py table1 table3 --gpus 8 --tflops 20
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from launcher import make_plugin_importable
from reproduction import manifest

# persons with joints in train2017; persons in mpii_train.json
PERSONS = {'coco': 149813, 'mpii': 22246}
BYTES_PER_WEIGHT = 16  # float32: weight, gradient and Adam's two moments


@dataclass(frozen=True)
class Cost:
    """Of one picture: forward operations, and bytes kept for the backward pass; and the number of weights."""

    operations: int
    kept: int
    weights: int


def main(argv: list[str] | None = None) -> None:
    """Print one line per network, input size and batch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('rows', nargs='*', default=['table1', 'table3'], help='default: table1 table3')
    parser.add_argument('--gpus', type=int, default=8)
    parser.add_argument('--tflops', type=float, default=20, help='sustained speed of one GPU (default: 20)')
    args = parser.parse_args(argv)
    if args.gpus < 1 or not args.tflops > 0:
        parser.error(f'--gpus must be 1 or more and --tflops above 0, got {args.gpus} and {args.tflops:g}')
    make_plugin_importable()
    known = manifest.load(manifest.ROOT / 'configs' / 'manifest.yml')
    try:
        trained = [row for row in known.select(args.rows) if row.config]
    except ValueError as error:
        parser.error(str(error))
    if not trained:
        parser.error(f'rows must include one that a recipe trains, got {" ".join(args.rows)}')
    # a network's rows cost the same: one line, from its baseline where that is among them
    rows = {_key(row): row for row in trained if row.kind in ('baseline', 'beyond')} or {_key(row): row for row in trained}
    print(f'{args.gpus} GPUs, {args.tflops:g} TFLOP/s each (assumed)')
    print('| network | data | batch per GPU | GFLOP per picture | hours | GPU memory, GiB |\n|---|---|--:|--:|--:|--:|')
    for row in rows.values():
        config = read(known.config_path(row.config))
        cost = count(config)
        data = 'mpii' if 'mpii' in row.config else 'coco'
        operations = 3 * cost.operations * PERSONS[data] * config.train_cfg.max_epochs
        hours = operations / (args.gpus * args.tflops * 1e12) / 3600
        memory = (cost.kept * row.launch.batch + cost.weights * BYTES_PER_WEIGHT) / 2**30
        name = f'{row.backbone}, {row.input}'
        print(f'| {name} | {data} | {row.launch.batch} | {cost.operations / 1e9:.1f} | {hours:.1f} | {memory:.0f} |')


def _key(row: manifest.Row) -> tuple:
    return row.backbone, row.input, 'mpii' in (row.config or '')


def read(path: Path):
    """The config, with a network that a CPU can run and nothing to fetch."""
    from mmengine.config import Config

    config = Config.fromfile(path)
    config.model.backbone.pop('init_cfg', None)
    if 'norm_cfg' in config.model.backbone:
        config.model.backbone.norm_cfg = {'type': 'BN'}
    return config


def count(config) -> Cost:
    """Run the network forward once, in training mode, and count."""
    import torch
    from mmpose.registry import MODELS
    from mmpose.utils import register_all_modules
    from torch.utils.flop_counter import FlopCounterMode

    register_all_modules(init_default_scope=True)
    model = MODELS.build(config.model).train()
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    width, height = config.codec.input_size
    picture = torch.zeros(1, 3, height, width)
    with FlopCounterMode(display=False) as counter, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = model.head(model.backbone(picture))
    assert output.requires_grad  # keeps the graph, and with it the kept tensors, alive until here
    return Cost(counter.get_total_flops(), sum(kept.values()), sum(parameter.numel() for parameter in model.parameters()))


if __name__ == '__main__':
    main()
