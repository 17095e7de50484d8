"""Export a trained model to ONNX: normalisation, backbone, head and sub-pixel decoder in one graph.

    python tools/export_onnx.py CONFIG CHECKPOINT --out model.onnx [--crops 200] [--pictures FOLDER]

Input  ``crops``      (B, 3, h, w) float32, 0 to 255, channels as OpenCV reads them (BGR): what the config's
                      ``TopdownAffine`` cuts out.  B is free.
Output ``keypoints``  (B, K, 2) float32, x then y, in pixels of the crop as MMPose's mapping back to the picture expects them:
                      ``keypoints / (w, h) * scale + center - scale / 2``
Output ``scores``     (B, K) float32 in [0, 1]

The exported graph is then run by onnxruntime on random crops (of the pictures in ``--pictures``, or of noise) in batches of
different sizes and compared with PyTorch.  Where two places of a map are equally good to rounding, or a dot lies between two
heaps of mass, rounding decides: joints that differ for this reason are counted apart.  Exit status 1 if keypoints differ by
more than 1e-4 input pixels, scores by more than 1e-4, or more than 1 % of the joints for that reason.  There is no flip test in
the graph.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher import make_plugin_importable

make_plugin_importable()

import cv2  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from mmpose.apis import init_model  # noqa: E402
from torch import Tensor, nn  # noqa: E402

TOLERANCE = 1e-4  # input pixels
SCORE_TOLERANCE = 1e-4  # of a score in [0, 1]
MOST_TIES = 0.01  # share of joints that rounding may decide; beyond it the comparison says little about the graph
ROUNDING = 1e-6  # what float32 arithmetic leaves open of a map, as a share of its largest value
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
        decoder = getattr(model.head, 'decoder', None)
        if not hasattr(decoder, 'decode_tensor'):
            raise ValueError(f'the decoder of {type(model.head).__name__} must be SubPixelDecoder or DotAnnotationCodec to be '
                             f'exported, got {type(decoder).__name__}; see docs/swap.md, "decoder only"')
        self.model = model
        preprocessor = model.data_preprocessor
        self.swap = bool(preprocessor._channel_conversion)
        for name, default in (('mean', 0.0), ('std', 1.0)):  # a preprocessor that does not normalise has neither
            self.register_buffer(name, getattr(preprocessor, name, torch.tensor(default)).clone().view(1, -1, 1, 1))

    def heatmaps(self, crops: Tensor) -> Tensor:
        """(B, K, H, W) that are decoded."""
        normal = ((crops.flip(1) if self.swap else crops) - self.mean) / self.std
        output = self.model.head(self.model.extract_feat(normal))
        if isinstance(output, tuple):  # heads with a second output
            output = next(each for each in output if each.dim() == 4)
        return output[-1] if isinstance(output, list) else output  # of heads with stages the last is decoded

    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        return self.model.head.decoder.decode_tensor(self.heatmaps(crops))


@dataclass(frozen=True)
class Comparison:
    """What PyTorch and onnxruntime make of the same crops.

    Attributes:
        crops, joints: how many were compared.
        ties: joints that differ, but which PyTorch's own rounding moves too; left out of the next two.
        pixels: largest difference of a coordinate, in input pixels.
        score: largest difference of a score.
    """

    crops: int
    joints: int
    ties: int
    pixels: float
    score: float

    def __str__(self) -> str:
        return (f'{self.crops} crops, {self.joints} joints: keypoints differ by at most {self.pixels:.1e} px, scores by '
                f'{self.score:.1e}; {self.ties} joints that rounding decides left out')

    def faults(self) -> list[str]:
        """What is wrong with the graph, in words; empty if nothing is. NaN is wrong."""
        found = []
        if not self.pixels <= TOLERANCE:
            found.append(f'keypoints differ by {self.pixels:.1e} px, more than {TOLERANCE:g}')
        if not self.score <= SCORE_TOLERANCE:
            found.append(f'scores differ by {self.score:.1e}, more than {SCORE_TOLERANCE:g}')
        if self.ties > max(1, MOST_TIES * self.joints):
            found.append(f'{self.ties} of {self.joints} joints differ and count as decided by rounding, more than {MOST_TIES:.0%}: '
                         f'the comparison says nothing about them')
        return found


def export(module: Exportable, input_size: tuple[int, int], path: Path) -> None:
    """Write the graph.

    Args:
        module: in evaluation mode.
        input_size: (w, h) of a crop in pixels.
        path: file to write.
    """
    width, height = input_size
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter('ignore')  # tracing warns of every Python branch on a shape, all of which are fixed here
        torch.onnx.export(
            module, (torch.zeros(2, 3, height, width),), str(path), input_names=[INPUT], output_names=list(OUTPUTS),
            dynamic_axes={name: {0: 'batch'} for name in (INPUT, *OUTPUTS)}, opset_version=17, dynamo=False)


def compare(module: Exportable, path: Path, crops: np.ndarray) -> Comparison:
    """Run both on the same crops, in batches of different sizes.

    Args:
        module: in evaluation mode.
        path: the exported graph.
        crops: (N, 3, h, w) float32.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])
    joints = ties = 0
    pixels = score = 0.0
    for batch in batches(crops):
        with torch.no_grad():
            wanted, confidence = module(torch.from_numpy(batch))
            tied = decided_by_rounding(module.model.head.decoder, module.heatmaps(torch.from_numpy(batch))).numpy()
        got, certainty = session.run(list(OUTPUTS), {INPUT: batch})
        apart = np.abs(got - wanted.numpy()).max(-1)
        tied &= apart > TOLERANCE
        joints, ties = joints + apart.size, ties + tied.sum()
        # not Python's max: it forgets a NaN
        pixels = np.maximum(pixels, apart[~tied].max(initial=0))
        score = np.maximum(score, np.abs(certainty - confidence.numpy())[~tied].max(initial=0))
    return Comparison(len(crops), int(joints), int(ties), float(pixels), float(score))


def decided_by_rounding(decoder: Any, heatmaps: Tensor) -> Tensor:
    """(B, K) whether noise of the size of float32's rounding moves the joint by more than half of what is tolerated."""
    maps = heatmaps.double()
    noise = torch.randn(maps.shape, dtype=maps.dtype, generator=torch.Generator().manual_seed(0))
    noise *= ROUNDING * maps.abs().amax((-2, -1), keepdim=True)
    one, other = (decoder.decode_tensor(maps + each)[0] for each in (noise, -noise))
    return (one - other).abs().amax(-1) > TOLERANCE / 2


def batches(crops: np.ndarray) -> Iterator[np.ndarray]:
    start = turn = 0
    while start < len(crops):
        size = BATCHES[turn % len(BATCHES)]
        yield crops[start:start + size]
        start, turn = start + size, turn + 1


def random_crops(count: int, input_size: tuple[int, int], pictures: list[np.ndarray], seed: int = 0) -> np.ndarray:
    """(N, 3, h, w) float32 crops at random places, turned and scaled; of smooth noise where there are no pictures.

    Args:
        count: N.
        input_size: (w, h) of a crop in pixels.
        pictures: (H, W, 3) uint8 BGR each.
        seed: of the random places.
    """
    rng = np.random.default_rng(seed)
    crops = []
    for _ in range(count):
        if not pictures:
            noise = rng.integers(0, 256, (input_size[1] // 8, input_size[0] // 8, 3), dtype=np.uint8)
            crops.append(cv2.resize(noise, input_size, interpolation=cv2.INTER_CUBIC))
            continue
        picture = pictures[rng.integers(len(pictures))]
        center = rng.uniform(0.2, 0.8, 2) * picture.shape[1::-1]
        warp = cv2.getRotationMatrix2D(center, rng.uniform(-40, 40), rng.uniform(0.5, 2))
        warp[:, 2] += np.array(input_size) / 2 - center
        crops.append(cv2.warpAffine(picture, warp, input_size))
    return np.stack(crops).transpose(0, 3, 1, 2).astype(np.float32)


def read_pictures(folder: str | None) -> list[np.ndarray]:
    """All pictures directly inside a folder."""
    if folder is None:
        return []
    paths = [path for path in sorted(Path(folder).iterdir()) if path.suffix.lower() in ('.jpg', '.jpeg', '.png')]
    if not paths:
        raise SystemExit(f'--pictures: {folder} holds no .jpg or .png')
    return [cv2.imread(str(path)) for path in paths]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config')
    parser.add_argument('checkpoint')
    parser.add_argument('--out', default='model.onnx', type=Path, help='file to write (default: %(default)s)')
    parser.add_argument('--crops', default=200, type=int, help='crops to compare on, 0 for none (default: %(default)s)')
    parser.add_argument('--pictures', help='folder to cut the crops from; without it they are noise')
    args = parser.parse_args()
    try:
        pictures = read_pictures(args.pictures)
        args.out.parent.mkdir(parents=True, exist_ok=True)
        module = Exportable(init_model(args.config, args.checkpoint, device='cpu')).eval()
    except (ValueError, OSError) as problem:
        raise SystemExit(f'error: {problem}') from None
    input_size = tuple(module.model.head.decoder.input_size)
    export(module, input_size, args.out)
    print(f'{args.out}: {args.out.stat().st_size / 2**20:.1f} MiB, crops of {input_size[0]} x {input_size[1]}')
    if not args.crops:
        return 0
    comparison = compare(module, args.out, random_crops(args.crops, input_size, pictures))
    print(comparison)
    faults = comparison.faults()
    for fault in faults:
        print(f'error: {fault}', file=sys.stderr)
    return int(bool(faults))


if __name__ == '__main__':
    sys.exit(main())
