"""The loss as a module of torch alone: compiled, transformed, extended by a file, and fed with targets that are none."""

from __future__ import annotations

import copy
import importlib
import math
import pkgutil
import subprocess
import sys
import types
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import hdm_mmpose.transport as transport
from hdm_mmpose import checks
from hdm_mmpose.features import HAS_COMPILE, HAS_CUSTOM_OPERATORS, HAS_FUNC
from hdm_mmpose.transport import DotLoss, EMDOptions, GroundDistance, SupplierRule, build_supplier, emd, general, local, read_target
from hdm_mmpose.transport.operator import path_of
from hdm_mmpose.transport.suppliers import SUPPLIERS, Softmax, Softplus
from tests.transport.families import dot_map

B, K, H, W = 2, 3, 26, 23
needs_compile = pytest.mark.skipif(not HAS_COMPILE, reason='this torch has no compiler')
SETTINGS = {
    'default': {}, 'paper': dict(objective='shannon', supplier='relu', ground_distance='euclidean'),
    'softplus': dict(supplier='softplus', objective='shannon', cross_entropy_blur=1.0), 'sinkhorn': dict(solver='sinkhorn', num_iters=20),
}


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    weights = torch.ones(B, K)
    weights[1, 2] = 0
    return 0.2 * torch.randn(B, K, H, W), torch.rand(B, K, 2) * torch.tensor([W - 1.0, H - 1.0]), weights


def value_and_gradient(loss, maps: Tensor, *others: Tensor) -> tuple[Tensor, Tensor]:
    maps = maps.detach().clone().requires_grad_()
    value = loss(maps, *others)
    return value.detach(), torch.autograd.grad(value.sum(), maps)[0]


# ------------------------------------------------------------------------------------------------- compiled and transformed


@needs_compile
@pytest.mark.parametrize('setting', SETTINGS)
@pytest.mark.parametrize('dense', [False, True])
def test_compiled_it_is_one_graph_and_says_the_same(setting: str, dense: bool) -> None:
    torch._dynamo.reset()
    loss = DotLoss(**SETTINGS[setting])
    maps, dots, weights = inputs()
    target = dot_map(dots.flatten(0, 1), (H, W)).view(B, K, H, W) if dense else dots
    wanted = value_and_gradient(loss, maps, target, weights)
    compiled = torch.compile(loss, backend='aot_eager', fullgraph=HAS_CUSTOM_OPERATORS)
    for got, each in zip(value_and_gradient(compiled, maps, target, weights), wanted):
        torch.testing.assert_close(got, each)


@pytest.mark.skipif(not HAS_CUSTOM_OPERATORS, reason='this torch compiles around the loss')
def test_numbers_that_a_schedule_changes_compile_nothing_anew() -> None:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    loss, (maps, dots, weights) = DotLoss(), inputs()
    compiled = torch.compile(loss, backend='eager')
    for step in range(12):
        options = dict(epsilon=1 / (step + 1), ground_distance=dict(type='saturated', scale=1 + step / 10), cross_entropy_weight=step / 3,
                       supplier=dict(type='softmax', sharpness=20 - step), cross_entropy_blur=step % 3)
        loss.options = EMDOptions(**options)
        assert torch.equal(compiled(maps, dots, weights), DotLoss(**options)(maps, dots, weights))
    assert torch._dynamo.utils.counters['stats']['unique_graphs'] == 1


@pytest.mark.skipif(not HAS_CUSTOM_OPERATORS, reason='this torch has no custom operators')
@pytest.mark.parametrize('setting', SETTINGS)
def test_the_operator_is_as_torch_wants_operators(setting: str) -> None:
    from hdm_mmpose.transport.operator import _backward_operator, _operator

    options, (maps, dots, weights) = EMDOptions(**SETTINGS[setting]), inputs()
    torch.library.opcheck(_operator, (maps.requires_grad_(), dots, weights, options.numbers, options.key, True))
    saved = _operator(maps.detach(), dots, weights, options.numbers, options.key, True)[-1]
    torch.library.opcheck(_backward_operator, (maps.detach(), dots, weights, saved, torch.ones(B, K), options.numbers, options.key))


def test_what_comes_back_may_be_changed_in_place() -> None:
    """No output is a view of another one."""
    loss, (maps, dots, weights) = DotLoss(reduction='none'), inputs()
    loss.keep_last_step = True
    value = loss(maps.requires_grad_(), dots, weights)
    value *= 2
    loss.last_step.marginal_error.mul_(0)
    value.sum().backward()
    output = emd(maps[0], dots[0])
    output.cost.mul_(2)
    assert output.marginal_error.max() < 1e-5


@pytest.mark.skipif(not HAS_FUNC, reason='this torch has no function transforms')
def test_function_transforms_work_or_say_why_not() -> None:
    loss, (maps, dots, weights) = DotLoss(), inputs()
    _, slope = value_and_gradient(loss, maps, dots, weights)
    of_maps = lambda each: loss(each, dots, weights)  # noqa: E731
    torch.testing.assert_close(torch.func.grad(of_maps)(maps), slope)
    with pytest.raises(NotImplementedError, match='must not be mapped by vmap: it takes batches'):
        torch.func.vmap(of_maps)(maps[None])
    with pytest.raises(NotImplementedError, match='no forward-mode derivative'):
        torch.func.jvp(of_maps, (maps,), (maps,))
    with pytest.raises(RuntimeError, match='no second derivative'):
        torch.func.grad(lambda each: torch.func.grad(of_maps)(each).square().sum())(maps)


@pytest.mark.parametrize('setting', ['default', 'paper'])
def test_a_second_derivative_is_refused_when_it_is_taken(setting: str) -> None:
    maps, dots, weights = inputs()
    value = DotLoss(**SETTINGS[setting])(maps.requires_grad_(), dots, weights) + maps.square().sum()
    (slope,) = torch.autograd.grad(value, maps, create_graph=True)
    with pytest.raises(RuntimeError, match='no second derivative'):
        slope.square().sum().backward()


# ----------------------------------------------------------------------------------------------------------------- targets


@pytest.mark.parametrize('bad', [float('nan'), float('inf')])
@pytest.mark.parametrize('dense', [False, True])
@pytest.mark.parametrize('setting', ['default', 'paper'])
def test_a_target_that_is_not_finite_is_an_error_unless_it_has_no_weight(bad: float, dense: bool, setting: str) -> None:
    loss, (maps, dots, weights) = DotLoss(**SETTINGS[setting]), inputs()
    target = dot_map(dots.flatten(0, 1), (H, W)).view(B, K, H, W) if dense else dots
    wanted = loss(maps, target, weights)
    target[1, 2].view(-1)[1] = bad
    assert loss(maps, target, weights) == wanted
    target[0, 1].view(-1)[1] = bad
    with pytest.raises(ValueError, match='target must be finite for every joint of positive weight, got NaN or infinity'):
        loss(maps, target, weights)


def gaussians(dots: Tensor, sigma: float, size: tuple[int, int] = (64, 48)) -> Tensor:
    y, x = torch.arange(size[0]), torch.arange(size[1])
    square = (x - dots[..., 0, None, None]) ** 2 + (y[:, None] - dots[..., 1, None, None]) ** 2
    return torch.exp(-square / (2 * sigma**2))


@pytest.mark.parametrize('sigma', [0.5, 1.0, 2.0, 3.0, 8.0])
@pytest.mark.parametrize(('dtype', 'allowed'), [(torch.float64, 1e-12), (torch.float32, 2e-5)])
def test_a_gaussian_is_read_where_its_centre_is_also_at_the_border(sigma: float, dtype: torch.dtype, allowed: float) -> None:
    dots = torch.rand(300, 2, dtype=torch.float64) * torch.tensor([47.0, 63.0])
    dots[:40, 0], dots[40:80, 1] = 0, 63
    dots[80:120] = torch.tensor([47.4, -0.4])
    found, _, guessed = read_target(gaussians(dots, sigma).to(dtype))
    assert (found - dots).abs().max() < allowed and not guessed.any()


def test_what_the_border_did_to_the_centre_of_mass() -> None:
    """Half a cell from the border it is a whole cell off, which the loss once believed."""
    dots = torch.tensor([[0.5, 30.0]], dtype=torch.float64)
    target = gaussians(dots, 2.0)
    assert transport.centroid(target)[0, 0] - 0.5 > 0.9
    assert (read_target(target)[0] - dots).abs().max() < 1e-12


def test_dot_maps_and_other_compact_targets_are_read_exactly() -> None:
    dots = torch.rand(200, 2, dtype=torch.float64) * torch.tensor([W - 1.0, H - 1.0])
    found, _, guessed = read_target(dot_map(dots, (H, W)))
    assert (found - dots).abs().max() < 1e-12 and not guessed.any()
    box = torch.zeros(1, H, W)
    box[0, 4:9, 7:12] = 0.3
    assert read_target(box)[0].tolist() == [[9.0, 6.0]]


def test_a_floor_does_not_draw_the_dot() -> None:
    """The map of a network: a peak on a floor of noise, whose centre of mass is cells away."""
    dots = torch.rand(50, 2) * 30 + 8
    taught = gaussians(dots, 2.0) + 0.02 * torch.rand(50, 64, 48)
    assert (transport.centroid(taught) - dots).norm(dim=-1).median() > 2
    found, _, guessed = read_target(taught)
    assert (found - dots).norm(dim=-1).max() < 0.3 and not guessed.any()


@pytest.mark.parametrize(('spoil', 'message'), [
    (lambda target: target - 2, '5 dense targets have negative cells only and count as not annotated.*must be decoded'),
    (lambda target: (torch.arange(H * W) % 5 == 0).float().view(H, W).expand_as(target), '5 dense targets are neither'),
])
def test_dense_targets_that_are_none_are_said_once(spoil, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, '_said', set())
    loss, (maps, dots, weights) = DotLoss(reduction='none'), inputs()
    target = spoil(dot_map(dots.flatten(0, 1), (H, W)).view(B, K, H, W)).clone()
    with pytest.warns(UserWarning, match=f'{message}.*This is said once') as said:
        first = loss(maps, target, weights)
        assert torch.equal(loss(maps, target, weights), first)
    assert len(said) == 1


# --------------------------------------------------------------------------------------------------- options, names, one file


def test_every_module_is_what_its_import_gives() -> None:
    for found in pkgutil.iter_modules(transport.__path__):
        if found.name != 'triton_emd':
            assert isinstance(importlib.import_module(f'hdm_mmpose.transport.{found.name}'), types.ModuleType)
            assert found.name not in transport.__all__
            assert isinstance(getattr(transport, found.name), types.ModuleType)


def test_no_import_is_a_circle(root: Path) -> None:
    """Each module alone, in a process that has none of the others: a circle would find a name missing."""
    stems = [found.name for found in pkgutil.iter_modules(transport.__path__) if found.name != 'triton_emd']
    script = f'''
import sys, types, importlib
package = types.ModuleType('hdm_mmpose.transport')
package.__path__ = [{str(root / "hdm_mmpose" / "transport")!r}]
for stem in {stems!r}:
    for name in [name for name in sys.modules if name.startswith('hdm_mmpose.transport')]:
        del sys.modules[name]
    sys.modules['hdm_mmpose.transport'] = package
    if stem != 'operator':  # registers with torch, once per process
        importlib.import_module('hdm_mmpose.transport.' + stem)
'''
    if HAS_CUSTOM_OPERATORS:
        script = script.replace("if stem != 'operator'", "if stem not in ('operator', 'loss')")
    done = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True, cwd=root, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]


def test_options_and_module_mean_the_same() -> None:
    assert DotLoss().options == EMDOptions() == EMDOptions.read(EMDOptions().key, EMDOptions().numbers)
    how = EMDOptions(0.25, 'shannon', 'relu')
    assert DotLoss(0.25, 'shannon', 'relu').options == how == DotLoss(how).options
    for options in SETTINGS.values():
        how = EMDOptions(**options)
        assert EMDOptions.read(how.key, how.numbers) == how
        assert how.replace(epsilon=0.125).key == how.key and how.replace(epsilon=0.125).numbers[0] == 0.125


def test_the_former_name_of_the_objective_works_with_one_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, '_said', set())
    with pytest.warns(FutureWarning, match="'potential' is called 'objective' now; the old name goes on working") as said:
        assert DotLoss(potential='shannon').options == EMDOptions(potential='shannon') == EMDOptions(objective='shannon')
        assert EMDOptions(potential='shannon', objective='product').objective == 'shannon'  # an old config on top of one of ours
    assert len(said) == 1


@pytest.mark.parametrize('options', [
    dict(supplier=dict(type='softmax', sharpness=True)), dict(ground_distance=dict(type='saturated', scale=True)), dict(epsilon=True),
    dict(loss_weight=True), dict(cross_entropy_weight=True), dict(num_iters=True)], ids=str)
def test_true_is_no_number(options: dict) -> None:
    with pytest.raises(ValueError, match='got True'):
        DotLoss(**options)


@pytest.fixture
def toys():
    """Two distances and a rule, as a user's file would define them; other tests go through all that are known."""
    @dataclass(frozen=True)
    class Cauchy(GroundDistance):
        """A toy: saturates slowly, and has a ``scale`` as ``Saturated`` has."""

        scale: float = 1.0
        name = 'cauchy'

        def cost(self, distance: Tensor) -> Tensor:
            return self.scale * distance / (self.scale + distance)

    @dataclass(frozen=True)
    class Steep(Cauchy):
        """A toy that says that it saturates within the map, and does."""

        name = 'steep'
        limit = property(lambda self: self.scale)

        def cost(self, distance: Tensor) -> Tensor:
            return self.scale * (distance / self.scale).tanh()

        def reach(self, share: float) -> float:
            return self.scale * math.atanh(1 - share)

    @dataclass(frozen=True)
    class Sigmoid(SupplierRule):
        """A toy with a ``sharpness`` as softmax has."""

        sharpness: float = 3.0
        name = 'toy_sigmoid'

        def masses_and_rate(self, heatmap: Tensor) -> tuple[Tensor, Tensor]:
            mass = (self.sharpness * heatmap).sigmoid()
            total = mass.sum((-2, -1), keepdim=True)
            return mass / total, self.sharpness * mass * (1 - mass) / total

    yield
    for known, names in ((transport.GROUND_DISTANCES, ('cauchy', 'steep')), (transport.SUPPLIERS, ('toy_sigmoid',))):
        for name in names:
            del known[name]


@pytest.mark.parametrize(('distance', 'path'), [('cauchy', general), ('steep', local)])
@pytest.mark.parametrize('rule', ['softmax', 'toy_sigmoid'])
def test_a_distance_or_a_rule_is_one_file(distance: str, path, rule: str, toys) -> None:
    """Computed as what they are in eager and compiled code, whatever their parameters are called; gradients by differences."""
    options = dict(ground_distance=dict(type=distance, scale=1.3), supplier=rule, cross_entropy_weight=0.0)
    maps, dots, _ = inputs()
    assert path_of(maps, EMDOptions(**options)) is path
    value, slope = value_and_gradient(DotLoss(reduction='none', **options), maps, dots)
    problem = general.problem_of(build_supplier(rule)(maps.double().flatten(0, 1)), dots.double().flatten(0, 1), EMDOptions(**options))
    assert torch.allclose(value.flatten().double(), transport.solve(problem).transport_cost, rtol=1e-5)
    wide = value_and_gradient(DotLoss(reduction='none', **options), maps.double(), dots.double())[1]
    assert (slope - wide).abs().max() < 1e-5 * wide.abs().max().clamp(min=0.1)
    if HAS_CUSTOM_OPERATORS:
        torch._dynamo.reset()
        compiled = torch.compile(DotLoss(reduction='none', **options), backend='eager', fullgraph=True)
        assert torch.equal(compiled(maps, dots), value)


def test_parameters_that_are_no_fields_are_refused() -> None:
    """They would be lost on the way into compiled code, and another rule computed."""
    class Tilted(Softplus):
        name = 'toy_tilted'

    rule = Tilted(2.0)
    object.__setattr__(rule, 'tilt', 3)
    with pytest.raises(ValueError, match='must be a dataclass whose fields are all its parameters'):
        DotLoss(supplier=rule)
    del transport.SUPPLIERS['toy_tilted']


def test_a_name_belongs_to_one_class() -> None:
    with pytest.raises(ValueError, match="must not be taken, got 'softmax'"):
        type('Other', (SupplierRule,), {'name': 'softmax'})


def test_a_default_changed_by_way_of_trial_is_one_line(root: Path) -> None:
    """Nobody else writes the defaults down: epsilon's stands in one place of the package."""
    found = [line for file in (root / 'hdm_mmpose' / 'transport').glob('*.py') for line in file.read_text().splitlines()
             if '0.5 if epsilon is None' in line or 'epsilon: float = 0.5' in line]
    assert len(found) == 1


def test_the_examples_in_the_docstrings() -> None:
    import doctest

    from hdm_mmpose.transport import demanders, loss, suppliers

    with warnings.catch_warnings():
        warnings.simplefilter('error')
        for module, least in ((demanders, 1), (loss, 5), (suppliers, 2)):
            result = doctest.testmod(module, extraglobs={'torch': torch})
            assert result.failed == 0 and result.attempted >= least


# ------------------------------------------------------------------------------------- where a look at the values would stall


@pytest.fixture
def blind(monkeypatch) -> None:
    """The CPU does as a GPU does."""
    for module in ('local', 'target'):
        monkeypatch.setattr(f'hdm_mmpose.transport.{module}.may_look', lambda _: False)


@pytest.mark.parametrize('distance', ['saturated', 'euclidean'])
@pytest.mark.parametrize('batch', [1, 2])
def test_gradients_do_not_depend_on_a_look_at_the_values(monkeypatch, distance, batch) -> None:
    maps = torch.randn(batch, 3, 30, 26, generator=torch.Generator().manual_seed(1))
    dots = 3 + 20 * torch.rand(batch, 3, 2, generator=torch.Generator().manual_seed(2))
    weights = torch.ones(batch, 3)
    weights[0, 1] = 0
    gradients = []
    for looks in (True, False):
        if not looks:
            for module in ('local', 'target'):
                monkeypatch.setattr(f'hdm_mmpose.transport.{module}.may_look', lambda _: False)
        leaf, joints = maps.clone().requires_grad_(), maps[0].clone().requires_grad_()
        DotLoss(ground_distance=distance)(leaf, dots, weights).backward()
        emd(joints, dots[0], EMDOptions(ground_distance=distance)).cost.sum().backward()
        gradients.append((leaf.grad, joints.grad))
    for looking, unseen in zip(*gradients):
        assert unseen.shape == looking.shape
        torch.testing.assert_close(unseen, looking, rtol=1e-5, atol=1e-7)


def test_an_infinite_dot_is_no_border(blind) -> None:
    loss = DotLoss()
    loss.keep_last_step = True
    value = loss(torch.zeros(1, 2, 64, 48), torch.tensor([[[float('inf'), 3.0], [5.0, 6.0]]]))
    assert loss.last_step.dots[0, 0].isnan().any() and loss.last_step.dots[0, 1].isfinite().all()
    assert value.isnan()


@pytest.mark.parametrize('shape', [(0, 3), (2, 0)])
def test_an_empty_batch_gives_zero(shape) -> None:
    maps = torch.randn(*shape, 64, 48, requires_grad=True)
    for target in (torch.zeros(*shape, 2), torch.zeros(*shape, 64, 48)):
        value = DotLoss()(maps, target)
        value.backward()
        assert value == 0 and maps.grad.shape == maps.shape
    assert emd(torch.zeros(0, 64, 48), torch.zeros(0, 2)).cost.shape == (0,)


def test_options_may_change_between_forward_and_backward() -> None:
    loss, maps, dots = DotLoss(), torch.randn(1, 2, 64, 48, requires_grad=True), torch.full((1, 2, 2), 9.3)
    other = copy.copy(loss)
    value = loss(maps, dots)
    before = value.item()
    other.options = other.options.replace(epsilon=0.2)
    loss.options = loss.options.replace(epsilon=0.4)
    value.backward()
    loss.options = loss.options.replace(epsilon=0.5)
    assert loss(maps, dots).item() == before != other(maps, dots).item()


def test_a_loss_built_in_inference_mode_can_train() -> None:
    with torch.inference_mode():
        loss = DotLoss()
    maps = torch.randn(1, 2, 64, 48, requires_grad=True)
    loss(maps, torch.full((1, 2, 2), 9.3)).backward()
    assert maps.grad.abs().max() > 0


def test_a_rule_derived_from_softmax_is_computed_as_itself() -> None:
    class HalfSharp(Softmax):
        name = 'half_sharp'

        def masses(self, heatmap: torch.Tensor) -> torch.Tensor:
            return Softmax(self.sharpness / 2).masses(heatmap)

        def masses_and_rate(self, heatmap: torch.Tensor) -> tuple:
            return Softmax(self.sharpness / 2).masses_and_rate(heatmap)

    try:
        options = EMDOptions(supplier=HalfSharp(), cross_entropy_weight=0.0)
        maps, dots = 0.2 * torch.randn(3, 64, 48), torch.full((3, 2), 9.3)
        wanted = emd(maps, dots, EMDOptions(supplier=Softmax(10.0), cross_entropy_weight=0.0)).cost
        torch.testing.assert_close(emd(maps, dots, options).cost, wanted, rtol=1e-5, atol=1e-6)
    finally:
        SUPPLIERS.pop('half_sharp')


def test_options_come_alone_or_by_name() -> None:
    with pytest.raises(TypeError, match='must come alone'):
        DotLoss(EMDOptions(), epsilon=0.1)
    with pytest.raises(ValueError, match='unbiased must be True or False'):
        EMDOptions(unbiased='no')
    assert EMDOptions(num_iters=np.int64(5)).num_iters == 5
