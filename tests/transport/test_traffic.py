"""How many times the default loss reads or writes a map, operator by operator: what its time is made of."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from hdm_mmpose.transport import DotLoss

B, K = 6, 17
VIEWS = ('view', '_unsafe_view', 'slice', 'select', 'expand', 'unsqueeze', 'squeeze', 't', 'transpose', 'permute', 'alias', 'detach',
         'as_strided', 'unbind', 'split', 'empty', 'empty_like', 'new_empty', 'empty_strided', '_local_scalar_dense', 'new_empty_strided',
         '_reshape_alias')
PICKING = ('gather', 'index_select', 'index', 'scatter_', 'scatter_add_', 'index_put_')  # touch what the index says, not the map


class Traffic(TorchDispatchMode):
    """Adds up the bytes of every operator's inputs and outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes: dict[str, int] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        name = func.__name__.split('.')[0]
        if name not in VIEWS:
            read = tensors([*args, *(value for key, value in (kwargs or {}).items() if key != 'out')])
            written = tensors([result])
            if name in PICKING:
                index = max((each for each in read if each.dtype in (torch.int64, torch.bool)), key=Tensor.numel)
                amount = index.numel() * index.element_size() + 2 * index.numel() * written[0].element_size()
            else:
                amount = sum(size(each) for each in (*read, *written))
            self.bytes[name] = self.bytes.get(name, 0) + amount
        return result


def tensors(values) -> list[Tensor]:
    found = []
    for value in values:
        found += tensors(value) if isinstance(value, (list, tuple)) else [value] if isinstance(value, Tensor) else []
    return found


def size(tensor: Tensor) -> int:
    """Bytes that are there; an expanded tensor holds each number once."""
    count = 1
    for length, stride in zip(tensor.shape, tensor.stride()):
        count *= length if stride else 1
    return count * tensor.element_size()


def maps_moved(height: int, width: int, loss) -> tuple[float, dict[str, float]]:
    output = (0.1 * torch.randn(B, K, height, width)).requires_grad_()
    target = torch.zeros(B, K, height, width)
    target[:, :, 9, 11], target[:, :, 10, 11] = 0.7, 0.3
    loss(output, target, torch.ones(B, K))  # what all joints share is made once
    with Traffic() as traffic:
        loss(output, target, torch.ones(B, K)).backward()
    one = output.numel() * output.element_size()
    shares = {name: round(amount / one, 2) for name, amount in traffic.bytes.items() if amount > one / 20}
    return sum(traffic.bytes.values()) / one, shares


def mse(output: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """MMPose's ``KeypointMSELoss(use_target_weight=True)``."""
    return (torch.nn.functional.mse_loss(output, target, reduction='none') * weights[..., None, None]).mean()


def test_the_count_is_that_of_a_person() -> None:
    """Forward 3 + 2 + 1, backward 1 + 2 + 4."""
    assert maps_moved(64, 48, mse)[0] == pytest.approx(13, abs=0.1)


@pytest.mark.parametrize(('size', 'most'), [((96, 72), 25), ((64, 48), 34)])
def test_the_default_moves_few_maps(size: tuple[int, int], most: float) -> None:
    """The window is a seventh of the larger map and a third of the smaller one."""
    moved, shares = maps_moved(*size, DotLoss())
    assert moved <= most, shares
