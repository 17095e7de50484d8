#!/usr/bin/env python
"""The figures that decide on a GPU, in some minutes and without MMPose: is the kernel right, what does a loss cost, what a step?

    python tools/benchmarks/gpu.py [--json PATH] [--markdown PATH]

In this order, each printed and written as soon as it is there:

1. The compiled kernel against float64 on the CPU. If it is off there are no times of it.
2. A loss, forward and backward, in multiples of KeypointMSELoss: kernel, PyTorch and torch.compile, dense targets and dots.
3. A training step of HRNet-W32 with each of these losses, and of HRNet-W48 with the paper's own setting.

HRNet comes from timm, its head is one convolution, as MMPose's is; without timm the third part is left out.  Pictures and dots are
random and lie on the GPU.  ``KeypointMSELoss`` is written out here; a test compares it with MMPose's.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from hdm_mmpose.transport import DotLoss  # noqa: E402
from tools.benchmarks.measuring import available, conditions, machine, time_in_turns, write_json  # noqa: E402
from tools.pages import find_block, table, write_block  # noqa: E402

BLOCK = 'decisive-cuda'
BATCHES = 3  # in turns, so that the cache does not hold them
ALLOWED = 1e-5  # error of value and gradient, in parts of the largest
PAPER = dict(entropic_lambda=1, cell_size=4, objective='shannon', supplier='relu', solver='sinkhorn', ground_distance='euclidean',
             reduction='sum')
# network, input height and width, pictures, whether the paper's setting is measured too
STEPS = (('hrnet_w32', 256, 192, 64, False), ('hrnet_w48', 384, 288, 32, True))


class KeypointMSELoss(nn.Module):
    """MMPose's loss with ``use_target_weight=True``: it is what all its heatmap recipes use."""

    def forward(self, output: Tensor, target: Tensor, target_weights: Tensor) -> Tensor:
        return (nn.functional.mse_loss(output, target, reduction='none') * target_weights[..., None, None]).mean()


class PoseNet(nn.Module):
    """A network of timm up to its features of stride 4, and a 1 x 1 convolution to K heatmaps."""

    def __init__(self, name: str, keypoints: int) -> None:
        super().__init__()
        import timm

        self.backbone = timm.create_model(name, features_only=True, feature_location='', out_indices=(1,))
        self.head = nn.Conv2d(self.backbone.feature_info.channels()[0], keypoints, 1)

    def forward(self, pictures: Tensor) -> Tensor:
        return self.head(self.backbone(pictures)[0])


def main(argv: Sequence[str] | None = None) -> None:
    """Measure; print and write what there is after each part."""
    arguments = _arguments(argv)
    device = arguments.device
    if device == 'cuda' and not torch.cuda.is_available():
        raise SystemExit('torch sees no GPU: there is nothing to measure')
    if arguments.markdown:
        find_block(arguments.markdown, BLOCK)
    torch.manual_seed(0)
    begun, record, texts = time.monotonic(), {'machine': machine(device, 0)}, []
    parts = {'correctness': check_kernel, 'losses': time_losses, 'steps': time_steps}
    for name, part in parts.items():
        record[name], text = part(arguments, record)
        texts.append(text)
        print(f'{text}\n({name}: {time.monotonic() - begun:.0f} s since the start)\n', flush=True)
        if arguments.json:
            write_json(arguments.json, record)
        if arguments.markdown:
            write_block(arguments.markdown, BLOCK, '\n\n'.join([*texts, conditions(record['machine'])]))


def losses(record: dict) -> dict[str, tuple[nn.Module, bool]]:
    """What is compared, by name: a loss, and whether its targets are dense. Without the kernel, if the check found it wrong."""
    kernel = {'EMD, kernel': (DotLoss(backend='triton'), True)}
    right = all(row['right'] for row in record['correctness'] if row['by'] == 'kernel')
    return {'KeypointMSELoss': (KeypointMSELoss(), True), **(kernel if right else {}), 'EMD, PyTorch': (DotLoss(backend='torch'), True)}


def and_more(compared: dict[str, tuple[nn.Module, bool]]) -> dict[str, tuple[nn.Module, bool]]:
    """The same compiled, and with dots for targets."""
    compiled = {f'{name}, torch.compile': (torch.compile(loss), True) for name, (loss, _) in compared.items()}
    return {**compared, **compiled, **{f'{name}, dots': (loss, False) for name, (loss, _) in compared.items() if 'EMD' in name}}


def inputs(batch: int, keypoints: int, height: int, width: int, device: str, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """A batch: maps, their dots, dense targets (bilinear dots) and weights, one joint of ten without."""
    maps = 0.1 * torch.randn(batch, keypoints, height, width, device=device)
    dots = torch.rand(batch, keypoints, 2, device=device) * torch.tensor([width - 1, height - 1], device=device)
    y, x = ((torch.arange(size, device=device) - dots[..., axis, None]).abs() for size, axis in ((height, 1), (width, 0)))
    dense = (1 - y).clamp(min=0)[..., :, None] * (1 - x).clamp(min=0)[..., None, :]
    return dict(maps=(maps + dense).to(dtype).requires_grad_(), dots=dots, dense=dense,
                weights=(torch.rand(batch, keypoints, device=device) > 0.1).float())


def call(loss: nn.Module, dense: bool, batch: dict[str, Tensor], maps: Tensor | None = None) -> Tensor:
    """The loss of a batch, or of other maps with its targets, after its backward pass."""
    value = loss(batch['maps'] if maps is None else maps, batch['dense' if dense else 'dots'], batch['weights'])
    value.backward()
    return value.detach()


def check_kernel(arguments: argparse.Namespace, record: dict) -> tuple[list[dict], str]:
    """Value and gradient of the kernel and of PyTorch on this device against float64 on the CPU."""
    exact, rows = DotLoss(backend='torch'), []
    for size in arguments.sizes:
        for dtype in (torch.float32, torch.bfloat16):
            for dense in (True, False):
                batch = inputs(2, 5, *size, arguments.device, dtype)
                wide = {name: each.detach().double().cpu() for name, each in batch.items()}
                wide['maps'].requires_grad_()
                wanted = call(exact, dense, wide)
                for name in ('kernel', 'PyTorch'):
                    batch['maps'].grad = None
                    value = call(DotLoss(backend='triton' if name == 'kernel' else 'torch'), dense, batch).cpu().double()
                    slope, truth = batch['maps'].grad.cpu().double(), wide['maps'].grad
                    row = dict(size=size, dtype=str(dtype).split('.')[1], target='dense' if dense else 'dots', by=name,
                               value=float((value - wanted).abs() / wanted),
                               gradient=float((slope - truth).abs().max() / truth.abs().max()))
                    row['right'] = row['value'] <= ALLOWED and row['gradient'] <= max(ALLOWED, torch.finfo(dtype).eps)
                    rows.append(row)
    cells = [[f'{row["size"][0]} x {row["size"][1]}', row['dtype'], row['target'], row['by'], f'{row["value"]:.0e}',
              f'{row["gradient"]:.0e}', 'yes' if row['right'] else '**no**'] for row in rows]
    return rows, table(['map', 'maps', 'target', 'by', 'value error', 'gradient error', 'right'], cells)


def time_losses(arguments: argparse.Namespace, record: dict) -> tuple[list[dict], str]:
    """Forward and backward of each loss."""
    rows = []
    for size in arguments.sizes:
        batches = [inputs(arguments.batch, arguments.keypoints, *size, arguments.device) for _ in range(BATCHES)]

        def runner(loss: nn.Module, dense: bool, batches: list = batches) -> Callable[[int], object]:
            def run(i: int) -> object:
                batches[i % BATCHES]['maps'].grad = None
                return call(loss, dense, batches[i % BATCHES])

            return run

        compared = losses(record) if arguments.device == 'cpu' else and_more(losses(record))
        times = time_in_turns({name: runner(*each) for name, each in compared.items()}, arguments.device, arguments.repeats)
        mse = times['KeypointMSELoss']['median']
        rows += [dict(size=size, loss=name, of_mse=own['median'] / mse, **own) for name, own in times.items()]
    cells = [[f'{row["size"][0]} x {row["size"][1]}', row['loss'], f'{row["median"] * 1e6:.1f}',
              f'{row["quartile_1"] * 1e6:.1f} - {row["quartile_3"] * 1e6:.1f}', f'{row["of_mse"]:.2f}'] for row in rows]
    head = f'Forward and backward of {arguments.batch} x {arguments.keypoints} maps, float32:'
    return rows, f'{head}\n\n{table(["map", "loss", "us", "quartiles", "x MSE"], cells)}'


def time_steps(arguments: argparse.Namespace, record: dict) -> tuple[list[dict], str]:
    """Whole steps: forward, loss, backward, Adam."""
    if not available('timm'):
        return [], 'A training step needs timm, which is not installed.'
    rows = []
    for name, height, width, batch, paper in STEPS:
        net = PoseNet(name, arguments.keypoints).to(arguments.device)
        optimizer = torch.optim.Adam(net.parameters(), lr=1e-4)
        pictures = torch.randn(batch, 3, height, width, device=arguments.device)
        targets = inputs(batch, arguments.keypoints, height // 4, width // 4, arguments.device)
        variants = losses(record)
        if paper:
            variants["the paper's own setting"] = (DotLoss(backend='torch', **PAPER), True)

        def runner(loss: nn.Module, dense: bool, net: nn.Module = net, optimizer: torch.optim.Optimizer = optimizer,
                   pictures: Tensor = pictures, targets: dict = targets) -> Callable[[int], object]:
            def run(_: int) -> object:
                optimizer.zero_grad(set_to_none=True)
                value = call(loss, dense, targets, net(pictures))
                optimizer.step()
                return value

            return run

        times = time_in_turns({name: runner(*each) for name, each in variants.items()}, arguments.device, arguments.turns)
        mse = times['KeypointMSELoss']['median']
        rows += [dict(network=name, size=(height, width), batch=batch, loss=loss, of_mse=own['median'] / mse, **own)
                 for loss, own in times.items()]
    cells = [[row['network'], f'{row["size"][0]} x {row["size"][1]}', row['batch'], row['loss'], f'{row["median"] * 1e3:.1f}',
              f'{row["quartile_1"] * 1e3:.1f} - {row["quartile_3"] * 1e3:.1f}', f'{row["of_mse"]:.3f}'] for row in rows]
    return rows, f'A training step, float32:\n\n{table(["network", "input", "batch", "loss", "ms", "quartiles", "x MSE"], cells)}'


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--device', default='cuda', help='cpu with TRITON_INTERPRET=1 to rehearse, at tiny sizes')
    parser.add_argument('--batch', type=int, default=64)
    parser.add_argument('--keypoints', type=int, default=17)
    parser.add_argument('--sizes', type=_pair, nargs='+', default=[(64, 48), (96, 72)], metavar='HxW', help='of the maps')
    parser.add_argument('--repeats', type=int, default=50, help='of a loss')
    parser.add_argument('--turns', type=int, default=8, help='of a training step')
    parser.add_argument('--json', type=Path)
    parser.add_argument('--markdown', type=Path, help=f'page whose block {BLOCK} is written')
    return parser.parse_args(argv)


def _pair(text: str) -> tuple[int, int]:
    height, width = map(int, text.split('x'))
    return height, width


if __name__ == '__main__':
    main()
