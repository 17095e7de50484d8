"""What the installed torch can do: the one place that asks, so that no version number is compared elsewhere.

Importing this module imports torch and nothing else.
"""

from __future__ import annotations

import torch

HAS_CUSTOM_OPERATORS = hasattr(torch.library, 'custom_op')  # torch 2.4


def is_compiling() -> bool:
    """Whether this code is being traced by ``torch.compile``."""
    compiler = getattr(torch, 'compiler', None)  # torch 2.1; its is_compiling 2.3
    return bool(compiler is not None and hasattr(compiler, 'is_compiling') and compiler.is_compiling())
