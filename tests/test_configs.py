"""Every config: its parts agree, it builds, and it takes a training step and an evaluation on real pictures.

Changing ``codec`` alone in a config changes nothing: the head's decoder and the pipeline's encoder keep their own. So all
three are compared, in every pipeline.
"""

from __future__ import annotations

import copy
import functools
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.evaluator import Evaluator
from mmengine.optim import build_optim_wrapper
from mmengine.structures import InstanceData, PixelData
from mmpose.registry import DATASETS, KEYPOINT_CODECS, MODELS
from mmpose.structures import PoseDataSample
from mmpose.utils import register_all_modules

import hdm_mmpose.components  # noqa: F401  registers everything
from hdm_mmpose.features import without_memory
from tests.real_data import COCO, MPII, REPOSITORY, coco_options, mpii_options, small_options

register_all_modules(init_default_scope=True)

CONFIGS = sorted(REPOSITORY.glob('configs/[!_]*/*.py'))
OURS = [path for path in CONFIGS if '_hdm' in path.name]
# The one config whose target is not made by its decoder's codec: dots as targets, decoded as the Gaussian baseline decodes.
OTHER_ENCODER = ['td-hm_hrnet-w48_dot-mse-8xb32-210e_coco-384x288.py']
# A small one, and the paper's setting; `make test-all` runs all.
STEPS_BY_DEFAULT = [
    'td-hm_hrnet-w32_hdm-8xb64-210e_mpii-256x256.py',
    'td-hm_hrnet-w32_hdm-paper-8xb64-210e_coco-256x192.py',
]
NEEDED_PACKAGES = {'ViTPose': 'mmpretrain', 'cspnext': 'albumentations'}


def name(path: Path) -> str:
    return path.stem


@functools.lru_cache(maxsize=None)
def parsed(path: Path) -> Config:
    return Config.fromfile(path)


def read(path: Path) -> Config:
    """A config of one's own; parsing takes longer than copying."""
    return copy.deepcopy(parsed(path))


def skip_without_packages(path: Path) -> None:
    for part, package in NEEDED_PACKAGES.items():
        if part in path.name and find_spec(package) is None:
            pytest.skip(f'{path.name} needs the package {package}, which is not installed')


def plain(value):
    """A config value without the registry scopes that inheritance adds."""
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items() if key != '_scope_'}
    return [plain(each) for each in value] if isinstance(value, (list, tuple)) else value


def pipelines(config: Config) -> dict[str, list]:
    found = {loader: config[loader].dataset.pipeline for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader')}
    for hook in config.get('custom_hooks', []):
        if 'switch_pipeline' in hook:
            found['switch_pipeline'] = hook.switch_pipeline
    return found


def encoders(config: Config) -> list[dict]:
    return [plain(step.encoder) for steps in pipelines(config).values() for step in steps if step.type == 'GenerateTarget']


@pytest.mark.parametrize('path', CONFIGS, ids=name)
def test_codec_decoder_and_every_encoder_agree(path):
    config = read(path)
    decoder, codec, made = plain(config.model.head.decoder), plain(config.codec), encoders(config)
    assert codec == decoder
    assert len(made) == 1 + any('switch_pipeline' in hook for hook in config.get('custom_hooks', []))
    if path.name in OTHER_ENCODER:
        assert made[0] != decoder
        for size in ('input_size', 'heatmap_size'):
            assert made[0][size] == decoder[size]
    else:
        assert all(encoder == decoder for encoder in made)


@pytest.mark.parametrize('path', CONFIGS, ids=name)
def test_alignment_fits_the_crop_and_the_flip_test(path):
    config = read(path)
    alignment = {'MSRAHeatmap': 'msra', 'UDPHeatmap': 'udp'}.get(config.codec.type, config.codec.get('alignment'))
    crops = [[step for step in steps if step.type == 'TopdownAffine'] for steps in pipelines(config).values()]
    assert all(len(steps) == 1 for steps in crops)
    assert {bool(steps[0].get('use_udp')) for steps in crops} == {alignment == 'udp'}
    assert {tuple(steps[0].input_size) for steps in crops} == {tuple(config.codec.input_size)}
    assert config.model.test_cfg.shift_heatmap == (alignment == 'msra')


@pytest.mark.parametrize('path', OURS, ids=name)
def test_loss_and_decoder_read_heatmaps_by_the_same_rule(path):
    config = read(path)
    loss, codec = MODELS.build(config.model.head.loss), KEYPOINT_CODECS.build(config.codec)
    assert type(loss).__name__ == 'EMDHeatmapLoss' and type(codec).__name__ == 'DotAnnotationCodec'
    assert loss.options.supplier == codec.supplier
    assert ('-paper' in path.name) == (loss.options.supplier.name == 'relu')


@pytest.mark.parametrize('path', [path for path in OURS if '-paper' in path.name], ids=name)
def test_paper_settings_are_the_papers(path):
    loss = MODELS.build(read(path).model.head.loss)
    wanted = {'hdm-paper-500it': 500, 'hdm-paper-1500it': 1500}.get(path.name.split('_')[2].partition('-8xb')[0], 1000)
    assert (loss.options.solver, loss.options.num_iters, loss.options.objective) == ('sinkhorn', wanted, 'shannon')
    assert loss.options.epsilon == (1.0 if '-cells' in path.name else 0.25)
    assert not loss.options.unbiased and loss.options.ground_distance.name == 'euclidean'
    assert (loss.options.reduction, loss.options.cross_entropy_weight, loss.options.loss_weight) == ('sum', 0, 1)
    codec = KEYPOINT_CODECS.build(read(path).codec)
    assert codec.subpixel == ('-naive' not in path.name)


@pytest.mark.parametrize('path', [path for path in CONFIGS if path.parent.name in ('coco', 'mpii')], ids=name)
def test_twins_differ_from_the_baseline_in_supervision_only(path):
    """Optimiser, schedule, batch, augmentation, backbone and head are the Gaussian baseline's."""
    technique = path.name.split('_')[1 if path.name.startswith('cspnext') else 2].partition('-8xb')[0]
    known = 'udp' if path.name.startswith(('cspnext', 'td-hm_ViTPose')) else 'mse'
    baseline = read(path.with_name(path.name.replace(f'_{technique}-8xb', f'_{known}-8xb')))
    config = read(path)
    for key in ('optim_wrapper', 'param_scheduler', 'train_cfg', 'auto_scale_lr'):
        assert plain(config[key]) == plain(baseline[key])
    assert config.train_dataloader.batch_size == baseline.train_dataloader.batch_size
    assert f'8xb{config.train_dataloader.batch_size}-' in path.name
    own, its = plain(config.model), plain(baseline.model)
    for model in (own, its):
        model['test_cfg'].pop('shift_heatmap')
        for part in ('loss', 'decoder'):
            model['head'].pop(part)
    assert own == its
    steps = [[plain(step) for step in each.train_dataloader.dataset.pipeline] for each in (config, baseline)]
    for each in steps:
        for step in each:
            step.pop('encoder', None), step.pop('use_udp', None)
    assert steps[0] == steps[1]


def test_no_config_folder_is_overlooked():
    assert {path.parent.name for path in CONFIGS} >= {'coco', 'mpii', 'ablation'}
    assert len(CONFIGS) >= 69


# ----------------------------------------------------------------------------------------------------------- building


def architectures() -> list:
    """One config per distinct network."""
    found = {}
    for path in CONFIGS:
        model = plain(read(path).model)
        model['head'].pop('loss'), model['head'].pop('decoder')
        found.setdefault(repr((model['backbone'], model['head'])), path)
    return list(found.values())


@pytest.mark.parametrize('path', architectures(), ids=name)
def test_network_of_true_size_builds(path):
    skip_without_packages(path)
    config = on_cpu(read(path))
    # these two compute their drop path rates from a tensor, which has no values on the meta device
    with nullcontext() if any(part in path.name for part in ('hrformer', 'effnet')) else without_memory():
        model = MODELS.build(config.model)
    joints = {'coco': 17, 'mpii': 16}.get(path.parent.name)
    assert joints in (None, model.head.out_channels)


def on_cpu(config: Config) -> Config:
    """The config without pretrained backbone, and with the batch normalisation that a CPU has."""

    def replace(part):
        for key, value in part.items() if isinstance(part, dict) else ():
            if key == 'type' and value == 'SyncBN':
                part[key] = 'BN'
            replace(value)

    replace(config.model)
    config.model.backbone.pop('init_cfg', None)
    return config


# ------------------------------------------------------------------------------------------------------------ training


def with_marks(path: Path):
    marks = [] if path.name in STEPS_BY_DEFAULT else [pytest.mark.slow]
    return pytest.param(path, id=path.stem, marks=marks)


TRAINABLE = [path for path in CONFIGS if path.parent.name in ('coco', 'mpii', 'ablation')]


@pytest.mark.parametrize('path', [with_marks(path) for path in TRAINABLE])
def test_one_training_step_and_one_evaluation(path, tmp_path):
    skip_without_packages(path)
    torch.manual_seed(0)
    np.random.seed(0)
    config = on_cpu(read(path))
    is_mpii = 'mpii' in path.name
    if not (MPII if is_mpii else COCO).is_dir():
        config.model.test_cfg.flip_test = False
        train(config, synthetic_batch(config))
        pytest.skip('trained on random pictures; the evaluation needs real ones, which are absent')
    config.merge_from_dict({**small_options(), **(mpii_options(tmp_path) if is_mpii else coco_options(tmp_path))})
    dataset = DATASETS.build(config.train_dataloader.dataset)
    model = train(config, pseudo_collate([dataset[0], dataset[1]]))
    metrics = evaluate(config, model)
    score = metrics['PCK' if is_mpii else 'coco/AP']
    assert 0 <= score <= 100


def train(config: Config, batch: dict):
    """One optimiser step; every parameter of the head must move, and the loss be a finite number."""
    model = MODELS.build(config.model)
    model.train()
    wrapper = build_optim_wrapper(model, config.optim_wrapper)
    before = {key: value.clone() for key, value in model.head.named_parameters()}
    logged = model.train_step(batch, wrapper)
    assert torch.isfinite(logged['loss']) and logged['loss'] > 0
    for key, value in model.named_parameters():
        assert torch.isfinite(value).all(), key
    for key, value in model.head.named_parameters():
        assert not torch.equal(before[key], value), key
    return model


def evaluate(config: Config, model) -> dict:
    """The recipe's own evaluation on the persons its validation set holds."""
    dataset = DATASETS.build(config.val_dataloader.dataset)
    evaluator = Evaluator(config.val_evaluator)
    evaluator.dataset_meta = dataset.metainfo
    model.eval()
    count = min(len(dataset), 2)
    for index in range(count):
        batch = pseudo_collate([copy.deepcopy(dataset[index])])
        with torch.no_grad():
            samples = model.val_step(batch)
        evaluator.process(data_samples=samples, data_batch=batch)
    return evaluator.evaluate(count)


def synthetic_batch(config: Config) -> dict:
    """Two random pictures with random joints, through the recipe's own encoder."""
    codec = KEYPOINT_CODECS.build(config.train_dataloader.dataset.pipeline[-2].encoder)
    width, height = codec.input_size
    joints = config.model.head.out_channels
    inputs, samples = [], []
    for _ in range(2):
        points = np.random.rand(1, joints, 2) * [width - 1, height - 1]
        encoded = codec.encode(points.astype(np.float32), np.ones((1, joints), np.float32))
        weights = torch.from_numpy(encoded['keypoint_weights'])
        sample = PoseDataSample(gt_instance_labels=InstanceData(keypoint_weights=weights))
        sample.gt_fields = PixelData(heatmaps=torch.from_numpy(encoded['heatmaps']))
        inputs.append(torch.randint(0, 256, (3, height, width), dtype=torch.uint8))
        samples.append(sample)
    return {'inputs': inputs, 'data_samples': samples}
