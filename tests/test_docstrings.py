"""The examples in the package's docstrings give what they say."""

from __future__ import annotations

import doctest
from importlib import import_module

import pytest

MODULES = ['hdm_mmpose.components.sub_pixel_decoder']


@pytest.mark.parametrize('name', MODULES)
def test_examples(name: str) -> None:
    result = doctest.testmod(import_module(name))
    assert result.attempted > 0 and result.failed == 0
