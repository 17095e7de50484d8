"""A hook that logs numbers a person understands next to the loss."""

from __future__ import annotations

import torch
from mmengine.dist import all_reduce
from mmengine.hooks import Hook, LoggerHook
from mmengine.runner import Runner
from mmpose.registry import HOOKS
from torch import Tensor

from hdm_mmpose import checks
from hdm_mmpose.transport import EMDOptions, Euclidean, LastStep, emd
from hdm_mmpose.transport.suppliers import compute_dtype
from hdm_mmpose.transport.target import judge

from .watched_loss import WatchedLoss

SHARP_EPSILON = 0.1  # cells; a perfect map then reads less than 1e-3 cells from its dot
UNSOLVED = 1e-3  # marginal error, as a share of the mass, that is worth a warning
FAR, FLAT = 0.5, 1e-6  # of a dead map: distance in cells, and largest derivative in cells per unit of the map


@HOOKS.register_module()
class TransportMonitorHook(Hook):
    """Logs what the transport does, in the same lines as the loss and only when they are written.

    ===================  ============================================================================================
    ``transport_px``     mean distance, in input pixels, that the predicted mass would have to travel to its dot: the
                         same number whatever ground distance, weights and companion terms the loss has, and 0 for a
                         perfect map. It is measured at an epsilon of 0.1 cells, or the loss's where that is smaller: an
                         entropic plan sends mass astray in proportion to its epsilon
    ``dead_maps``        share of heatmaps whose mass is half a cell or more from its dot on average although the
                         transport cost moves no cell of them: the largest derivative with respect to a cell is below
                         1e-6 (heatmap cells per unit of the map). Empty maps under ``relu`` (not under
                         ``relu_surrogate``), and under ``softmax`` those with all mass on wrong cells; a cross-entropy
                         beside the transport cost still moves the latter
    ``marginal_error``   largest error of the solver, as a share of the mass; about 1e-6 in float32 when it converged.
                         Above 1e-3 there is a warning, once: on a GPU the loss itself never asks
    ===================  ============================================================================================

    Only joints that take part are looked at, over all processes. A measurement costs about two evaluations of the loss. Between
    two lines nothing is computed and nothing waits for the device; the loss keeps references to its last step. In heads with
    stages it is the last stage that is watched. On a GPU, where the loss looks at no values, the hook also says once what a
    CPU would say at once: targets that are not finite, and dense targets that are none (``transport/target.py``).

    Args:
        interval (int, optional): iterations between two measurements. Default: that of the ``LoggerHook``.
        head (str, optional): dotted name of the head in a model that holds several, such as ``architecture.head`` of student
            and teacher. Default: the one whose loss is called.

    Raises:
        ValueError: ``interval`` is not a positive integer, or the model has no ``EMDHeatmapLoss``.
    """

    priority = 'NORMAL'  # before LoggerHook (BELOW_NORMAL) writes the line

    def __init__(self, interval: int | None = None, head: str | None = None) -> None:
        self.interval = None if interval is None else checks.positive_int('interval', interval)
        self._watched = WatchedLoss(head)
        self._said: set[str] = set()

    def before_train(self, runner: Runner) -> None:
        """Ask the loss that is decoded to keep its last step."""
        self._watched.start(runner.model)
        if self.interval is None:
            loggers = [hook.interval for hook in runner.hooks if isinstance(hook, LoggerHook)]
            self.interval = loggers[0] if loggers else 50

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None, outputs: dict | None = None
    ) -> None:
        """Measure and log, when it is time."""
        assert self.interval is not None
        due = self.every_n_inner_iters(batch_idx, self.interval) or self.end_of_epoch(runner.train_dataloader, batch_idx)
        loss = self._watched.called(runner.logger) if due else None
        if loss is None or loss.last_step is None:
            return
        totals = measure(loss.last_step, loss.options, input_width(data_batch))
        worst = totals[4:].clone()
        all_reduce(totals[:4])
        all_reduce(worst, op='max')
        joints, distance, dead, wrong, error = torch.cat([totals[:4], worst]).tolist()  # the one time the device is waited for
        if joints:
            for name, value in (('transport_px', distance / joints), ('dead_maps', dead / joints), ('marginal_error', error)):
                runner.message_hub.update_scalar(f'train/{name}', value)
        if error > UNSOLVED:
            options = loss.options
            self._say(runner, 'error', (
                f'The transport solver ({options.solver!r}, epsilon = {options.epsilon} heatmap cells) left a marginal error of '
                f'{error:.1e} of the mass; values and gradients are that much off. A larger epsilon avoids it.'))
        if wrong:
            self._say(runner, 'targets', (
                f'{wrong:.0f} targets of joints with positive weight were not finite, or were maps with negative cells only: the '
                f'former make the loss NaN, the latter count as not annotated.'))
        if loss.last_step.heatmaps.device.type != 'cpu' and 'judged' not in self._said:
            self._said.add('judged')
            judge_batch(data_batch)

    def _say(self, runner: Runner, topic: str, message: str) -> None:
        if topic not in self._said:
            self._said.add(topic)
            runner.logger.warning(f'{message} This is said once.')

    def after_train(self, runner: Runner) -> None:
        """Let go of the last step."""
        self._watched.stop()


@torch.no_grad()
def measure(step: LastStep, options: EMDOptions, width: int | None) -> Tensor:
    """(5,) float64 on the step's device: joints that take part, sum of distances in input pixels, dead maps, targets that are
    none, largest error.

    Args:
        step: what the loss saw.
        options: how it measured.
        width: of the input in pixels; None measures in cells.
    """
    valid, finite = step.valid.flatten(), step.dots.isfinite().all(-1).flatten()
    if not len(valid):
        return torch.zeros(5, dtype=torch.float64, device=valid.device)
    maps = step.heatmaps.to(compute_dtype(step.heatmaps)).flatten(0, 1)
    dots = torch.where(finite[:, None], step.dots.flatten(0, 1), 0.0)
    distance = emd(maps, dots, plain(options)).cost
    dead = (distance >= FAR) & (steepest(maps, dots, options) < FLAT)
    cell = width / maps.shape[-1] if width else 1
    rows = [torch.ones_like(distance), distance * cell, dead]
    sums = [torch.where(valid & finite, row, 0).double().sum() for row in rows]
    return torch.stack([*sums, (~finite).double().sum(), torch.where(valid & finite, step.marginal_error.flatten(), 0).double().max()])


def plain(options: EMDOptions) -> EMDOptions:
    """Options that measure the distance mass travels to the dot itself, which unbiased demanders are not."""
    sharp = min(options.epsilon, SHARP_EPSILON)
    return options.replace(ground_distance=Euclidean(), unbiased=False, epsilon=sharp, solver='newton', backend='torch')


def steepest(maps: Tensor, dots: Tensor, options: EMDOptions) -> Tensor:
    """(J,) largest absolute derivative of the transport cost with respect to a cell of its map (J, H, W)."""
    with torch.enable_grad():
        maps = maps.detach().requires_grad_()
        cost = emd(maps, dots, options.replace(solver='newton', backend='torch')).cost
        (slope,) = torch.autograd.grad(cost.sum(), maps)
    return slope.abs().amax((-2, -1))


def judge_batch(data_batch: dict | None) -> None:
    """Look at the dense targets of a batch, which the loss does not on a GPU, and warn once where they are none."""
    samples = [sample for sample in (data_batch or {}).get('data_samples', []) if 'heatmaps' in getattr(sample, 'gt_fields', {})]
    if samples:
        judge(torch.stack([sample.gt_fields.heatmaps for sample in samples]))


def input_width(data_batch: dict | None) -> int | None:
    """Width of the network's input in pixels."""
    inputs = (data_batch or {}).get('inputs')
    return None if inputs is None else int(inputs[0].shape[-1])
