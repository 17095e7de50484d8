"""The rules of ``python -m hdm_mmpose check``: each compares parts of a config and says what disagrees.

A rule is a function of a ``Recipe`` that yields findings; ``RULES`` lists them. A new one is a function, its name in the list
and a planted fault in ``tests/test_check.py``.
"""

from __future__ import annotations

import copy
import difflib
import inspect
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from mmpose.registry import HOOKS, KEYPOINT_CODECS, MODELS, TRANSFORMS
from torch.overrides import TorchFunctionMode

from hdm_mmpose.recipe import OUR_CODECS, OUR_LOSS, Codec, Head, Loss, Part, Recipe, type_name, walk
from hdm_mmpose.transport import SupplierRule
from hdm_mmpose.transport.suppliers import Relu, ReluSurrogate, Softmax

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
SHIFTED = ('msra',)  # alignments for which flipped heatmaps are to be shifted by one cell
WATCHING = ('EpsilonScheduleHook', 'HeatmapPictureHook', 'TransportMonitorHook')  # hooks that need a model with our loss


@dataclass(frozen=True)
class Finding:
    """One thing that disagrees.

    Attributes:
        rule: short name that does not change.
        level: ``'error'``: it cannot work, or trains or decodes something else than written; ``'warning'``: it works,
            and something is lost.
        where: dotted path in the merged config.
        what: what disagrees.
        repair: what to write instead.
    """

    rule: str
    level: str
    where: str
    what: str
    repair: str

    def __str__(self) -> str:
        return f'{self.level}: {self.what}\n    where:  {self.where}\n    repair: {self.repair}\n    rule:   {self.rule}'


def error(rule: str, where: str, what: str, repair: str) -> Finding:
    """A finding with which training or decoding goes wrong."""
    return Finding(rule, 'error', where, what, repair)


def warning(rule: str, where: str, what: str, repair: str) -> Finding:
    """A finding that costs something, or may be meant."""
    return Finding(rule, 'warning', where, what, repair)


def concerned(recipe: Recipe) -> list[Head]:
    """Heads with our loss or our decoder."""
    return [head for head in recipe.heads if head.losses or (head.decoder is not None and head.decoder.ours)]


def uses_ours(recipe: Recipe) -> bool:
    """Whether anything of this package is in the config."""
    return bool(concerned(recipe)) or any(codec.ours for codec in recipe.encoders + recipe.codecs)


# ---------------------------------------------------------------------------------------------------------------------
# Can it be read and built at all, and can it work?


def rule_unused(recipe: Recipe) -> Iterator[Finding]:
    """A config without a model, or with nothing of this package in it."""
    if not recipe.cfg.get('model'):
        yield error('no-model', 'model', 'this config describes no model', 'name a whole config, not a part that others inherit from')
    elif 'type' not in recipe.cfg['model'] and any(registered_by_us(part.cfg.get('type')) for part in walk(recipe.cfg, '')):
        yield error('fragment', 'model', 'this is a part of a config: its model has no type', "`_base_ = ['...']`: the recipe it changes")
    elif not uses_ours(recipe):
        yield warning('unused', 'model', f'none of {", ".join([OUR_LOSS, *OUR_CODECS])} is in this config',
                      'see docs/swap.md for the lines to add')


def rule_imports(recipe: Recipe) -> Iterator[Finding]:
    """Parts of this package that nothing imports, so that MMPose cannot find them."""
    written = [part for part in walk(recipe.cfg, '') if registered_by_us(part.cfg.get('type'))]
    imports = (recipe.cfg.get('custom_imports') or {}).get('imports', [])
    imports = [imports] if isinstance(imports, str) else imports
    if written and not any(str(name).startswith(IMPORTS) for name in imports):
        yield error('imports', 'custom_imports', f'nothing imports {written[0].type}: MMPose will not find it in its registry',
                    f"custom_imports = dict(imports=['{IMPORTS}'], allow_failed_imports=False)")


def registered_by_us(name: Any) -> bool:
    """Whether a ``type``, written as a plain name, is one that importing this package registers."""
    known = (registry.module_dict.get(name) for registry in (HOOKS, KEYPOINT_CODECS, MODELS, TRANSFORMS)) if isinstance(name, str) else ()
    return any(getattr(each, '__module__', '').startswith(PACKAGE) for each in known)


def rule_leftovers(recipe: Recipe) -> Iterator[Finding]:
    """``_delete_`` keys that MMEngine did not act on."""
    for part in walk(recipe.cfg, ''):
        if '_delete_' in part.cfg:
            yield error('leftover-delete', part.where,
                        'a `_delete_` key survived the merge: MMEngine does not act on it inside lists, and no class takes it',
                        'put `_delete_=True` only into dicts that override a dict of `_base_`, not into members of lists')


def rule_parts(recipe: Recipe) -> Iterator[Finding]:
    """Build every loss, codec and hook of ours on its own, and look for the names of all others."""
    losses = [part for head in recipe.heads for part in written_losses(head)]
    parts: list[tuple[Part, Any]] = [(part, MODELS) for part in [*losses, *recipe.losses]]
    parts += [(codec, KEYPOINT_CODECS) for codec in recipe.encoders + recipe.decoders]
    parts += [(hook, HOOKS) for hook in recipe.hooks]
    for part, registry in parts:
        problem = why_not_built(part, registry)
        if problem:
            yield error('does-not-build', part.where, f'{part.type} does not build: {problem}',
                        'correct the name or the option; what the dict of `_base_` holds stays, unless `_delete_=True` stands beside it')


def written_losses(head: Head) -> Iterator[Part]:
    """The losses of a head, those of a wrapper one by one."""
    where, written = f'{head.where}.loss', head.cfg.get('loss')
    if isinstance(written, dict) and isinstance(written.get('losses'), (list, tuple)):
        where, written = f'{where}.losses', written['losses']
    members = {f'{where}[{index}]': each for index, each in enumerate(written)} if isinstance(written, (list, tuple)) else {where: written}
    yield from (Part(place, each) for place, each in members.items() if isinstance(each, dict) and 'type' in each)


def why_not_built(part: Part, registry: Any) -> str | None:
    """Why a part cannot be built from what is written, or None; others' losses and hooks are only looked up."""
    built = registry.get(part.cfg['type']) if isinstance(part.cfg['type'], str) else part.cfg['type']
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


def rule_hooks(recipe: Recipe) -> Iterator[Finding]:
    """Hooks that watch a loss the model does not have."""
    for hook in recipe.hooks:
        if hook.type in WATCHING and not recipe.losses:
            yield error('hook-without-loss', hook.where, f'{hook.type} watches {OUR_LOSS}, which this model does not have',
                        f'remove the hook, or train with {OUR_LOSS} (docs/swap.md)')


def rule_heads(recipe: Recipe) -> Iterator[Finding]:
    """What cannot work is refused."""
    estimator = type_name(recipe.cfg.get('model') or {})
    if estimator in REFUSED_ESTIMATORS and uses_ours(recipe):
        yield error('refused-estimator', 'model', f'{estimator} cannot be used: {REFUSED_ESTIMATORS[estimator]}',
                    'use a top-down heatmap recipe')
    for head in concerned(recipe):
        if head.type in REFUSED_HEADS:
            yield error('refused-head', head.where, f'{head.type} cannot be used: {REFUSED_HEADS[head.type]}',
                        'use HeatmapHead, CPMHead, MSPNHead or ViPNASHead')


def rule_combined(recipe: Recipe) -> Iterator[Finding]:
    """Codecs whose targets are discs and offsets."""
    for codec in recipe.encoders + recipe.decoders:
        if codec.combined and uses_ours(recipe):
            yield error('combined-offsets', codec.where,
                        "heatmap_type='combined' makes a disc and two offset maps per joint, which are no distribution",
                        "heatmap_type='gaussian' with one output channel per joint, or DotAnnotationCodec")


def rule_dicts(recipe: Recipe) -> Iterator[Finding]:
    """A loss or decoder that is not a dict."""
    for head in recipe.heads:
        for name in ('loss', 'decoder'):
            value = head.cfg.get(name)
            if value is not None and not isinstance(value, (dict, list, tuple)):
                yield error('not-a-dict', f'{head.where}.{name}', f'{name} must be a dict with `type`, got {value!r}',
                            f"{name}=dict(_delete_=True, type='{value}')")


def rule_loss_place(recipe: Recipe) -> Iterator[Finding]:
    """A loss where its head does not call it with heatmaps."""
    for head in recipe.heads:
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
        return (f'{head.type} calls its first loss with coordinates and its second one with heatmaps',
                f"dict(type='MultipleLossWrapper', losses=[<for coordinates>, dict(type='{OUR_LOSS}', supplier='relu')])")
    if wrapper in ('MultipleLossWrapper', 'CombinedLoss'):
        return (f'{head.type} calls its loss with one batch of heatmaps, which {wrapper} does not take',
                f'{OUR_LOSS} without a wrapper; heads with stages take a list')
    return None


# ---------------------------------------------------------------------------------------------------------------------
# Do encoder, decoder, loss and codec say the same?


def rule_codec(recipe: Recipe) -> Iterator[Finding]:
    """A top-level codec that nothing uses: pipelines and heads keep the copies of their base config."""
    used = [codec for codec in recipe.encoders + recipe.decoders if codec.alignment]
    for codec in recipe.codecs:
        if used and codec.alignment and not any(same_codec(codec, other) for other in used):
            still = '; '.join(sorted({summary(other) for other in used}))
            yield error('codec-not-used', codec.where,
                        f'no pipeline and no head uses the top-level codec ({summary(codec)}): they still hold {still}',
                        'override head.decoder, and rebuild the pipelines with GenerateTarget(encoder=codec)')


def rule_decoder(recipe: Recipe) -> Iterator[Finding]:
    """What decodes the maps of our loss, and what its scores mean."""
    swapped = [encoder.type for encoder in recipe.encoders if encoder.ours]
    for head in recipe.heads:
        if not head.losses:
            continue
        if head.decoder is None:
            yield error('no-decoder', head.where, 'the head has no decoder, so it cannot predict', new_decoder(recipe, head))
        elif not head.decoder.ours and swapped:
            yield error('old-decoder', head.decoder.where,
                        f'the pipeline encodes with {swapped[0]}, the head still decodes with {head.decoder.type}',
                        'decoder=dict(codec, _delete_=True)')
        elif not head.decoder.ours and head.decoder.alignment:
            yield warning('gaussian-decoder', head.decoder.where,
                          f'{head.decoder.type} looks for a Gaussian and takes its height for the score; this loss leaves the '
                          'height free: scores rank detections badly, and precision is lost', new_decoder(recipe, head))
        elif head.decoder.option('score') == 'max':
            yield warning('score', head.decoder.where,
                          "score='max' is the height of the map, which this loss leaves free", "score='mass'")


def new_decoder(recipe: Recipe, head: Head) -> str:
    """The decoder that fits a head's loss and the targets, as one writes it."""
    known = next((codec for codec in [head.decoder, *recipe.encoders, *recipe.codecs] if codec and codec.alignment), None)
    if known is None:
        return "decoder=dict(type='SubPixelDecoder', ...)"
    alignment = 'center' if known.alignment == 'megvii' else known.alignment
    return (f"decoder=dict(_delete_=True, type='SubPixelDecoder', input_size={known.size('input_size')}, "
            f"heatmap_size={known.size('heatmap_size')}, alignment='{alignment}', "
            f'supplier={written_supplier(head.losses[-1].supplier)})')


def rule_supplier(recipe: Recipe) -> Iterator[Finding]:
    """The rule the loss trains with against the rule the decoder reads with."""
    for head in recipe.heads:
        if not head.losses:
            continue
        last = head.losses[-1]
        if head.decoder is not None and disagree(last.supplier, head.decoder.supplier):
            yield error('supplier', head.decoder.where,
                        f'the loss trains {name_of(last.supplier)}, the decoder reads {name_of(head.decoder.supplier)}: it '
                        'looks at a distribution that was never trained',
                        f'supplier={written_supplier(last.supplier)} in both')
        for loss in head.losses[:-1]:
            if disagree(loss.supplier, last.supplier):
                yield warning('stage-supplier', loss.where,
                              f'this stage trains {name_of(loss.supplier)}, the one that is decoded {name_of(last.supplier)}',
                              'one rule for all stages')
        if head.type in PAIRED_HEADS and not isinstance(last.supplier, (Relu, ReluSurrogate)):
            yield error('paired-supplier', last.where,
                        f'{head.type} normalises its maps itself: {name_of(last.supplier)} reads them as nearly uniform',
                        "supplier='relu'")


def rule_encoder_supplier(recipe: Recipe) -> Iterator[Finding]:
    """An encoder that names another supplier rule than the decoder."""
    for encoder in recipe.encoders:
        for decoder in recipe.decoders:
            if disagree(encoder.supplier, decoder.supplier):
                yield warning('encoder-supplier', encoder.where,
                              f'the encoder says {name_of(encoder.supplier)}, the decoder {name_of(decoder.supplier)}: '
                              'encoding does not use it, but reading the config misleads', 'one codec dict for both')


def rule_sizes(recipe: Recipe) -> Iterator[Finding]:
    """Input and heatmap sizes that differ between encoder, decoder and crop."""
    for decoder in recipe.decoders:
        for encoder in recipe.encoders:
            for name in ('input_size', 'heatmap_size'):
                ours, theirs = decoder.size(name), encoder.size(name)
                if decoder.alignment and encoder.alignment and ours and theirs and ours != theirs:
                    yield error('size', encoder.where,
                                f'{name} (width, height) is {theirs} in the encoder and {ours} in the decoder',
                                'build both from one codec dict')
        for crop in recipe.crops:
            given, wanted = crop.cfg.get('input_size'), decoder.size('input_size')
            given = tuple(given) if isinstance(given, (list, tuple)) else given
            if given and wanted and given != wanted:
                yield error('crop-size', crop.where, f'the crop is {given} pixels, the decoder expects {wanted}',
                            f"dict(type='TopdownAffine', input_size={wanted})")


def rule_alignment(recipe: Recipe) -> Iterator[Finding]:
    """Alignments that differ between encoder and decoder."""
    for decoder in recipe.decoders:
        for encoder in recipe.encoders:
            pair = (encoder.alignment, decoder.alignment)
            if None in pair or pair[0] == pair[1]:
                continue
            half_a_pixel = set(pair) == {'megvii', 'center'}
            what = f"{encoder.type} encodes with alignment '{pair[0]}', {decoder.type} decodes with '{pair[1]}'"
            repair = 'encode with the codec dict that the head decodes with'
            if decoder.ours and not encoder.ours and pair[0] != 'megvii':
                repair = f"alignment='{pair[0]}' in the decoder, as the targets have it; or {repair}"
            if half_a_pixel:
                yield warning('alignment', encoder.where, f'{what}: half an input pixel apart', repair)
            else:
                yield error('alignment', encoder.where, f'{what}: every joint is off by a part of a cell', repair)


def rule_crops(recipe: Recipe) -> Iterator[Finding]:
    """Alignment against ``TopdownAffine``'s ``use_udp``, in every pipeline."""
    for codec in recipe.decoders or recipe.encoders:
        for crop in recipe.crops:
            use_udp = bool(crop.cfg.get('use_udp', False))
            if codec.alignment and use_udp != (codec.alignment == 'udp'):
                yield error('crop-alignment', crop.where,
                            f"TopdownAffine(use_udp={use_udp}) does not belong with alignment '{codec.alignment}' of "
                            f'{codec.where}: joints would be off by a part of a cell',
                            "use_udp=True in all pipelines with alignment 'udp', in none with any other")


def rule_flip(recipe: Recipe) -> Iterator[Finding]:
    """A flip test that shifts the heatmaps although the alignment needs no shift, or the other way round."""
    test_cfg = recipe.test_cfg
    if not test_cfg.get('flip_test', False):
        return
    mode = test_cfg.get('flip_mode', 'heatmap')
    if mode != 'heatmap' and uses_ours(recipe):
        yield error('flip-mode', 'model.test_cfg.flip_mode', f'flip_mode={mode!r} is not for heatmaps', "flip_mode='heatmap'")
    shift = bool(test_cfg.get('shift_heatmap', False))
    for codec in recipe.decoders:
        wanted = codec.alignment in SHIFTED
        if codec.alignment and shift != wanted:
            yield error('flip-shift', 'model.test_cfg.shift_heatmap',
                        f"shift_heatmap={shift} does not belong with alignment '{codec.alignment}': picture and flipped "
                        'picture disagree by a part of a cell', f'test_cfg=dict(shift_heatmap={wanted})')
        elif wanted and uses_ours(recipe):
            yield warning('flip-half-pixel', codec.where,
                          "alignment 'msra' leaves a bias of half an input pixel under flip test (stride 4)",
                          "alignment='center' with shift_heatmap=False, if you train anew")


def rule_targets(recipe: Recipe) -> Iterator[Finding]:
    """Training pipelines without targets; these lists are rebuilt by hand where the encoder changes."""
    if not recipe.losses:
        return
    known = {'type', '_scope_', *inspect.signature(TRANSFORMS.get('GenerateTarget')).parameters}
    for where, steps in training_pipelines(recipe):
        targets = [step for step in steps if isinstance(step, dict) and type_name(step) == 'GenerateTarget']
        if not targets:
            yield error('no-target', where, 'no step of this training pipeline is GenerateTarget: there is nothing to learn from',
                        "dict(type='GenerateTarget', encoder=codec) before PackPoseInputs")
        for step in targets:
            unknown = ', '.join(sorted(set(step) - known))
            if unknown or not step.get('encoder'):
                yield error('no-target', where, f'GenerateTarget takes no {unknown}' if unknown else 'GenerateTarget has no encoder',
                            "dict(type='GenerateTarget', encoder=codec)")


def training_pipelines(recipe: Recipe) -> Iterator[tuple[str, list]]:
    """Where each is, and its steps; those of data sets inside a wrapper and the wrapper's own are one."""
    loader = recipe.cfg.get('train_dataloader') or {}
    lists = [part.cfg['pipeline'] for part in walk(loader, '') if isinstance(part.cfg.get('pipeline'), (list, tuple))]
    if lists:
        yield 'train_dataloader.dataset.pipeline', [step for steps in lists for step in steps]
    for hook in recipe.hooks:
        if isinstance(hook.cfg.get('switch_pipeline'), (list, tuple)):
            yield f'{hook.where}.switch_pipeline', list(hook.cfg['switch_pipeline'])


def rule_rounded_targets(recipe: Recipe) -> Iterator[Finding]:
    """Targets whose centre of mass is not the annotated dot."""
    for encoder in recipe.encoders:
        rounded = encoder.type == 'MegviiHeatmap' or (encoder.type == 'MSRAHeatmap' and not encoder.option('unbiased'))
        if rounded and recipe.losses:
            yield warning('rounded-targets', encoder.where,
                          f'{encoder.type} moves the joint to the nearest cell before it draws the Gaussian: the loss cannot '
                          'learn what lies between cells', 'unbiased=True (MSRAHeatmap), UDPHeatmap, or DotAnnotationCodec')


def rule_gaussian_reading(recipe: Recipe) -> Iterator[Finding]:
    """Our decoder on maps that were trained to look like Gaussians."""
    widths = [encoder.option('sigma') for encoder in recipe.encoders if not encoder.ours]
    sigma = max((width for width in widths if is_number(width)), default=0)  # SimCC's is a pair, and not of a map
    for head in recipe.heads:
        rule = head.decoder.supplier if head.decoder is not None and not head.losses else None
        if not sigma or rule is None:
            continue
        if reading(rule) != Relu() or head.decoder.option('score') != 'max':
            yield warning('gaussian-reading', f'{head.where}.decoder',
                          f'maps trained towards Gaussians are read under {name_of(rule)} with score={head.decoder.option("score")!r}: '
                          'their values are masses already, and their height is the score', "supplier='relu', score='max'")
        if not head.decoder.option('blur'):
            yield warning('gaussian-reading', f'{head.where}.decoder',
                          f'the four best cells of a Gaussian (sigma {sigma}) hold nearly equal mass under {name_of(rule)}: '
                          'joints are drawn to the middle of the square', f"supplier='relu', score='max', blur={sigma:g}")


# ---------------------------------------------------------------------------------------------------------------------
# Do the numbers fit?


def rule_cell_size(recipe: Recipe) -> Iterator[Finding]:
    """A ``cell_size`` of the loss that is not the stride."""
    for head in recipe.heads:
        stride = stride_of(head.decoder)
        for loss in head.losses:
            strength, cell = loss.cfg.get('entropic_lambda'), loss.cfg.get('cell_size')
            if not (is_number(strength) and is_number(cell) and strength and cell) or stride is None or cell == stride:
                continue  # building the part says what is wrong with it
            what = (f'cell_size is {cell}, but a heatmap cell is {stride:g} input pixels wide: epsilon is '
                    f'{1 / (strength * cell):g} cells instead of {1 / (strength * stride):g}')
            repair = f'cell_size={stride:g}'
            if cell == 1:
                yield warning('cell-size', loss.where, f'{what}; right only if the cost is meant in cells', repair)
            else:
                yield error('cell-size', loss.where, what, repair)


def rule_options(recipe: Recipe) -> Iterator[Finding]:
    """Options of the loss that work against each other."""
    for loss in recipe.losses:
        if 'num_iters' in loss.cfg and loss.option('solver') != 'sinkhorn':
            yield warning('num-iters', f'{loss.where}.num_iters',
                          f"solver={loss.option('solver')!r} does not use num_iters", "leave it out, or solver='sinkhorn'")
        if not loss.option('use_target_weight'):
            yield warning('target-weight', loss.where,
                          'use_target_weight=False ignores the weights of the data set; only joints with an empty target are left out',
                          'use_target_weight=True')
        if isinstance(loss.supplier, Softmax) and loss.option('cross_entropy_weight') == 0:
            yield warning('stuck-maps', f'{loss.where}.cross_entropy_weight',
                          "under 'softmax' the transport cost alone hardly moves a map whose mass lies on a wrong cell",
                          'leave it out (0.5), or give it a positive weight')


def rule_naive_dots(recipe: Recipe) -> Iterator[Finding]:
    """Naive dots that the loss spreads again over four cells."""
    naive = [encoder for encoder in recipe.encoders if encoder.ours and encoder.option('subpixel') is False]
    for loss in recipe.losses:
        if naive and loss.option('subpixel'):
            yield warning('naive-dots', loss.where,
                          f'{naive[0].where} rounds the dots to cells (subpixel=False); unbiased demanders, the default, spread '
                          'them over four cells again, and the closed form for one is not used', 'subpixel=False in the loss too')


def rule_square_cells(recipe: Recipe) -> Iterator[Finding]:
    """Cells that are not square in the input, which the ground distance takes them for."""
    for decoder in recipe.decoders:
        small, large = decoder.size('heatmap_size'), decoder.size('input_size')
        if decoder.alignment and small and large and large[0] * small[1] != large[1] * small[0]:
            yield warning('square-cells', decoder.where,
                          f'a cell is {large[0] / small[0]:g} x {large[1] / small[1]:g} input pixels, the cost counts cells',
                          'a heatmap_size in the proportions of input_size')


def rule_output(recipe: Recipe) -> Iterator[Finding]:
    """What the network really gives, found on the meta device: no memory, no arithmetic."""
    decoder = next((codec for codec in recipe.decoders if codec.alignment and codec.size('input_size')), None)
    if decoder is None or any(any(rule(recipe)) for rule in (rule_leftovers, rule_dicts, rule_parts)):
        return
    size = decoder.size('input_size')
    assert size is not None
    try:
        shape = output_shape(recipe.cfg['model'], size)
    except UnknownShape:
        return
    except Exception as problem:  # whatever a constructor raises is what the user wants to read
        what = f'the model does not build or run: {type(problem).__name__}: {problem}'
        yield error('model', 'model', what, 'see the message')
        return
    if shape is None or decoder.combined:
        return
    joints, height, width = shape
    if decoder.size('heatmap_size') != (width, height):
        yield error('output-size', decoder.where,
                    f'for an input of {size} the model gives maps of (W, H) = {(width, height)}, not '
                    f'{decoder.size("heatmap_size")}', f'heatmap_size={(width, height)}, or another stride of the head')
    for where, dataset, known in recipe.datasets:
        selected = recipe.test_cfg.get('output_keypoint_indices') and not where.startswith('train')
        if known is not None and known != joints and not selected:
            yield error('joints', where, f'{type_name(dataset)} has {known} joints, the model gives {joints} maps',
                        f'out_channels={known} in the head, or the data set that belongs to it')


class UnknownShape(Exception):
    """The output of a model cannot be derived without running it."""


class _NumbersOnCPU(TorchFunctionMode):
    """Constructors ask ``linspace`` for numbers (drop path rates), which the meta device does not have."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = dict(kwargs or {})
        if func is torch.linspace:
            options.setdefault('device', 'cpu')
        return func(*args, **options)


def output_shape(model: dict, input_size: tuple[int, int]) -> tuple[int, int, int] | None:
    """(K, H, W) of the heatmaps that are decoded, or None if the output is not heatmaps.

    Args:
        model: config of the estimator.
        input_size: (w, h) in pixels.

    Raises:
        UnknownShape: the model does not run on the meta device, or needs a package that is not there.
        Exception: whatever the model itself raises.
    """
    for part in walk(model, 'model'):
        scope, _, name = str(part.cfg.get('type', '')).rpartition('.')
        if scope and MODELS.get(f'{scope}.{name}') is None:
            raise UnknownShape(f'{scope} is not installed')
    with torch.device('meta'), _NumbersOnCPU(), torch.no_grad():
        try:
            output = MODELS.build(copy.deepcopy(model)).eval()._forward(torch.empty(1, 3, input_size[1], input_size[0]))
        except (RuntimeError, NotImplementedError) as problem:
            if any(word in str(problem) for word in ('meta', 'CPU tensor')):
                raise UnknownShape(str(problem)) from problem
            raise
    if isinstance(output, list):  # heads with stages: the last one is decoded
        output = output[-1]
    elif isinstance(output, tuple):  # heads with a second output
        output = next((each for each in output if each.dim() == 4), None)
    return None if output is None or output.dim() != 4 else tuple(output.shape[1:])


RULES: tuple[Callable[[Recipe], Iterable[Finding]], ...] = (
    rule_unused, rule_imports, rule_leftovers, rule_dicts, rule_parts, rule_hooks, rule_heads, rule_combined, rule_loss_place,
    rule_codec, rule_decoder, rule_supplier, rule_encoder_supplier, rule_sizes, rule_alignment, rule_crops, rule_flip,
    rule_targets, rule_rounded_targets, rule_gaussian_reading, rule_cell_size, rule_options, rule_naive_dots, rule_square_cells,
    rule_output)


# ---------------------------------------------------------------------------------------------------------------------
# Comparing and writing


def disagree(one: SupplierRule | None, other: SupplierRule | None) -> bool:
    """Whether two rules read some map differently; a rule that is not known agrees with all."""
    return one is not None and other is not None and reading(one) != reading(other)


def reading(rule: SupplierRule) -> SupplierRule:
    """The rule as far as reading goes: the surrogate differs from relu in the gradient only."""
    return Relu() if isinstance(rule, ReluSurrogate) else rule


def name_of(rule: SupplierRule | None) -> str:
    """A rule in words, with its sharpness where reading depends on one."""
    if rule is None:
        return 'nothing known'
    sharpness = getattr(reading(rule), 'sharpness', None)
    return rule.name if sharpness is None else f'{rule.name} of sharpness {sharpness:g}'


def written_supplier(rule: SupplierRule | None) -> str:
    """A rule as one writes it in a config, for a decoder."""
    if rule is None:
        return "<the loss's>"
    rule = reading(rule)
    if rule == type(rule)():
        return f"'{rule.name}'"
    return f"dict(type='{rule.name}', sharpness={getattr(rule, 'sharpness', None):g})"


def same_codec(one: Codec, other: Codec) -> bool:
    """Whether two codecs encode and decode alike: kind, sizes, alignment, supplier rule and what else decides."""
    return (
        (one.type == other.type or (one.ours and other.ours))
        and all(one.size(name) == other.size(name) for name in ('input_size', 'heatmap_size'))
        and one.alignment == other.alignment
        and not disagree(one.supplier, other.supplier)
        and all(one.option(name) == other.option(name) for name in ('sigma', 'score', 'blur')))


def summary(codec: Codec) -> str:
    """A codec in words: kind, sizes and, of ours, alignment, supplier rule, score and blur."""
    parts = [f'{name} {codec.size(name)}' for name in ('input_size', 'heatmap_size') if codec.size(name)]
    if codec.ours:
        parts += [f"alignment '{codec.alignment}'", f'supplier {name_of(codec.supplier)}']
        parts += [f'{name} {codec.option(name)}' for name in ('score', 'blur')]
    return f'{codec.type}: {", ".join(parts)}'


def is_number(value: Any) -> bool:
    """Whether a value of a config is a number, which True and False are not."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def stride_of(codec: Codec | None) -> float | None:
    """Input pixels per cell, or None if not known or not the same in x and y."""
    small, large = (codec.size('heatmap_size'), codec.size('input_size')) if codec is not None else (None, None)
    if not small or not large or large[0] * small[1] != large[1] * small[0]:
        return None
    return large[0] / small[0]
