"""Time of encoding and decoding, ours against MMPose's MSRAHeatmap (one sample at a time, as MMPose's heads run it).

    python tools/benchmark_codec.py [--json PATH] [--device cpu|cuda] [--threads N]

Every time is the median over interleaved, warmed-up repeats, with the quartiles beside it; heatmaps rotate through several
batches, more than the caches hold.  Nothing is printed before results have been compared: encoded dots with their
centroids, decoded maps with the plain float64 computation.  Decoding ends with keypoints on the host, whatever the device.

Without MMPose (a bare machine with a GPU) the core of the decoder is timed alone.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from hdm_mmpose.transport.sub_pixel import read_heatmap  # noqa: E402
from hdm_mmpose.transport.sub_pixel_cpu import read_heatmap_cpu  # noqa: E402
from hdm_mmpose.transport.suppliers import build_supplier  # noqa: E402

STRIDE = 4
BATCHES = 4  # rotated
RULES = ('relu', 'softplus', 'softmax')
ENCODES_PER_REPEAT = 50

try:
    from mmpose.codecs import MSRAHeatmap

    from hdm_mmpose.components import DotAnnotationCodec, SubPixelDecoder
except ImportError:
    MSRAHeatmap = None


def heatmaps_like(model: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Raw maps as a model of this kind gives them: one blob per joint and noise."""
    background, height, width, noise = {
        'untrained': (0., 0., 1., .1),  # nothing but noise: the worst case for a search
        'Gaussian MSE': (0., 1., 2., .02),
        'EMD': (-1., 2., .7, .1),
    }[model]
    rows, columns = shape[-2:]
    centre = torch.rand(*shape[:2], 2, generator=generator) * torch.tensor([columns - 1, rows - 1])
    x = (torch.arange(columns) - centre[..., 0, None])[..., None, :]
    y = (torch.arange(rows) - centre[..., 1, None])[..., :, None]
    blob = height * torch.exp(-(x**2 + y**2) / (2 * width**2))
    return background + blob + noise * torch.randn(shape, generator=generator)


def race(runners: dict[str, Callable[[int], object]], repeats: int) -> dict[str, dict[str, float]]:
    """Seconds of each runner, called in turns with the number of the repeat."""
    times: dict[str, list[float]] = {name: [] for name in runners}
    for repeat in range(-3, repeats):
        for name, runner in runners.items():
            start = time.perf_counter()
            runner(repeat)
            if repeat >= 0:
                times[name].append(time.perf_counter() - start)
    return {name: summary(values) for name, values in times.items()}


def summary(seconds: list[float]) -> dict[str, float]:
    low, median, high = statistics.quantiles(seconds, n=4)
    return dict(median=median, quartile_1=low, quartile_3=high, fastest=min(seconds))


def check(name: str, difference: float, allowed: float) -> None:
    if not difference <= allowed:
        raise SystemExit(f'{name}: off by {difference:.3g}, allowed {allowed:.3g}: no times printed')


def benchmark_encode(args: argparse.Namespace) -> list[dict]:
    _, joints, height, width = args.shape
    sizes = dict(input_size=(width * STRIDE, height * STRIDE), heatmap_size=(width, height))
    ours = {'DotAnnotationCodec': DotAnnotationCodec(**sizes),
            'DotAnnotationCodec naive': DotAnnotationCodec(subpixel=False, **sizes)}
    generator = np.random.default_rng(0)
    people = [(generator.uniform(STRIDE, np.array(sizes['input_size']) - STRIDE, (1, joints, 2)).astype(np.float32),
               np.ones((1, joints), np.float32)) for _ in range(ENCODES_PER_REPEAT)]
    for points, visible in people:
        maps = ours['DotAnnotationCodec'].encode(points, visible)['heatmaps'].astype(np.float64)
        centroid = np.stack([maps.sum(1) @ np.arange(width), maps.sum(2) @ np.arange(height)], -1)
        check('encode', np.abs((centroid + .5) * STRIDE - .5 - points[0]).max(), 1e-4)
    codecs = {'MSRAHeatmap': MSRAHeatmap(sigma=3., **sizes), **ours}
    runners = {name: lambda _, codec=codec: [codec.encode(*person) for person in people] for name, codec in codecs.items()}
    rows = race(runners, args.repeats).items()
    return [dict(task='encode one sample', device='cpu', codec=name,
                 **{key: value / ENCODES_PER_REPEAT for key, value in row.items()}) for name, row in rows]


def our_decoder(rule: str, args: argparse.Namespace) -> Callable[[Tensor], object]:
    """Heatmaps to keypoints on the host."""
    height, width = args.shape[-2:]
    if MSRAHeatmap is not None:
        return SubPixelDecoder((width * STRIDE, height * STRIDE), (width, height), supplier=rule).batch_decode
    supplier = build_supplier(rule)

    def core(maps: Tensor) -> Tensor:
        reading = (read_heatmap_cpu if maps.device.type == 'cpu' else read_heatmap)(maps, supplier)
        return torch.cat([reading.dots, reading.share[..., None]], -1).cpu()

    return core


def check_decode(maps: Tensor, rule: str) -> None:
    supplier = build_supplier(rule)
    expected = read_heatmap(maps.double().cpu(), supplier)
    found = (read_heatmap_cpu if maps.device.type == 'cpu' else read_heatmap)(maps, supplier)
    check(f'decode, {rule}, share', (found.share.cpu() - expected.share).abs().max().item(), 1e-5)
    # Noise has squares that float32 cannot tell apart; where the best one stands out the dots must agree.
    clear = expected.share > .01
    off = (found.dots.cpu() - expected.dots).abs().amax(-1)[clear]
    check(f'decode, {rule}, cells', off.max().item() if len(off) else 0., 1e-3)


def benchmark_decode(model: str, device: str, args: argparse.Namespace) -> list[dict]:
    generator = torch.Generator().manual_seed(0)
    batches = [heatmaps_like(model, args.shape, generator).to(device) for _ in range(BATCHES)]
    runners: dict[str, Callable[[int], object]] = {}
    if MSRAHeatmap is not None:
        height, width = args.shape[-2:]
        stock = MSRAHeatmap(input_size=(width * STRIDE, height * STRIDE), heatmap_size=(width, height), sigma=3.)
        runners['MSRAHeatmap'] = lambda repeat: [stock.decode(maps) for maps in batches[repeat % BATCHES].cpu().numpy()]
    for rule in RULES:
        check_decode(batches[0], rule)
        decode = our_decoder(rule, args)
        runners[f'SubPixelDecoder {rule}'] = lambda repeat, decode=decode: decode(batches[repeat % BATCHES])
    if device == 'cuda':
        torch.cuda.synchronize()
    rows = race(runners, args.repeats)
    return [dict(task='decode', maps=model, device=device, codec=name, **row) for name, row in rows.items()]


def benchmark_on_device(model: str, args: argparse.Namespace) -> list[dict]:
    """The GPU's own time, between events, without the copy to the host."""
    generator = torch.Generator().manual_seed(0)
    batches = [heatmaps_like(model, args.shape, generator).cuda() for _ in range(BATCHES)]
    rows = []
    for rule in RULES:
        supplier, seconds = build_supplier(rule), []
        for repeat in range(-3, args.repeats):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            read_heatmap(batches[repeat % BATCHES], supplier)
            end.record()
            end.synchronize()
            if repeat >= 0:
                seconds.append(start.elapsed_time(end) / 1000)
        rows.append(dict(task='decode, device only', maps=model, device='cuda', codec=f'SubPixelDecoder {rule}',
                         **summary(seconds)))
    return rows


def machine() -> dict:
    def version(package: str) -> str | None:
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            return None

    def git(*command: str) -> str | None:
        result = subprocess.run(['git', '-C', str(ROOT), *command], capture_output=True, text=True)
        return result.stdout.strip() if result.returncode == 0 else None

    packages = {package: version(package) for package in ('torch', 'numpy', 'mmpose', 'hdm-mmpose')}
    return dict(cpu=processor(), cores=os.cpu_count(), threads=torch.get_num_threads(),
                vector_instructions=torch.backends.cpu.get_cpu_capability(), load_average=os.getloadavg()[0],
                gpu=torch.cuda.get_device_name() if torch.cuda.is_available() else None,
                python=platform.python_version(), **packages, commit=git('rev-parse', 'HEAD'),
                uncommitted_changes=bool(git('status', '--porcelain')), date=time.strftime('%Y-%m-%d'))


def processor() -> str:
    listing = Path('/proc/cpuinfo')
    lines = listing.read_text().splitlines() if listing.exists() else []
    return next((line.split(':')[1].strip() for line in lines if 'model name' in line), platform.processor())


def print_table(rows: list[dict]) -> None:
    stock: dict[tuple, float] = {}
    print(f'{"task":20} {"maps":13} {"device":6} {"codec":26} {"median ms":>10} {"quartiles ms":>18} {"MSRA / ours":>12}')
    for row in rows:
        group = row['task'], row.get('maps', ''), row['device']
        if row['codec'] == 'MSRAHeatmap':
            stock[group] = row['median']
        row['speedup'] = stock[group] / row['median'] if group in stock else None
        spread = f'{row["quartile_1"] * 1e3:.3f} - {row["quartile_3"] * 1e3:.3f}'
        ratio = f'{row["speedup"]:.2f}' if row['speedup'] else '-'
        print(f'{group[0]:20} {group[1]:13} {group[2]:6} {row["codec"]:26} {row["median"] * 1e3:10.3f} {spread:>18} '
              f'{ratio:>12}')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--json', type=Path, help='write the results there too')
    parser.add_argument('--device', choices=('cpu', 'cuda'), help='default: both where there is a GPU')
    parser.add_argument('--threads', type=int, help="torch's threads on the CPU; MSRAHeatmap always uses one")
    parser.add_argument('--repeats', type=int, default=30)
    parser.add_argument('--shape', type=int, nargs=4, default=(64, 17, 96, 72), metavar=('B', 'K', 'H', 'W'))
    args = parser.parse_args()
    args.shape = tuple(args.shape)
    if args.threads:
        torch.set_num_threads(args.threads)
    about = machine()
    devices = [args.device] if args.device else ['cpu', 'cuda'] if torch.cuda.is_available() else ['cpu']
    rows = benchmark_encode(args) if MSRAHeatmap is not None and 'cpu' in devices else []
    with torch.inference_mode():
        for device in devices:
            for model in ('EMD', 'Gaussian MSE', 'untrained'):
                rows += benchmark_decode(model, device, args)
                rows += benchmark_on_device(model, args) if device == 'cuda' else []
    print(', '.join(f'{key} {value}' for key, value in about.items()))
    if MSRAHeatmap is None:
        print('MSRAHeatmap: MMPose is not installed, nothing to compare with')
    if about['load_average'] > .5:
        print(f'other work was running (load average {about["load_average"]:.1f}): do not publish these times')
    print_table(rows)
    if args.json:
        report = dict(machine=about, shape=args.shape, repeats=args.repeats, results=rows)
        args.json.write_text(json.dumps(report, indent=1) + '\n')


if __name__ == '__main__':
    main()
