"""A hook that saves what the heatmaps look like during training."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpose.registry import HOOKS

from hdm_mmpose.transport import SupplierRule
from hdm_mmpose.transport.sub_pixel import read_heatmap

from .emd_heatmap_loss import EMDHeatmapLoss, LastStep
from .transport_monitor_hook import watched_loss

DOT, READ = (255, 255, 255), (255, 40, 40)  # RGB of annotated dots and of decoded joints


@HOOKS.register_module()
class HeatmapPictureHook(Hook):
    """Sends a picture of the current heatmaps to the visualiser's backends (local folder, TensorBoard, ...).

    Each person is one tile: the input, the supplier masses of all its joints over it (each joint scaled to its own
    largest cell), white rings at the annotated dots and red crosses where the maps would be decoded.

    Args:
        interval (int): iterations between two pictures.
        persons (int): how many of the batch are shown. Default: 4.
        name (str): name under which the backends get it.

    Raises:
        ValueError: ``interval`` or ``persons`` is not a positive integer, or the model has no ``EMDHeatmapLoss``.
    """

    priority = 'NORMAL'

    def __init__(self, interval: int = 500, persons: int = 4, name: str = 'heatmaps') -> None:
        for argument, value in (('interval', interval), ('persons', persons)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f'{argument} must be a positive integer, got {value!r}')
        self.interval = interval
        self.persons = persons
        self.name = name
        self._loss: EMDHeatmapLoss | None = None

    def before_train(self, runner: Runner) -> None:
        """Ask the loss that is decoded to keep its last step."""
        self._loss = watched_loss(runner.model)
        self._loss.keep_last_step = True

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None, outputs: dict | None = None
    ) -> None:
        """Draw, when it is time; the first process only."""
        if runner.rank != 0 or not self.every_n_train_iters(runner, self.interval):
            return
        if self._loss is None or self._loss.last_step is None or not data_batch:
            return
        step = LastStep(*(tensor[:self.persons].cpu() for tensor in self._loss.last_step))
        pictures = [picture.permute(1, 2, 0).cpu().numpy() for picture in data_batch['inputs'][:self.persons]]
        tiles = draw_tiles(pictures, step, self._loss.options.supplier)
        runner.visualizer.add_image(self.name, np.concatenate(tiles, axis=1), step=runner.iter + 1)

    def after_train(self, runner: Runner) -> None:
        """Let go of the last step."""
        if self._loss is not None:
            self._loss.keep_last_step, self._loss.last_step = False, None


@torch.no_grad()
def draw_tiles(pictures: list[np.ndarray], step: LastStep, supplier: SupplierRule) -> list[np.ndarray]:
    """One uint8 RGB picture (h, w, 3) per person.

    Args:
        pictures: inputs as the pipeline packs them, (h, w, 3) BGR.
        step: what the loss saw of the same persons.
        supplier: how the maps are read.
    """
    heatmaps = step.heatmaps.float()
    masses = torch.where(step.counts[..., None, None], supplier(heatmaps), 0)
    heat = (masses / masses.amax((-2, -1), keepdim=True).clamp(min=1e-12)).amax(1).nan_to_num().numpy()
    dots, read, counts = (each.numpy() for each in (step.dots, read_heatmap(heatmaps, supplier).dots, step.counts))
    return [draw_tile(*person) for person in zip(pictures, heat, dots, read, counts, strict=True)]


def draw_tile(
    picture: np.ndarray, heat: np.ndarray, dots: np.ndarray, read: np.ndarray, counts: np.ndarray
) -> np.ndarray:
    """One tile; ``heat`` (H, W) in [0, 1], ``dots`` and ``read`` (K, 2) in cells, x then y, ``counts`` (K,)."""
    height, width = picture.shape[:2]
    glow = cv2.applyColorMap((cv2.resize(heat, (width, height)) * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)
    tile = np.ascontiguousarray(cv2.addWeighted(picture.astype(np.uint8), 0.5, glow, 0.8, 0)[..., ::-1])
    stride = np.array([width / heat.shape[1], height / heat.shape[0]])
    for dot, joint in zip((dots[counts] + 0.5) * stride, (read[counts] + 0.5) * stride, strict=True):
        cv2.circle(tile, tuple(int(value) for value in dot), 3, DOT, 1, cv2.LINE_AA)
        cv2.drawMarker(tile, tuple(int(value) for value in joint), READ, cv2.MARKER_TILTED_CROSS, 6, 1, cv2.LINE_AA)
    return tile
