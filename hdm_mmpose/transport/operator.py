"""The loss of each joint with its gradient: one autograd formula, whoever computes it, and one operator for ``torch.compile``.

``maps`` (B, K, H, W), ``target`` (B, K, 2) or (B, K, H, W), ``weights`` (B, K) or None.  The forward pass is that of the Triton
kernel, of ``local`` or of ``general``.  It leaves in ``saved`` what the backward pass needs: ``SAVED`` numbers per joint (kernel),
or the finished gradient, which is only scaled then.
"""

from __future__ import annotations

import json
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from hdm_mmpose.features import HAS_CUSTOM_OPERATORS, HAS_FUNC, is_compiling, outside_graphs

from . import general, local
from .backend import SAVED, kernel_for
from .options import EMDOptions
from .suppliers import compute_dtype


def loss_of_joints(maps: Tensor, target: Tensor, weights: Tensor | None, numbers: Tensor, key: str) -> tuple[Tensor, ...]:
    """(loss, cost, error, dots, valid), each (B, K, ...); only ``loss`` carries a gradient, and only to ``maps``.

    Args:
        numbers, key: of ``EMDOptions``.
    """
    wants_gradient = torch.is_grad_enabled() and maps.requires_grad
    weights = None if weights is None else weights.detach()
    # half precision is lifted inside; autocast must not lower anything again
    with torch.autocast(maps.device.type, enabled=False):
        if HAS_CUSTOM_OPERATORS and is_compiling():
            loss, *others = _operator(maps, target.detach(), weights, numbers, key, wants_gradient)
            return (loss, *(each.detach() for each in others[:4]))
        # hangs on maps without holding them, so that the backward pass can refuse its own derivative
        link = maps[:0].sum()
        return _apply(maps, target.detach(), weights, numbers, key, wants_gradient, link)[:5]


def path_of(maps: Tensor, options: EMDOptions) -> ModuleType:
    """``local`` or ``general``, which takes these maps in PyTorch."""
    size = (maps.shape[2], maps.shape[3])
    return local if maps.numel() and local.is_local(options, compute_dtype(maps), size) else general


def forward(
    maps: Tensor, target: Tensor, weights: Tensor | None, numbers: Tensor, key: str, wants_gradient: bool
) -> tuple[Tensor, ...]:
    """(loss, cost, error, dots, valid, saved)."""
    options = EMDOptions.read(key, numbers)
    kernel = kernel_for(maps, target, options)
    if kernel is not None:
        return kernel.forward(maps, target, weights, options)
    return path_of(maps, options).forward(maps, target, weights, options, wants_gradient)


def backward(
    maps: Tensor, target: Tensor, weights: Tensor | None, saved: Tensor, grad: Tensor, numbers: Tensor, key: str
) -> Tensor:
    """The gradient of ``maps``, in their dtype and strides; 0 for joints whose ``grad`` (B, K) is 0, whatever they hold."""
    if saved.dim() == 3:
        options = EMDOptions.read(key, numbers)
        kernel = kernel_for(maps, target, options)
        if kernel is not None:
            return kernel.backward(maps, target, saved, grad, options)
        # compiled for a kernel that does not run here
        saved = path_of(maps, options).forward(maps, target, weights, options)[-1]
    return scale(saved, grad, torch.empty_like(maps))


def scale(gradient: Tensor, factor: Tensor, out: Tensor) -> Tensor:
    """``factor`` (B, K) times ``gradient`` (B, K, H, W), into a tensor of any dtype and strides."""
    if out.dtype == gradient.dtype:
        torch.mul(gradient, factor[..., None, None], out=out)
    else:
        out.copy_(gradient * factor[..., None, None])
    return local.silence(out, factor != 0)


class _Loss(torch.autograd.Function):
    @staticmethod
    def forward(
        maps: Tensor, target: Tensor, weights: Tensor | None, numbers: Tensor, key: str, wants_gradient: bool, link: Tensor
    ) -> tuple[Tensor, ...]:
        return forward(maps, target, weights, numbers, key, wants_gradient)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        maps, target, weights, numbers, key, _, link = inputs
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)
        small = output[-1].dim() == 3
        ctx.save_for_backward(link, *((maps, target, weights) if small else (None, None, None)), output[-1], numbers)
        ctx.like, ctx.key = (None if small else torch.empty_like(maps, device='meta')), key

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, *_: Tensor) -> tuple:
        if grad is None:
            return (None,) * 7
        return _Gradient.apply(grad, *ctx.saved_tensors, ctx.like, ctx.key), None, None, None, None, None, None

    @staticmethod
    def vmap(*_: Any) -> Any:
        raise NotImplementedError('the EMD loss must not be mapped by vmap: it takes batches of maps (B, K, H, W) itself')

    @staticmethod
    def jvp(*_: Any) -> Any:
        raise NotImplementedError('the EMD loss has no forward-mode derivative (jvp): use backward-mode ones, like torch.func.grad')


class _Gradient(torch.autograd.Function):
    """The backward pass, which has no derivative: of a second one a part would be missing, silently."""

    @staticmethod
    def forward(
        grad: Tensor, link: Tensor, maps: Tensor | None, target: Tensor | None, weights: Tensor | None, saved: Tensor,
        numbers: Tensor, like: Tensor | None, key: str,
    ) -> Tensor:
        if like is not None:
            return scale(saved, grad, torch.empty_like(like, device=saved.device))
        return backward(maps, target, weights, saved, grad, numbers, key)  # type: ignore[arg-type]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        raise RuntimeError('the EMD loss has no second derivative: gradients are computed as constants')

    vmap, jvp = _Loss.vmap, _Loss.jvp  # type: ignore[assignment]


if not HAS_FUNC:  # this torch knows one method where later ones know two

    def _in_one(function: Any) -> Any:
        @staticmethod  # type: ignore[misc]
        def forward(ctx: Any, *inputs: Any) -> Any:
            output = function.forward(*inputs)
            function.setup_context(ctx, inputs, output)
            return output

        return type(function.__name__, (torch.autograd.Function,), {'forward': forward, 'backward': staticmethod(function.backward)})

    _Loss, _Gradient = _in_one(_Loss), _in_one(_Gradient)  # type: ignore[misc]


_apply = outside_graphs(_Loss.apply)


# ---------------------------------------------------------------------------------------------------------- torch.compile

if HAS_CUSTOM_OPERATORS:
    # what a compiler would otherwise follow are solvers' loops, which look at their own error

    def _is_for_kernel(maps: Tensor, key: str) -> bool:
        """Whether ``saved`` is as the kernel leaves it: known while tracing, when nothing can be tried."""
        asked = json.loads(key)
        known = asked['supplier']['type'] == 'softmax' and asked['ground_distance']['type'] == 'saturated' and asked['unbiased']
        return known and (asked['backend'] == 'triton' or asked['backend'] == 'auto' and maps.device.type == 'cuda')

    def _forward(
        maps: Tensor, target: Tensor, weights: Tensor | None, numbers: Tensor, key: str, wants_gradient: bool
    ) -> tuple[Tensor, ...]:
        options = EMDOptions.read(key, numbers)
        if not _is_for_kernel(maps, key):
            return path_of(maps, options).forward(maps, target, weights, options, wants_gradient)
        *output, saved = forward(maps, target, weights, numbers, key, False)
        return (*output, saved if saved.dim() == 3 else saved.new_zeros((*maps.shape[:2], SAVED), dtype=torch.float32))

    _operator = torch.library.custom_op(
        'hdm_mmpose::loss', _forward, mutates_args=(),
        schema='(Tensor maps, Tensor target, Tensor? weights, Tensor numbers, str key, bool wants_gradient) '
               '-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)')
    _backward_operator = torch.library.custom_op(
        'hdm_mmpose::loss_backward', backward, mutates_args=(),
        schema='(Tensor maps, Tensor target, Tensor? weights, Tensor saved, Tensor grad, Tensor numbers, str key) -> Tensor')

    @_operator.register_fake
    def _(maps: Tensor, target: Tensor, weights: Tensor | None, numbers: Tensor, key: str, wants_gradient: bool) -> tuple[Tensor, ...]:
        joints, dtype = maps.shape[:2], compute_dtype(maps)
        loss, cost, error = (maps.new_empty(joints, dtype=dtype) for _ in range(3))
        dots, valid = maps.new_empty((*joints, 2), dtype=dtype), maps.new_empty(joints, dtype=torch.bool)
        if _is_for_kernel(maps, key):
            saved = maps.new_empty((*joints, SAVED), dtype=torch.float32)
        else:
            saved = torch.empty(maps.shape if wants_gradient else 0, dtype=dtype, device=maps.device)
        return loss, cost, error, dots, valid, saved

    @_backward_operator.register_fake
    def _(maps: Tensor, *_: Any) -> Tensor:
        return torch.empty_like(maps)

    def _keep(ctx: Any, inputs: tuple, output: tuple) -> None:
        maps, target, weights, numbers, ctx.key, _ = inputs
        ctx.save_for_backward(maps, target, weights, output[-1], numbers)

    def _pull_back(ctx: Any, grad: Tensor, *_: Tensor) -> tuple:
        maps, target, weights, saved, numbers = ctx.saved_tensors
        return _backward_operator(maps, target, weights, saved, grad, numbers, ctx.key), None, None, None, None, None

    _operator.register_autograd(_pull_back, setup_context=_keep)
