"""tools/estimate_training.py: counting a network whose cost is known by hand, and the table made of it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from mmengine.config import Config
from mmpose.registry import MODELS
from torch import nn

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / 'tools'))

import estimate_training  # noqa: E402
from estimate_training import Cost  # noqa: E402

ROW = 'table3-hrnet-w48'


def test_cost_of_a_network_counted_by_hand(monkeypatch):
    network = nn.ModuleDict({'backbone': nn.Conv2d(3, 4, 3, padding=1), 'head': nn.ReLU()})
    monkeypatch.setattr(MODELS, 'build', lambda config: network)
    width, height = 10, 6
    cost = estimate_training.count(Config({'model': {}, 'codec': {'input_size': (width, height)}}))
    assert cost.operations == 2 * (3 * 3 * 3) * 4 * width * height  # a multiplication and an addition each
    assert cost.kept == 4 * (3 + 4) * width * height  # the convolution keeps what it was given, ReLU what it gives
    assert cost.weights == 4 * (3 * 3 * 3) + 4


def test_cost_of_a_real_network_is_that_of_its_convolutions():
    (path,) = ROOT.glob('configs/demo/td-hm_res18_mse-*.py')
    config = estimate_training.read(path)
    cost = estimate_training.count(config)
    model = MODELS.build(config.model)
    counted = []

    def hook(layer, given, result):
        # per output cell of a convolution, per input cell of its transpose
        cells = (given[0] if isinstance(layer, nn.ConvTranspose2d) else result).shape[-2:].numel()
        counted.append(2 * cells * layer.weight.numel())

    for layer in model.modules():
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
            layer.register_forward_hook(hook)
    width, height = config.codec.input_size
    picture = next(model.parameters()).new_zeros(1, 3, height, width)
    model.eval()(picture, None, mode='tensor')
    assert cost.operations == sum(counted)
    assert cost.weights == sum(value.numel() for value in model.parameters())
    assert cost.kept > picture.numel() * 4


def test_what_a_cpu_cannot_run_is_replaced():
    config = estimate_training.read(ROOT / 'configs/coco/td-hm_hrformer-base_mse-8xb32-210e_coco-256x192.py')
    assert config.model.backbone.norm_cfg == {'type': 'BN'} and 'init_cfg' not in config.model.backbone


def test_table_by_hand(monkeypatch, capsys):
    monkeypatch.setattr(estimate_training, 'count', lambda config: Cost(10 * 10**9, 2**27, 2**26))
    estimate_training.main(['table3', '--gpus', '4', '--tflops', '2'])
    head, _, _, *lines = capsys.readouterr().out.splitlines()
    assert head == '4 GPUs, 2 TFLOP/s each (assumed)'
    hours = 3 * 10e9 * 22246 * 210 / (4 * 2e12) / 3600
    # 32 pictures of 1/8 GiB, and 2^26 weights of 16 bytes
    assert f'| ResNet-152, 256 x 256 | mpii | 32 | 10.0 | {hours:.1f} | 5 |' in lines
    assert f'| HRNet-W48, 256 x 256 | mpii | 64 | 10.0 | {hours:.1f} | 9 |' in lines
    assert len(lines) == 3  # one for each network, though five methods train some of them


def test_a_row_without_a_baseline_beside_it_is_estimated_too(monkeypatch, capsys):
    monkeypatch.setattr(estimate_training, 'count', lambda config: Cost(1, 1, 1))
    estimate_training.main([f'{ROW}-ours'])
    assert '| HRNet-W48, 256 x 256 | mpii |' in capsys.readouterr().out


@pytest.mark.parametrize(('words', 'message'), [
    (['tabel3'], "got 'tabel3'; nearest are table3"),
    (['table1-hourglass'], 'rows must include one that a recipe trains, got table1-hourglass'),
    (['table3', '--gpus', '0'], '--gpus must be 1 or more'),
    (['table3', '--tflops', 'nan'], '--tflops above 0'),
])
def test_bad_words_are_refused(words, message, capsys):
    with pytest.raises(SystemExit) as stop:
        estimate_training.main(words)
    assert stop.value.code == 2 and message in capsys.readouterr().err
