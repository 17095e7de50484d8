"""Rules: do the numbers fit?"""

from __future__ import annotations

from collections.abc import Iterator

from hdm_mmpose.transport.suppliers import Softmax

from .finding import Finding, config_rule, error, warning
from .parts import Codec, ConfigParts, is_number


@config_rule('cell size', {'cell-size': '`cell_size` of the loss is not the stride'})
def rule_cell_size(parts: ConfigParts) -> Iterator[Finding]:
    """A ``cell_size`` of the loss that is not the stride."""
    for head in parts.heads:
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


@config_rule('options of the loss', {
    'num-iters': '`num_iters` with a solver that does not use it',
    'target-weight': 'the weights of the data set are ignored',
    'stuck-maps': 'softmax without a cross-entropy: a map with its mass on a wrong cell hardly moves'})
def rule_options(parts: ConfigParts) -> Iterator[Finding]:
    """Options of the loss that work against each other."""
    for loss in parts.losses:
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


@config_rule('naive dots', {'naive-dots': 'the codec rounds dots to cells, the loss spreads them again'})
def rule_naive_dots(parts: ConfigParts) -> Iterator[Finding]:
    """Naive dots that the loss spreads again over four cells."""
    naive = [encoder for encoder in parts.encoders if encoder.ours and encoder.option('subpixel') is False]
    for loss in parts.losses:
        if naive and loss.option('subpixel'):
            yield warning('naive-dots', loss.where,
                          f'{naive[0].where} rounds the dots to cells (subpixel=False); unbiased demanders, the default, spread '
                          'them over four cells again, and the closed form for one is not used', 'subpixel=False in the loss too')


@config_rule('shape of a cell', {'square-cells': 'cells that are not square in the input'})
def rule_square_cells(parts: ConfigParts) -> Iterator[Finding]:
    """Cells that are not square in the input, which the ground distance takes them for."""
    for decoder in parts.decoders:
        small, large = decoder.size('heatmap_size'), decoder.size('input_size')
        if decoder.alignment and small and large and large[0] * small[1] != large[1] * small[0]:
            yield warning('square-cells', decoder.where,
                          f'a cell is {large[0] / small[0]:g} x {large[1] / small[1]:g} input pixels, the cost counts cells',
                          'a heatmap_size in the proportions of input_size')


def stride_of(codec: Codec | None) -> float | None:
    """Input pixels per cell, or None if not known or not the same in x and y."""
    small, large = (codec.size('heatmap_size'), codec.size('input_size')) if codec is not None else (None, None)
    if not small or not large or large[0] * small[1] != large[1] * small[0]:
        return None
    return large[0] / small[0]
