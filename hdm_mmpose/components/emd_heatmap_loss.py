"""The Earth Mover's Distance between predicted heatmaps and annotated dots, as an MMPose loss."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from mmpose.registry import MODELS
from torch import Tensor, nn

from hdm_mmpose.features import is_compiling
from hdm_mmpose.transport import EMDOptions, build_ground_distance, build_supplier, cross_entropy, emd

REDUCTIONS = ('mean', 'sum', 'none')


class LastStep(NamedTuple):
    """What a loss saw in its last call, on the device and without gradient; for hooks that watch a training.

    Attributes:
        heatmaps: (B, K, H, W) predictions.
        dots: (B, K, 2) in heatmap cells, x then y.
        counts: (B, K) bool, whether the joint takes part.
        marginal_error: (B, K) how far the solver is from the demander masses.
    """

    heatmaps: Tensor
    dots: Tensor
    counts: Tensor
    marginal_error: Tensor


@MODELS.register_module()
class EMDHeatmapLoss(nn.Module):
    r"""Heatmap distribution matching (Qu et al., NeurIPS 2022, Eq. 5).

    Each heatmap, read as a distribution over its cells by the ``supplier`` rule, is compared with the dot's four
    demanders; the value is the transport cost ``<C, p>`` in heatmap cells, plus, by default, a cross-entropy in nats on the
    same suppliers.  The defaults are what the study chose (docs/evidence.md).

    The paper's own setting is ``EMDHeatmapLoss(entropic_lambda=1, cell_size=4, potential='shannon', supplier='relu',
    solver='sinkhorn', num_iters=1000, ground_distance='euclidean', reduction='sum')`` (``cell_size=1`` if its cost is meant
    in cells: it does not say).

    Note:
        - batch size: B, keypoints: K, heatmap: H x W cells, centres at integers, coordinates x then y
        - the height of a map means nothing to the loss (softmax: only differences count; relu: only ratios), so neither does
          its maximum: decode with ``SubPixelDecoder`` under the same ``supplier``
        - computed in float32 also inside autocast

    Args:
        epsilon (float): entropic parameter in heatmap cells; ``1 / (lambda g)`` in the paper's letters. Default: 0.5,
            unless ``entropic_lambda`` is given.
        potential (str): which gradient, ``'shannon'`` (Eq. 2), ``'product'`` or ``'sharp'``
            (``hdm_mmpose.transport.gradient``).
        supplier (str | dict): ``'relu'`` (Eq. 3), ``'softplus'``, ``'softmax'``, ``'relu_surrogate'``, or a dict with
            ``type`` and ``sharpness`` (``hdm_mmpose.transport.suppliers``). The decoder must name the same.
        solver (str): ``'newton'``, exact in a few steps, or ``'sinkhorn'`` with ``num_iters`` iterations.
        num_iters (int): Sinkhorn iterations; ``'newton'`` does not use it.
        unbiased (bool, optional): demander masses whose problem is minimised by the dot itself; they exist for ``'product'``
            and ``subpixel`` only. Default: where they exist.
        ground_distance (str | dict): ``'euclidean'`` (the paper) or ``'saturated'``, with another ``scale`` than 1 cell as a
            dict.
        use_target_weight (bool): whether ``target_weights`` counts.
        reduction (str): ``'mean'`` over B x K; ``'sum'`` over K and mean over B (Eq. 5); ``'none'`` gives (B, K).
        loss_weight (float): factor on the result.
        subpixel (bool): False for the naive variant (Tab. 4): all mass to the cell that holds the dot, in closed form.
        cross_entropy_weight (float, optional): adds that much of the cross-entropy between suppliers and dot, in nats; needs a
            rule under which every cell has mass. Default: 0.5 for such a rule, 0 for others.
        cross_entropy_blur (float): standard deviation in cells of the Gaussian that spreads the dot in the cross-entropy
            (``transport/cross_entropy.py``); 0 for the dot itself.
        entropic_lambda (float, optional): the paper's ``lambda`` in 1 / (input pixel), instead of ``epsilon``; needs
        cell_size (float, optional): the paper's ``g``, input pixels per heatmap cell (the stride).
        backend (str): who computes it: ``'torch'``, ``'triton'`` (one kernel on an NVIDIA GPU; an error where it cannot be
            had), or ``'auto'``, the kernel on GPUs it has been tested on (``transport/backend.py``), PyTorch elsewhere.

    Raises:
        ValueError: an unknown name, a number out of range, or ``epsilon`` together with ``entropic_lambda``.
    """

    def __init__(
        self,
        epsilon: float | None = None,
        potential: str = 'product',
        supplier: str | dict = 'softmax',
        solver: str = 'newton',
        num_iters: int = 1000,
        unbiased: bool | None = None,
        ground_distance: str | dict = 'saturated',
        use_target_weight: bool = True,
        reduction: str = 'mean',
        loss_weight: float = 1.0,
        subpixel: bool = True,
        cross_entropy_weight: float | None = None,
        cross_entropy_blur: float = 0.0,
        entropic_lambda: float | None = None,
        cell_size: float | None = None,
        backend: str = 'auto',
    ) -> None:
        super().__init__()
        if reduction not in REDUCTIONS:
            raise ValueError(f'reduction must be one of {REDUCTIONS}, got {reduction!r}')
        if not isinstance(use_target_weight, bool):
            raise ValueError(f'use_target_weight must be True or False, got {use_target_weight!r}')
        self.options = EMDOptions(
            epsilon=_epsilon(epsilon, entropic_lambda, cell_size),
            potential=potential,
            supplier=build_supplier(supplier),
            solver=solver,
            num_iters=num_iters,
            unbiased=potential == 'product' and subpixel if unbiased is None else unbiased,
            ground_distance=build_ground_distance(ground_distance),
            backend=backend,
            subpixel=subpixel,
        )
        if cross_entropy_weight is None:
            cross_entropy_weight = 0.5 if self.options.supplier.positive else 0.0
        self.cross_entropy_weight = _number('cross_entropy_weight', cross_entropy_weight, least=0)
        if self.cross_entropy_weight and not self.options.supplier.positive:
            raise ValueError(
                f'cross_entropy_weight must be 0 with supplier {self.options.supplier.name!r}, whose cells may have mass 0, '
                f"got {cross_entropy_weight!r}; use 'softplus' or 'softmax'"
            )
        self.cross_entropy_blur = _number('cross_entropy_blur', cross_entropy_blur, least=0)
        self.use_target_weight = use_target_weight
        self.reduction = reduction
        self.loss_weight = _number('loss_weight', loss_weight, least=0)
        self.keep_last_step = False  # set by hooks; costs the memory of one batch of heatmaps
        self.last_step: LastStep | None = None

    def extra_repr(self) -> str:
        return (f'{self.options}, reduction={self.reduction!r}, loss_weight={self.loss_weight}, '
                f'cross_entropy_weight={self.cross_entropy_weight}, cross_entropy_blur={self.cross_entropy_blur}')

    def forward(self, output: Tensor, target: Tensor, target_weights: Tensor | None = None) -> Tensor:
        """The loss.

        Args:
            output (Tensor): predicted heatmaps, (B, K, H, W).
            target (Tensor): dense targets whose centroids are the dots, (B, K, H, W), or the dots themselves in heatmap
                cells, (B, K, 2). A joint whose dense target is empty takes no part.
            target_weights (Tensor, optional): (B, K) or (B, K, 1); a joint of weight 0 takes no part, whatever its
                coordinates or map hold.

        Returns:
            Tensor: a scalar, or (B, K) with ``reduction='none'``. Exactly 0, connected to ``output``, when no joint
            counts.

        Raises:
            ValueError: shapes that do not fit together; a weight that is negative or NaN, or NaN in the dots of a joint that
                counts (dots given as coordinates). The values are looked at on the CPU only, since asking a GPU would stall
                it; there such a weight counts as 0.
        """
        weights = self._weights(output, target_weights)
        target = self._target(output, target, weights)
        maps = output.flatten(0, 1)
        # Half precision is lifted inside; autocast must not lower anything again.
        with torch.autocast(output.device.type, enabled=False):
            measured = emd(maps, target.flatten(0, 1), self.options)
            losses = measured.cost
            counts = ~measured.dots[:, 0].isinf()  # of an empty target
            if weights is not None:
                counts = counts & (weights.reshape(-1) > 0)
            dots = torch.where(counts[:, None], measured.dots, 0)
            if self.cross_entropy_weight:
                counted = torch.where(counts[:, None, None], maps, 0)
                companion = cross_entropy(counted, dots, self.options.supplier, self.cross_entropy_blur)
                losses = losses + self.cross_entropy_weight * companion
        if self.keep_last_step:
            shape = output.shape[:2]
            error = measured.marginal_error.view(shape)
            self.last_step = LastStep(output.detach(), dots.view(*shape, 2), counts.view(shape), error)
        if weights is not None:
            losses = losses * weights.reshape(-1)
        # not a product: 0 * NaN is NaN
        losses = torch.where(counts, losses, 0).view(output.shape[:2])
        return self._reduce(losses) * self.loss_weight

    def _reduce(self, losses: Tensor) -> Tensor:
        """An empty batch gives 0, as one without a joint that counts does."""
        if self.reduction == 'none':
            return losses
        return losses.sum() / max(1, losses.numel() if self.reduction == 'mean' else losses.shape[0])

    def _weights(self, output: Tensor, target_weights: Tensor | None) -> Tensor | None:
        if output.dim() != 4:
            raise ValueError(f'output must have shape (B, K, H, W), got {tuple(output.shape)}')
        if not self.use_target_weight or target_weights is None:
            return None
        weights = target_weights.squeeze(-1) if target_weights.dim() == 3 else target_weights
        if weights.shape != output.shape[:2]:
            raise ValueError(
                f'target_weights must have shape (B, K) = {tuple(output.shape[:2])}, got {tuple(target_weights.shape)}'
            )
        if _may_ask(weights) and not (weights >= 0).all():
            raise ValueError(f'target_weights must not be negative or NaN, got {weights[~(weights >= 0)][:5].tolist()} among them')
        return torch.where(weights > 0, weights, 0)

    def _target(self, output: Tensor, target: Tensor, weights: Tensor | None) -> Tensor:
        """Dense targets as they came, or (B, K, 2) dots, those of joints that do not count set to 0."""
        if target.shape == output.shape:
            return target
        if target.shape != (*output.shape[:2], 2):
            raise ValueError(
                f'target must have the shape of output, {tuple(output.shape)}, or (B, K, 2) = {(*output.shape[:2], 2)}, '
                f'got {tuple(target.shape)}'
            )
        if weights is not None:
            target = torch.where(weights[..., None] > 0, target, 0)
        if _may_ask(target) and not target.isfinite().all():
            raise ValueError('target must hold finite coordinates for every joint of positive weight, got NaN or infinity')
        return target


def _may_ask(values: Tensor) -> bool:
    """Whether a look at the values costs nothing."""
    return values.device.type == 'cpu' and not is_compiling()


def _epsilon(epsilon: float | None, entropic_lambda: float | None, cell_size: float | None) -> float:
    if entropic_lambda is None and cell_size is None:
        return 0.5 if epsilon is None else epsilon
    if epsilon is not None:
        raise ValueError(f'epsilon must be left out when entropic_lambda and cell_size are given, got epsilon = {epsilon!r}')
    if entropic_lambda is None or cell_size is None:
        raise ValueError(f'entropic_lambda and cell_size must be given together, got {entropic_lambda!r} and {cell_size!r}')
    return 1 / (_number('entropic_lambda', entropic_lambda) * _number('cell_size', cell_size))


def _number(name: str, value: float, least: float | None = None) -> float:
    fits = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not fits or (value <= 0 if least is None else value < least):
        raise ValueError(f'{name} must be a finite number {"> 0" if least is None else f">= {least}"}, got {value!r}')
    return float(value)
