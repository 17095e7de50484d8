"""The Triton kernel against the PyTorch solver in float64.

Not collected by itself: ``test_triton_emd.py`` runs this file in a process of its own with ``TRITON_INTERPRET=1``, which must
be set before Triton is imported.  On a machine with an NVIDIA GPU the real kernel is tested by

    python -m pytest tests/transport/triton_emd_kernel.py
"""

import os

import pytest
import torch

triton = pytest.importorskip('triton', reason='triton is not installed')

from hdm_mmpose.transport import (  # noqa: E402
    EMDOptions,
    build_ground_distance,
    build_supplier,
    centroid,
    emd,
    triton_emd,  # noqa: E402
)
from hdm_mmpose.transport.triton_emd import Launch, emd_triton  # noqa: E402

if not triton_emd.INTERPRETED and not torch.cuda.is_available():
    pytest.skip('no GPU, and TRITON_INTERPRET=1 was not set before Triton was imported', allow_module_level=True)
DEVICE = 'cpu' if triton_emd.INTERPRETED else 'cuda'
SUPPLIERS = ('relu', 'softplus', 'softmax', 'relu_surrogate')
POTENTIALS = ('shannon', 'product', 'sharp', 'unbiased')
DISTANCES = ('euclidean', {'type': 'saturated', 'scale': 1.5})
TILED = Launch(num_warps=1, tile=16, resident=False)
# of the cost in cells, and of the gradient in parts of its largest entry
TOLERANCE = {torch.float64: (1e-10, 1e-10), torch.float32: (2e-5, 1e-4)}


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


def options(supplier='softplus', potential='product', distance='euclidean', epsilon=0.5, **others) -> EMDOptions:
    # one sharpness for all: a sharper map is a harder problem, and the tolerances are for this one
    rule = build_supplier(supplier if supplier == 'relu' else dict(type=supplier, sharpness=5.))
    return EMDOptions(
        epsilon=epsilon, potential='product' if potential == 'unbiased' else potential, supplier=rule,
        unbiased=potential == 'unbiased', ground_distance=build_ground_distance(distance), **others)


def maps(joints: int, height: int, width: int, dtype=torch.float64) -> torch.Tensor:
    """Noise of both signs with a peak somewhere."""
    heatmap = 0.3 * torch.randn(joints, height, width, dtype=torch.float64)
    heatmap[:, height // 3, width // 2] += 2
    return heatmap.to(dtype)


def reference(heatmap, dots, how):
    """Cost, and gradient of the sum of costs, in float64 on the CPU."""
    heatmap = heatmap.detach().cpu().double().requires_grad_()
    output = emd(heatmap, dots.cpu().double(), how)
    output.cost.sum().backward()
    return output, heatmap.grad


def agree(heatmap, dots, how, launch=None):
    """Run the kernel and compare with ``reference``."""
    cost, error, converged, read, gradient = emd_triton(heatmap.to(DEVICE), dots.to(DEVICE), how, True, launch)
    wanted, slope = reference(heatmap, dots, how)
    cost_tolerance, gradient_tolerance = TOLERANCE[cost.dtype]
    torch.testing.assert_close(cost.cpu().double(), wanted.cost.detach(), rtol=cost_tolerance, atol=cost_tolerance)
    scale = slope.abs().amax((1, 2), keepdim=True).clamp(min=1e-5)
    torch.testing.assert_close(gradient.cpu().double() / scale, slope / scale, rtol=0, atol=gradient_tolerance)
    assert gradient.dtype == cost.dtype == (torch.float64 if heatmap.dtype == torch.float64 else torch.float32)
    if how.solver == 'newton':
        assert converged.all() and error.max() <= max(torch.finfo(cost.dtype).eps / how.epsilon,
                                                      triton_emd.TOLERANCE[cost.dtype])
    return cost, gradient, read


def crossed() -> list:
    """Every supplier with every potential; distances, solvers, epsilon and layout taken in turns."""
    cases = []
    for i in range(16):
        supplier, potential = SUPPLIERS[i % 4], POTENTIALS[i // 4]
        solver = dict(solver='sinkhorn', num_iters=3 + i) if i % 5 == 2 else dict(solver='newton')
        case = dict(supplier=supplier, potential=potential, distance=DISTANCES[(i + i // 4) % 2],
                    epsilon=(1.0, 0.4, 0.25)[i % 3], **solver)
        cases.append(pytest.param(case, TILED if i % 3 == 1 else None, id=f'{supplier}-{potential}-{solver["solver"]}'))
    return cases


@pytest.mark.parametrize('case, launch', crossed())
def test_float64(case, launch):
    """Value and gradient, on a map whose sides are no powers of two, for a dot inside the map and one beyond its edge."""
    dots = torch.tensor([[3.3, 4.81], [-0.4, 2.6]], dtype=torch.float64)
    agree(maps(2, 7, 5), dots, options(**case), launch)


@pytest.mark.parametrize('supplier, potential, epsilon, launch', [
    ('softplus', 'shannon', 0.25, None), ('relu', 'product', 0.5, TILED), ('softmax', 'sharp', 1.0, None),
    ('relu_surrogate', 'shannon', 0.4, None), ('softplus', 'unbiased', 0.1, TILED)])
def test_float32(supplier, potential, epsilon, launch):
    dots = torch.tensor([[4.3, 1.2], [0.5, 5.9]], dtype=torch.float64)
    agree(maps(2, 8, 6, torch.float32), dots.float(), options(supplier, potential, epsilon=epsilon), launch)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_half_precision_maps_are_lifted(dtype):
    """What is lost is what the rounding of the map loses."""
    agree(maps(1, 6, 7, dtype), torch.tensor([[2.2, 3.3]]), options())


@pytest.mark.parametrize('epsilon, dtype', [(0.05, torch.float64), (0.03, torch.float32), (0.004, torch.float64)])
@pytest.mark.parametrize('dot', [(2.7, 2.2), (3.0, 2.4)])
def test_small_epsilon(epsilon, dtype, dot):
    """The last two keep exponents in place of K."""
    how = options('relu', 'product', epsilon=epsilon)
    assert triton_emd.plan_of(6, 7, dtype, how, False, True).log_domain == (epsilon != 0.05)
    agree(maps(1, 6, 7, dtype), torch.tensor([dot], dtype=dtype), how)


@pytest.mark.parametrize('dot', [(3, 2), (2.5, 4), (0, 3.25), (4, 6), (9.5, -3), (3 + 1e-9, 2)])
def test_demanders_of_little_or_no_mass(dot):
    """On a centre, on an edge, at the border, in the last corner, far outside, next to a centre."""
    agree(maps(1, 7, 5), torch.tensor([dot], dtype=torch.float64), options(potential='shannon'), TILED)


@pytest.mark.parametrize('dot', [(2, 3), (1.5, 4), (1.25, 2)])
def test_peak_exactly_on_the_dot(dot):
    """All mass on the demanders themselves, as in a map that is right."""
    x, y = dot
    heatmap = torch.zeros(1, 6, 5, dtype=torch.float64)
    for column, row, mass in ((int(x), int(y), 1 - x % 1), (int(x) + 1, int(y), x % 1)):
        heatmap[0, row, column] = mass
    agree(heatmap, torch.tensor([dot], dtype=torch.float64), options('relu', 'product'))


@pytest.mark.parametrize('supplier', SUPPLIERS)
@pytest.mark.parametrize('level', [0.0, -1.0, -300.0])
def test_maps_without_positive_cells(supplier, level):
    """Empty under Eq. 3; under softplus so low that masses would underflow."""
    heatmap = level + 0.01 * maps(1, 5, 4).abs().neg() * (level != 0)
    cost, gradient, _ = agree(heatmap, torch.tensor([[1.4, 2.3]], dtype=torch.float64), options(supplier, 'product'))
    assert cost.isfinite().all() and (supplier != 'relu' or (gradient == 0).all())


@pytest.mark.parametrize('bad', [float('nan'), float('inf'), -float('inf')])
@pytest.mark.parametrize('supplier', ['relu', 'softplus'])
def test_a_bad_map_harms_only_itself(bad, supplier):
    heatmap = maps(3, 5, 6, torch.float32)
    dots = torch.tensor([[1.4, 2.3], [2.1, 0.2], [3.3, 3.9]])
    how = options(supplier, 'shannon', num_iters=5, solver='sinkhorn' if bad > 0 else 'newton')
    clean = emd_triton(heatmap.to(DEVICE), dots.to(DEVICE), how, True)
    heatmap[1, 2, 3] = bad
    cost, error, converged, _, gradient = emd_triton(heatmap.to(DEVICE), dots.to(DEVICE), how, True)
    assert cost[1].isnan() and error[1].isnan() and not converged[1] and gradient[1].isnan().all()
    for part in (0, 2):
        assert cost[part] == clean[0][part] and (gradient[part] == clean[4][part]).all()


def test_a_dot_that_is_not_a_number():
    dots = torch.tensor([[1.4, float('nan')], [2.0, 3.0]])
    cost, *_ = emd_triton(maps(2, 5, 6, torch.float32).to(DEVICE), dots.to(DEVICE), options(), True)
    assert cost[0].isnan() and cost[1].isfinite()


@pytest.mark.parametrize('launch', [None, TILED])
def test_dense_targets(launch):
    """The dot is their centre of mass: a bilinear map, a blob with negative cells, an empty one."""
    target = torch.zeros(3, 7, 5, dtype=torch.float64)
    target[0, 2, 1], target[0, 2, 2] = 0.25, 0.75
    target[1] = torch.rand(7, 5, dtype=torch.float64) - 0.3
    heatmap = maps(3, 7, 5)
    cost, error, _, dots, gradient = emd_triton(heatmap.to(DEVICE), target.to(DEVICE), options(), True, launch)
    torch.testing.assert_close(dots.cpu(), centroid(target), rtol=0, atol=1e-12)
    assert dots[2].isinf().all()
    wanted, slope = reference(heatmap, centroid(target), options())
    torch.testing.assert_close(cost.cpu(), wanted.cost.detach(), rtol=0, atol=1e-10)
    torch.testing.assert_close(gradient.cpu(), slope, rtol=0, atol=1e-10)


@pytest.mark.parametrize('potential', ['shannon', 'product', 'sharp'])
def test_without_subpixel(potential):
    dots = torch.tensor([[3.3, 4.5], [-0.6, 2.6]], dtype=torch.float64)
    _, _, read = agree(maps(2, 7, 5), dots, options(potential=potential, subpixel=False))
    assert read.tolist() == [[3, 5], [-1, 3]]


@pytest.mark.parametrize('solver', ['newton', 'sinkhorn'])
def test_sums_in_one_exchange(monkeypatch, solver):
    """The way sums are taken on a GPU; the interpreter takes its time over them."""
    monkeypatch.setattr(triton_emd, 'INTERPRETED', False)
    monkeypatch.setattr(triton_emd, 'plan_of', triton_emd.plan_of.__wrapped__)
    plan = triton_emd.plan_of(3, 2, torch.float64, options(), False, True, Launch(1, 4, False))
    assert plan.packed and plan.groups == 1 and plan.unroll == 2
    agree(maps(1, 3, 2), torch.tensor([[0.3, 1.2]], dtype=torch.float64),
          options(potential='sharp', epsilon=1.0, solver=solver, num_iters=4), Launch(1, 4, False))


def test_without_gradient():
    heatmap, dots = maps(2, 5, 4), torch.tensor([[1.4, 2.3], [0.2, 3.0]], dtype=torch.float64)
    cost, *_, gradient = emd_triton(heatmap.to(DEVICE), dots.to(DEVICE), options(), False)
    assert gradient.numel() == 0
    torch.testing.assert_close(cost.cpu(), reference(heatmap, dots, options())[0].cost.detach(), rtol=0, atol=1e-10)


def test_no_joints():
    cost, error, converged, dots, gradient = emd_triton(torch.empty(0, 5, 4, device=DEVICE), torch.empty(0, 2, device=DEVICE),
                                                        options(), True)
    assert cost.shape == error.shape == converged.shape == (0,) and gradient.shape == (0, 5, 4)
    assert triton_emd.scale_triton(gradient, cost, torch.float32).shape == (0, 5, 4)


@pytest.mark.parametrize('dtype', [torch.float64, torch.bfloat16])
def test_through_autograd(dtype):
    """A transposed map, weights one of which silences a map that is not finite."""
    heatmap = maps(6, 4, 5, dtype).transpose(1, 2)
    heatmap[1, 0, 0] = float('nan')
    target = torch.rand(6, 2, dtype=torch.float64) * 3
    weights = torch.tensor([1.0, 0.0, 0.5, 2.0, 1.0, 0.0])
    results = []
    for backend in ('triton', 'torch'):
        place = DEVICE if backend == 'triton' else 'cpu'
        leaf = heatmap.detach().to(place).requires_grad_()
        cost = emd(leaf, target.to(place), options(potential='product', backend=backend)).cost
        value = torch.where(weights.to(place) > 0, cost * weights.to(place), 0).sum()
        value.backward()
        results.append((value.detach().cpu(), leaf.grad.cpu()))
        assert leaf.grad.dtype == dtype and (leaf.grad[[1, 5]] == 0).all()
    tolerance = 1e-10 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(results[0][0].double(), results[1][0].double(), rtol=tolerance, atol=tolerance)
    # bfloat16 gradients are rounded the same way, give or take one step where they sit between two
    torch.testing.assert_close(results[0][1], results[1][1], rtol=tolerance if dtype == torch.float64 else 2**-7, atol=1e-10)


def test_named_backend_on_the_right_device():
    """The interpreter may run on the CPU, a compiled kernel may not."""
    how = options(backend='triton')
    assert emd(maps(1, 3, 3).to(DEVICE), torch.ones(1, 2, device=DEVICE), how).cost.isfinite().all()
    assert os.environ.get('TRITON_INTERPRET') == '1' or DEVICE == 'cuda'
