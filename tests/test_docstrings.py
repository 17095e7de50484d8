"""The examples in the package's docstrings give what they say."""

from __future__ import annotations

import doctest
from importlib import import_module

import pytest
import torch

MODULES = [f'hdm_mmpose.{name}' for name in ('components.sub_pixel_decoder', 'transport.demanders', 'transport.suppliers')]


@pytest.mark.parametrize('name', MODULES)
def test_examples(name: str) -> None:
    result = doctest.testmod(import_module(name), extraglobs={'torch': torch})
    assert result.attempted > 0 and result.failed == 0
