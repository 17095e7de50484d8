"""Who computes the distance: chosen by name, by device, or because the other one cannot."""

from __future__ import annotations

import sys
import types
import warnings

import pytest
import torch

from hdm_mmpose.features import triton_obstacle
from hdm_mmpose.transport import EMDOptions, backend, emd

MAPS, DOTS = torch.linspace(-1, 1, 60).view(3, 5, 4), torch.tensor([[1.2, 3.4], [0.0, 2.0], [2.5, 0.1]])


@pytest.fixture(autouse=True)
def forget():
    """What a process has learned about its kernel."""
    yield
    backend._failed.clear()
    backend._import.cache_clear()


def kernel(fails: bool = False) -> types.SimpleNamespace:
    """Stands for ``triton_emd`` on a machine where it works, or fails to start."""
    def emd_triton(*_):
        if fails:
            raise OSError('no C compiler')
        return torch.full((3,), 7.0), torch.zeros(3), torch.ones(3, dtype=torch.bool), DOTS.clone(), torch.ones(3, 5, 4)

    return types.SimpleNamespace(INTERPRETED=True, emd_triton=emd_triton, obstacle=lambda _: None,
                                 scale_triton=lambda gradient, factor, dtype: gradient * 2)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match=r"backend must be one of \('auto', 'torch', 'triton'\), got 'cuda'"):
        EMDOptions(epsilon=1.0, backend='cuda')


def test_auto_on_the_cpu_does_not_even_look_for_triton(monkeypatch):
    monkeypatch.setattr(backend, '_import', lambda: pytest.fail('looked for triton'))
    for name in ('auto', 'torch'):
        assert emd(MAPS, DOTS, EMDOptions(epsilon=1.0, backend=name)).cost.isfinite().all()


@pytest.mark.skipif(torch.cuda.is_available(), reason='about machines without a GPU')
def test_triton_by_name_says_what_would_help():
    """At the first call, not before: configs can be read anywhere."""
    how = EMDOptions(epsilon=1.0, backend='triton')
    with pytest.raises(RuntimeError, match=r"backend='triton' is not possible here: .*(CUDA device|pip install triton|3\.6 or newer)"):
        emd(MAPS, DOTS, how)


def test_triton_missing(monkeypatch):
    monkeypatch.setattr(backend, '_import', lambda: (None, 'triton cannot be imported'))
    with pytest.raises(RuntimeError, match='triton cannot be imported'):
        emd(MAPS, DOTS, EMDOptions(epsilon=1.0, backend='triton'))
    monkeypatch.setattr(backend, '_tested', lambda _: True)
    assert backend.kernel_for(MAPS, 'auto') is None


def test_auto_means_the_kernel_on_tested_gpus_only(monkeypatch):
    stands_in = kernel()
    monkeypatch.setattr(backend, '_import', lambda: (stands_in, None))
    for tested in (True, False):
        monkeypatch.setattr(backend, '_tested', lambda _, tested=tested: tested)
        assert backend.kernel_for(MAPS, 'auto') is (stands_in if tested else None)
        assert backend.kernel_for(MAPS, 'triton') is stands_in and backend.kernel_for(MAPS, 'torch') is None


def test_maps_too_large_for_the_kernel():
    if triton_obstacle() is not None:
        pytest.skip(triton_obstacle())
    from hdm_mmpose.transport import triton_emd

    assert triton_emd.obstacle(torch.empty(1, 512, 512, device='meta')) is None
    assert 'up to 262144 cells, got 513 x 512' in triton_emd.obstacle(torch.empty(1, 513, 512, device='meta'))


def test_the_kernel_serves_forward_and_backward(monkeypatch):
    monkeypatch.setattr(backend, '_import', lambda: (kernel(), None))
    maps = MAPS.clone().requires_grad_()
    cost = emd(maps, DOTS, EMDOptions(epsilon=1.0, backend='triton')).cost
    cost.sum().backward()
    assert (cost == 7).all() and (maps.grad == 2).all()


def test_a_kernel_that_does_not_start(monkeypatch):
    """By name it is an error; on ``auto`` PyTorch takes over, says so once, and is not in doubt again."""
    broken = kernel(fails=True)
    monkeypatch.setattr(backend, '_import', lambda: (broken, None))
    with pytest.raises(OSError, match='no C compiler'):
        emd(MAPS, DOTS, EMDOptions(epsilon=1.0, backend='triton'))
    monkeypatch.undo()

    # the package's `emd` is the function
    monkeypatch.setattr(sys.modules['hdm_mmpose.transport.emd'], 'kernel_for', lambda *_: None if backend._failed else broken)
    how = EMDOptions(epsilon=1.0)
    with pytest.warns(UserWarning, match='PyTorch takes over .* OSError: no C compiler'):
        first = emd(MAPS, DOTS, how)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        torch.testing.assert_close(first, emd(MAPS, DOTS, EMDOptions(epsilon=1.0, backend='torch')))
        emd(MAPS, DOTS, how)
    assert backend._import() == (None, 'the kernel failed to start before (no C compiler)')
