"""Time of encoding and decoding, ours against MMPose's MSRAHeatmap, plain and unbiased (DARK), one sample at a time, as its heads run it.

    python tools/benchmarks/codec.py [--markdown docs/benchmarks.md --json docs/data/codec_cpu.json] [--device cpu|cuda]

Every time is the median over interleaved, warmed-up repeats, with the quartiles beside it; heatmaps rotate through several
batches, more than the caches hold.  Nothing is printed before results have been compared: encoded dots with their
centroids, decoded maps with the plain float64 computation.  Decoding ends with keypoints on the host, whatever the device.
On a CPU it is processor time of one thread, which other work on the machine changes little.

Without MMPose (a bare machine with a GPU) the core of the decoder is timed alone.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from hdm_mmpose.decoding import read_heatmap  # noqa: E402
from hdm_mmpose.transport.suppliers import build_supplier  # noqa: E402
from tools.benchmarks.measuring import conditions, machine, summary, time_in_turns, write_json  # noqa: E402
from tools.pages import find_block, table, write_block  # noqa: E402

STRIDE = 4
SEED = 0
BATCHES = 4  # rotated
READINGS = (('softmax', 2.), ('softplus', 2.), ('relu', 2.), ('relu', 0.))  # supplier rule and blur
ENCODES_PER_REPEAT = 50
STOCK, DARK = 'MSRAHeatmap', 'MSRAHeatmap(unbiased=True)'
FLOOR = 'the highest cell alone (torch.amax)'  # no decoder is faster than one look at each cell

try:
    import cv2
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


def check(name: str, difference: float, allowed: float) -> None:
    if not difference <= allowed:
        raise SystemExit(f'{name}: off by {difference:.3g}, allowed {allowed:.3g}: no times printed')


def benchmark_encode(args: argparse.Namespace) -> list[dict]:
    _, joints, height, width = args.shape
    sizes = dict(input_size=(width * STRIDE, height * STRIDE), heatmap_size=(width, height))
    ours = {'DotAnnotationCodec': DotAnnotationCodec(**sizes),
            'DotAnnotationCodec naive': DotAnnotationCodec(subpixel=False, **sizes)}
    generator = np.random.default_rng(SEED)
    people = [(generator.uniform(STRIDE, np.array(sizes['input_size']) - STRIDE, (1, joints, 2)).astype(np.float32),
               np.ones((1, joints), np.float32)) for _ in range(ENCODES_PER_REPEAT)]
    for points, visible in people:
        maps = ours['DotAnnotationCodec'].encode(points, visible)['heatmaps'].astype(np.float64)
        centroid = np.stack([maps.sum(1) @ np.arange(width), maps.sum(2) @ np.arange(height)], -1)
        check('encode', np.abs((centroid + .5) * STRIDE - .5 - points[0]).max(), 1e-4)
    codecs = {STOCK: MSRAHeatmap(sigma=3., **sizes), **ours}
    runners = {name: lambda _, codec=codec: [codec.encode(*person) for person in people] for name, codec in codecs.items()}
    rows = time_in_turns(runners, 'cpu', args.repeats, time.process_time).items()
    return [dict(task='encode one sample', device='cpu', codec=name,
                 **{key: value / ENCODES_PER_REPEAT for key, value in row.items() if key != 'repeats'}) for name, row in rows]


def name_of(rule: str, blur: float) -> str:
    return f'SubPixelDecoder {rule}{f", blur {blur:g}" if blur else ""}'


def our_decoder(rule: str, blur: float, args: argparse.Namespace) -> Callable[[Tensor], object]:
    """Heatmaps to keypoints on the host."""
    height, width = args.shape[-2:]
    if MSRAHeatmap is not None:
        return SubPixelDecoder((width * STRIDE, height * STRIDE), (width, height), supplier=rule, blur=blur).batch_decode
    supplier = build_supplier(rule)

    def core(maps: Tensor) -> Tensor:
        reading = read_heatmap(maps, supplier, blur)
        return torch.cat([reading.dots, reading.share[..., None]], -1).cpu()

    return core


def check_decode(maps: Tensor, rule: str, blur: float) -> None:
    supplier = build_supplier(rule)
    expected = read_heatmap(maps.double().cpu(), supplier, blur, traceable=True)
    found = read_heatmap(maps, supplier, blur)
    check(f'decode, {rule}, share', (found.share.cpu() - expected.share).abs().max().item(), 1e-5)
    # Noise has places that float32 cannot tell apart; where the best one stands out the dots must agree.
    clear = expected.share > (.2 if blur else .01)
    off = (found.dots.cpu() - expected.dots).abs().amax(-1)[clear]
    check(f'decode, {rule}, cells', off.max().item() if len(off) else 0., 1e-3)


def benchmark_decode(model: str, device: str, args: argparse.Namespace) -> list[dict]:
    generator = torch.Generator().manual_seed(SEED)
    batches = [heatmaps_like(model, args.shape, generator).to(device) for _ in range(BATCHES)]
    runners: dict[str, Callable[[int], object]] = {}
    if MSRAHeatmap is not None:
        height, width = args.shape[-2:]
        for name, unbiased in ((STOCK, False), (DARK, True)):
            stock = MSRAHeatmap((width * STRIDE, height * STRIDE), (width, height), sigma=2., unbiased=unbiased)
            runners[name] = lambda repeat, stock=stock: [stock.decode(maps) for maps in batches[repeat % BATCHES].cpu().numpy()]
    runners[FLOOR] = lambda repeat: batches[repeat % BATCHES].flatten(2).amax(-1).cpu()
    for rule, blur in READINGS:
        check_decode(batches[0], rule, blur)
        decode = our_decoder(rule, blur, args)
        runners[name_of(rule, blur)] = lambda repeat, decode=decode: decode(batches[repeat % BATCHES])
    if device == 'cuda':
        torch.cuda.synchronize()
    clock = time.perf_counter if device == 'cuda' else time.process_time
    rows = time_in_turns(runners, 'cpu', args.repeats, clock)  # the host's: keypoints end there
    return [dict(task='decode', maps=model, device=device, codec=name, **row) for name, row in rows.items()]


def benchmark_on_device(model: str, args: argparse.Namespace) -> list[dict]:
    """The GPU's own time, between events, without the copy to the host."""
    generator = torch.Generator().manual_seed(SEED)
    batches = [heatmaps_like(model, args.shape, generator).cuda() for _ in range(BATCHES)]
    rows = []
    for rule, blur in READINGS:
        supplier, seconds = build_supplier(rule), []
        for repeat in range(-3, args.repeats):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            read_heatmap(batches[repeat % BATCHES], supplier, blur)
            end.record()
            end.synchronize()
            if repeat >= 0:
                seconds.append(start.elapsed_time(end) / 1000)
        rows.append(dict(task='decode, device only', maps=model, device='cuda', codec=name_of(rule, blur),
                         **summary(seconds)))
    return rows


def report(rows: list[dict]) -> str:
    """Milliseconds, and how many times the one and the other of MMPose's decoders takes."""
    medians = {(row['task'], row.get('maps'), row['device'], row['codec']): row['median'] for row in rows}
    cells = []
    for row in rows:
        times = [f'{1e3 * row[key]:.3f}' for key in ('median', 'quartile_1', 'quartile_3')]
        known = (medians.get((row['task'], row.get('maps'), row['device'], stock)) for stock in (STOCK, DARK))
        ratios = [f'{median / row["median"]:.2f}' if median else '-' for median in known]
        cells.append([row['codec'], row['task'], row.get('maps', ''), times[0], f'{times[1]} - {times[2]}', *ratios])
    return table(['codec', 'task', 'maps', 'median ms', 'quartiles', 'MSRAHeatmap / this', 'DARK / this'], cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--json', type=Path, help='write the results there too')
    parser.add_argument('--markdown', type=Path, help='replace the table between the markers `codec-DEVICE` in this file')
    parser.add_argument('--device', choices=('cpu', 'cuda'), default='cpu')
    parser.add_argument('--repeats', type=int, default=30)
    parser.add_argument('--shape', type=int, nargs=4, default=(64, 17, 64, 48), metavar=('B', 'K', 'H', 'W'))
    args = parser.parse_args()
    args.shape = tuple(args.shape)
    if args.markdown:
        find_block(args.markdown, f'codec-{args.device}')
    torch.set_num_threads(1)
    if MSRAHeatmap is not None:
        cv2.setNumThreads(1)
    about = machine(args.device, SEED)
    rows = benchmark_encode(args) if MSRAHeatmap is not None else []
    with torch.inference_mode():
        for model in ('EMD', 'Gaussian MSE', 'untrained'):
            rows += benchmark_decode(model, args.device, args)
            rows += benchmark_on_device(model, args) if args.device == 'cuda' else []
    if MSRAHeatmap is None:
        print('MSRAHeatmap: MMPose is not installed, nothing to compare with')
    text = f'{report(rows)}\n\n{conditions(about)} Load of the machine at the start: {about["load"]}.'
    print(f'\n{text}')
    if args.json:
        write_json(args.json, {'machine': about, 'shape': args.shape, 'results': rows})
    if args.markdown:
        write_block(args.markdown, f'codec-{args.device}', text)


if __name__ == '__main__':
    main()
