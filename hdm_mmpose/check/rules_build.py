"""Rules: can the config be read and built at all, and can it work?"""

from __future__ import annotations

import copy
import difflib
import inspect
from collections.abc import Iterator
from typing import Any

from mmpose.registry import HOOKS, KEYPOINT_CODECS, MODELS, TRANSFORMS

from .finding import Finding, config_rule, error, warning
from .parts import OUR_CODECS, OUR_LOSS, ConfigParts, Head, Loss, Part, class_of, heads_to_check, type_name, uses_ours, walk

PACKAGE = 'hdm_mmpose.'
IMPORTS = 'hdm_mmpose.components'
_SEVERAL_PERSONS = 'its heatmaps hold several persons, and this loss compares a map with one dot'
_NO_MAP = 'it predicts no heatmap'
_ONE_DIMENSIONAL = 'it predicts two one-dimensional distributions per joint instead of a heatmap'
REFUSED_ESTIMATORS = {'BottomupPoseEstimator': _SEVERAL_PERSONS}
REFUSED_HEADS = {
    'AssociativeEmbeddingHead': _SEVERAL_PERSONS,
    'CIDHead': _SEVERAL_PERSONS,
    'DEKRHead': _SEVERAL_PERSONS,
    'EDPoseHead': _NO_MAP,
    'IntegralRegressionHead': 'its loss sees coordinates only (DSNTHead has a loss on heatmaps too)',
    'InternetHead': 'its heatmaps are three-dimensional',
    'MotionRegressionHead': _NO_MAP,
    'RLEHead': _NO_MAP,
    'RTMCCHead': _ONE_DIMENSIONAL,
    'RTMOHead': _NO_MAP,
    'RTMWHead': _ONE_DIMENSIONAL,
    'RegressionHead': _NO_MAP,
    'SimCCHead': _ONE_DIMENSIONAL,
    'TemporalRegressionHead': _NO_MAP,
    'TrajectoryRegressionHead': _NO_MAP,
    'YOLOXPoseHead': _NO_MAP,
}
ONE_LOSS_HEADS = ('HeatmapHead', 'ViPNASHead')  # others have one per stage
PAIRED_HEADS = ('DSNTHead',)  # their loss is called with [coordinates, heatmaps]; the maps come out of a softmax
WATCHING = ('EpsilonScheduleHook', 'HeatmapPictureHook', 'TransportMonitorHook')  # hooks that need a model with our loss


@config_rule(
    'model',
    {
        'no-model': 'the config describes no model',
        'fragment': 'the config is only a part that others inherit from: its model has no type',
        'unused': 'nothing of this package is in the config',
    },
)
def rule_unused(parts: ConfigParts) -> Iterator[Finding]:
    """A config without a model, or with nothing of this package in it."""
    if not parts.cfg.get('model'):
        yield error('no-model', 'model', 'this config describes no model', 'name a whole config, not a part that others inherit from')
    elif 'type' not in parts.cfg['model'] and any(registered_by_us(part.cfg.get('type')) for part in walk(parts.cfg, '')):
        yield error('fragment', 'model', 'this is a part of a config: its model has no type', "`_base_ = ['...']`: the recipe it changes")
    elif not uses_ours(parts):
        yield warning(
            'unused', 'model', f'none of {", ".join([OUR_LOSS, *OUR_CODECS])} is in this config', 'see docs/swap.md for the lines to add'
        )


@config_rule(
    'imports',
    {
        'imports': 'nothing imports this package, so MMPose will not find its classes',
        'lazy-imports': "a config in MMEngine's pure Python style, in which `custom_imports` is ignored, names our classes in quotes",
    },
)
def rule_imports(parts: ConfigParts) -> Iterator[Finding]:
    """Parts of this package that nothing imports, so that MMPose cannot find them."""
    written = [part for part in walk(parts.cfg, '') if registered_by_us(part.cfg.get('type'))]
    classes = [part for part in walk(parts.cfg, '') if str(part.cfg.get('type')).startswith(PACKAGE)]  # dotted, once read
    imports = (parts.cfg.get('custom_imports') or {}).get('imports', [])
    imports = [imports] if isinstance(imports, str) else imports
    if parts.lazy and written and not classes:
        names = ', '.join(dict.fromkeys(part.type for part in written))
        yield error(
            'lazy-imports',
            written[0].where,
            f"this config is in MMEngine's pure Python style, which ignores custom_imports: nothing registers {names}",
            f'`from {IMPORTS} import {names}`, and type={written[0].type} without quotes',
        )
    elif not parts.lazy and written and not any(str(name).startswith(IMPORTS) for name in imports):
        yield error(
            'imports',
            'custom_imports',
            f'nothing imports {written[0].type}: MMPose will not find it in its registry',
            f"custom_imports = dict(imports={[*imports, IMPORTS]}, allow_failed_imports=False)",
        )


def registered_by_us(name: Any) -> bool:
    """Whether a ``type``, written as a plain name, is one that importing this package registers."""
    known = (registry.module_dict.get(name) for registry in (HOOKS, KEYPOINT_CODECS, MODELS, TRANSFORMS)) if isinstance(name, str) else ()
    return any(getattr(each, '__module__', '').startswith(PACKAGE) for each in known)


@config_rule('`_delete_` keys', {'leftover-delete': 'a `_delete_` key inside a list: MMEngine does not act on it, and no class takes it'})
def rule_leftovers(parts: ConfigParts) -> Iterator[Finding]:
    """``_delete_`` keys that MMEngine did not act on."""
    for part in walk(parts.cfg, ''):
        if '_delete_' in part.cfg:
            yield error(
                'leftover-delete',
                part.where,
                'a `_delete_` key survived the merge: MMEngine does not act on it inside lists, and no class takes it',
                'put `_delete_=True` only into dicts that override a dict of `_base_`, not into members of lists',
            )


@config_rule('losses and decoders are dicts', {'not-a-dict': 'a loss or decoder that is written as something else than a dict'})
def rule_dicts(parts: ConfigParts) -> Iterator[Finding]:
    """A loss or decoder that is not a dict."""
    for head in parts.heads:
        for name in ('loss', 'decoder'):
            value = head.cfg.get(name)
            if value is not None and not isinstance(value, (dict, list, tuple)):
                yield error(
                    'not-a-dict',
                    f'{head.where}.{name}',
                    f'{name} must be a dict with `type`, got {value!r}',
                    f"{name}=dict(_delete_=True, type='{value}')",
                )


@config_rule('losses, codecs and hooks build', {'does-not-build': 'a loss, codec or hook that does not build from what is written'})
def rule_parts(parts: ConfigParts) -> Iterator[Finding]:
    """Build every loss, codec and hook of ours on its own, and look for the names of all others."""
    losses = [part for head in parts.heads for part in written_losses(head)]
    to_build: list[tuple[Part, Any]] = [(part, MODELS) for part in [*losses, *parts.losses]]
    to_build += [(codec, KEYPOINT_CODECS) for codec in parts.encoders + parts.decoders]
    to_build += [(hook, HOOKS) for hook in parts.hooks]
    for part, registry in to_build:
        problem = why_not_built(part, registry)
        if problem:
            yield error(
                'does-not-build',
                part.where,
                f'{part.type} does not build: {problem}',
                'correct the name or the option; what the dict of `_base_` holds stays, unless `_delete_=True` stands beside it',
            )


def written_losses(head: Head) -> Iterator[Part]:
    """The losses of a head, those of a wrapper one by one."""
    where, written = f'{head.where}.loss', head.cfg.get('loss')
    if isinstance(written, dict) and isinstance(written.get('losses'), (list, tuple)):
        where, written = f'{where}.losses', written['losses']
    members = {f'{where}[{index}]': each for index, each in enumerate(written)} if isinstance(written, (list, tuple)) else {where: written}
    yield from (Part(place, each) for place, each in members.items() if isinstance(each, dict) and 'type' in each)


def why_not_built(part: Part, registry: Any) -> str | None:
    """Why a part cannot be built from what is written, or None; others' losses and hooks are only looked up."""
    built = class_of(part.cfg, registry)
    if built is None:
        alike = ', '.join(difflib.get_close_matches(part.type, registry.module_dict, cutoff=0.5)) or 'none'
        return f'nothing of this name is registered; similar names: {alike}'
    if registry in (MODELS, HOOKS) and not built.__module__.startswith(PACKAGE):
        return None
    options = {key: value for key, value in part.cfg.items() if key not in ('type', '_delete_', '_scope_')}
    try:
        built(**copy.deepcopy(options))
    except TypeError as problem:
        return f'{problem}; it takes {", ".join(inspect.signature(built).parameters)}'
    except (ValueError, AssertionError, KeyError) as problem:
        return str(problem)
    return None


@config_rule('hooks', {'hook-without-loss': 'a hook that watches `EMDHeatmapLoss` in a model without it'})
def rule_hooks(parts: ConfigParts) -> Iterator[Finding]:
    """Hooks that watch a loss the model does not have."""
    for hook in parts.hooks:
        if hook.type in WATCHING and not parts.losses:
            yield error(
                'hook-without-loss',
                hook.where,
                f'{hook.type} watches {OUR_LOSS}, which this model does not have',
                f'remove the hook, or train with {OUR_LOSS} (docs/swap.md)',
            )


@config_rule(
    'kind of model',
    {
        'refused-estimator': 'an estimator whose heatmaps hold several persons',
        'refused-head': 'a head without two-dimensional heatmaps of one person',
    },
)
def rule_heads(parts: ConfigParts) -> Iterator[Finding]:
    """What cannot work is refused."""
    estimator = type_name(parts.cfg.get('model') or {})
    if estimator in REFUSED_ESTIMATORS and uses_ours(parts):
        yield error(
            'refused-estimator', 'model', f'{estimator} cannot be used: {REFUSED_ESTIMATORS[estimator]}', 'use a top-down heatmap recipe'
        )
    for head in heads_to_check(parts):
        if head.type in REFUSED_HEADS:
            yield error(
                'refused-head',
                head.where,
                f'{head.type} cannot be used: {REFUSED_HEADS[head.type]}',
                'use HeatmapHead, CPMHead, MSPNHead or ViPNASHead',
            )


@config_rule('kind of targets', {'combined-offsets': "UDP's disc and offset maps are no distribution"})
def rule_combined(parts: ConfigParts) -> Iterator[Finding]:
    """Codecs whose targets are discs and offsets."""
    for codec in parts.encoders + parts.decoders:
        if codec.combined and uses_ours(parts):
            yield error(
                'combined-offsets',
                codec.where,
                "heatmap_type='combined' makes a disc and two offset maps per joint, which are no distribution",
                "heatmap_type='gaussian' with one output channel per joint, or DotAnnotationCodec",
            )


@config_rule('place of the loss', {'loss-place': 'the loss stands where its head does not call it with heatmaps'})
def rule_loss_place(parts: ConfigParts) -> Iterator[Finding]:
    """A loss where its head does not call it with heatmaps."""
    for head in parts.heads:
        for loss in head.losses:
            wrong = wrong_place(head, loss)
            if wrong:
                yield error('loss-place', loss.where, *wrong)


def wrong_place(head: Head, loss: Loss) -> tuple[str, str] | None:
    """What is wrong with where a loss stands, and how to repair it."""
    written = head.cfg['loss']
    wrapper = type_name(written) if isinstance(written, dict) else ''
    if head.type == 'VisPredictHead':
        return 'this loss of VisPredictHead is about visibility, not about heatmaps', 'put it into head.pose_cfg.loss'
    if head.type in ONE_LOSS_HEADS and isinstance(written, (list, tuple)):
        return f'{head.type} takes one loss, not a list of {len(written)}', f"loss=dict(_delete_=True, type='{OUR_LOSS}', ...)"
    if head.type in PAIRED_HEADS:
        if wrapper == 'MultipleLossWrapper' and loss.where.endswith('losses[1]'):
            return None
        return (
            f'{head.type} calls its first loss with coordinates and its second one with heatmaps',
            f"dict(type='MultipleLossWrapper', losses=[<for coordinates>, dict(type='{OUR_LOSS}', supplier='relu')])",
        )
    if wrapper in ('MultipleLossWrapper', 'CombinedLoss'):
        return (
            f'{head.type} calls its loss with one batch of heatmaps, which {wrapper} does not take',
            f'{OUR_LOSS} without a wrapper; heads with stages take a list',
        )
    return None
