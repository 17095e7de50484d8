"""Rules: do encoder, decoder, loss and codec say the same?"""

from __future__ import annotations

import inspect
from collections.abc import Iterator

from mmpose.registry import TRANSFORMS

from hdm_mmpose.components.supplier_agreement_hook import describe, disagree, read_as
from hdm_mmpose.transport import SupplierRule
from hdm_mmpose.transport.suppliers import Relu, ReluSurrogate

from .finding import Finding, config_rule, error, warning
from .parts import Codec, ConfigParts, Head, is_number, type_name, uses_ours, walk
from .rules_build import PAIRED_HEADS

SHIFTED = ('msra',)  # alignments for which flipped heatmaps are to be shifted by one cell


@config_rule('codec in use', {'codec-not-used': 'the top-level `codec` is another than pipelines and head hold'})
def rule_codec(parts: ConfigParts) -> Iterator[Finding]:
    """A top-level codec that nothing uses: pipelines and heads keep the copies of their base config."""
    used = [codec for codec in parts.encoders + parts.decoders if codec.alignment]
    for codec in parts.codecs:
        if used and codec.alignment and not any(same_codec(codec, other) for other in used):
            still = '; '.join(sorted({summary(other) for other in used}))
            yield error('codec-not-used', codec.where,
                        f'no pipeline and no head uses the top-level codec ({summary(codec)}): they still hold {still}',
                        'override head.decoder, and rebuild the pipelines with GenerateTarget(encoder=codec)')


@config_rule('decoder', {
    'no-decoder': 'the head has no decoder',
    'old-decoder': 'targets are dots, the head still decodes Gaussians',
    'gaussian-decoder': 'a Gaussian decoder on maps of this loss: scores rank badly, precision is lost',
    'score': "`score='max'` on maps of this loss, which leaves their height free"})
def rule_decoder(parts: ConfigParts) -> Iterator[Finding]:
    """What decodes the maps of our loss, and what its scores mean."""
    swapped = [encoder.type for encoder in parts.encoders if encoder.ours]
    for head in parts.heads:
        if not head.losses:
            continue
        if head.decoder is None:
            yield error('no-decoder', head.where, 'the head has no decoder, so it cannot predict', new_decoder(parts, head))
        elif not head.decoder.ours and swapped:
            yield error('old-decoder', head.decoder.where,
                        f'the pipeline encodes with {swapped[0]}, the head still decodes with {head.decoder.type}',
                        'decoder=dict(codec, _delete_=True)')
        elif not head.decoder.ours and head.decoder.alignment:
            yield warning('gaussian-decoder', head.decoder.where,
                          f'{head.decoder.type} looks for a Gaussian and takes its height for the score; this loss leaves the '
                          'height free: scores rank detections badly, and precision is lost', new_decoder(parts, head))
        elif head.decoder.option('score') == 'max':
            yield warning('score', head.decoder.where,
                          "score='max' is the height of the map, which this loss leaves free", "score='mass'")


def new_decoder(parts: ConfigParts, head: Head) -> str:
    """The decoder that fits a head's loss and the targets, as one writes it."""
    known = next((codec for codec in [head.decoder, *parts.encoders, *parts.codecs] if codec and codec.alignment), None)
    if known is None:
        return "decoder=dict(type='SubPixelDecoder', ...)"
    alignment = 'center' if known.alignment == 'megvii' else known.alignment
    return (f"decoder=dict(_delete_=True, type='SubPixelDecoder', input_size={known.size('input_size')}, "
            f"heatmap_size={known.size('heatmap_size')}, alignment='{alignment}', "
            f'supplier={written_supplier(head.losses[-1].supplier)})')


@config_rule('supplier rule', {
    'supplier': 'loss and decoder read maps under different supplier rules',
    'stage-supplier': 'a stage trains another supplier rule than the one that is decoded',
    'paired-supplier': 'a head that normalises its maps, and a supplier rule other than relu'})
def rule_supplier(parts: ConfigParts) -> Iterator[Finding]:
    """The rule the loss trains with against the rule the decoder reads with."""
    for head in parts.heads:
        if not head.losses:
            continue
        last = head.losses[-1]
        if head.decoder is not None and disagree(last.supplier, head.decoder.supplier):
            yield error('supplier', head.decoder.where,
                        f'the loss trains {describe(last.supplier)}, the decoder reads {describe(head.decoder.supplier)}',
                        f'supplier={written_supplier(last.supplier)} in both')
        for loss in head.losses[:-1]:
            if disagree(loss.supplier, last.supplier):
                yield warning('stage-supplier', loss.where,
                              f'this stage trains {describe(loss.supplier)}, the one that is decoded {describe(last.supplier)}',
                              'one rule for all stages')
        if head.type in PAIRED_HEADS and not isinstance(last.supplier, (Relu, ReluSurrogate)):
            yield error('paired-supplier', last.where,
                        f'{head.type} normalises its maps itself: {describe(last.supplier)} reads them as nearly uniform',
                        "supplier='relu'")


@config_rule('supplier rule of the encoder', {
    'encoder-supplier': 'encoder and decoder name different supplier rules'})
def rule_encoder_supplier(parts: ConfigParts) -> Iterator[Finding]:
    """An encoder that names another supplier rule than the decoder."""
    for encoder in parts.encoders:
        for decoder in parts.decoders:
            if disagree(encoder.supplier, decoder.supplier):
                yield warning('encoder-supplier', encoder.where,
                              f'the encoder says {describe(encoder.supplier)}, the decoder {describe(decoder.supplier)}: '
                              'encoding does not use it, but reading the config misleads', 'one codec dict for both')


@config_rule('sizes', {
    'size': 'encoder and decoder have different sizes',
    'crop-size': 'crop and decoder have different input sizes'})
def rule_sizes(parts: ConfigParts) -> Iterator[Finding]:
    """Input and heatmap sizes that differ between encoder, decoder and crop."""
    for decoder in parts.decoders:
        for encoder in parts.encoders:
            for name in ('input_size', 'heatmap_size'):
                ours, theirs = decoder.size(name), encoder.size(name)
                if decoder.alignment and encoder.alignment and ours and theirs and ours != theirs:
                    yield error('size', encoder.where,
                                f'{name} (width, height) is {theirs} in the encoder and {ours} in the decoder',
                                'build both from one codec dict')
        for crop in parts.crops:
            given, wanted = crop.cfg.get('input_size'), decoder.size('input_size')
            given = tuple(given) if isinstance(given, (list, tuple)) else given
            if given and wanted and given != wanted:
                yield error('crop-size', crop.where, f'the crop is {given} pixels, the decoder expects {wanted}',
                            f"dict(type='TopdownAffine', input_size={wanted})")


@config_rule('alignment', {'alignment': 'encoder and decoder place cells differently on the input'})
def rule_alignment(parts: ConfigParts) -> Iterator[Finding]:
    """Alignments that differ between encoder and decoder."""
    for decoder in parts.decoders:
        for encoder in parts.encoders:
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


@config_rule('alignment of the crops', {
    'crop-alignment': "`use_udp` of the crop does not belong with the codec's alignment"})
def rule_crops(parts: ConfigParts) -> Iterator[Finding]:
    """Alignment against ``TopdownAffine``'s ``use_udp``, in every pipeline."""
    for codec in parts.decoders or parts.encoders:
        for crop in parts.crops:
            use_udp = bool(crop.cfg.get('use_udp', False))
            if codec.alignment and use_udp != (codec.alignment == 'udp'):
                yield error('crop-alignment', crop.where,
                            f"TopdownAffine(use_udp={use_udp}) does not belong with alignment '{codec.alignment}' of "
                            f'{codec.where}: joints would be off by a part of a cell',
                            "use_udp=True in all pipelines with alignment 'udp', in none with any other")


@config_rule('flip test', {
    'flip-mode': 'a `flip_mode` that is not for heatmaps',
    'flip-shift': '`shift_heatmap` does not belong with the alignment',
    'flip-half-pixel': "alignment 'msra' has a bias of half an input pixel under flip test"})
def rule_flip(parts: ConfigParts) -> Iterator[Finding]:
    """A flip test that shifts the heatmaps although the alignment needs no shift, or the other way round."""
    test_cfg = parts.test_cfg
    if not test_cfg.get('flip_test', False):
        return
    mode = test_cfg.get('flip_mode', 'heatmap')
    if mode != 'heatmap' and uses_ours(parts):
        yield error('flip-mode', 'model.test_cfg.flip_mode', f'flip_mode={mode!r} is not for heatmaps', "flip_mode='heatmap'")
    shift = bool(test_cfg.get('shift_heatmap', False))
    for codec in parts.decoders:
        wanted = codec.alignment in SHIFTED
        if codec.alignment and shift != wanted:
            yield error('flip-shift', 'model.test_cfg.shift_heatmap',
                        f"shift_heatmap={shift} does not belong with alignment '{codec.alignment}': picture and flipped "
                        'picture disagree by a part of a cell', f'test_cfg=dict(shift_heatmap={wanted})')
        elif wanted and uses_ours(parts):
            yield warning('flip-half-pixel', codec.where,
                          "alignment 'msra' leaves a bias of half an input pixel under flip test (stride 4)",
                          "alignment='center' with shift_heatmap=False, if you train anew")


@config_rule('targets', {'no-target': 'a training pipeline without a usable `GenerateTarget`'})
def rule_targets(parts: ConfigParts) -> Iterator[Finding]:
    """Training pipelines without targets; these lists are rebuilt by hand where the encoder changes."""
    if not parts.losses:
        return
    known = {'type', '_scope_', *inspect.signature(TRANSFORMS.get('GenerateTarget')).parameters}
    for where, steps in training_pipelines(parts):
        targets = [step for step in steps if isinstance(step, dict) and type_name(step) == 'GenerateTarget']
        if not targets:
            yield error('no-target', where, 'no step of this training pipeline is GenerateTarget: there is nothing to learn from',
                        "dict(type='GenerateTarget', encoder=codec) before PackPoseInputs")
        for step in targets:
            unknown = ', '.join(sorted(set(step) - known))
            if unknown or not step.get('encoder'):
                yield error('no-target', where, f'GenerateTarget takes no {unknown}' if unknown else 'GenerateTarget has no encoder',
                            "dict(type='GenerateTarget', encoder=codec)")


def training_pipelines(parts: ConfigParts) -> Iterator[tuple[str, list]]:
    """Where each is, and its steps; those of data sets inside a wrapper and the wrapper's own are one."""
    loader = parts.cfg.get('train_dataloader') or {}
    lists = [part.cfg['pipeline'] for part in walk(loader, '') if isinstance(part.cfg.get('pipeline'), (list, tuple))]
    if lists:
        yield 'train_dataloader.dataset.pipeline', [step for steps in lists for step in steps]
    for hook in parts.hooks:
        if isinstance(hook.cfg.get('switch_pipeline'), (list, tuple)):
            yield f'{hook.where}.switch_pipeline', list(hook.cfg['switch_pipeline'])


@config_rule('precision of the targets', {'rounded-targets': 'targets whose centre of mass is not the annotated dot'})
def rule_rounded_targets(parts: ConfigParts) -> Iterator[Finding]:
    """Targets whose centre of mass is not the annotated dot."""
    for encoder in parts.encoders:
        rounded = encoder.type == 'MegviiHeatmap' or (encoder.type == 'MSRAHeatmap' and not encoder.option('unbiased'))
        if rounded and parts.losses:
            yield warning('rounded-targets', encoder.where,
                          f'{encoder.type} moves the joint to the nearest cell before it draws the Gaussian: the loss cannot '
                          'learn what lies between cells', 'unbiased=True (MSRAHeatmap), UDPHeatmap, or DotAnnotationCodec')


@config_rule('reading of Gaussian maps', {
    'gaussian-reading': 'our decoder on maps that were trained towards Gaussians, with options for other maps'})
def rule_gaussian_reading(parts: ConfigParts) -> Iterator[Finding]:
    """Our decoder on maps that were trained to look like Gaussians."""
    widths = [encoder.option('sigma') for encoder in parts.encoders if not encoder.ours]
    sigma = max((width for width in widths if is_number(width)), default=0)  # SimCC's is a pair, and not of a map
    for head in parts.heads:
        rule = head.decoder.supplier if head.decoder is not None and not head.losses else None
        if not sigma or rule is None:
            continue
        if read_as(rule) != Relu() or head.decoder.option('score') != 'max':
            yield warning('gaussian-reading', f'{head.where}.decoder',
                          f'maps trained towards Gaussians are read under {describe(rule)} with score={head.decoder.option("score")!r}: '
                          'their values are masses already, and their height is the score', "supplier='relu', score='max'")
        if not head.decoder.option('blur'):
            yield warning('gaussian-reading', f'{head.where}.decoder',
                          f'the four best cells of a Gaussian (sigma {sigma}) hold nearly equal mass under {describe(rule)}: '
                          'joints are drawn to the middle of the square', f"supplier='relu', score='max', blur={sigma:g}")


def written_supplier(rule: SupplierRule | None) -> str:
    """A rule as one writes it in a config, for a decoder."""
    if rule is None:
        return "<the loss's>"
    rule = read_as(rule)
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
        parts += [f"alignment '{codec.alignment}'", f'supplier {describe(codec.supplier)}']
        parts += [f'{name} {codec.option(name)}' for name in ('score', 'blur')]
    return f'{codec.type}: {", ".join(parts)}'
