"""The Triton kernel against Sinkhorn in float64.

Not collected by itself: ``test_triton_emd.py`` runs this file in a process of its own with ``TRITON_INTERPRET=1``, which must
be set before Triton is imported.  On a machine with an NVIDIA GPU the compiled kernel is tested by

    python -m pytest tests/transport/triton_emd_kernel.py
"""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch

from hdm_mmpose.features import HAS_CUSTOM_OPERATORS, triton_obstacle

if triton_obstacle():
    pytest.skip(triton_obstacle(), allow_module_level=True)

from hdm_mmpose.transport import DotLoss, EMDOptions, backend, operator, triton_emd  # noqa: E402
from tests.transport.log_sinkhorn import solve  # noqa: E402

if not triton_emd.INTERPRETED and not torch.cuda.is_available():
    pytest.skip('no GPU, and TRITON_INTERPRET=1 was not set before Triton was imported', allow_module_level=True)
DEVICE = 'cpu' if triton_emd.INTERPRETED else 'cuda'
EXACT = 1e-6 if triton_emd.INTERPRETED else 3e-6  # a GPU approximates exponentials and logarithms
SIZE = (41, 37)
DEFAULTS = dict(zip(('epsilon', 'scale', 'sharpness', 'companion', 'blur', 'outside'), EMDOptions().numbers.tolist()))


@pytest.fixture(autouse=True)
def fresh_memory_is_nan():
    """An output that the kernel forgets to write cannot pass."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def quick_interpreter(monkeypatch):
    """Inside a kernel the interpreter replaces Triton's functions anew at every call of a function, at 3/4 of its time."""
    if not triton_emd.INTERPRETED:
        return
    from triton.runtime import interpreter

    replaced: set[int] = set()
    launch = interpreter.GridExecutor.__call__

    def call(function, *args, **kwargs):
        if id(function.fn.__globals__) not in replaced:
            replaced.add(id(function.fn.__globals__))
            interpreter._patch_lang(function.fn)
        return function.rewrite()(*args, **kwargs)

    def start(executor, *args, **kwargs):
        replaced.clear()
        return launch(executor, *args, **kwargs)

    monkeypatch.setattr(interpreter.InterpretedFunction, '__call__', call)
    monkeypatch.setattr(interpreter.GridExecutor, '__call__', start)


@pytest.fixture(autouse=True)
def sums_as_a_gpu_takes_them(monkeypatch):
    """By halves; numpy goes through in order and forgets what is small beside the largest."""
    if not triton_emd.INTERPRETED:
        return
    from triton.runtime import interpreter

    def total(self, values):
        data, axis = values.handle.data, self.axis
        if axis is None:
            data, axis = data.ravel(), 0
        while data.shape[axis] > 1:
            data = sum(np.split(data, 2, axis))
        return self.to_tensor(data if self.keep_dims else data.squeeze(axis), values.dtype)

    monkeypatch.setattr(interpreter.ReduceOps, 'sum', total)


class how:  # noqa: N801  (stands for EMDOptions, which has no option for an outside cell yet)
    """What the kernel asks its options for."""

    def __init__(self, **numbers: float) -> None:
        self.numbers = torch.tensor([*{**DEFAULTS, **numbers}.values()], dtype=torch.float64)


def run(maps, target, weights=None, grad=None, **numbers):
    """All of ``forward`` and the gradient, on the CPU."""
    maps, target, weights = (each if each is None else each.to(DEVICE) for each in (maps, target, weights))
    grad = torch.ones(maps.shape[:2]) if grad is None else grad
    *output, saved = triton_emd.forward(maps, target, weights, how(**numbers))
    gradient = triton_emd.backward(maps, target, saved, grad.to(DEVICE), how(**numbers))
    return [each.cpu() for each in (*output, gradient)]


def agree(maps, target, dots=None, value=EXACT, slope=EXACT, **numbers):
    """Value and gradient of every joint against ``solve`` at the dots, which are those of the target unless given."""
    dots = target if dots is None else dots
    loss, cost, error, read, valid, gradient = run(maps, target, **numbers)
    assert valid.all() and error.max() < 2e-6 and gradient.dtype == maps.dtype
    inside = torch.minimum(dots.double().clamp(min=0), torch.tensor([maps.shape[3] - 1, maps.shape[2] - 1]).double())
    torch.testing.assert_close(read.double(), inside, rtol=0, atol=3e-6)
    scale = numbers.get('scale', 1.0)
    for b, k in [(b, k) for b in range(maps.shape[0]) for k in range(maps.shape[1])]:
        truth = solve(maps[b, k], dots[b, k].tolist(), **{**DEFAULTS, **numbers})
        # to 1e-6 of the value; of half the scale where that is smaller, as at a small epsilon on the dot
        assert abs(loss[b, k] - truth.loss) <= value * max(truth.loss, 0.5 * scale), (b, k)
        assert abs(cost[b, k] - truth.cost) <= value * max(truth.cost, 0.5 * scale), (b, k)
        off = (gradient[b, k].double() - truth.gradient).abs().max()
        # of the largest entry; of that of its terms where they cancel, as in a map that is right
        assert off <= slope * max(float(truth.gradient.abs().max()), truth.scale), (b, k)
    return gradient


def some_dots(size=SIZE) -> torch.Tensor:
    """(2, 3, 2) in general position, near and on borders and corners, on centres, and outside."""
    y, x = size[0] - 1, size[1] - 1
    return torch.tensor([[[0.31 * x, 0.72 * y], [0.87 * x, 0.13 * y], [0.5, 0.5]],
                         [[0.09 * x, float(y)], [5, 7], [-3, y + 5]]])


def blob(centre, size, sigma):
    """(..., H, W) Gaussians of height 1 at centres (..., 2)."""
    y, x = (torch.arange(n, dtype=torch.float64) for n in size)
    square = (x - centre[..., 0, None, None]) ** 2 + (y[:, None] - centre[..., 1, None, None]) ** 2
    return (-square / (2 * sigma**2)).exp()


def ring(dots, size, radius):
    y, x = (torch.arange(n, dtype=torch.float64) for n in size)
    return (-((torch.hypot(x - dots[..., 0, None, None], y[:, None] - dots[..., 1, None, None]) - radius) ** 2)).exp()


def noise(dots, size):
    return torch.randn(*dots.shape[:2], *size, dtype=torch.float64)


def across(dots, size):
    """The corner that is farthest away."""
    last = torch.tensor([size[1] - 1, size[0] - 1])
    return torch.where(dots < last / 2, last.double(), 0.0)


def dot_map(dots, size):
    y, x = (torch.arange(n, dtype=torch.float64) for n in size)
    dots = torch.minimum(dots.double().clamp(min=0), torch.tensor([size[1] - 1, size[0] - 1]))
    return (1 - (y[:, None] - dots[..., 1, None, None]).abs()).clamp(min=0) * (1 - (x - dots[..., 0, None, None]).abs()).clamp(min=0)


FAMILIES = {
    'flat': lambda dots, size: 0 * noise(dots, size),
    'noise': noise,
    'little noise': lambda dots, size: 0.1 * noise(dots, size),
    'low noise': lambda dots, size: noise(dots, size) - 300,
    'high noise': lambda dots, size: noise(dots, size) + 40,
    'peak at the dot': lambda dots, size: blob(dots, size, 2),
    'sharp peak at the dot': lambda dots, size: 3 * blob(dots, size, 0.7) + 0.05 * noise(dots, size),
    'wide peak': lambda dots, size: blob(dots, size, 8),
    'peak near the dot': lambda dots, size: 2 * blob(dots + torch.tensor([1.3, -0.7]), size, 1.5),
    'peak on the window of a small solver': lambda dots, size: 2 * blob(dots + torch.tensor([4.0, 3.0]), size, 1),
    'misplaced by the whole map': lambda dots, size: 2 * blob(across(dots, size), size, 1.5),
    'corner': lambda dots, size: 2 * blob(0 * dots, size, 1),
    'border': lambda dots, size: 2 * blob(dots * torch.tensor([0.0, 1.0]), size, 1),
    'two modes': lambda dots, size: blob(dots, size, 1) + 0.99 * blob(across(dots, size), size, 1),
    'near ring': lambda dots, size: ring(dots, size, 5),
    'ring at the edge of the window': lambda dots, size: ring(dots, size, 15),
    'ramp': lambda dots, size: 0 * noise(dots, size) + torch.arange(size[1]) / size[1] + torch.arange(size[0])[:, None] / size[0],
    'checkerboard': lambda dots, size: 0 * noise(dots, size) + (torch.arange(size[1]) + torch.arange(size[0])[:, None]) % 2,
    'the dot itself': lambda dots, size: dot_map(dots, size).clamp(min=1e-4).log() / 10,
}
OTHERS = [
    dict(blur=3.0), dict(blur=1.0, outside=3.0), dict(companion=0.0), dict(companion=2.0, outside=-1.0), dict(epsilon=0.25),
    dict(epsilon=1.0, scale=0.5), dict(epsilon=0.1), dict(sharpness=1.0), dict(sharpness=10.0), dict(epsilon=2.0, blur=0.5),
]


@pytest.mark.parametrize('family', FAMILIES)
def test_defaults(family, monkeypatch):
    """In two steps of Newton, as many as ``test_triton_emd.py`` counts."""
    monkeypatch.setattr(triton_emd, 'step_budget', lambda _: 2)
    maps = FAMILIES[family](some_dots().double(), SIZE).float()
    agree(maps, some_dots())


@pytest.mark.parametrize('family', FAMILIES)
def test_other_numbers(family):
    """Each family with one of the other settings, the target dense in turns, and half precision."""
    i = list(FAMILIES).index(family)
    numbers, dtype = OTHERS[i % len(OTHERS)], (torch.float32, torch.bfloat16, torch.float16)[i % 3]
    maps, dots = FAMILIES[family](some_dots().double(), SIZE).to(dtype), some_dots()
    # half of the last digit where the gradient is rounded; the interpreter cuts bfloat16 off
    slope = EXACT if dtype == torch.float32 else torch.finfo(dtype).eps
    agree(maps, dot_map(dots, SIZE).float() if i % 2 else dots, dots, slope=slope, **numbers)


@pytest.mark.parametrize('size', [(2, 2), (2, 9), (7, 5), (32, 33), (17, 130), (128, 96)])
@pytest.mark.parametrize('dense', [True, False])
def test_sizes(size, dense):
    """Smaller than the window in one direction or both, as wide as four, and large."""
    dots = some_dots(size)[:, :2]
    agree(FAMILIES['noise'](dots, size).float() * 0.3, dot_map(dots, size).float() if dense else dots, dots)


@pytest.mark.parametrize('scale', [2.0, 8.0])
def test_a_map_within_the_window_takes_any_scale(scale):
    agree(FAMILIES['noise'](some_dots((30, 23)), (30, 23)).float() * 0.3, some_dots((30, 23)), scale=scale, blur=5.0)


# ------------------------------------------------------------------------------------------------------------ dense targets
def read(target, **more):
    """The dots of dense targets (K, H, W)."""
    maps = torch.zeros(1, *target.shape)
    _, _, _, dots, valid, _ = run(maps, target[None], **more)
    return dots[0], valid[0]


@pytest.mark.parametrize('sigma', [1.0, 2.0, 6.0])
def test_gaussians_cut_by_the_border(sigma):
    """Their logarithm knows where they are centred, on the border and half a cell beyond it."""
    dots = torch.tensor([[0.0, 0.0], [0.3, 20.2], [36.0, 39.6], [17.4, 22.8], [12.0, 0.49], [36.4, 3.2]])
    found, valid = read(blob(dots.double(), SIZE, sigma).float())
    assert valid.all()
    torch.testing.assert_close(found, dots.clamp(max=36.0).where(torch.tensor([True, False]), dots), rtol=0, atol=3e-6 * sigma**2)


def test_compact_targets():
    """Bilinear dots of many fractions, one-hot maps, dots at the border: to rounding, wherever they lie."""
    dots = torch.rand(12, 2) * torch.tensor([71.0, 95.0])
    dots[:3] = dots[:3].round()
    dots[3:5, 0] = 71.0
    found, valid = read(dot_map(dots, (96, 72)).float())
    assert valid.all()
    torch.testing.assert_close(found.double(), dots.double(), rtol=0, atol=1e-5)


def test_other_targets_are_read_by_their_centre_of_mass():
    """A disk, two disks, and a map of noise whose maximum stands alone."""
    y, x = torch.meshgrid(torch.arange(41.0), torch.arange(37.0), indexing='ij')
    disk = (torch.hypot(x - 20, y - 10) < 4).float()
    noisy = (torch.rand(41, 37) > 0.5).float() * torch.rand(41, 37)
    noisy[9:12, 9:12] = 0
    noisy[10, 10] = 5
    for target in (disk, disk + (torch.hypot(x - 5, y - 30) < 4).float(), noisy):
        found, valid = read(target[None])
        wanted = torch.stack([(target * x).sum(), (target * y).sum()]) / target.sum()
        torch.testing.assert_close(found[0], wanted, rtol=0, atol=2e-5)


def test_the_first_of_equal_maxima():
    target = torch.zeros(1, 41, 37)
    target[0, 3, 30] = target[0, 20, 2] = 1.0
    target[0, 3, 29] = target[0, 3, 31] = target[0, 2, 30] = target[0, 4, 30] = 0.5
    torch.testing.assert_close(read(target)[0], torch.tensor([[30.0, 3.0]]))


def test_targets_that_are_none():
    """Empty: not annotated. Negative cells alone: not annotated either, and the dot says that this is no way to say so."""
    target = torch.zeros(4, 41, 37)
    target[1] -= 0.1
    target[2] = blob(torch.tensor([7.3, 8.9]).double(), SIZE, 2).float() - 0.4
    target[3, 4, 5] = 1e-35
    found, valid = read(target)
    assert valid.tolist() == [False, False, True, False]
    assert (found[[0, 3]] == 0).all() and found[1].isnan().all() and found[2].isfinite().all()


@pytest.mark.parametrize('bad', [float('nan'), float('inf')])
@pytest.mark.parametrize('dense', [True, False])
def test_a_target_that_is_not_finite(bad, dense):
    """NaN for its own joint, which counts, and for no other."""
    maps, dots = noise(some_dots(), SIZE).float(), some_dots()
    target = dot_map(dots, SIZE).float() if dense else dots.clone()
    clean = run(maps, target)
    (target[1, 1] if dense else target[1, 1, 0]).view(-1)[:1] = bad
    loss, cost, _, found, valid, gradient = run(maps, target)
    assert valid.all()
    if dense or math.isnan(bad):
        assert loss[1, 1].isnan() and cost[1, 1].isnan() and found[1, 1].isnan().any() and gradient[1, 1].isnan().any()
    others = torch.ones(2, 3, dtype=torch.bool)
    others[1, 1] = False
    assert (loss[others] == clean[0][others]).all() and (gradient[others] == clean[5][others]).all()


# ------------------------------------------------------------------------------------------------------ weights and masking
@pytest.mark.parametrize('bad', [float('nan'), float('inf'), -float('inf')])
def test_a_bad_map_harms_only_itself(bad):
    maps = noise(some_dots(), SIZE).float()
    clean = run(maps, some_dots())
    maps[0, 2, 3, 4] = bad
    loss, *_, gradient = run(maps, some_dots())
    others = torch.ones(2, 3, dtype=torch.bool)
    others[0, 2] = False
    assert loss[0, 2].isnan() and gradient[0, 2].isnan().any()
    assert (loss[others] == clean[0][others]).all() and (gradient[others] == clean[5][others]).all()


@pytest.mark.parametrize('dense', [True, False])
def test_weights(dense):
    """They multiply; joints of weight 0, below 0 or NaN are silent whatever their map and target hold."""
    maps, dots = noise(some_dots(), SIZE).float(), some_dots()
    target = dot_map(dots, SIZE).float() if dense else dots.clone()
    plain = run(maps, target)
    weights = torch.tensor([[0.25, 0.0, 2.0], [float('nan'), -1.0, 1.0]])
    silent = ~(weights > 0)
    for at in ((0, 1), (1, 0), (1, 1)):
        maps[at] = target[at] = float('nan')
    loss, cost, error, found, valid, gradient = run(maps, target, weights)
    assert (valid == ~silent).all()
    for each in (loss, cost, error, found, gradient):
        assert (each[silent] == 0).all()
    speaks = ~silent
    torch.testing.assert_close(loss[speaks], weights[speaks] * plain[0][speaks], rtol=EXACT, atol=0)
    torch.testing.assert_close(gradient[speaks], weights[speaks][:, None, None] * plain[5][speaks], rtol=EXACT, atol=EXACT)
    torch.testing.assert_close([cost[speaks], error[speaks]], [plain[1][speaks], plain[2][speaks]])


def test_gradients_from_above():
    """Any factor per joint, expanded ones too; exactly 0 silences a joint, even one that is not finite."""
    maps, dots = noise(some_dots(), SIZE).float(), some_dots()
    plain = run(maps, dots)[5]
    grad = torch.tensor([[0.0, -2.0, 1.0], [0.5, 0.0, 3.0]])
    maps[0, 0, 0, 0] = float('nan')
    gradient = run(maps, dots, grad=grad)[5]
    assert (gradient[0, 0] == 0).all() and (gradient[1, 1] == 0).all()
    torch.testing.assert_close(gradient[grad != 0], (grad[..., None, None] * plain)[grad != 0], rtol=1e-6, atol=1e-12)
    torch.testing.assert_close(run(maps[1:], dots[1:], grad=torch.tensor(0.5).expand(1, 3))[5], 0.5 * plain[1:], rtol=1e-6, atol=1e-12)


# ------------------------------------------------------------------------------------------------------------------ memory
STRIDES = {
    'channels last': lambda maps: maps.contiguous(memory_format=torch.channels_last),
    'columns first': lambda maps: maps.transpose(2, 3).contiguous().transpose(2, 3),
    'joints first': lambda maps: maps.transpose(0, 1).contiguous().transpose(0, 1),
    'a part of larger maps': lambda maps: torch.nn.functional.pad(maps, (1, 2, 3, 1), value=9.0)[:, :, 3:-1, 1:-2],
    'every other cell': lambda maps: maps.repeat_interleave(2, 3)[..., ::2],
    'the same map for all': lambda maps: maps[:1, :1].expand_as(maps),
}


@pytest.mark.parametrize('name', STRIDES)
def test_strides(name):
    """Maps, targets and gradients as they lie in memory; the gradient comes as the maps do, if these have no gaps."""
    size, dots = (19, 23), some_dots((19, 23))
    maps, target = STRIDES[name](noise(dots, size).bfloat16()), dot_map(dots, size).float()
    strided = run(maps, STRIDES['columns first'](target))
    # another layout of threads on a GPU adds up in another order
    torch.testing.assert_close(strided, run(maps.contiguous(), target), rtol=0 if triton_emd.INTERPRETED else 2**-7, atol=EXACT)
    assert strided[5].stride() == torch.empty_like(maps).stride()


def test_results_share_no_memory():
    """Custom operators refuse results that are views of one another, and ``cost *= 2`` would change the rest."""
    results = triton_emd.forward(noise(some_dots(), SIZE).float().to(DEVICE), some_dots().to(DEVICE), None, how())
    assert len({each.untyped_storage().data_ptr() for each in results}) == len(results) == 6
    assert results[-1].shape == (2, 3, backend.SAVED)


def test_no_joints():
    *output, gradient = run(torch.empty(0, 3, 5, 4), torch.empty(0, 3, 2))
    assert all(each.shape[:2] == (0, 3) for each in output) and gradient.shape == (0, 3, 5, 4)


# ---------------------------------------------------------------------------------------------------------------- the loss
@pytest.mark.parametrize('dense', [True, False])
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16])
def test_the_proof(dense, dtype):
    """What ``'auto'`` asks before it trusts the kernel: passed here, and not by a kernel that is wrong in one of its results."""
    variant = (torch.device(DEVICE), dtype, dense)
    assert backend.disagreement(triton_emd, *variant) is None

    class Wrong:
        forward, backward = triton_emd.forward, lambda *inputs: 1.02 * triton_emd.backward(*inputs)

    assert re.fullmatch(rf'on {DEVICE} its gradient differs from that of PyTorch by 2e-02 of its largest entry',
                        backend.disagreement(Wrong, *variant))


@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last])
def test_loss_as_pytorch_computes_it(memory_format):
    """Weights, an empty target, a silent NaN, reduction: the module by one backend and the other."""
    maps = (0.3 * noise(some_dots(), SIZE)).float().contiguous(memory_format=memory_format)
    target, weights = dot_map(some_dots(), SIZE).float(), torch.tensor([[1.0, 0.0, 0.5], [2.0, 1.0, 1.0]])
    maps[0, 1, 0, 0], target[1, 2] = float('nan'), 0
    results = []
    for name in ('triton', 'torch'):
        leaf = maps.clone().to(DEVICE).requires_grad_()
        loss = DotLoss(backend=name, reduction='sum', loss_weight=3.0)(leaf, target.to(DEVICE), weights.to(DEVICE))
        loss.backward()
        assert leaf.grad.stride() == leaf.stride() and (leaf.grad[0, 1] == 0).all() and (leaf.grad[1, 2] == 0).all()
        results.append((loss.detach(), leaf.grad))
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(not HAS_CUSTOM_OPERATORS, reason='this torch has no custom operators')
@pytest.mark.parametrize('dense, weighted', [(True, True), (False, False)])
def test_operator_is_well_formed(dense, weighted):
    """Schema, aliasing, shapes without data, and gradient registration, as PyTorch checks them, with the kernel inside."""
    options = EMDOptions(backend='triton')
    target = dot_map(some_dots(), SIZE).float() if dense else some_dots()
    weights = torch.tensor([[1.0, 0.0, 0.5], [2.0, 1.0, 1.0]], device=DEVICE) if weighted else None
    maps = noise(some_dots(), SIZE).float().to(DEVICE).requires_grad_()
    torch.use_deterministic_algorithms(False)
    torch.library.opcheck(operator._operator, (maps, target.to(DEVICE), weights, options.numbers, options.key, True))


@pytest.mark.skipif(not HAS_CUSTOM_OPERATORS, reason='this torch has no custom operators')
def test_torch_compile():
    torch.compiler.reset()
    loss, maps, target = DotLoss(backend='triton'), noise(some_dots(), SIZE).float().to(DEVICE), some_dots().to(DEVICE)
    values = []
    for function in (loss, torch.compile(loss, fullgraph=True, backend='aot_eager')):
        leaf = maps.clone().requires_grad_()
        value = function(leaf, target)
        value.backward()
        values.append((value.detach(), leaf.grad))
    torch.testing.assert_close(*values, rtol=0, atol=0)


@pytest.mark.parametrize('change, wants', [
    (dict(supplier='softplus'), "supplier='softmax' only, got 'softplus'"),
    (dict(objective='shannon'), "objective='product' only, got 'shannon'"),
    (dict(unbiased=False), 'unbiased=True only, got False'), (dict(ground_distance='euclidean'), "ground_distance='saturated' only"),
    (dict(subpixel=False), 'True only, got False'), (dict(solver='sinkhorn'), "solver='newton' only"),
    (dict(ground_distance=dict(type='saturated', scale=2)), 'scale <= 1.0 and cross_entropy_blur <= 3.0, got 2.0 and 0.0 for'),
    (dict(cross_entropy_blur=4.0), 'got 1.0 and 4.0'), (dict(epsilon=0.02), 'epsilon must be at least scale / 40.0, got epsilon 0.02'),
])
def test_what_it_does_not_know_it_names(change, wants):
    maps, target = torch.zeros(2, 3, *SIZE, device=DEVICE), torch.zeros(2, 3, 2, device=DEVICE)
    with pytest.raises(RuntimeError, match=f"backend='triton' is not possible here: .*{re.escape(wants)}"):
        backend.kernel_for(maps, target, EMDOptions(backend='triton', **change))
    assert backend.kernel_for(maps, target, EMDOptions(backend='triton')) is triton_emd
    for wrong, says in ((maps.double(), 'maps must be float16, bfloat16 or float32, got torch.float64'),
                        (maps[:1].expand(65536, 3, *SIZE), 'batches 65535 samples, got'),
                        (maps.new_empty(1, 1, 2048, 1024), 'up to 1048576 cells')):
        with pytest.raises(RuntimeError, match=says):
            backend.kernel_for(wrong, target, EMDOptions(backend='triton'))
