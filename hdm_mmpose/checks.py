"""Checks of single arguments: one spelling of each, with a message that names the argument, what was wanted and what came.

Importing this module imports nothing else of the package, and no torch.
"""

from __future__ import annotations

import math
import numbers
import warnings
from typing import Any, Sequence


def positive(name: str, value: Any, unit: str = '') -> float:
    """``value`` as a float; a ValueError unless it is a finite number above 0 (True is no number)."""
    if not _is_number(value) or value <= 0:
        raise ValueError(f'{name} must be a positive finite number{unit and f" of {unit}"}, got {value!r}')
    return float(value)


def not_negative(name: str, value: Any) -> float:
    """``value`` as a float; a ValueError unless it is a finite number of at least 0."""
    if not _is_number(value) or value < 0:
        raise ValueError(f'{name} must be a finite number >= 0, got {value!r}')
    return float(value)


def positive_int(name: str, value: Any) -> int:
    """``value``; a ValueError unless it is an integer of at least 1."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 1:
        raise ValueError(f'{name} must be a positive integer, got {value!r}')
    return int(value)


def true_or_false(name: str, value: Any) -> bool:
    """``value``; a ValueError unless it is a bool."""
    if not isinstance(value, bool):
        raise ValueError(f'{name} must be True or False, got {value!r}')
    return value


def one_of(name: str, value: Any, choices: Sequence) -> Any:
    """``value``; a ValueError unless it is among the choices."""
    if value not in choices:
        raise ValueError(f'{name} must be one of {choices}, got {value!r}')
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)


_said: set[str] = set()


def warn_once(topic: str, message: str, category: type[Warning] = UserWarning, stacklevel: int = 3) -> None:
    """Give a warning the first time something of this topic happens in the process."""
    if topic not in _said:
        _said.add(topic)
        warnings.warn(f'{message} This is said once.', category, stacklevel=stacklevel)
