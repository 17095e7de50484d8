"""Input pixels to cells and back."""

import numpy as np
import pytest
import torch
from mmpose.codecs import MegviiHeatmap, MSRAHeatmap, UDPHeatmap

from hdm_mmpose.components import DotAnnotationCodec, SubPixelDecoder
from hdm_mmpose.components.alignment import ALIGNMENTS, Alignment, decoder_alignment

INPUT, HEATMAP = (192, 256), (48, 32)  # strides 4 and 8


@pytest.mark.parametrize(('name', 'pixel', 'cell'), [
    ('msra', (0, 0), (0, 0)),
    ('msra', (4, 8), (1, 1)),
    ('msra', (10, 100), (2.5, 12.5)),
    ('center', (1.5, 3.5), (0, 0)),  # the middle of the first stride
    ('center', (-.5, -.5), (-.5, -.5)),  # edges of pictures lie on each other
    ('center', (191.5, 255.5), (47.5, 31.5)),
    ('udp', (0, 0), (0, 0)),
    ('udp', (191, 255), (47, 31)),  # outermost centres lie on each other
    ('udp', (19.1, 25.5), (4.7, 3.1)),
])
def test_cells_by_hand(name, pixel, cell):
    alignment = Alignment(name, INPUT, HEATMAP)
    assert alignment.to_cells(np.array(pixel)) == pytest.approx(np.array(cell), abs=1e-12)
    assert alignment.to_cells(torch.tensor(pixel, dtype=torch.float64)).tolist() == pytest.approx(list(cell), abs=1e-12)


@pytest.mark.parametrize('name', ALIGNMENTS)
def test_there_and_back(name):
    """``to_codec_output`` inverts ``to_cells``, except that udp returns pixels of a picture w wide for those of one w - 1 wide."""
    alignment = Alignment(name, INPUT, HEATMAP)
    pixels = np.random.uniform(-5, 260, (2, 3, 5, 2))
    stretch = np.array(INPUT) / (np.array(INPUT) - 1) if name == 'udp' else 1
    back = alignment.to_codec_output(alignment.to_cells(pixels))
    np.testing.assert_allclose(back, pixels * stretch, rtol=0, atol=1e-10)
    tensor = alignment.to_codec_output(alignment.to_cells(torch.from_numpy(pixels)))
    np.testing.assert_allclose(tensor.numpy(), back, rtol=0, atol=1e-12)


@pytest.mark.parametrize(('name', 'gap'), [('msra', (.75, .875)), ('udp', (0, 0)), ('center', (0, 0))])
def test_who_agrees_with_flipping(name, gap):
    """Cell of the mirrored pixel minus the mirrored cell."""
    alignment = Alignment(name, INPUT, HEATMAP)
    pixels = np.random.uniform(0, 190, (7, 2))
    mirrored = alignment.to_cells(np.array(INPUT) - 1 - pixels)
    difference = mirrored - (np.array(HEATMAP) - 1 - alignment.to_cells(pixels))
    np.testing.assert_allclose(difference, [gap] * 7, atol=1e-12)


def test_dtypes():
    alignment = Alignment('center', INPUT, HEATMAP)
    assert alignment.to_cells(np.zeros((3, 2), np.float32)).dtype == np.float64
    assert alignment.to_cells(torch.zeros(3, 2)).dtype == torch.float32
    assert alignment.to_codec_output(torch.zeros(3, 2, dtype=torch.float64)).dtype == torch.float64


def test_lists_as_configs_have_them_and_equality():
    assert Alignment('udp', [192, 256], [48, 32]) == Alignment('udp', INPUT, HEATMAP)
    assert Alignment('udp', INPUT, HEATMAP) != Alignment('msra', INPUT, HEATMAP)


@pytest.mark.parametrize(('arguments', 'message'), [
    (('centre', INPUT, HEATMAP), r"alignment must be one of \('msra', 'udp', 'center'\), got 'centre'"),
    (('udp', 192, HEATMAP), r'input_size must be \(width, height\), got 192'),
    (('udp', (192, 256, 3), HEATMAP), r'input_size must be \(width, height\), got \(192, 256, 3\)'),
    (('udp', INPUT, (48, 1)), r'heatmap_size must be two integers .* at least 2, got \(48, 1\)'),
    (('udp', INPUT, (48., 32)), r'heatmap_size must be two integers .* got \(48.0, 32\)'),
    (('udp', (True, 256), HEATMAP), r'input_size must be two integers .* got \(True, 256\)'),
])
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        Alignment(*arguments)


@pytest.mark.parametrize(('decoder', 'name'), [
    (MSRAHeatmap(INPUT, HEATMAP, sigma=2), 'msra'), (UDPHeatmap(INPUT, HEATMAP, sigma=2), 'udp'),
    (DotAnnotationCodec(INPUT, HEATMAP, alignment='udp'), 'udp'), (SubPixelDecoder(INPUT, HEATMAP), 'center')])
def test_of_decoder(decoder, name):
    assert decoder_alignment(decoder) == name and Alignment.of_decoder(decoder) == Alignment(name, INPUT, HEATMAP)
    assert Alignment.of_decoder(decoder, 'msra') == Alignment('msra', INPUT, HEATMAP)


@pytest.mark.parametrize('decoder', [MegviiHeatmap(INPUT, HEATMAP, kernel_size=(11, 11)), object()])
def test_alignment_that_is_not_known_must_be_given(decoder):
    assert decoder_alignment(decoder) is None
    with pytest.raises(ValueError, match=f'alignment must be given for a decoder of type {type(decoder).__name__}'):
        Alignment.of_decoder(decoder)


@pytest.mark.parametrize('kind', [np.array, torch.tensor])
def test_half_a_cell_outside_is_held(kind):
    cells = kind([[0, 0], [-.5, 31.5], [47.5, -.5], [-.51, 3], [3, 31.51], [47.51, 3], [3, -.51], [float('nan'), 3]])
    assert Alignment('msra', INPUT, HEATMAP).holds(cells).tolist() == [True] * 3 + [False] * 5
