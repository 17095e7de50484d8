"""A hook that saves what the heatmaps look like during training."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpose.registry import HOOKS
from torch import nn

from hdm_mmpose.decoding import read_heatmap
from hdm_mmpose.transport import LastStep

from .alignment import Alignment, decoder_alignment
from .emd_heatmap_loss import EMDHeatmapLoss
from .sub_pixel_decoder import SubPixelDecoder
from .watched_loss import WatchedLoss

DOT, READ = (255, 255, 255), (255, 40, 40)  # RGB of annotated dots and of decoded joints


@HOOKS.register_module()
class HeatmapPictureHook(Hook):
    """Sends a picture of the current heatmaps to the visualiser's backends (local folder, TensorBoard, ...).

    Each person is one tile: the input, the supplier masses of all its joints over it (each joint scaled to its own
    largest cell), white rings at the annotated dots and red crosses where the maps are decoded.

    Maps are read, and cells placed in the picture, as the head's decoder does it if that is ``SubPixelDecoder`` or
    ``DotAnnotationCodec``. Of any other decoder only the alignment is used (``center`` if it is not one of MMPose's heatmap
    codecs); the crosses are then the 2 x 2 square's, under the loss's own supplier rule.

    Args:
        interval (int): iterations between two pictures.
        persons (int): how many of the batch are shown. Default: 4.
        name (str): name under which the backends get it.
        head (str, optional): dotted name of the head in a model that holds several. Default: the one whose loss is called.

    Raises:
        ValueError: ``interval`` or ``persons`` is not a positive integer, or the model has no ``EMDHeatmapLoss``.
    """

    priority = 'NORMAL'

    def __init__(self, interval: int = 500, persons: int = 4, name: str = 'heatmaps', head: str | None = None) -> None:
        for argument, value in (('interval', interval), ('persons', persons)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f'{argument} must be a positive integer, got {value!r}')
        self.interval = interval
        self.persons = persons
        self.name = name
        self._watched = WatchedLoss(head)

    def before_train(self, runner: Runner) -> None:
        """Ask the loss that is decoded to keep its last step."""
        self._watched.start(runner.model)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None, outputs: dict | None = None
    ) -> None:
        """Draw, when it is time; the first process only."""
        if runner.rank != 0 or not self.every_n_train_iters(runner, self.interval):
            return
        loss = self._watched.called(runner.logger)
        if loss is None or not data_batch:
            return
        step = LastStep(*(tensor[:self.persons].cpu() for tensor in loss.last_step))
        pictures = [as_bgr(picture.permute(1, 2, 0).cpu().numpy()) for picture in data_batch['inputs'][:self.persons]]
        tiles = draw_tiles(pictures, step, reader_of(decoder_beside(runner.model, loss), loss, pictures[0], step.heatmaps))
        runner.visualizer.add_image(self.name, np.concatenate(tiles, axis=1), step=runner.iter + 1)

    def after_train(self, runner: Runner) -> None:
        """Let go of the last step."""
        self._watched.stop()


def as_bgr(picture: np.ndarray) -> np.ndarray:
    """Three channels (h, w, 3) of a picture (h, w, C): a grey one thrice, of more than three the first three."""
    return picture[..., np.arange(3) % picture.shape[-1]]


def decoder_beside(model: nn.Module, loss: EMDHeatmapLoss) -> object:
    """The decoder of the innermost head that holds a loss, or None."""
    heads = [module for module in model.modules() if hasattr(module, 'decoder') and loss in module.modules()]
    return heads[-1].decoder if heads else None


def reader_of(decoder: object, loss: EMDHeatmapLoss, picture: np.ndarray, heatmaps: torch.Tensor) -> SubPixelDecoder:
    """The head's own decoder, or the square rule under the loss's supplier where it has none of ours.

    Args:
        decoder: the head's.
        loss: what trains the maps.
        picture: (h, w, 3) input.
        heatmaps: (..., H, W).
    """
    if isinstance(decoder, SubPixelDecoder):
        return decoder
    alignment = decoder_alignment(decoder) or 'center'
    rule = loss.options.supplier
    sizes = (picture.shape[1], picture.shape[0]), (heatmaps.shape[-1], heatmaps.shape[-2])
    return SubPixelDecoder(*sizes, alignment, dict(type=rule.name, **dataclasses.asdict(rule)), blur=0)


@torch.no_grad()
def draw_tiles(pictures: list[np.ndarray], step: LastStep, decoder: SubPixelDecoder) -> list[np.ndarray]:
    """One uint8 RGB picture (h, w, 3) per person.

    Args:
        pictures: inputs as the pipeline packs them, (h, w, 3) BGR.
        step: what the loss saw of the same persons.
        decoder: how the maps are read, and where their cells lie in the input.
    """
    heatmaps = step.heatmaps.float()
    masses = torch.where(step.valid[..., None, None], decoder.supplier(heatmaps), 0)
    heat = (masses / masses.amax((-2, -1), keepdim=True).clamp(min=1e-12)).amax(1).nan_to_num().numpy()
    reading = read_heatmap(heatmaps, decoder.supplier, decoder.blur)
    dots, read, valid = (each.numpy() for each in (step.dots, reading.dots, step.valid))
    return [draw_tile(*person, decoder.alignment) for person in zip(pictures, heat, dots, read, valid)]


def draw_tile(
    picture: np.ndarray, heat: np.ndarray, dots: np.ndarray, read: np.ndarray, valid: np.ndarray, alignment: Alignment
) -> np.ndarray:
    """One tile; ``heat`` (H, W) in [0, 1], ``dots`` and ``read`` (K, 2) in cells, x then y, ``valid`` (K,)."""
    origin = alignment.to_cells(np.zeros(2))  # cells = origin + scale * pixels
    scale = alignment.to_cells(np.ones(2)) - origin
    laid = cv2.warpAffine(heat, np.column_stack([np.diag(scale), origin]), picture.shape[1::-1],
                          flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REPLICATE)
    glow = cv2.applyColorMap((laid * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)
    tile = np.ascontiguousarray(cv2.addWeighted(picture.astype(np.uint8), 0.5, glow, 0.8, 0)[..., ::-1])
    rings, crosses = (np.rint((cells[valid] - origin) / scale).astype(int).tolist() for cells in (dots, read))
    for ring, cross in zip(rings, crosses):
        cv2.circle(tile, ring, 3, DOT, 1, cv2.LINE_AA)
        cv2.drawMarker(tile, cross, READ, cv2.MARKER_TILTED_CROSS, 6, 1, cv2.LINE_AA)
    return tile
