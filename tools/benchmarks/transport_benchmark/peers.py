"""Other people's solvers on the same problem: heatmap in, value and gradient with respect to the heatmap out.

Each peer gets suppliers, demanders and the whole cost matrix, as its interface wants them, and hands back ``<C, p>`` and a
supplier potential.  What is around it (suppliers, cost matrix, gradient back to the heatmap) is the same for all of them.
Calls are those that its authors recommend for speed; a peer that is not installed is left out.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from hdm_mmpose.transport import SupplierRule, dot_demanders
from hdm_mmpose.transport.suppliers import pull_back
from tools.benchmarks.measuring import available


class Peer(NamedTuple):
    """A solver.

    Attributes:
        solve: (S (J, N), D (J, M), C (J, N, M), positions, epsilon) -> value (J,), potential (J, N).
        potential: which gradient that potential is, ``'shannon'`` or ``'product'``.
        devices: where it can run.
    """

    solve: Callable[..., tuple[Tensor, Tensor]]
    potential: str
    devices: tuple[str, ...] = ('cpu', 'cuda')


class Positions(NamedTuple):
    """Cell centres (N, 2) and demander positions (J, M, 2), x then y."""

    cells: Tensor
    demanders: Tensor


class PeerLoss(torch.autograd.Function):
    """(J,) values of a peer; its potential is the gradient."""

    @staticmethod
    def forward(ctx, heatmap: Tensor, dots: Tensor, peer: Peer, supplier: SupplierRule, epsilon: float) -> Tensor:
        height, width = heatmap.shape[1:]
        suppliers, rate = supplier.masses_and_rate(heatmap)
        demanders = dot_demanders(dots, (height, width))
        y, x = torch.meshgrid(
            torch.arange(height, device=heatmap.device, dtype=heatmap.dtype),
            torch.arange(width, device=heatmap.device, dtype=heatmap.dtype), indexing='ij',
        )
        cells = torch.stack([x, y], -1).view(-1, 2)
        cost = (cells[None, :, None] - demanders.position[:, None]).square().sum(-1).sqrt()
        where = Positions(cells, demanders.position)
        value, potential = peer.solve(suppliers.flatten(1), demanders.mass, cost, where, epsilon)
        ctx.save_for_backward(pull_back(potential.view_as(heatmap), suppliers, rate))
        return value

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        return grad[:, None, None] * ctx.saved_tensors[0], None, None, None, None


def plain_log_sinkhorn(suppliers, mass, cost, where, epsilon, iterations=1000):
    """The paper's inner loop as everybody writes it: alternating log-sum-exp on the whole cost matrix."""
    log_s, log_d = suppliers.log(), mass.log()
    f, g = torch.zeros_like(suppliers), torch.zeros_like(mass)
    for _ in range(iterations):
        f = epsilon * (log_s - torch.logsumexp((g[:, None] - cost) / epsilon, dim=2))
        g = epsilon * (log_d - torch.logsumexp((f[..., None] - cost) / epsilon, dim=1))
    plan = ((f[..., None] + g[:, None] - cost) / epsilon).exp()
    return (plan * cost).sum((1, 2)), f


def pot(suppliers, mass, cost, where, epsilon):
    """POT's batched solver, log domain, 1000 iterations at most, tolerance 1e-5."""
    from ot.batch import solve_batch

    result = solve_batch(cost, epsilon, a=suppliers, b=mass, max_iter=1000, tol=1e-5, method='log_sinkhorn', grad='detach')
    return result.value_linear, epsilon * result.potentials[0]


def geomloss(suppliers, mass, cost, where, epsilon, scaling):
    """GeomLoss with epsilon scaling and its potentials; the value is the cost of its plan."""
    from geomloss import SamplesLoss

    solver = SamplesLoss(
        'sinkhorn', p=1, blur=epsilon, scaling=scaling, debias=False, potentials=True, backend='tensorized'
    )
    cells = where.cells.expand(len(suppliers), -1, -1).contiguous()
    f, g = (value.view(len(suppliers), -1) for value in solver(suppliers, cells, mass, where.demanders))
    plan = suppliers[..., None] * mass[:, None] * ((f[..., None] + g[:, None] - cost) / epsilon).exp()
    return (plan * cost).sum((1, 2)), f


def ott(suppliers, mass, cost, where, epsilon):
    """OTT-JAX, compiled, log domain, 1000 iterations at most, threshold 1e-5."""
    import jax

    # the one barrier between the two libraries' queues
    if suppliers.is_cuda:
        torch.cuda.synchronize()
    arrays = (jax.dlpack.from_dlpack(value.contiguous()) for value in (cost, suppliers, mass))
    value, f = _ott_solver(epsilon)(*arrays)
    return torch.from_dlpack(value), torch.from_dlpack(f)


@functools.lru_cache(maxsize=None)
def _ott_solver(epsilon: float):
    import jax
    from ott.geometry import geometry
    from ott.problems.linear import linear_problem
    from ott.solvers.linear import sinkhorn

    solver = sinkhorn.Sinkhorn(threshold=1e-5, max_iterations=1000, lse_mode=True)

    def one(cost, suppliers, mass):
        geom = geometry.Geometry(cost_matrix=cost, epsilon=epsilon)
        result = solver(linear_problem.LinearProblem(geom, a=suppliers, b=mass))
        return (result.matrix * cost).sum(), result.f

    return jax.jit(jax.vmap(one))


PEERS = {
    'POT solve_batch': ('ot', Peer(pot, 'shannon')),
    'GeomLoss, scaling .5': ('geomloss', Peer(functools.partial(geomloss, scaling=0.5), 'product')),
    'GeomLoss, scaling .9': ('geomloss', Peer(functools.partial(geomloss, scaling=0.9), 'product')),
    'OTT-JAX': ('ott', Peer(ott, 'shannon')),
}


def installed_peers() -> dict[str, Peer]:
    """Those whose package is there, by name."""
    return {name: peer for name, (module, peer) in PEERS.items() if available(module)}
