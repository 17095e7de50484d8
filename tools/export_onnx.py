"""Export a trained model to ONNX: normalisation, backbone, head and sub-pixel decoder in one graph.

    python tools/export_onnx.py CONFIG CHECKPOINT --out model.onnx [--crops 200] [--pictures FOLDER]

Input  ``crops``      (B, C, h, w) float32, 0 to 255, channels as OpenCV reads them (BGR): what the config's
                      ``TopdownAffine`` cuts out.  B is free; C is 3 unless the network takes another number.
Output ``keypoints``  (B, K, 2) float32, x then y, in pixels of the crop as MMPose's mapping back to the picture expects them:
                      ``keypoints / (w, h) * scale + center - scale / 2``
Output ``scores``     (B, K) float32 in [0, 1]

The exported graph is then run by onnxruntime on random crops (of the pictures in ``--pictures``, or of noise) in batches of
different sizes and compared with PyTorch.  What float32 leaves open of a map is measured: the network is run in float64 too, and
noise of the size of the difference moves each joint by so much.  Exit status 1 if a keypoint differs by more than 1e-4 input pixels,
or a score by more than 1e-4, and by more than four times what it is so moved: the map of a barely trained network is flat, and moves
further.  Where noise moves a joint by half a pixel, two places are equally good: such joints are left out, and more than 1 % of
them fail.  There is no flip test in the graph.
"""

from __future__ import annotations

import argparse
import copy
import inspect
import math
import re
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher import init_fitting_model, make_plugin_importable

make_plugin_importable()

import cv2  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from hdm_mmpose.components.predictions import decoded_heatmaps, decoder_of, input_channels  # noqa: E402

TOLERANCE = 1e-4  # input pixels
SCORE_TOLERANCE = 1e-4  # of a score in [0, 1]
MOST_TIES = 0.01  # share of joints that rounding may decide; beyond it the comparison says little about the graph
MARGIN = 4  # times what rounding moves a joint, that it may differ
JUMP = 0.5  # input pixels: what rounding moves that far has two places
DRAWS = 8  # of noise
ROUNDING = 6e-8  # float32's own, as a share of a map's largest value: the least that is taken for what it leaves open
BATCHES = (1, 7, 32)
INPUT, OUTPUTS = 'crops', ('keypoints', 'scores')


class Exportable(nn.Module):
    """Crop to keypoints, in tensor operations only.

    Args:
        model: a top-down estimator whose head's decoder offers ``decode_tensor``.

    Raises:
        ValueError: a head without such a decoder.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        decoder = decoder_of(model.head)
        if not hasattr(decoder, 'decode_tensor'):
            raise ValueError(f'the decoder of {type(model.head).__name__} must be SubPixelDecoder or DotAnnotationCodec to be '
                             f'exported, got {type(decoder).__name__}; see docs/swap.md, "decoder only"')
        self.model, self.decoder = model, decoder
        self.channels = input_channels(model)
        preprocessor = model.data_preprocessor
        self.swap = bool(preprocessor._channel_conversion)
        for name, default in (('mean', 0.0), ('std', 1.0)):  # a preprocessor that does not normalise has neither
            self.register_buffer(name, getattr(preprocessor, name, torch.tensor(default)).clone().view(1, -1, 1, 1))

    def heatmaps(self, crops: Tensor) -> Tensor:
        """(B, K, H, W) that are decoded."""
        normal = ((crops.flip(1) if self.swap else crops) - self.mean) / self.std
        return decoded_heatmaps(self.model.head(self.model.extract_feat(normal)))

    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        return self.decoder.decode_tensor(self.heatmaps(crops))


@dataclass(frozen=True)
class Comparison:
    """What PyTorch and onnxruntime make of the same crops.

    Attributes:
        crops, joints: how many were compared.
        ties: joints that rounding moves by half a pixel or more; left out of all that follows.
        pixels: largest difference of a coordinate, in input pixels.
        score: largest difference of a score.
        open_pixels, open_score: the most that float32 leaves open of a joint and of a score.
        beyond: joints that differ by more than they may.
    """

    crops: int
    joints: int
    ties: int
    pixels: float
    score: float
    open_pixels: float
    open_score: float
    beyond: int

    def __str__(self) -> str:
        return (f'{self.crops} crops, {self.joints} joints: keypoints differ by at most {self.pixels:.1e} px (float32 leaves '
                f'{self.open_pixels:.1e} px open), scores by {self.score:.1e} ({self.open_score:.1e} open); '
                f'{self.ties} joints that rounding decides left out')

    def faults(self) -> list[str]:
        """What is wrong with the graph, in words; empty if nothing is. NaN is wrong."""
        found = []
        if self.beyond:
            found.append(f'{self.beyond} of {self.joints} joints differ by more than {TOLERANCE:g} px or {SCORE_TOLERANCE:g} of a score '
                         f'and by more than {MARGIN} times what float32 leaves open of them')
        if self.ties > max(1, MOST_TIES * self.joints):
            found.append(f'{self.ties} of {self.joints} joints are decided by rounding, more than {MOST_TIES:.0%}: '
                         f'the comparison says nothing about them')
        return found


class NotExpressible(Exception):
    """ONNX has no form for an operator of the network."""


def export(module: Exportable, input_size: tuple[int, int], path: Path) -> None:
    """Write the graph.

    Args:
        module: in evaluation mode.
        input_size: (w, h) of a crop in pixels.
        path: file to write.

    Raises:
        NotExpressible: naming the operator.
    """
    width, height = input_size
    # torch 2.5 and later have two exporters
    tracing = {'dynamo': False} if 'dynamo' in inspect.signature(torch.onnx.export).parameters else {}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter('ignore')  # tracing warns of every Python branch on a shape, all of which are fixed here
        try:
            torch.onnx.export(
                module, (torch.zeros(2, module.channels, height, width),), str(path), input_names=[INPUT], output_names=list(OUTPUTS),
                dynamic_axes={name: {0: 'batch'} for name in (INPUT, *OUTPUTS)}, opset_version=17, **tracing)
        except RuntimeError as problem:  # its message holds the whole graph
            operator = re.search(r"operator '?([\w:.]+)", str(problem))
            if operator is None:
                raise
            raise NotExpressible(f'ONNX cannot express {operator[1]} as this network uses it: '
                                 f'{str(problem).splitlines()[0][:200]}') from None


def compare(module: Exportable, path: Path, crops: np.ndarray) -> Comparison:
    """Run both on the same crops, in batches of different sizes.

    Args:
        module: in evaluation mode.
        path: the exported graph.
        crops: (N, C, h, w) float32.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])
    exact = copy.deepcopy(module).double()
    rows = [compare_batch(module, exact, session, batch) for batch in batches(crops)]
    pixels, score, open_pixels, open_score = (np.concatenate(column) for column in zip(*rows))
    kept = ~(open_pixels >= JUMP)
    fine = (pixels <= np.maximum(TOLERANCE, MARGIN * open_pixels)) & (score <= np.maximum(SCORE_TOLERANCE, MARGIN * open_score))
    largest = [float(np.max(each, where=kept, initial=0)) for each in (pixels, score, open_pixels, open_score)]  # NaN stays
    return Comparison(len(crops), pixels.size, int((~kept).sum()), *largest, int((kept & ~fine).sum()))


def compare_batch(module: Exportable, exact: Exportable, session: Any, batch: np.ndarray) -> tuple[np.ndarray, ...]:
    """(B, K) each: difference in pixels, of the score, and what float32 leaves open of both; ``exact`` is in float64."""
    crops = torch.from_numpy(batch)
    with torch.no_grad():
        maps, wide = module.heatmaps(crops), exact.heatmaps(crops.double())
        wanted, confidence = module(crops)
        open_pixels, open_score = left_open(exact.decoder, wide, (maps - wide).abs().amax((-2, -1)))
    got, certainty = session.run(list(OUTPUTS), {INPUT: batch})
    pixels = np.abs(got - wanted.numpy()).max(-1)
    return pixels, np.abs(certainty - confidence.numpy()), open_pixels.numpy(), open_score.numpy()


def left_open(decoder: Any, maps: Tensor, error: Tensor) -> tuple[Tensor, Tensor]:
    """How far float32 and noise of a given size move a joint from where float64 reads it, in input pixels, and its score; (B, K) each.

    Args:
        decoder: of the head.
        maps: (B, K, H, W) float64.
        error: (B, K) size of the noise; at least float32's rounding of a map's largest value, and of its masses, is taken.
    """
    sharpness = getattr(decoder.supplier, 'sharpness', math.inf)  # masses are exp(sharpness h): a flat map has no other scale
    floor = ROUNDING * (maps.abs().amax((-2, -1)) + 16 / sharpness)  # a blur adds up dozens of them
    size = torch.maximum(error, floor)[..., None, None]
    generator = torch.Generator().manual_seed(0)
    points, scores = decoder.decode_tensor(maps)
    noises = [size * torch.randn(maps.shape, dtype=maps.dtype, generator=generator) for _ in range(DRAWS)]
    read = [decoder.decode_tensor((maps + noise).float()) for noise in noises]
    moved = [(points - others).abs().amax(-1) for others, _ in read]
    return torch.stack(moved).amax(0), torch.stack([(scores - certainties).abs() for _, certainties in read]).amax(0)


def batches(crops: np.ndarray) -> Iterator[np.ndarray]:
    start = turn = 0
    while start < len(crops):
        size = BATCHES[turn % len(BATCHES)]
        yield crops[start:start + size]
        start, turn = start + size, turn + 1


def random_crops(
    count: int, input_size: tuple[int, int], pictures: list[np.ndarray], channels: int = 3, seed: int = 0
) -> np.ndarray:
    """(N, C, h, w) float32 crops at random places, turned and scaled; of smooth noise where there are no pictures.

    Args:
        count: N.
        input_size: (w, h) of a crop in pixels.
        pictures: (H, W, 3) uint8 BGR each.
        channels: C; where it is not 3, those of the pictures in turn.
        seed: of the random places.
    """
    rng = np.random.default_rng(seed)
    crops = []
    for _ in range(count):
        if not pictures:
            noise = rng.integers(0, 256, (input_size[1] // 8, input_size[0] // 8, channels), dtype=np.uint8)
            crops.append(cv2.resize(noise, input_size, interpolation=cv2.INTER_CUBIC).reshape(*input_size[::-1], channels))
            continue
        picture = pictures[rng.integers(len(pictures))]
        center = rng.uniform(0.2, 0.8, 2) * picture.shape[1::-1]
        warp = cv2.getRotationMatrix2D(center, rng.uniform(-40, 40), rng.uniform(0.5, 2))
        warp[:, 2] += np.array(input_size) / 2 - center
        crops.append(cv2.warpAffine(picture, warp, input_size)[..., np.arange(channels) % 3])
    return np.stack(crops).transpose(0, 3, 1, 2).astype(np.float32)


def read_pictures(folder: str | None) -> list[np.ndarray]:
    """All pictures directly inside a folder.

    Raises:
        ValueError: there are none, or one cannot be read.
    """
    if folder is None:
        return []
    paths = [path for path in sorted(Path(folder).iterdir()) if path.suffix.lower() in ('.jpg', '.jpeg', '.png')]
    if not paths:
        raise ValueError(f'--pictures: {folder} holds no .jpg or .png')
    pictures = [cv2.imread(str(path)) for path in paths]
    broken = [path.name for path, picture in zip(paths, pictures) if picture is None]
    if broken:
        raise ValueError(f'--pictures: {len(broken)} of {len(paths)} files in {folder} are no pictures: {", ".join(broken[:3])}')
    return pictures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config')
    parser.add_argument('checkpoint')
    parser.add_argument('--out', default='model.onnx', type=Path, help='file to write (default: %(default)s)')
    parser.add_argument('--crops', default=200, type=int, help='crops to compare on, 0 for none (default: %(default)s)')
    parser.add_argument('--pictures', help='folder to cut the crops from; without it they are noise')
    args = parser.parse_args()
    try:
        if args.out.is_dir():
            raise ValueError(f'--out must name a file, got the folder {args.out}')
        pictures = read_pictures(args.pictures)
        args.out.parent.mkdir(parents=True, exist_ok=True)
        module = Exportable(init_fitting_model(args.config, args.checkpoint)).eval()
        input_size = tuple(module.decoder.input_size)
        export(module, input_size, args.out)
    except Exception as problem:  # a config is code and may raise anything; the user wants to read one sentence
        raise SystemExit(f'error: {problem}' if isinstance(problem, (ValueError, OSError, NotExpressible))
                         else f'error: {type(problem).__name__}: {problem}') from None
    print(f'{args.out}: {args.out.stat().st_size / 2**20:.1f} MiB, crops of {input_size[0]} x {input_size[1]}')
    if not args.crops:
        return 0
    comparison = compare(module, args.out, random_crops(args.crops, input_size, pictures, module.channels))
    print(comparison)
    faults = comparison.faults()
    for fault in faults:
        print(f'error: {fault}', file=sys.stderr)
    return int(bool(faults))


if __name__ == '__main__':
    sys.exit(main())
