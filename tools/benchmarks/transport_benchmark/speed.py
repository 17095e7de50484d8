"""Time, memory and accuracy of a loss's forward and backward pass: the default of ``tools/benchmarks/transport.py``."""

from __future__ import annotations

import dataclasses
import functools
import time
from dataclasses import dataclass, field
from typing import Callable

import torch
from torch import Tensor

from hdm_mmpose.transport import DotLoss, EMDOptions, SupplierRule, build_supplier, centroid, emd
from tools.benchmarks.measuring import copy_bandwidth, peak_memory, summary, time_in_turns
from tools.pages import table

from .maps import dot_maps, network_like, random_dots
from .peers import Peer, PeerLoss, installed_peers, plain_log_sinkhorn

# Joints whose result is compared with float64.
CHECKED = 64
# What ours may be off by, relative to the largest entry, before any time is printed.
ALLOWED = {torch.float32: 2e-5, torch.float64: 1e-9}
# The cross-entropy pulls towards each of the dot's four masses alike, and reading a dense target of 96 cells in float32 leaves
# these uncertain by 1e-5; the transport cost hardly feels it.
ALLOWED_WITH_CROSS_ENTROPY = {torch.float32: 1e-4, torch.float64: 1e-9}
# Ours, solved exactly: these must be right, and are fast enough to take turns with the pixel-wise loss.
EXACT = ('EMD, newton', 'EMDHeatmapLoss')
# Data sets that calls rotate through: more than a last-level cache holds.
ROTATED_BYTES = 256 << 20


@dataclass(frozen=True)
class Workload:
    """Shape and setting of a measurement.

    Attributes:
        size: (H, W) in cells.
        epsilon: of the solvers that are compared, in cells.
        default_epsilon: of ``EMDHeatmapLoss, defaults``.
    """

    batch: int
    joints: int
    size: tuple[int, int]
    epsilon: float
    supplier: SupplierRule
    objective: str
    dtype: torch.dtype
    device: str
    seed: int
    default_epsilon: float = EMDOptions().epsilon

    @property
    def cells(self) -> int:
        return self.batch * self.joints * self.size[0] * self.size[1]

    @property
    def heatmap_bytes(self) -> int:
        return self.cells * torch.finfo(self.dtype).bits // 8

    def options(self, **others) -> EMDOptions:
        """The setting as ours takes it."""
        return EMDOptions(self.epsilon, self.objective, self.supplier, unbiased=False, ground_distance='euclidean', **others)


@dataclass
class Batch:
    """What a loss gets: (B, K, H, W) maps and dense targets, (B, K, 2) dots in cells, (B, K) weights."""

    output: Tensor
    target: Tensor
    dots: Tensor
    weights: Tensor


Step = Callable[[Batch], Tensor]
Values = Callable[[Tensor, Tensor], Tensor]


@dataclass
class Contestant:
    """A loss.

    Attributes:
        step: the scalar loss of a batch.
        each: (J, H, W) maps and dense targets to (J,) values, for the comparison with float64; None where there is none.
        exact: float64 maps and dots (J, 2) on the CPU to what ``each`` should give.
        allowed: by dtype, what it may be off by if it is one of ``EXACT``.
        times: factor by which its time is multiplied, where only a part of the iterations is run.
        note: said beside the time.
    """

    step: Step
    each: Values | None = None
    exact: Values | None = None
    allowed: dict[torch.dtype, float] = field(default_factory=lambda: ALLOWED)
    times: float = 1.0
    note: str = ''


@dataclass
class Result:
    """Seconds of forward and backward, bytes at the peak beyond the inputs, relative errors against float64."""

    time: dict[str, float]
    memory: int
    value_error: float | None
    gradient_error: float | None
    note: str


def batches(work: Workload) -> list[Batch]:
    """As many as rotating through them empties the cache."""
    generator = torch.Generator().manual_seed(work.seed)
    count = max(2, min(16, ROTATED_BYTES // (2 * work.heatmap_bytes)))
    return [_batch(work, generator) for _ in range(count)]


def _batch(work: Workload, generator: torch.Generator) -> Batch:
    dots = random_dots(work.batch * work.joints, work.size, generator)
    shape = (work.batch, work.joints)
    output = network_like(dots.float(), work.size, generator).view(*shape, *work.size)
    weights = (torch.rand(shape, generator=generator) < 0.9).to(work.dtype)
    target = dot_maps(dots, work.size).view(*shape, *work.size)
    move = functools.partial(torch.Tensor.to, device=work.device, dtype=work.dtype)
    return Batch(move(output).requires_grad_(), move(target), move(dots).view(*shape, 2), move(weights))


def mse(batch: Batch) -> Tensor:
    """MMPose's ``KeypointMSELoss(use_target_weight=True)``."""
    loss = torch.nn.functional.mse_loss(batch.output, batch.target, reduction='none')
    return (loss * batch.weights[..., None, None]).mean()


def loss_of(values: Values) -> Step:
    """The weighted mean over joints, as ``EMDHeatmapLoss`` takes it, from dense targets."""
    def step(batch: Batch) -> Tensor:
        each = values(batch.output.flatten(0, 1), batch.target.flatten(0, 1)).view(batch.weights.shape)
        return torch.where(batch.weights > 0, each * batch.weights, 0).mean()

    return step


def ours(work: Workload, **options) -> Contestant:
    """The transport cost in the setting of the workload."""
    def each(maps: Tensor, targets: Tensor) -> Tensor:
        return emd(maps, targets, work.options(**options)).cost

    return Contestant(loss_of(each), each, exact_values(work, work.objective))


def package_default(work: Workload, backend: str) -> Contestant:
    """``EMDHeatmapLoss()``, whatever the workload's setting is; only ``default_epsilon`` changes it."""
    def module(backend: str, **options) -> DotLoss:
        return DotLoss(epsilon=work.default_epsilon, backend=backend, **options)

    def each(backend: str) -> Values:
        return lambda maps, targets: module(backend, reduction='none')(maps[None], targets[None])[0]

    loss = module(backend)
    return Contestant(lambda batch: loss(batch.output, batch.target, batch.weights), each(backend), each('torch'),
                      ALLOWED_WITH_CROSS_ENTROPY)


def theirs(work: Workload, peer: Peer, times: float = 1.0, note: str = '', timed: Peer | None = None) -> Contestant:
    """A peer; ``timed`` is run in its place for the time, if running all of it takes too long."""
    def values(which: Peer) -> Values:
        return lambda maps, targets: PeerLoss.apply(maps, centroid(targets), which, work.supplier, work.epsilon)

    return Contestant(loss_of(values(timed or peer)), values(peer), exact_values(work, peer.potential), times=times, note=note)


def exact_values(work: Workload, objective: str) -> Values:
    """The transport cost by Newton's method in PyTorch."""
    options = dataclasses.replace(work, objective=objective).options(backend='torch')
    return lambda maps, dots: emd(maps, dots, options).cost


def contestants(work: Workload, peers: bool, iterations: int) -> dict[str, Contestant]:
    """Everybody who takes part, MSE first.

    Args:
        iterations: how many of the 1000 Sinkhorn iterations are timed; the rest, being the same, is multiplied.
    """
    note = '' if iterations == 1000 else f'{iterations} of 1000 iterations timed'
    everybody = {'KeypointMSELoss': Contestant(mse)}
    for backend in ('torch', 'triton') if work.device == 'cuda' else ('torch',):
        everybody[f'EMDHeatmapLoss, defaults, {backend}'] = package_default(work, backend)
        everybody[f'EMD, newton, {backend}'] = ours(work, backend=backend)
        sinkhorn = ours(work, solver='sinkhorn', num_iters=1000, backend=backend)
        if backend == 'torch':
            sinkhorn.step = ours(work, solver='sinkhorn', num_iters=iterations, backend=backend).step
            sinkhorn.times, sinkhorn.note = 1000 / iterations, note
        everybody[f'EMD, sinkhorn 1000, {backend}'] = sinkhorn
    plain = Peer(plain_log_sinkhorn, 'shannon')
    part = Peer(functools.partial(plain_log_sinkhorn, iterations=iterations), 'shannon')
    everybody['plain log-Sinkhorn 1000'] = theirs(work, plain, 1000 / iterations, note, timed=part)
    if peers:
        everybody.update({
            name: theirs(work, peer) for name, peer in installed_peers().items() if work.device in peer.devices
        })
    return everybody


def run(work: Workload, everybody: dict[str, Contestant], repeats: int, slow_repeats: int) -> dict[str, Result]:
    """Check, then measure.

    Raises:
        SystemExit: ours disagrees with float64; no time is printed then.
    """
    data = batches(work)
    errors = {name: accuracy(contestant, data[0]) for name, contestant in everybody.items()}
    for name, (value, gradient) in errors.items():
        if name.startswith(EXACT) and not max(value, gradient) <= everybody[name].allowed[work.dtype]:
            raise SystemExit(f'{name}: off by {value:.2g} (value) and {gradient:.2g} (gradient): no times printed')

    def runner(contestant: Contestant) -> Callable[[int], None]:
        def call(repeat: int) -> None:
            batch = data[repeat % len(data)]
            batch.output.grad = None
            contestant.step(batch).backward()

        return call

    fast = {name: runner(contestant) for name, contestant in everybody.items() if name.startswith(('KeypointMSELoss', *EXACT))}
    times = time_in_turns(fast, work.device, repeats)
    for name, contestant in everybody.items():
        if name not in times:
            times[name] = _few(runner(contestant), work, slow_repeats)
    results = {}
    for name, contestant in everybody.items():
        time = {key: value * contestant.times if key != 'repeats' else value for key, value in times[name].items()}
        data[0].output.grad = None
        # one iteration of an iterative contestant holds as much as a thousand
        memory = peak_memory(functools.partial(runner(contestant), 0), work.device)
        data[0].output.grad = None
        results[name] = Result(time, memory, *errors[name], contestant.note)
    return results


def _few(runner: Callable[[int], None], work: Workload, repeats: int) -> dict[str, float]:
    """Slow contestants run one after another, after one call that nobody counts."""
    runner(0)
    values = [time_in_turns({'it': runner}, work.device, 1)['it']['median'] for _ in range(repeats)] if work.device == 'cuda' else [
        _timed(runner, repeat) for repeat in range(repeats)
    ]
    return summary(values)


def _timed(runner: Callable[[int], None], repeat: int) -> float:
    start = time.perf_counter()
    runner(repeat)
    return time.perf_counter() - start


def accuracy(contestant: Contestant, batch: Batch) -> tuple[float | None, float | None]:
    """Largest relative error of values, and of gradients relative to each joint's largest entry, over ``CHECKED`` joints."""
    if contestant.each is None or contestant.exact is None:
        return None, None
    maps, targets, dots = (value.detach().flatten(0, 1)[:CHECKED] for value in (batch.output, batch.target, batch.dots))
    value, gradient = value_and_gradient(contestant.each, maps, targets)
    right, slope = value_and_gradient(contestant.exact, maps.double().cpu(), dots.double().cpu())
    value, gradient = value.double().cpu(), gradient.double().cpu()
    value_error = ((value - right).abs() / right).max().item()
    return value_error, ((gradient - slope).abs().amax((1, 2)) / slope.abs().amax((1, 2))).max().item()


def value_and_gradient(each: Values, maps: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """(J,) values and (J, H, W) gradients."""
    maps = maps.clone().requires_grad_()
    values = each(maps, targets)
    (gradient,) = torch.autograd.grad(values.sum(), maps)
    return values.detach(), gradient


def result_table(work: Workload, results: dict[str, Result], bandwidth: float | None = None) -> str:
    """Readable lines; times in milliseconds, memory in heatmap sizes."""
    base, best = results['KeypointMSELoss'].time['median'], min(
        result.time['median'] for name, result in results.items() if name.startswith('EMD, newton')
    )
    rows = []
    for name, result in results.items():
        time = result.time
        row = [
            name, f'{time["median"] * 1e3:.4g}', f'{time["quartile_1"] * 1e3:.4g} - {time["quartile_3"] * 1e3:.4g}',
            f'{time["median"] / base:.3g}', f'{time["median"] / best:.3g}', f'{result.memory / work.heatmap_bytes:.2f}',
            *('-' if error is None else f'{error:.0e}' for error in (result.value_error, result.gradient_error)), result.note,
        ]
        if bandwidth:
            # floor: the map and its dense target read, the gradient written
            row.insert(-1, f'{3 * work.heatmap_bytes / time["median"] / bandwidth:.2f}')
        rows.append(row)
    head = ['forward + backward', 'median ms', 'quartiles', 'x MSE', 'x ours', 'memory', 'value error', 'gradient error', '']
    if bandwidth:
        head.insert(-1, 'of copy bandwidth')
    return table(head, rows)


def setting_line(work: Workload) -> str:
    """What each row computes, in one sentence."""
    ours = EMDOptions()
    return (
        f'`EMDHeatmapLoss, defaults` is what users get: {ours.supplier}, objective {ours.objective!r}, unbiased demanders, '
        f'epsilon {work.default_epsilon:g} cells, {ours.ground_distance} distance, plus {ours.cross_entropy_weight:g} times the '
        f'cross-entropy with the dot. The rows that compare solvers, ours and others, compute the transport cost alone: '
        f'{work.supplier}, objective {work.objective!r} (peers: their own), plain demanders, epsilon {work.epsilon:g} cells, '
        f'Euclidean distance.'
    )


SCALES: dict[str, list[dict]] = {
    'joints': [dict(batch=b) for b in (1, 4, 16, 64)],
    'cells': [dict(size=s) for s in ((32, 24), (64, 48), (96, 72), (128, 96))],
    'epsilon': [dict(epsilon=e, default_epsilon=e) for e in (0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 4.0)],
}


def scaling(work: Workload, peers: bool, progress=print) -> dict[str, list[dict]]:
    """Median seconds of MSE, ours, the package's default and POT along each axis, the others as given."""
    curves: dict[str, list[dict]] = {}
    for axis, changes in SCALES.items():
        for change in changes:
            there = dataclasses.replace(work, **change)
            progress(f'{axis}: {change}')
            everybody = {
                name: contestant for name, contestant in contestants(there, peers, 10).items()
                if name.startswith(('KeypointMSELoss', *EXACT, 'POT'))
            }
            results = run(there, everybody, 5, 1)
            at = {'joints': there.batch * there.joints, 'cells': there.size[0] * there.size[1], 'epsilon': there.epsilon}[axis]
            curves.setdefault(axis, []).append({'at': at, **{name: r.time['median'] for name, r in results.items()}})
    return curves


def draw(curves: dict[str, list[dict]], path, title: str) -> None:
    """The curves as a picture with one panel per axis."""
    import matplotlib

    matplotlib.use('Agg')
    import matplotlib.pyplot as plt

    labels = {'joints': 'joints (B x K)', 'cells': 'cells (H x W)', 'epsilon': 'epsilon in cells'}
    figure, panels = plt.subplots(1, len(curves), figsize=(12, 4), sharey=True, layout='constrained')
    for panel, (axis, points) in zip(panels, curves.items()):
        for name in points[0]:
            if name != 'at':
                panel.loglog([p['at'] for p in points], [p[name] * 1e3 for p in points], 'o-', label=name)
        panel.set_xlabel(labels[axis])
        panel.grid(alpha=0.3, which='both')
    panels[0].set_ylabel('forward + backward, ms')
    figure.legend(*panels[0].get_legend_handles_labels(), loc='outside lower center', ncols=4, fontsize=8)
    figure.suptitle(title, fontsize=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)
    print(f'wrote {path}')


def workload(arguments) -> Workload:
    """From the command line."""
    return Workload(
        batch=arguments.batch, joints=arguments.joints, size=tuple(arguments.size), epsilon=arguments.epsilon,
        supplier=build_supplier(arguments.supplier), objective=arguments.objective,
        dtype=getattr(torch, arguments.dtype), device=arguments.device, seed=arguments.seed,
    )


def bandwidth_of(work: Workload) -> float | None:
    """Bytes per second of a copy on the GPU, None on the CPU, whose cache would hold part of it."""
    return copy_bandwidth(work.device) if work.device == 'cuda' else None
