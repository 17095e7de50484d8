"""What the installed torch can do: the one place that asks, so that no version number is compared elsewhere.

Importing this module imports torch and nothing else.
"""

from __future__ import annotations

import functools
import io
import pickle
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from typing import ContextManager

import torch

HAS_COMPILE = hasattr(torch, 'compile')  # torch 2.0
HAS_CUSTOM_OPERATORS = hasattr(torch.library, 'custom_op')  # torch 2.4
HAS_FUNC = hasattr(torch, 'func')  # torch 2.0
OLDEST_TRITON = (3, 6)  # older ones compile the kernel, too, or do not: not tried


def without_memory() -> ContextManager:
    """A context whose tensors have shapes and no values, where torch knows such a device by context (2.0); elsewhere nothing changes."""
    return torch.device('meta') if hasattr(torch.device, '__enter__') else nullcontext()


def is_compiling() -> bool:
    """Whether this code is being traced by ``torch.compile``."""
    compiler = getattr(torch, 'compiler', None)  # torch 2.1; its is_compiling 2.3
    return bool(compiler is not None and hasattr(compiler, 'is_compiling') and compiler.is_compiling())


def outside_graphs(function: Callable) -> Callable:
    """``function`` as a break in the graph of ``torch.compile``, for a torch that cannot be told of operators.

    Where there are custom operators, or nothing that compiles, it comes back as it is.
    """
    if HAS_CUSTOM_OPERATORS or not HAS_COMPILE:
        return function
    from torch import _dynamo

    return _dynamo.disable(function)


class _Foreign:
    """What no loader of weights lets through."""


@functools.lru_cache(maxsize=None)
def loads_safely() -> bool:
    """Whether ``torch.load`` refuses what is not weights unless told otherwise (torch 2.6); found out by loading something."""
    file = io.BytesIO()
    torch.save(_Foreign(), file)
    file.seek(0)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # torch 2.4 and 2.5 announce the change
        try:
            torch.load(file)
        except pickle.UnpicklingError:
            return True
    return False


def triton_obstacle() -> str | None:
    """What keeps Triton from being used for the kernel; None if nothing is known to."""
    try:
        import triton
    except ImportError as error:
        return f'triton cannot be imported ({error}); `pip install triton` brings it on Linux'
    if tuple(int(part) for part in triton.__version__.split('.')[:2]) < OLDEST_TRITON:
        return f'triton must be {".".join(map(str, OLDEST_TRITON))} or newer, got {triton.__version__}'
    return None
