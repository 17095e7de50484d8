"""The whole loss without MMPose: transport cost, cross-entropy, weights and reduction (``DotLoss``), and the cost alone (``emd``)."""

from __future__ import annotations

import inspect
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .general import check_shapes
from .operator import loss_of_joints
from .options import EMDOptions
from .semi_dual import tolerance


class EMDOutput(NamedTuple):
    """Per joint, in cells; only ``cost`` carries a gradient.

    Attributes:
        cost: (J,) ``<C, p>``.
        marginal_error: (J,) how far the plan's column sums are from the demander masses.
        converged: (J,) bool.
        dots: (J, 2) x, y, as given or as read from dense targets, within the outermost centres; without ``subpixel`` the cells
            that hold them.
        valid: (J,) bool, False where a dense target is empty; cost and dot are 0 there.
    """

    cost: Tensor
    marginal_error: Tensor
    converged: Tensor
    dots: Tensor
    valid: Tensor


def emd(heatmap: Tensor, target: Tensor, options: EMDOptions | None = None) -> EMDOutput:
    """Entropic Earth Mover's Distance between each heatmap and its dot: the transport cost alone.

    The value is ``<C, p>`` (Eq. 2, left).  Its gradient with respect to the heatmap is that of ``options.objective``
    (``gradient.py``); for ``'sharp'`` it is the derivative of the value.

    >>> heatmap = torch.zeros(1, 48, 64)
    >>> heatmap[0, 20, 30] = 1  # all mass two cells from the dot
    >>> options = EMDOptions(supplier='relu', ground_distance='euclidean', unbiased=False)
    >>> emd(heatmap, torch.tensor([[32.0, 20.0]]), options).cost.item()
    2.0

    Args:
        heatmap: (J, H, W) raw maps of any sign; half precision is lifted to float32.
        target: (J, 2) dots in heatmap cells, x then y, or (J, H, W) dense targets (``target.py``); beyond the outermost
            centres dots are clamped.
        options: how to measure; weights and reduction do not count.

    Returns:
        EMDOutput.  A map with a NaN or an infinity gives NaN for its own joint.

    Raises:
        ValueError: shapes that do not fit together, a map smaller than 2 x 2; on the CPU, a target that is not finite.
        RuntimeError: ``options.backend`` is ``'triton'`` and cannot be had; a second derivative is asked for.
    """
    check_shapes(heatmap, target)
    options = EMDOptions() if options is None else options
    numbers = options.numbers
    numbers[3] = 0  # no cross-entropy
    cost, _, error, dots, valid = (each[0] for each in loss_of_joints(heatmap[None], target[None], None, numbers, options.key))
    return EMDOutput(cost.clone(), error, error <= tolerance(error.dtype, options.epsilon), dots, valid)


class LastStep(NamedTuple):
    """What a loss saw in its last call, on the device and without gradient; for hooks that watch a training.

    Attributes:
        heatmaps: (B, K, H, W) predictions.
        dots: (B, K, 2) in heatmap cells, x then y; NaN where a target is not finite, or has negative cells only.
        valid: (B, K) bool, whether the joint takes part.
        marginal_error: (B, K) how far the solver is from the demander masses.
    """

    heatmaps: Tensor
    dots: Tensor
    valid: Tensor
    marginal_error: Tensor


class DotLoss(nn.Module):
    """Heatmap distribution matching (Qu et al., NeurIPS 2022, Eq. 5) as a module that needs torch alone.

    ``EMDHeatmapLoss`` is this class in MMPose's registry, and explains the options.

    Args:
        *args, **options: those of ``EMDOptions``, or an ``EMDOptions``.

    >>> heatmaps, dots = torch.zeros(2, 17, 64, 48), torch.full((2, 17, 2), 20.25)  # (B, K, H, W) and cells, x then y
    >>> round(DotLoss()(heatmaps, dots).item(), 3)
    5.013
    """

    __signature__ = inspect.signature(EMDOptions)

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__()
        given = bool(args) and isinstance(args[0], EMDOptions)
        if given and (options or len(args) > 1):
            raise TypeError(f'an EMDOptions must come alone, got {[*args[1:], *options]} beside it: use its replace()')
        self.options = args[0] if given else EMDOptions(*args, **options)
        self.keep_last_step = False  # set by hooks; costs the memory of one batch of heatmaps
        self.last_step: LastStep | None = None

    @property
    def options(self) -> EMDOptions:
        """What is computed; may be replaced at any time, and recompiles nothing if only numbers changed (``EMDOptions.numbers``)."""
        return self._options

    @options.setter
    def options(self, options: EMDOptions) -> None:
        self._options = options
        # compiled code reads these, and takes the numbers as a tensor whose values may change
        self._key, self._reduction, self._use_target_weight = options.key, options.reduction, options.use_target_weight
        self._loss_weight = options.loss_weight
        with torch.inference_mode(False):  # a loss that was built in it can train later
            self._numbers = options.numbers

    def extra_repr(self) -> str:
        return repr(self.options)

    def forward(self, output: Tensor, target: Tensor, target_weights: Tensor | None = None) -> Tensor:
        """The loss.

        Args:
            output (Tensor): predicted heatmaps, (B, K, H, W).
            target (Tensor): dots in heatmap cells, x then y, (B, K, 2), or dense targets, (B, K, H, W): Gaussians, also where the
                border cuts them, or maps whose mass lies within a cell of their maximum. A joint whose dense target is empty
                takes no part.
            target_weights (Tensor, optional): (B, K) or (B, K, 1); a joint of weight 0 takes no part, whatever its
                coordinates or map hold.

        Returns:
            Tensor: a scalar, or (B, K) with ``reduction='none'``. Exactly 0, connected to ``output``, when no joint
            takes part.

        Raises:
            ValueError: shapes that do not fit together; a weight that is negative or NaN, or NaN or infinity in the target of a
                joint that takes part. Values are looked at on the CPU only, since a GPU would have to be waited for; there such a
                weight counts as 0, and ``TransportMonitorHook`` reports such a target when it logs.
        """
        weights = self._weights(output, target_weights)
        if target.shape != output.shape and target.shape != (*output.shape[:2], 2):
            raise ValueError(
                f'target must have the shape of output, {tuple(output.shape)}, or (B, K, 2) = {(*output.shape[:2], 2)}, '
                f'got {tuple(target.shape)}'
            )
        losses, _, error, dots, valid = loss_of_joints(output, target, weights, self._numbers, self._key)
        if self.keep_last_step:
            self.last_step = LastStep(output.detach(), dots, valid, error)
        return self._reduce(losses) * self._loss_weight

    def _weights(self, output: Tensor, target_weights: Tensor | None) -> Tensor | None:
        if output.dim() != 4 or min(output.shape[2:]) < 2:
            raise ValueError(f'output must have shape (B, K, H, W) with at least 2 x 2 cells, got {tuple(output.shape)}')
        if not self._use_target_weight or target_weights is None:
            return None
        weights = target_weights.squeeze(-1) if target_weights.dim() == 3 else target_weights
        if weights.shape != output.shape[:2]:
            raise ValueError(
                f'target_weights must have shape (B, K) = {tuple(output.shape[:2])}, got {tuple(target_weights.shape)}'
            )
        return weights

    def _reduce(self, losses: Tensor) -> Tensor:
        """An empty batch gives 0, as one without a joint that takes part does."""
        if self._reduction == 'none':
            return losses
        return losses.sum() / max(1, losses.numel() if self._reduction == 'mean' else losses.shape[0])
