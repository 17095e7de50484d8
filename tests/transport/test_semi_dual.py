"""The semi-dual: its derivatives, and the two ways in which shares are computed."""

import pytest
import torch

from hdm_mmpose.transport import Demanders, TransportProblem
from hdm_mmpose.transport.semi_dual import SemiDual, pair_sums
from tests.transport.families import GROUND_DISTANCES, dots_in, every_family, problem_of

SIZE = (5, 7)


def value(semi_dual, b):
    """F(b), straight from its definition, with the whole cost."""
    cost = semi_dual.reference[:, None] + semi_dual.excess
    exponent = ((b[..., None] - cost) / semi_dual.epsilon).masked_fill(~semi_dual.active[..., None], -torch.inf)
    linear = torch.where(semi_dual.active, b * semi_dual.mass, 0).sum(-1)
    return linear - semi_dual.epsilon * (semi_dual.suppliers * exponent.logsumexp(1)).sum(-1)


@pytest.mark.parametrize('epsilon', [0.01, 0.1, 1, 40])
@pytest.mark.parametrize('ground', GROUND_DISTANCES)
def test_received_and_exchange_are_its_derivatives(epsilon, ground):
    problem = problem_of('noise', epsilon, ground, size=SIZE)
    semi_dual = SemiDual(problem)
    b = (epsilon * torch.randn_like(semi_dual.mass)).requires_grad_()
    (gradient,) = torch.autograd.grad(value(semi_dual, b).sum(), b)
    received, exchange = semi_dual.receive(b.detach())
    missing = torch.where(semi_dual.active, semi_dual.mass - received, 0)
    assert torch.allclose(gradient, missing, atol=1e-13)
    hessian = torch.autograd.functional.hessian(lambda v: value(semi_dual, v).sum(), b.detach())
    hessian = torch.stack([hessian[j, :, j] for j in range(len(b))])
    laplacian = torch.diag_embed(received) - exchange
    assert torch.allclose(hessian, laplacian / -epsilon, atol=1e-12 / epsilon)


@pytest.mark.parametrize('epsilon', [0.05, 0.25, 4])
@pytest.mark.parametrize(('dtype', 'tolerance'), [(torch.float64, 1e-13), (torch.float32, 1e-5)])
def test_the_kernel_and_the_exponents_give_the_same(epsilon, dtype, tolerance):
    problem = every_family(epsilon, dtype=dtype, size=SIZE)
    fast, slow = SemiDual(problem), SemiDual(problem)
    slow.kernel = None
    assert fast.kernel is not None
    b = torch.randn_like(fast.mass).clamp(-1, 1)
    assert torch.allclose(fast.share(b), slow.share(b), rtol=tolerance, atol=tolerance / 10)
    assert torch.allclose(fast.supplier_potential(b), slow.supplier_potential(b), rtol=tolerance, atol=tolerance * epsilon)
    for one, other in zip(fast.receive(b), slow.receive(b)):
        assert torch.allclose(one, other, rtol=tolerance, atol=tolerance / 10)


def test_the_kernel_is_given_up_where_it_would_leave_the_range():
    assert SemiDual(problem_of('flat', 0.02, dtype=torch.float32)).kernel is None
    assert SemiDual(problem_of('flat', 0.02, dtype=torch.float64)).kernel is not None
    assert SemiDual(problem_of('flat', 0.02, 'saturated', dtype=torch.float64)).kernel is not None
    near = problem_of('flat', 0.25, dtype=torch.float32)
    wide = Demanders(near.demanders.position * torch.tensor([[1.0], [1], [1], [40]]), near.demanders.mass)
    assert SemiDual(near).kernel is not None
    assert SemiDual(TransportProblem(near.suppliers, wide, 0.25)).kernel is None


@pytest.mark.parametrize('epsilon', [0.01, 0.036, 0.25, 100])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_shares_are_shares_whatever_the_potentials(epsilon, dtype):
    semi_dual = SemiDual(every_family(epsilon, dtype=dtype, size=SIZE))
    for scale in (0, 1, 1e3, 1e6):
        b = scale * torch.randn_like(semi_dual.mass)
        share = semi_dual.share(b)
        assert (share >= 0).all()
        assert torch.allclose(share.sum(1), torch.ones(1, dtype=dtype), atol=1e-6)
        assert (share[~semi_dual.active] == 0).all()
        received, exchange = semi_dual.receive(b)
        assert torch.allclose(received, (share * semi_dual.suppliers[:, None]).sum(-1), atol=2e-6)
        assert torch.allclose(exchange, exchange.mT, atol=1e-7) and (exchange >= 0).all()
        assert semi_dual.supplier_potential(b).isfinite().all()


def test_mean_cost_is_the_cost_of_the_shares():
    problem = problem_of('noise', 0.3, size=SIZE)
    semi_dual = SemiDual(problem)
    share = semi_dual.share(torch.randn_like(semi_dual.mass))
    assert torch.allclose(semi_dual.mean_cost(share), (share * problem.cost()).sum(1), atol=1e-13)


def test_a_sinkhorn_step_never_lowers_it():
    for epsilon in (0.02, 0.25, 4):
        semi_dual = SemiDual(every_family(epsilon, size=SIZE))
        b = torch.randn_like(semi_dual.mass)
        for _ in range(3):
            received, _ = semi_dual.receive(b)
            better = semi_dual.sinkhorn_step(b, received)
            assert (value(semi_dual, better) >= value(semi_dual, b) - 1e-12).all()
            b = better


def test_pair_sums_on_other_devices_are_the_same_sums():
    left, right = torch.randn(3, 4, 50, dtype=torch.float64), torch.randn(3, 4, 50, dtype=torch.float64)

    class Elsewhere:
        """A tensor that says it lies on a GPU."""

        device = torch.device('cuda')
        unsqueeze = left.unsqueeze

    assert torch.allclose(pair_sums(Elsewhere(), right), pair_sums(left, right))


def test_dots_that_are_not_finite_spoil_only_their_joint():
    problem = problem_of('noise', 0.25, size=SIZE)
    clean = SemiDual(problem).share(torch.zeros_like(problem.demanders.mass))
    problem.demanders.position[2] = float('nan')
    share = SemiDual(problem).share(torch.zeros_like(problem.demanders.mass))
    others = [j for j in range(len(dots_in(SIZE))) if j != 2]
    assert torch.equal(share[others], clean[others])
