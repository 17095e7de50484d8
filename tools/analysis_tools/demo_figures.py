"""The demo's pictures, drawn from what ``tools/test.py --dump`` wrote for both models."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path

import cv2
import matplotlib
import numpy as np
import torch
from mmengine.structures import InstanceData
from mmpose.datasets import CocoDataset
from mmpose.datasets.datasets.utils import parse_pose_metainfo
from mmpose.structures import PoseDataSample
from mmpose.structures.bbox import get_warp_matrix
from mmpose.visualization import PoseLocalVisualizer

from hdm_mmpose.components.alignment import Alignment
from hdm_mmpose.transport import build_supplier

matplotlib.use('Agg')
import matplotlib.pyplot as plt  # noqa: E402  (the backend is chosen first)

VISIBLE = 2  # COCO's flag
CHOICE = 'of all visible held-out joints the one on which both errors are nearest to their medians'
PICTURES_SHOWN = 6
HALF_WINDOW = 16  # input pixels shown on each side of the dot
ENLARGED = 2


@dataclass(frozen=True)
class Supervision:
    """How a model was trained and is decoded.

    Attributes:
        title: for people.
        alignment: name of the alignment between input pixels and heatmap cells.
        supplier: rule that turns a heatmap into a distribution, or None where the heatmap itself is decoded.
    """

    title: str
    alignment: str
    supplier: str | None


class Predictions:
    """One model's predictions on the held-out persons, in the order of the annotation file.

    Args:
        path: pickle written by ``tools/test.py --dump`` with ``model.test_cfg.output_heatmaps=True``.
    """

    def __init__(self, path: Path):
        with path.open('rb') as file:
            self.samples = pickle.load(file)
        self.decoded = np.stack([sample['pred_instances']['keypoints'][0] for sample in self.samples])
        self.drawn = np.stack([sample['gt_instances']['keypoints'][0] for sample in self.samples])
        flags = np.array([sample['raw_ann_info']['keypoints'] for sample in self.samples])
        self.flags = flags.reshape(len(flags), -1, 3)[..., 2]

    @property
    def errors(self) -> np.ndarray:
        """Distance (N, 17) between decoded and drawn joints in pixels of the picture."""
        return np.linalg.norm(self.decoded - self.drawn, axis=-1)

    def to_input(self, number: int, points: np.ndarray) -> np.ndarray:
        """Map points (..., 2) from the picture of a person to the network's input, in pixels."""
        sample = self.samples[number]
        scaled = (points - sample['input_center']) / sample['input_scale']
        return (scaled + 0.5) * sample['input_size']

    def crop(self, number: int) -> np.ndarray:
        """The network's input (h, w, 3), uint8 RGB."""
        sample = self.samples[number]
        warp = get_warp_matrix(sample['input_center'], sample['input_scale'], 0.0, sample['input_size'])
        picture = cv2.cvtColor(cv2.imread(sample['img_path']), cv2.COLOR_BGR2RGB)
        return cv2.warpAffine(picture, warp, tuple(sample['input_size']), flags=cv2.INTER_LINEAR)


def typical_joint(models: list[Predictions]) -> tuple[int, int]:
    """The visible held-out joint on which every model's error is nearest to its own median error.

    Returns:
        number of the person, number of the joint.
    """
    visible = models[0].flags == VISIBLE
    ratios = [np.log((model.errors + 1e-6) / np.median(model.errors[visible])) for model in models]
    distance = np.where(visible, np.max(np.abs(ratios), axis=0), np.inf)
    person, joint = np.unravel_index(distance.argmin(), distance.shape)
    return int(person), int(joint)


def draw_persons(model: Predictions, out: Path) -> None:
    """The first held-out pictures with the predicted skeletons, drawn by MMPose's visualizer.

    Args:
        model: whose predictions.
        out: file to write.
    """
    visualizer = PoseLocalVisualizer(radius=3, line_width=2)
    visualizer.set_dataset_meta(parse_pose_metainfo(CocoDataset.METAINFO))
    paths = list(dict.fromkeys(sample['img_path'] for sample in model.samples))[:PICTURES_SHOWN]
    pictures = [draw_picture(model, path, visualizer) for path in paths]
    while len(pictures) % 3:
        pictures.append(np.full_like(pictures[0], 255))
    rows = [np.hstack(pictures[start:start + 3]) for start in range(0, len(pictures), 3)]
    cv2.imwrite(str(out), cv2.cvtColor(np.vstack(rows), cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 85])


def draw_picture(model: Predictions, path: str, visualizer: PoseLocalVisualizer) -> np.ndarray:
    """One picture, enlarged, with the skeletons of all its persons: uint8 RGB."""
    numbers = [number for number, sample in enumerate(model.samples) if sample['img_path'] == path]
    picture = cv2.cvtColor(cv2.imread(path), cv2.COLOR_BGR2RGB)
    picture = cv2.resize(picture, None, fx=ENLARGED, fy=ENLARGED, interpolation=cv2.INTER_CUBIC)
    points = (model.decoded[numbers] + 0.5) * ENLARGED - 0.5
    persons = InstanceData(keypoints=points, keypoints_visible=(model.flags[numbers] > 0).astype(float))
    return visualizer.add_datasample(
        'demo', picture, PoseDataSample(pred_instances=persons), draw_gt=False, kpt_thr=0.5).copy()


def draw_heatmaps(models: dict[Supervision, Predictions], joint_names: list[str], out: Path) -> list[str]:
    """One joint's heatmap under each supervision, with the annotated dot and the decoded point (the paper's Fig. 3).

    Args:
        models: predictions on the same persons, in the order of drawing.
        joint_names: of the 17 joints.
        out: file to write.

    Returns:
        lines that say what is shown, with coordinates.
    """
    person, joint = typical_joint(list(models.values()))
    first = next(iter(models.values()))
    dot = first.to_input(person, first.drawn[person, joint])
    name = joint_names[joint].replace('_', ' ')
    picture = Path(first.samples[person]['img_path']).name
    shown = f'{name} of person {first.samples[person]["id"]} in {picture}'
    lines = [f'{shown}, {CHOICE}', f'annotated dot: ({dot[0]:.2f}, {dot[1]:.2f}) input px']
    figure, axes = plt.subplots(1, 1 + len(models), figsize=(3.5 * (1 + len(models)), 4.3), layout='constrained')
    figure.suptitle(f'{shown},\n{CHOICE}', fontsize='medium', x=0.02, horizontalalignment='left')
    draw_input(axes[0], first.crop(person), dot, f'Input, dot at ({dot[0]:.2f}, {dot[1]:.2f})')
    for axis, (supervision, model) in zip(axes[1:], models.items()):
        lines.append(draw_heatmap(axis, supervision, model, (person, joint)))
    handles, labels = axes[1].get_legend_handles_labels()
    figure.legend(handles, labels, loc='outside lower left', ncols=2, frameon=False)
    figure.savefig(out, dpi=110)
    plt.close(figure)
    return lines


def draw_input(axis, crop: np.ndarray, dot: np.ndarray, title: str) -> None:
    """The input with the part that the heatmap panels show."""
    axis.imshow(crop)
    axis.add_patch(plt.Rectangle(
        dot - HALF_WINDOW, 2 * HALF_WINDOW, 2 * HALF_WINDOW, fill=False, color='white', linewidth=1.5))
    axis.set(title=title, xlabel='x (input px)', ylabel='y (input px)')


def draw_heatmap(axis, supervision: Supervision, model: Predictions, which: tuple[int, int]) -> str:
    """The cells around a dot, in input pixels, so that models of different alignment compare.

    Returns:
        a line with the coordinates.
    """
    person, joint = which
    sample = model.samples[person]
    dot, decoded = (model.to_input(person, points[which]) for points in (model.drawn, model.decoded))
    heatmap = torch.as_tensor(sample['pred_fields']['heatmaps'][joint])
    shown = heatmap if supervision.supplier is None else build_supplier(supervision.supplier)(heatmap)
    height, width = shown.shape
    alignment = Alignment(supervision.alignment, tuple(sample['input_size']), (width, height))
    corners = alignment.to_codec_output(np.array([[-0.5, -0.5], [width - 0.5, height - 0.5]]))
    image = axis.imshow(shown, extent=(corners[0, 0], corners[1, 0], corners[1, 1], corners[0, 1]), cmap='magma',
                        vmin=min(0, float(shown.min())))
    axis.figure.colorbar(image, ax=axis, location='bottom', shrink=0.85,
                         label='heatmap value' if supervision.supplier is None else 'share of the mass')
    axis.plot(*dot, 'o', color='#00e5ff', markersize=11, fillstyle='none', markeredgewidth=2, label='annotated dot')
    axis.plot(*decoded, 'x', color='#7cfc00', markersize=9, markeredgewidth=2, label='decoded point')
    error = np.linalg.norm(decoded - dot)
    axis.set(title=f'{supervision.title}\nat ({decoded[0]:.2f}, {decoded[1]:.2f}), {error:.2f} px off',
             xlabel='x (input px)', xlim=dot[0] + HALF_WINDOW * np.array([-1, 1]),
             ylim=dot[1] + HALF_WINDOW * np.array([1, -1]))
    cells = [alignment.to_cells(point) for point in (dot, decoded)]
    return (f'{supervision.title}: decoded ({decoded[0]:.2f}, {decoded[1]:.2f}) input px, {error:.2f} px off; in cells '
            f'dot ({cells[0][0]:.3f}, {cells[0][1]:.3f}), decoded ({cells[1][0]:.3f}, {cells[1][1]:.3f})')
