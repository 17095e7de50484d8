"""The Earth Mover's Distance between predicted heatmaps and annotated dots, as an MMPose loss."""

from __future__ import annotations

from mmpose.registry import MODELS

from hdm_mmpose.transport import DotLoss


@MODELS.register_module()
class EMDHeatmapLoss(DotLoss):
    r"""Heatmap distribution matching (Qu et al., NeurIPS 2022, Eq. 5).

    Each heatmap, read as a distribution over its cells by the ``supplier`` rule, is compared with the dot's four
    demanders; the value is the transport cost ``<C, p>`` in heatmap cells, plus, by default, a cross-entropy in nats on the
    same suppliers.  The defaults are what the study chose (docs/evidence.md).

    The paper's own setting is ``EMDHeatmapLoss(entropic_lambda=1, cell_size=4, objective='shannon', supplier='relu',
    solver='sinkhorn', num_iters=1000, ground_distance='euclidean', reduction='sum')`` (``cell_size=1`` if its cost is meant
    in cells: it does not say).

    >>> loss = EMDHeatmapLoss()
    >>> heatmaps = torch.zeros(2, 17, 64, 48, requires_grad=True)  # (B, K, H, W)
    >>> dots = torch.full((2, 17, 2), 20.25)  # in heatmap cells, x then y
    >>> value = loss(heatmaps, dots, torch.ones(2, 17))
    >>> value.backward()
    >>> f'{value.item():.3f}'
    '5.013'

    Note:
        - batch size: B, keypoints: K, heatmap: H x W cells, centres at integers, coordinates x then y
        - the height of a map means nothing to the loss (softmax: only differences count; relu: only ratios), so neither does
          its maximum: decode with ``SubPixelDecoder`` under the same ``supplier``
        - computed in float32 also inside autocast
        - the same class without MMPose is ``hdm_mmpose.transport.DotLoss``

    Args:
        epsilon (float): entropic parameter in heatmap cells; ``1 / (lambda g)`` in the paper's letters. Default: 0.5,
            unless ``entropic_lambda`` is given.
        objective (str): which gradient, ``'product'`` (the default), ``'shannon'`` (Eq. 2) or ``'sharp'``
            (``hdm_mmpose.transport.gradient``). Formerly ``potential``, which goes on working.
        supplier (str | dict): ``'softmax'``, ``'softplus'``, ``'relu'`` (Eq. 3), ``'relu_surrogate'``, or a dict with
            ``type`` and ``sharpness`` (``hdm_mmpose.transport.suppliers``). The decoder must name the same.
        solver (str): ``'newton'``, exact in a few steps, or ``'sinkhorn'`` with ``num_iters`` iterations.
        num_iters (int): Sinkhorn iterations; ``'newton'`` does not use it.
        unbiased (bool, optional): demander masses whose problem is minimised by the dot itself; they exist for ``'product'``
            and ``subpixel`` only. Default: where they exist.
        ground_distance (str | dict): ``'saturated'`` or ``'euclidean'`` (the paper); another ``scale`` than 1 cell as a dict.
        use_target_weight (bool): whether ``target_weights`` counts.
        reduction (str): ``'mean'`` over B x K; ``'sum'`` over K and mean over B (Eq. 5); ``'none'`` gives (B, K).
        loss_weight (float): factor on the result.
        subpixel (bool): False for the naive variant (Tab. 4): all mass to the cell that holds the dot.
        cross_entropy_weight (float, optional): adds that much of the cross-entropy between suppliers and dot, in nats; needs a
            rule under which every cell has mass. Default: 0.5 for such a rule, 0 for others.
        cross_entropy_blur (float): standard deviation in cells of the Gaussian that spreads the dot in the cross-entropy
            (``transport/companion.py``); 0 for the dot itself.
        entropic_lambda (float, optional): the paper's ``lambda`` in 1 / (input pixel), instead of ``epsilon``; needs
        cell_size (float, optional): the paper's ``g``, input pixels per heatmap cell (the stride).
        backend (str): who computes it: ``'torch'``, ``'triton'`` (a kernel for the default's kind of setting on an NVIDIA GPU; an
            error where it cannot be had), or ``'auto'``, the kernel where it can be had, PyTorch elsewhere
            (``transport/backend.py``).

    Raises:
        ValueError: an unknown name, a number out of range, or options that contradict each other.
    """
