"""Newton's method: exact on every family and epsilon, never downhill, and honest where it cannot be exact.

Two of the families are ill-posed at small epsilon: where hardly any supplier is shared between demanders, demander masses
that differ by one rounding have potentials that differ by cells.  There, values stay exact and gradients bounded, and this
is what is asserted; everywhere else potentials and gradients are exact.
"""

import warnings

import numpy as np
import ot
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import hdm_mmpose.transport.newton as newton
from hdm_mmpose import checks
from hdm_mmpose.transport import (
    OBJECTIVES,
    TransportProblem,
    build_ground_distance,
    dot_demanders,
    solve_newton,
    solve_sinkhorn,
    supplier_gradient,
)
from hdm_mmpose.transport.ground_distance import Saturated
from hdm_mmpose.transport.newton import newton_step, solve_laplacian
from hdm_mmpose.transport.semi_dual import SemiDual
from tests.transport.exact import centred, solve_exactly
from tests.transport.families import (
    EPSILONS,
    GROUND_DISTANCES,
    MAPS,
    SIZE,
    dots_in,
    every_family,
    problem_of,
    random_dots,
    suppliers_of,
)

TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-5}
# (general position, one demander of mass 1e-7)
SOME_DOTS = dots_in(SIZE)[[0, 6]]


def gradients_of(result, objective, suppliers):
    """(J, N) as ``Exact`` gives them; 0 where the logarithm of ``shannon`` has been cut off."""
    values = supplier_gradient(result, objective)
    masses = suppliers.flatten(1)
    if objective == 'shannon':
        return np.where(masses > torch.finfo(masses.dtype).tiny, centred(values, suppliers), 0)
    return centred(values, suppliers)


@pytest.mark.parametrize('family', MAPS)
@pytest.mark.parametrize('epsilon', EPSILONS)
@pytest.mark.parametrize('dtype', [torch.float64, torch.float32], ids=['float64', 'float32'])
def test_value_potentials_and_gradients_are_exact(family, epsilon, dtype):
    # the class default in float64 only: its costs are half as large, float32's rounding is not
    for ground in (*GROUND_DISTANCES, *([Saturated()] if dtype == torch.float64 else [])):
        problem = problem_of(family, epsilon, ground, dtype, dots=SOME_DOTS)
        result, exact = solve_newton(problem), solve_exactly(problem)
        assert result.converged.all()
        assert result.transport_cost.numpy() == pytest.approx(exact.cost, rel=TOLERANCE[dtype], abs=TOLERANCE[dtype] / 10)
        size = np.abs(exact.product).max(1)
        for objective in OBJECTIVES:
            found, wanted = gradients_of(result, objective, problem.suppliers), getattr(exact, objective)
            if objective == 'shannon':
                wanted = np.where(problem.suppliers.flatten(1) > torch.finfo(dtype).tiny, wanted, 0)
            error = np.abs(found - wanted).max(1)
            allowed = TOLERANCE[dtype] * size + ill_posed(family, epsilon, dtype)
            assert (error <= allowed).all(), (ground, objective, error, allowed)
        if not ill_posed(family, epsilon, dtype):
            mass = problem.demanders.mass.double()
            b = (result.b - result.b.gather(1, mass.argmax(1, keepdim=True))).double().numpy()
            error = np.nan_to_num(np.abs(b - exact.b), nan=0.0) * mass.numpy()
            assert (error.max(1) <= TOLERANCE[dtype] * size).all()


def ill_posed(family, epsilon, dtype):
    """What the gradient may be wrong by, in cells, where rounding the demander masses moves it as much; else 0."""
    limits = {
        'the dot itself': {torch.float64: 0.05, torch.float32: 0.1},
        'two and next to nothing': {torch.float64: 0, torch.float32: 0.1},
    }
    if epsilon > limits.get(family, {}).get(dtype, 0):
        return 0.0
    return 1.5 if epsilon <= 0.05 else 0.05


@pytest.mark.parametrize('epsilon', EPSILONS)
def test_ill_posed_means_ill_posed(epsilon):
    """The excuse is checked: there, and only there, one rounding of the masses moves the exact potentials."""
    for family in MAPS:
        problem = problem_of(family, epsilon, dots=SOME_DOTS[:1])
        movement = solve_exactly(problem).condition.max() * torch.finfo(torch.float64).eps
        if ill_posed(family, epsilon, torch.float64):
            assert movement > 1e-11
        else:
            assert movement < 1e-9


@pytest.mark.parametrize('epsilon', [0.25, 0.5, 1, 4])
def test_agrees_with_converged_sinkhorn(epsilon):
    problem = every_family(epsilon)
    newton_result = solve_newton(problem)
    reference = solve_sinkhorn(problem, 20_000, tolerance=2e-15)
    assert torch.allclose(newton_result.transport_cost, reference.transport_cost, rtol=1e-9, atol=1e-11)
    for objective in OBJECTIVES:
        found = gradients_of(newton_result, objective, problem.suppliers)
        wanted = gradients_of(reference, objective, problem.suppliers)
        assert (np.abs(found - wanted).max(1) <= 1e-9 * np.abs(wanted).max(1) + 1e-12).all()


@pytest.mark.slow
@pytest.mark.parametrize('epsilon', EPSILONS)
@pytest.mark.parametrize('ground', GROUND_DISTANCES)
def test_agrees_with_twenty_thousand_sinkhorn_iterations(epsilon, ground):
    """Where these have not converged themselves, as closely as their own marginal error allows."""
    problem = every_family(epsilon, ground)
    found, reference = solve_newton(problem), solve_sinkhorn(problem, 20_000)
    # moving a unit of mass between two demanders of one dot costs at most sqrt(2)
    slack = 1e-9 * reference.transport_cost + 2**0.5 * reference.marginal_error + 1e-12
    assert ((found.transport_cost - reference.transport_cost).abs() <= slack).all()
    assert found.marginal_error.max() <= max(1e-13, reference.marginal_error.max())
    exact_enough = (reference.marginal_error < 1e-13).numpy() & (epsilon > 0.05)
    for objective in OBJECTIVES:
        one = gradients_of(found, objective, problem.suppliers)
        other = gradients_of(reference, objective, problem.suppliers)
        error = np.abs(one - other).max(1)
        assert (error[exact_enough] <= 1e-9 * np.abs(other).max(1)[exact_enough] + 1e-9).all()


@pytest.mark.parametrize('epsilon', [0.1, 0.25, 1])
@pytest.mark.parametrize('family', ['noise', 'relu of noise', 'misplaced by the whole map'])
def test_agrees_with_pot(epsilon, family):
    problem = problem_of(family, epsilon)
    result = solve_newton(problem)
    gradient = gradients_of(result, 'product', problem.suppliers)
    for joint in (0, 1):
        supply, demand = problem.suppliers[joint].flatten().numpy(), problem.demanders.mass[joint].numpy()
        cells = supply > 0
        cost = problem.cost()[joint].T.numpy()[cells]
        plan, log = ot.bregman.sinkhorn_log(supply[cells], demand, cost, epsilon, 20_000, 1e-13, warn=False, log=True)
        assert result.transport_cost[joint].item() == pytest.approx((plan * cost).sum(), rel=1e-9)
        # POT's kernel has no masses in it, so that its potential is Shannon's: f + epsilon log S
        potential = epsilon * (log['log_u'] - np.log(supply[cells]))
        potential = potential - (potential * supply[cells]).sum()
        assert gradient[joint][cells] == pytest.approx(potential, abs=1e-9)


@pytest.mark.parametrize('family', ['noise', 'peak near the dot', 'two cells', 'misplaced by the whole map'])
@pytest.mark.parametrize('ground', GROUND_DISTANCES)
def test_tends_to_the_unregularised_distance(family, ground):
    """From above, and by at most epsilon log 4: the entropy of a plan given its rows."""
    exact = None
    for epsilon in (0.3, 0.1, 0.03, 0.01):
        problem = problem_of(family, epsilon, ground, dots=dots_in(SIZE)[:2])
        if exact is None:
            cost = problem.cost().mT.contiguous().numpy()
            masses = problem.suppliers.flatten(1).numpy(), problem.demanders.mass.numpy()
            exact = np.array([ot.emd2(s / s.sum(), d / d.sum(), c) for s, d, c in zip(*masses, cost)])
        above = solve_newton(problem).transport_cost.numpy() - exact
        assert (above > -1e-12).all() and (above <= epsilon * np.log(4)).all()
    assert above.max() < 5e-3


def maps(sizes):
    """Problems of every kind, drawn by hypothesis."""
    return st.fixed_dictionaries(
        dict(
            seed=st.integers(0, 10_000),
            family=st.sampled_from(sorted(MAPS)),
            log_epsilon=st.floats(-2, 2),
            ground=st.sampled_from(GROUND_DISTANCES),
            size=st.tuples(sizes, sizes),
            nearly_on_a_centre=st.sampled_from([0, 1e-3, 1e-7, 1e-12]),
        )
    )


def drawn(case, dtype):
    size = case['size']
    dots = random_dots(4, size, case['seed'])
    dots[1] = (dots[1].floor() + case['nearly_on_a_centre']).clamp(max=min(size) - 1)
    return TransportProblem(
        suppliers_of(case['family'], dots, size).to(dtype), dot_demanders(dots, size).to(dtype), 10 ** case['log_epsilon'],
        build_ground_distance(case['ground']),
    )


@settings(deadline=None, max_examples=80, derandomize=True)
@given(case=maps(st.integers(2, 40)), dtype=st.sampled_from([torch.float32, torch.float64]))
def test_always_converges(case, dtype):
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        result = solve_newton(drawn(case, dtype))
    assert result.converged.all()
    for objective in OBJECTIVES:
        gradient = supplier_gradient(result, objective)
        assert gradient.isfinite().all()
        if objective != 'shannon':
            # costs on the map differ by at most its diagonal, and demanders add one square and their logarithms
            reach = float(torch.tensor(case['size'], dtype=torch.float64).norm()) + 6
            assert (gradient.amax(1) - gradient.amin(1)).max() <= reach


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('epsilon', [0.02, 0.25, 4])
def test_converges_on_large_maps(dtype, epsilon):
    size = (256, 256)
    dots = random_dots(2, size)
    for family in ('noise', 'peak near the dot', 'misplaced by the whole map'):
        problem = TransportProblem(suppliers_of(family, dots, size).to(dtype), dot_demanders(dots, size).to(dtype), epsilon)
        assert solve_newton(problem).converged.all()


def value(semi_dual, b):
    """F(b), up to a constant; the same exponents as the solver's."""
    linear = torch.where(semi_dual.active, b * semi_dual.mass, 0).sum(-1)
    return linear - semi_dual.epsilon * (semi_dual.suppliers * semi_dual.exponent(b).logsumexp(1)).sum(-1)


@settings(deadline=None, max_examples=100, derandomize=True)
@given(case=maps(st.integers(2, 8)), start=st.sampled_from([0.0, 0.1, 1.0, 5.0]))
def test_never_goes_downhill(case, start):
    """The theorem of the module: F still increases at the end of each step, however bad the start (in cells) is."""
    semi_dual = SemiDual(drawn(case, torch.float64))
    generator = torch.Generator().manual_seed(case['seed'])
    b = start * torch.randn(semi_dual.mass.shape, dtype=torch.float64, generator=generator)
    for _ in range(12):
        received, exchange = semi_dual.receive(b)
        step = newton_step(semi_dual, received, exchange)
        before, after = value(semi_dual, b), value(semi_dual, b + step)
        assert (after >= before - 1e-13 * (1 + before.abs())).all()
        missing = torch.where(semi_dual.active, semi_dual.mass - semi_dual.receive(b + step)[0], 0)
        assert ((step * missing).sum(-1) >= -1e-14 * (1 + step.abs().sum(-1))).all()
        b = b + step


@pytest.mark.parametrize('epsilon', [0.05, 0.25, 1])
def test_a_bad_start_is_caught_up_with(epsilon):
    """From potentials that are cells away, where the Hessian is flat, in a bounded number of steps."""
    semi_dual = SemiDual(every_family(epsilon))
    b = 5 * torch.randn_like(semi_dual.mass)
    for _ in range(80):
        b = b + newton_step(semi_dual, *semi_dual.receive(b))
    assert semi_dual.marginal_error(semi_dual.receive(b)[0]).max() < 1e-12


def test_steps_needed_are_few():
    """Evaluations of the semi-dual, Sinkhorn's four included: medians and maxima are in docs/method.md."""
    for epsilon, most in ((4, 7), (1, 8), (0.5, 9), (0.25, 11), (0.1, 15)):
        assert solve_newton(every_family(epsilon, size=(24, 18))).iterations <= most


class TestLaplacian:
    def graph(self, low=1.0, count=4, joints=50):
        generator = torch.Generator().manual_seed(0)
        weight = torch.rand(joints, count, count, dtype=torch.float64, generator=generator)
        few = torch.rand(joints, count, count, generator=generator) < 0.4
        weight = torch.where(few, low * weight, weight).triu(1)
        weight = weight + weight.mT
        mass = torch.rand(joints, count, dtype=torch.float64, generator=generator)
        return weight, mass, torch.diag_embed(weight.sum(-1)) - weight

    @pytest.mark.parametrize('count', [1, 2, 3, 4, 7])
    def test_agrees_with_the_pseudo_inverse(self, count):
        weight, mass, laplacian = self.graph(count=count)
        right = torch.randn(50, count, dtype=torch.float64)
        right = right - right.mean(-1, keepdim=True)
        pull = torch.randn(50, count, count, dtype=torch.float64)
        pull = pull - pull.mT
        for node, edge in ((right, None), (None, pull), (right, pull)):
            x = solve_laplacian(weight, mass, node, edge)
            total = (0 if node is None else node) + (0 if edge is None else edge.sum(-1))
            expected = (torch.linalg.pinv(laplacian) @ total[..., None])[..., 0]
            assert torch.allclose(x - x.mean(-1, keepdim=True), expected - expected.mean(-1, keepdim=True), rtol=1e-8, atol=1e-10)
            assert (x.gather(1, mass.argmax(1, keepdim=True)) == 0).all()

    def test_small_weights_keep_their_digits(self):
        """Weights of 1e-200 and 1: the solution of each joint against 1,000 digits."""
        import mpmath

        weight, mass, _ = self.graph(low=1e-200, joints=20)
        pull = torch.randn(20, 4, 4, dtype=torch.float64)
        pull = (pull - pull.mT) * weight
        x = solve_laplacian(weight, mass, pull=pull)
        assert x.abs().max() < 50
        with mpmath.workdps(1000):
            for joint in range(20):
                order = mass[joint].argsort().tolist()
                w = [[mpmath.mpf(weight[joint, i, k].item()) if i != k else mpmath.mpf(0) for k in order] for i in order]
                matrix = mpmath.matrix([[-w[i][k] if i != k else sum(w[i]) for k in range(3)] for i in range(3)])
                right = mpmath.matrix([sum(mpmath.mpf(pull[joint, order[i], k].item()) for k in order) for i in range(3)])
                expected = [float(v) for v in mpmath.lu_solve(matrix, right)]
                assert x[joint, order[:3]].tolist() == pytest.approx(expected, rel=1e-12, abs=1e-13)

    def test_small_weights_keep_their_digits_per_node(self):
        """A chain 0 - 1 - 2 - 3 by hand: what flows into 0 leaves at 3 and meets one resistance after another."""
        weight = torch.zeros(1, 4, 4, dtype=torch.float64)
        for i, w in enumerate((1e-200, 1.0, 1e-100)):
            weight[0, i, i + 1] = weight[0, i + 1, i] = w
        current = 1e-180
        right = torch.tensor([[current, 0, 0, -current]], dtype=torch.float64)
        x = solve_laplacian(weight, torch.tensor([[0.1, 0.2, 0.3, 0.4]], dtype=torch.float64), right)
        # in this order the end of the chain is the last node, which gets 0
        expected = [current * (1e200 + 1 + 1e100), current * (1 + 1e100), current * 1e100, 0]
        assert x[0].tolist() == pytest.approx(expected, rel=1e-14)

    def test_nodes_without_edges_get_zero(self):
        weight, mass, _ = self.graph(joints=3)
        mass[:, 1] = 0
        weight[:, 1] = 0
        weight[:, :, 1] = 0
        right = torch.tensor([1.0, 0, -3, 2], dtype=torch.float64).expand(3, 4)
        x = solve_laplacian(weight, mass, right)
        assert (x[:, 1] == 0).all() and x.isfinite().all()

    def test_a_graph_in_pieces_gives_bounded_numbers(self):
        weight = torch.zeros(2, 4, 4)
        x = solve_laplacian(weight, torch.tensor([[0.1, 0.2, 0.3, 0.4]] * 2), torch.tensor([[1.0, -1, 1, -1], [0, 0, 0, 0]]))
        assert x.isfinite().all() and x.abs().max() <= 3e30 and (x[1] == 0).all()


def hard(**options):
    return problem_of('flat', 0.02, **options)


def test_what_has_not_converged_is_reported_and_warned_about_once(monkeypatch):
    monkeypatch.setattr(checks, '_said', set())
    with pytest.warns(UserWarning, match=r'left a marginal error of .* at epsilon = 0.02 heatmap cells.*This is said once') as said:
        result = solve_newton(hard(), max_steps=1)
        again = solve_newton(hard(), max_steps=1)
    assert len(said) == 1
    for solution in (result, again):
        assert not solution.converged.all()
        assert (solution.converged == (solution.marginal_error <= 1e-13)).all()
        assert solution.iterations == newton.WARM_UP + 1 + 1 + newton.FALLBACK
        assert solution.transport_cost.isfinite().all()


def test_the_fallback_never_makes_it_worse(monkeypatch):
    monkeypatch.setattr(checks, '_said', {'solver'})
    errors = []
    for iterations in (0, 1, 20, 200):
        monkeypatch.setattr(newton, 'FALLBACK', iterations)
        errors.append(solve_newton(hard(), max_steps=1).marginal_error)
    assert (torch.stack(errors).diff(dim=0) <= 1e-15).all()
    assert errors[-1].max() < 1e-3 * errors[0].max()


def test_converging_problems_do_not_warn(monkeypatch):
    monkeypatch.setattr(checks, '_said', set())
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert solve_newton(hard()).converged.all()


def test_a_map_that_is_not_finite_neither_hangs_nor_disturbs(monkeypatch):
    monkeypatch.setattr(checks, '_said', set())
    clean = solve_newton(problem_of('noise', 0.25))
    problem = problem_of('noise', 0.25)
    problem.suppliers[1] = float('nan')
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        result = solve_newton(problem)
    others = [joint for joint in range(len(problem.suppliers)) if joint != 1]
    assert result.iterations <= clean.iterations
    assert result.transport_cost[1].isnan() and not result.converged[1]
    assert torch.allclose(result.transport_cost[others], clean.transport_cost[others], rtol=1e-12)
