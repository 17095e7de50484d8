"""What the fault tests share: data, and the table that ``tests/faults/table.py`` makes of what they saw."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tiny_training import draw


@pytest.fixture
def saw(record_property: Callable) -> Callable[[str, str, str], None]:
    """Called at the end of a test that passed: what was done, what should happen, what did happen."""

    def note(fault: str, expected: str, happened: str) -> None:
        for name, value in (('fault', fault), ('expected', expected), ('happened', happened)):
            record_property(name, value)

    return note


@pytest.fixture(scope='session')
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn pictures in COCO's format; not to be changed."""
    return draw(tmp_path_factory.mktemp('faults') / 'data')
