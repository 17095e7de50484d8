"""A hook that compares, in the model as it was built, the rule the loss trains with and the rule the decoder reads with."""

from __future__ import annotations

from collections.abc import Iterator

from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpose.registry import HOOKS
from torch import nn

from hdm_mmpose.transport import SupplierRule
from hdm_mmpose.transport.suppliers import Relu, ReluSurrogate

from .emd_heatmap_loss import EMDHeatmapLoss

ACTIONS = ('raise', 'warn')


@HOOKS.register_module()
class SupplierAgreementHook(Hook):
    """Stops a training, validation or test whose decoder reads another distribution than the loss trains.

    ``python -m hdm_mmpose check`` finds this and more in a config, before anything runs; this hook also sees models that
    were built in code, and what ``--cfg-options`` did.

    Args:
        action (str): ``'raise'`` or ``'warn'``.

    Raises:
        ValueError: another action; and, from the hook, rules that disagree.
    """

    priority = 'VERY_HIGH'

    def __init__(self, action: str = 'raise') -> None:
        if action not in ACTIONS:
            raise ValueError(f'action must be one of {ACTIONS}, got {action!r}')
        self.action = action

    def before_train(self, runner: Runner) -> None:
        """Compare."""
        self._compare(runner)

    def before_val(self, runner: Runner) -> None:
        """Compare."""
        self._compare(runner)

    def before_test(self, runner: Runner) -> None:
        """Compare."""
        self._compare(runner)

    def _compare(self, runner: Runner) -> None:
        for problem in disagreements(runner.model):
            if self.action == 'raise':
                raise ValueError(problem)
            runner.logger.warning(problem)


def disagreements(model: nn.Module) -> Iterator[str]:
    """What disagrees in each head of a model, wrapped or not: a sentence per head."""
    for name, head in model.named_modules():
        decoder, loss = getattr(head, 'decoder', None), getattr(head, 'loss_module', None)
        losses = [module for module in loss.modules() if isinstance(module, EMDHeatmapLoss)] if loss is not None else []
        if not losses or decoder is None:
            continue
        trained, read = losses[-1].options.supplier, decoder_supplier(decoder)  # of heads with stages the last is decoded
        if disagree(trained, read):
            yield (f'{name}: the loss trains suppliers {describe(trained)}, the decoder ({type(decoder).__name__}) reads '
                   f'{describe(read)}; give both the same `supplier`')


def decoder_supplier(decoder: object) -> SupplierRule | None:
    """The rule of ``SubPixelDecoder`` or ``DotAnnotationCodec``; None for a decoder without one."""
    return getattr(decoder, 'supplier', None)


def disagree(one: SupplierRule | None, other: SupplierRule | None) -> bool:
    """Whether two rules read some map differently; a rule that is not known agrees with all."""
    return one is not None and other is not None and read_as(one) != read_as(other)


def read_as(rule: SupplierRule) -> SupplierRule:
    """The rule as far as reading goes: the surrogate differs from relu in the gradient only."""
    return Relu() if isinstance(rule, ReluSurrogate) else rule


def describe(rule: SupplierRule | None) -> str:
    """A rule in words, with its sharpness where reading depends on one."""
    if rule is None:
        return 'nothing known'
    sharpness = getattr(read_as(rule), 'sharpness', None)
    return rule.name if sharpness is None else f'{rule.name} of sharpness {sharpness:g}'
