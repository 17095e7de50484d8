"""What is asked of the installed torch: the answers agree with what torch then does."""

from __future__ import annotations

import builtins
import io
import subprocess
import sys
import types

import pytest
import torch

from hdm_mmpose import features


def test_custom_operators():
    if not features.HAS_CUSTOM_OPERATORS:
        assert not hasattr(torch.library, 'opcheck')
        return
    twice = torch.library.custom_op('hdm_mmpose_tests::twice', lambda x: 2 * x, mutates_args=(), schema='(Tensor x) -> Tensor')
    assert twice(torch.ones(3)).tolist() == [2, 2, 2]


def test_is_compiling_is_no_outside_a_compiler():
    assert features.is_compiling() is False


def test_outside_graphs_keeps_what_a_function_does():
    wrapped = features.outside_graphs(lambda x: x + 1)
    assert wrapped(torch.zeros(2)).tolist() == [1, 1]


def test_loads_safely_says_what_torch_load_does():
    """A function of the standard library is no weight."""
    file = io.BytesIO()
    torch.save(subprocess.run, file)
    file.seek(0)
    if features.loads_safely():
        with pytest.raises(Exception, match='weights_only|Unsupported global|GLOBAL'):
            torch.load(file)
    else:
        assert torch.load(file) is subprocess.run


@pytest.mark.parametrize('safe', [True, False])
def test_loads_safely_follows_who_changes_torch_load(monkeypatch, safe):
    """Some projects replace ``torch.load`` by one that loads everything: its version says nothing then."""
    load = torch.load
    monkeypatch.setattr(torch, 'load', lambda file: load(file, weights_only=safe))
    features.loads_safely.cache_clear()
    try:
        assert features.loads_safely() is safe
    finally:
        features.loads_safely.cache_clear()


@pytest.mark.parametrize('version, fits', [('2.0.0', False), ('3.5.1', False), ('3.6.0', True), ('3.10.0+git1', True), ('4.0', True)])
def test_triton_by_its_version(monkeypatch, version, fits):
    monkeypatch.setitem(sys.modules, 'triton', types.SimpleNamespace(__version__=version))
    obstacle = features.triton_obstacle()
    assert obstacle is None if fits else obstacle == f'triton must be 3.6 or newer, got {version}'


def test_triton_missing(monkeypatch):
    monkeypatch.delitem(sys.modules, 'triton', raising=False)
    real = builtins.__import__

    def without_triton(name, *rest):
        if name == 'triton':
            raise ImportError('no triton here')
        return real(name, *rest)

    monkeypatch.setattr(builtins, '__import__', without_triton)
    assert 'triton cannot be imported (no triton here)' in features.triton_obstacle()
