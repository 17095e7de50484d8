"""``emd`` as one operator: under ``torch.compile`` the solvers stay a closed box, whichever backend works inside.

Without it a compiler would follow the solvers' loops, and break the graph wherever they look at their own error.  A torch
without ``torch.library.custom_op`` cannot import this file: there ``emd`` breaks the graph once.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .ground_distance import build_ground_distance
from .suppliers import build_supplier


def emd_operator(heatmap: Tensor, target: Tensor, options) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The fields of ``EMDOutput``; arguments as for ``emd``."""
    supplier, distance = options.supplier, options.ground_distance
    return _emd(
        heatmap, target, torch.is_grad_enabled() and heatmap.requires_grad, options.epsilon, options.potential, supplier.name,
        getattr(supplier, 'sharpness', 0.0), options.solver, options.num_iters, options.unbiased, distance.name,
        getattr(distance, 'scale', 0.0), options.backend, options.subpixel,
    )[:4]


SCHEMA = (
    '(Tensor heatmap, Tensor target, bool wants_gradient, float epsilon, str potential, str supplier, float sharpness, str solver, '
    'int num_iters, bool unbiased, str ground_distance, float scale, str backend, bool subpixel) '
    '-> (Tensor, Tensor, Tensor, Tensor, Tensor)'
)


@torch.library.custom_op('hdm_mmpose::emd', mutates_args=(), schema=SCHEMA)
def _emd(
    heatmap: Tensor, target: Tensor, wants_gradient: bool, epsilon: float, potential: str, supplier: str, sharpness: float,
    solver: str, num_iters: int, unbiased: bool, ground_distance: str, scale: float, backend: str, subpixel: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    from .emd import EMDOptions, measure  # which imports this file

    options = EMDOptions(
        epsilon=epsilon, potential=potential, solver=solver, num_iters=num_iters, unbiased=unbiased, backend=backend,
        subpixel=subpixel,
        supplier=build_supplier({'type': supplier, **({'sharpness': sharpness} if sharpness else {})}),
        ground_distance=build_ground_distance({'type': ground_distance, **({'scale': scale} if scale else {})}),
    )
    cost, error, converged, dots, gradient = measure(heatmap, target, options, wants_gradient)
    return cost, error, converged, dots, gradient


@_emd.register_fake
def _(heatmap, target, wants_gradient, *_):
    joints = heatmap.shape[0]
    dtype = torch.float64 if heatmap.dtype == torch.float64 else torch.float32
    return (
        heatmap.new_empty(joints, dtype=dtype), heatmap.new_empty(joints, dtype=dtype),
        heatmap.new_empty(joints, dtype=torch.bool), heatmap.new_empty((joints, 2), dtype=dtype),
        heatmap.new_empty(heatmap.shape if wants_gradient else (0,), dtype=dtype),
    )


def _keep(ctx, inputs, output) -> None:
    ctx.save_for_backward(output[-1])
    ctx.dtype = inputs[0].dtype


def _backward(ctx, grad: Tensor, *_: Tensor):
    factor = grad[:, None, None]
    scaled = torch.where(factor == 0, 0, factor * ctx.saved_tensors[0]).to(ctx.dtype)
    return scaled, *([None] * 13)


_emd.register_autograd(_backward, setup_context=_keep)
