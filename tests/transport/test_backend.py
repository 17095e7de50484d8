"""Who computes the loss: chosen by name, by device, by what is asked for, and by a proof."""

from __future__ import annotations

import types
import warnings

import pytest
import torch

from hdm_mmpose import checks
from hdm_mmpose.transport import DotLoss, EMDOptions, backend

MAPS, DOTS = torch.linspace(-1, 1, 60).view(1, 3, 5, 4), torch.tensor([[[1.2, 3.4], [0.0, 2.0], [2.5, 0.1]]])
AUTO, BY_NAME, TORCH = (EMDOptions(backend=name) for name in ('auto', 'triton', 'torch'))


@pytest.fixture(autouse=True)
def forget(monkeypatch):
    """What a process has learned about its kernel, and what it has said."""
    monkeypatch.setattr(backend, '_verdicts', {})
    monkeypatch.setattr(checks, '_said', set())
    backend._gpu_obstacle.cache_clear()
    yield
    backend._gpu_obstacle.cache_clear()


class Kernel:
    """Stands for ``triton_emd``."""

    INTERPRETED = True

    def __init__(self, reason: str | None = None) -> None:
        self.obstacle = lambda *_: reason


STANDS_IN = Kernel()


@pytest.fixture
def on_a_gpu(monkeypatch):
    """Maps that say they are on a GPU, and a kernel that can be imported; gives the former."""
    monkeypatch.setattr(backend, '_import', lambda: (STANDS_IN, None))
    monkeypatch.setattr(torch.cuda, 'is_current_stream_capturing', lambda: False)
    return types.SimpleNamespace(device=torch.device('cuda', 0), dtype=torch.float32)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match=r"backend must be one of \('auto', 'torch', 'triton'\), got 'cuda'"):
        EMDOptions(backend='cuda')


def test_auto_on_the_cpu_does_not_even_look_for_triton(monkeypatch):
    monkeypatch.setattr(backend, '_import', lambda: pytest.fail('looked for triton'))
    for name in ('auto', 'torch'):
        assert DotLoss(backend=name)(MAPS, DOTS).isfinite()


@pytest.mark.skipif(torch.cuda.is_available(), reason='about machines without a GPU')
def test_triton_by_name_says_what_would_help():
    """At the first call, not before: configs can be read anywhere."""
    loss = DotLoss(backend='triton')
    with pytest.raises(RuntimeError, match=r"backend='triton' is not possible here: .*(CUDA device|pip install triton|triton must be)"):
        loss(MAPS, DOTS)


def test_triton_missing(monkeypatch, on_a_gpu):
    monkeypatch.setattr(backend, '_import', lambda: (None, 'triton cannot be imported'))
    with pytest.raises(RuntimeError, match='triton cannot be imported'):
        backend.kernel_for(MAPS, DOTS, BY_NAME)
    with pytest.warns(UserWarning, match='PyTorch computes the EMD loss in place of .*: triton cannot be imported'):
        assert backend.kernel_for(on_a_gpu, DOTS, AUTO) is None


def test_what_the_kernel_does_not_compute(monkeypatch, on_a_gpu):
    """An error by name; on 'auto' PyTorch, without a proof, and said once."""
    monkeypatch.setattr(backend, '_import', lambda: (Kernel('it knows no such distance'), None))
    monkeypatch.setattr(backend, 'disagreement', lambda *_: pytest.fail('tried'))
    with pytest.raises(RuntimeError, match='it knows no such distance'):
        backend.kernel_for(MAPS, DOTS, BY_NAME)
    with pytest.warns(UserWarning, match='it knows no such distance') as said:
        assert [backend.kernel_for(on_a_gpu, DOTS, AUTO) for _ in range(3)] == [None] * 3
    assert len(said) == 1


def test_auto_proves_once_per_variant(monkeypatch, on_a_gpu):
    tried = []
    monkeypatch.setattr(backend, 'disagreement', lambda _, *variant: tried.append(variant))
    dense, half = torch.zeros(1, 3, 5, 4), types.SimpleNamespace(device=on_a_gpu.device, dtype=torch.float16)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        for _ in range(2):
            for maps, target in ((on_a_gpu, DOTS), (on_a_gpu, dense), (half, dense)):
                assert backend.kernel_for(maps, target, AUTO) is STANDS_IN
                assert backend.kernel_for(maps, target, TORCH) is None
    gpu = on_a_gpu.device
    assert tried == [(gpu, torch.float32, False), (gpu, torch.float32, True), (gpu, torch.float16, True)]


@pytest.mark.parametrize('failure, message', [
    (lambda *_: 'its loss differs', 'its loss differs'),
    (lambda *_: 1 / 0, r'it could not be started \(ZeroDivisionError: division by zero\)'),
])
def test_a_kernel_that_fails_its_proof(monkeypatch, on_a_gpu, failure, message):
    """PyTorch takes over, says so once, and nothing is tried again; by name it is taken all the same."""
    monkeypatch.setattr(backend, 'disagreement', failure)
    with pytest.warns(UserWarning, match=f'PyTorch computes the EMD loss .*: {message}') as said:
        assert backend.kernel_for(on_a_gpu, DOTS, AUTO) is None
        monkeypatch.setattr(backend, 'disagreement', lambda *_: pytest.fail('tried again'))
        assert backend.kernel_for(on_a_gpu, DOTS, AUTO) is None
    assert len(said) == 1
    assert backend.kernel_for(on_a_gpu, DOTS, BY_NAME) is STANDS_IN


def test_nothing_is_tried_while_a_graph_is_captured(monkeypatch, on_a_gpu):
    """But afterwards."""
    monkeypatch.setattr(backend, 'disagreement', lambda *_: None)
    monkeypatch.setattr(torch.cuda, 'is_current_stream_capturing', lambda: True)
    with pytest.warns(UserWarning, match='take a step before'):
        assert backend.kernel_for(on_a_gpu, DOTS, AUTO) is None
    monkeypatch.setattr(torch.cuda, 'is_current_stream_capturing', lambda: False)
    assert backend.kernel_for(on_a_gpu, DOTS, AUTO) is STANDS_IN


@pytest.mark.skipif(not torch.distributed.is_available(), reason='this torch knows no distributed runs')
def test_all_ranks_take_the_same_way(tmp_path):
    """Two processes, on the second of which the kernel fails: both say so, and take PyTorch."""
    torch.multiprocessing.spawn(_rank, (str(tmp_path / 'store'), str(tmp_path)), nprocs=2)
    said = [(tmp_path / str(rank)).read_text() for rank in range(2)]
    assert 'it failed on another rank of this run' in said[0] and 'its loss differs' in said[1]


def _rank(rank: int, store: str, folder: str) -> None:
    torch.distributed.init_process_group('gloo', init_method=f'file://{store}', rank=rank, world_size=2)
    backend._import = lambda: (STANDS_IN, None)
    torch.cuda.is_current_stream_capturing = lambda: False
    backend.disagreement = lambda *_: 'its loss differs' if rank else None
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        maps = types.SimpleNamespace(device=torch.device('cuda', 0), dtype=torch.float32)
        assert [backend.kernel_for(maps, DOTS, AUTO) for _ in range(2)] == [None, None]
    with open(f'{folder}/{rank}', 'w') as file:
        file.write('; '.join(str(each.message) for each in said))
    torch.distributed.destroy_process_group()
