#!/usr/bin/env python
"""A whole training step with the EMD loss against the same step with KeypointMSELoss, with and without MMPose's accuracy.

    python tools/benchmarks/training.py --device cuda                      four networks at 384 x 288, fp32, fp16 and bf16
    python tools/benchmarks/training.py --device cuda --keypoints 133      whole-body
    python tools/benchmarks/training.py --batch 2 --models res18           ratios on a CPU, at 128 x 96

With --resume, what --json holds already is kept and the rest is measured: on a machine that is lent for some minutes at a time,
repeat the call until nothing is left to do.

A step is MMEngine's: normalise a batch of pictures, forward, loss, backward, optimiser step.  Network and optimiser come from
the `mse` config of each pair, the losses and the codecs that make the targets from both.  Pictures and dots are random, are
made beforehand and lie on the device: reading files is not timed.  The losses take turns on one and the same network, a
block of steps each; ratios are formed within a turn, and medians and quartiles over the turns are reported.  Before that
value and gradient of the EMD loss are compared with float64 on the CPU; if they are off there are no times.

Needs MMPose, and mmcv with `mmcv.ops`.  `make install` brings them to a machine with a network and a compiler.  To a bare
machine with a GPU they are carried as wheels: `tools/studies/gpu.sh prepare` fetches them, `tools/benchmarks/gpu.sh` installs
them there (mmcv-lite: none of these networks uses a compiled operator).
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import itertools
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from tools.benchmarks.measuring import conditions, machine, script, summary, write_json  # noqa: E402
from tools.jobs import ROOT, differences  # noqa: E402
from tools.pages import find_block, table, write_block  # noqa: E402

# Each stands for a pair of configs that differ in nothing but the supervision: {} is `mse` or `hdm`.
NETWORKS = {
    'res152': 'coco/td-hm_res152_{}-8xb32-210e_coco-384x288.py',
    'hrnet-w32': 'coco/td-hm_hrnet-w32_{}-8xb64-210e_coco-384x288.py',
    'hrnet-w48': 'coco/td-hm_hrnet-w48_{}-8xb32-210e_coco-384x288.py',
    'hrformer-base': 'coco/td-hm_hrformer-base_{}-8xb32-210e_coco-384x288.py',
    'res18': 'demo/td-hm_res18_{}-1xb16-8e_demo-128x96.py',
}
FULL_SIZE = [name for name in NETWORKS if name != 'res18']
AMP = {'fp16': 'float16', 'bf16': 'bfloat16'}
PRECISIONS = ('fp32', *AMP)
BATCHES = 3  # rotated
WARM_UP = 2  # turns
ALLOWED = 1e-4  # error of value and gradient, in parts of their size


@dataclasses.dataclass(frozen=True)
class Variant:
    """A supervision: the loss, whether the head computes its accuracy on the host, and the batches with fitting targets."""

    name: str
    loss: nn.Module
    accuracy: bool
    batches: list[dict]


def main(argv: Sequence[str] | None = None) -> None:
    """Measure what is asked for; print and write it."""
    arguments = _arguments(argv)
    try:
        import mmpose.models  # noqa: F401

        import hdm_mmpose.components  # noqa: F401
    except ImportError as error:
        raise SystemExit(f'a training step needs MMPose and mmcv: {error}. --help says how they get to this machine') from None
    if arguments.device == 'cuda' and not torch.cuda.is_available():
        raise SystemExit('--device cuda, but torch sees no GPU')
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    if arguments.markdown:
        find_block(arguments.markdown, f'training-{arguments.device}')
    record = begin(arguments)
    about, rows, calls = record['machine'], record['training'], record['calls']
    for network, keypoints, precision in itertools.product(arguments.models, arguments.keypoints, arguments.precision):
        case = dict(network=network, keypoints=keypoints, precision=precision)
        if any(case.items() <= row.items() for row in rows):
            print(f'measured before: {network}, {keypoints} keypoints, {precision}', file=sys.stderr, flush=True)
            continue
        rows += measure_steps(**case, arguments=arguments)
        print(f'measured {network}, {keypoints} keypoints, {precision}', file=sys.stderr, flush=True)
        if calls[-1:] != [this := script()]:
            calls.append(this)
        if arguments.json:  # whatever is there when the time is up
            write_json(arguments.json, record)
    text = f'{report(rows)}\n\n{conditions(about)} Load of the machine at the start: {about["load"]}.'
    if len(calls) > 1:
        text += f' Continued with --resume by {len(calls) - 1} more calls, which the JSON names.'
    print(f'\n{text}')
    if arguments.markdown:
        write_block(arguments.markdown, f'training-{arguments.device}', text)


def begin(arguments: argparse.Namespace) -> dict:
    """What --json will hold: a new record, or with --resume the one that is there.

    Raises:
        SystemExit: the one that is there was measured elsewhere or otherwise: one table must not mix the two.
    """
    about = machine(arguments.device, arguments.seed)
    record = {'machine': about, 'backends': arguments.backends, 'batch': arguments.batch, 'turns': arguments.turns,
              'steps per turn': arguments.steps, 'calls': [], 'training': []}
    if not (arguments.resume and arguments.json.exists()):
        return record
    before = json.loads(arguments.json.read_text())
    other = differences(_conditions_of(before), _conditions_of(record))
    if other:
        raise SystemExit(f'{arguments.json} cannot be continued, it was measured with {"; ".join(other)}: '
                         'move it away or leave out --resume')
    return before


def _conditions_of(record: dict) -> dict:
    """What must be the same for two measurements to stand in one table."""
    where = {name: record['machine'].get(name) for name in ('gpu', 'cpu', 'threads', 'commit', 'seed', 'packages')}
    return {**where, **{name: record.get(name) for name in ('backends', 'batch', 'turns', 'steps per turn')}}


def measure_steps(network: str, keypoints: int, precision: str, arguments: argparse.Namespace) -> list[dict]:
    """One row per variant."""
    from mmengine.registry import init_default_scope
    from mmpose.registry import MODELS

    torch.manual_seed(arguments.seed)
    mse, hdm = (_config(network, name, keypoints) for name in ('mse', 'hdm'))
    init_default_scope('mmpose')
    model = _on_device(MODELS.build(mse.model), arguments.device)
    wrapper = _optimiser(model, mse, precision)
    batches = {name: make_batches(config, arguments) for name, config in (('mse', mse), ('hdm', hdm))}
    variants = [Variant('KeypointMSELoss', MODELS.build(mse.model.head.loss), accuracy, batches['mse']) for accuracy in (False, True)]
    for backend in arguments.backends:
        loss = MODELS.build({**hdm.model.head.loss, 'backend': backend}).to(arguments.device)
        _check(loss, batches['hdm'][0])
        variants += [Variant(f'EMDHeatmapLoss, {backend}', loss, accuracy, batches['hdm']) for accuracy in (False, True)]
    seconds = take_turns([_stepper(model, wrapper, variant) for variant in variants], arguments)
    return [dict(network=network, keypoints=keypoints, precision=precision, batch=arguments.batch, loss=variant.name,
                 accuracy=variant.accuracy, step=summary(own), peak_bytes=_peak(_stepper(model, wrapper, variant), arguments),
                 throughput_of_mse=summary([base / time for base, time in zip(seconds[int(variant.accuracy)], own)]))
            for variant, own in zip(variants, seconds)]


def take_turns(steppers: list[Callable[[int], object]], arguments: argparse.Namespace) -> list[list[float]]:
    """Seconds per step of each stepper in each turn."""
    seconds: list[list[float]] = [[] for _ in steppers]
    for turn in range(-WARM_UP, arguments.turns):
        for own, step in zip(seconds, steppers):
            taken = (_on_gpu if arguments.device == 'cuda' else _on_cpu)(step, arguments.steps)
            if turn >= 0:
                own.append(taken)
    return seconds


def _on_cpu(step: Callable[[int], object], count: int) -> float:
    start = time.perf_counter()
    for i in range(count):
        step(i)
    return (time.perf_counter() - start) / count


def _on_gpu(step: Callable[[int], object], count: int) -> float:
    """Between two events; where the host is the slower one, the device's waiting counts."""
    step(0)  # so that the device does not start from an empty queue
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for i in range(count):
        step(i)
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3 / count


def _peak(step: Callable[[int], object], arguments: argparse.Namespace) -> int | None:
    if arguments.device == 'cpu':
        return None
    torch.cuda.reset_peak_memory_stats()
    step(0)
    return torch.cuda.max_memory_allocated()


def _stepper(model: nn.Module, wrapper, variant: Variant) -> Callable[[int], object]:
    def step(i: int) -> object:
        model.head.loss_module = variant.loss
        model.train_cfg = dict(compute_acc=variant.accuracy)
        return model.train_step(variant.batches[i % BATCHES], wrapper)

    return step


def _config(network: str, supervision: str, keypoints: int):
    from mmengine.config import Config

    config = Config.fromfile(str(ROOT / 'configs' / NETWORKS[network].format(supervision)))
    config.model.head.out_channels = keypoints
    return config


def _on_device(model: nn.Module, device: str) -> nn.Module:
    from mmengine.model import revert_sync_batchnorm

    # one process: synchronised normalisation has nobody to wait for, and on a CPU it does not exist
    return revert_sync_batchnorm(model).to(device).train()


def _optimiser(model: nn.Module, config, precision: str):
    from mmengine.optim import build_optim_wrapper

    options = dict(config.optim_wrapper)
    if precision in AMP:
        options.update(type='AmpOptimWrapper', dtype=AMP[precision])
        if precision == 'fp16':
            options.update(loss_scale='dynamic')
    return build_optim_wrapper(model, options)


def make_batches(config, arguments: argparse.Namespace) -> list[dict]:
    """Random pictures, and the targets that the config's codec makes of random dots; one joint in ten is not annotated."""
    from mmengine.structures import InstanceData, PixelData
    from mmpose.registry import KEYPOINT_CODECS
    from mmpose.structures import PoseDataSample

    codec = KEYPOINT_CODECS.build(config.model.head.decoder)
    width, height = config.codec.input_size
    random = np.random.default_rng(arguments.seed)
    batches = []
    for _ in range(BATCHES):
        samples = []
        for _ in range(arguments.batch):
            dots = random.uniform((8, 8), (width - 8, height - 8), (1, config.model.head.out_channels, 2)).astype(np.float32)
            encoded = codec.encode(dots, (random.uniform(size=dots.shape[:2]) > .1).astype(np.float32))
            sample = PoseDataSample(gt_fields=PixelData(heatmaps=torch.from_numpy(encoded['heatmaps'])),
                                    gt_instance_labels=InstanceData(keypoint_weights=torch.from_numpy(encoded['keypoint_weights'])))
            samples.append(sample.to(arguments.device))
        pictures = torch.randint(0, 256, (arguments.batch, 3, height, width), dtype=torch.uint8, device=arguments.device)
        batches.append(dict(inputs=list(pictures), data_samples=samples))
    return batches


def _check(loss: nn.Module, batch: dict) -> None:
    """Stops unless value and gradient are those of float64 on the CPU."""
    target = torch.stack([sample.gt_fields.heatmaps for sample in batch['data_samples'][:2]])
    weights = torch.cat([sample.gt_instance_labels.keypoint_weights for sample in batch['data_samples'][:2]])
    output = .1 * torch.randn(target.shape, device=target.device)
    wide = copy.deepcopy(loss)
    wide.options = dataclasses.replace(loss.options, backend='torch')
    found = _value_and_gradient(loss, output, target, weights)
    exact = _value_and_gradient(wide, output.double().cpu(), target.double().cpu(), weights.cpu())
    for name, got, wanted in zip(('value', 'gradient'), found, exact):
        off = ((got.double().cpu() - wanted).abs().max() / wanted.abs().max()).item()
        if not off < ALLOWED:
            raise SystemExit(f'EMD loss, {loss.options.backend}: the {name} is off by {off:.2g} of its size, allowed {ALLOWED:g}: '
                             f'no times printed')


def _value_and_gradient(loss: nn.Module, output: Tensor, target: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    output = output.clone().requires_grad_()
    value = loss(output, target, weights)
    return value.detach(), torch.autograd.grad(value, output)[0]


def report(rows: Sequence[dict]) -> str:
    """A table: milliseconds per step, and throughput as a multiple of the MSE twin's under the same accuracy setting."""
    def spread(values: dict, scale: float, digits: int) -> tuple[str, str]:
        low, high = (f'{values[key] * scale:.{digits}f}' for key in ('quartile_1', 'quartile_3'))
        return f'{values["median"] * scale:.{digits}f}', f'{low} - {high}'

    head = ['network', 'K', 'precision', 'batch', 'loss', 'accuracy', 'step ms', 'quartiles', 'x MSE', 'quartiles', 'peak GiB']
    cells = [[row['network'], row['keypoints'], row['precision'], row['batch'], row['loss'],
              'on the host' if row['accuracy'] else 'off', *spread(row['step'], 1e3, 1), *spread(row['throughput_of_mse'], 1, 3),
              '-' if row['peak_bytes'] is None else f'{row["peak_bytes"] / 2**30:.2f}'] for row in rows]
    return table(head, cells)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--device', choices=('cpu', 'cuda'), default='cpu')
    parser.add_argument('--models', nargs='+', choices=NETWORKS, default=FULL_SIZE, metavar='NAME', help=', '.join(NETWORKS))
    parser.add_argument('--keypoints', nargs='+', type=int, default=[17], metavar='K')
    parser.add_argument('--precision', nargs='+', choices=PRECISIONS, help='default: fp32, on a GPU all')
    parser.add_argument('--backends', nargs='+', choices=('torch', 'triton'), help='of the EMD loss; default: torch, on a GPU both')
    parser.add_argument('--batch', type=int, default=32)
    parser.add_argument('--turns', type=int, default=15, help='blocks of steps per loss')
    parser.add_argument('--steps', type=int, default=5, help='steps in a block')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--threads', type=int, help="torch's threads on the CPU")
    parser.add_argument('--json', type=Path, help='write the numbers there, after every network')
    parser.add_argument('--resume', action='store_true', help='measure only what --json does not hold yet')
    parser.add_argument('--markdown', type=Path, help='replace the table between the markers `training-DEVICE` in this file')
    arguments = parser.parse_args(argv)
    if arguments.resume and not arguments.json:
        parser.error('--resume: --json must say where the numbers are')
    gpu = arguments.device == 'cuda'
    arguments.precision = arguments.precision or (list(PRECISIONS) if gpu else ['fp32'])
    arguments.backends = arguments.backends or (['torch', 'triton'] if gpu else ['torch'])
    if not gpu and arguments.precision != ['fp32']:
        parser.error("--precision: MMEngine's mixed precision needs --device cuda")
    return arguments


if __name__ == '__main__':
    main()
