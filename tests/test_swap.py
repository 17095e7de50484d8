"""docs/swap.md as printed, on recipes that are not ours: the config agrees, and the model trains a step and predicts.

Pictures and joints are made up; targets come out of the recipe's own pipeline.
"""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip('mmpose', reason='swapping is into MMPose')

from mmengine.config import Config  # noqa: E402
from mmpose.registry import KEYPOINT_CODECS, MODELS  # noqa: E402
from mmpose.utils import register_all_modules  # noqa: E402

from hdm_mmpose.check import check_config  # noqa: E402
from hdm_mmpose.components import EMDHeatmapLoss  # noqa: E402
from tests.synthetic_samples import samples  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
SWAP = (ROOT / 'docs' / 'swap.md').read_text()
LAZY = dict(re.findall(r'<!-- lazy: ([\w-]+) -->\n```python no-run\n(.*?)```', SWAP, re.S))
BLOCKS = dict(re.findall(r'<!-- config: ([\w-]+) -->\n```python\n(.*?)```', SWAP, re.S))
COCO = 'body_2d_keypoint/topdown_heatmap/coco'
slow = pytest.mark.slow
DEPTHS = ('loss-only', 'loss-codec-decoder', 'decoder-only')
# Recipes of MMPose, by head and by number of joints; the small ones run by default.
RECIPES = [
    pytest.param(f'{COCO}/td-hm_vipnas-mbv3_8xb64-210e_coco-256x192.py', id='ViPNASHead-17'),
    pytest.param('wholebody_2d_keypoint/topdown_heatmap/coco-wholebody/td-hm_vipnas-mbv3_8xb64-210e_coco-wholebody-256x192.py',
                 id='ViPNASHead-133', marks=slow),
    pytest.param('body_2d_keypoint/topdown_heatmap/mpii/td-hm_shufflenetv2_8xb64-210e_mpii-256x256.py', id='HeatmapHead-16',
                 marks=slow),
    pytest.param('hand_2d_keypoint/topdown_heatmap/onehand10k/td-hm_mobilenetv2_8xb64-210e_onehand10k-256x256.py',
                 id='HeatmapHead-21', marks=slow),
    pytest.param('face_2d_keypoint/topdown_heatmap/300w/td-hm_hrnetv2-w18_8xb64-60e_300w-256x256.py', id='HeatmapHead-68',
                 marks=slow),
    pytest.param('face_2d_keypoint/topdown_heatmap/wflw/td-hm_hrnetv2-w18_8xb64-60e_wflw-256x256.py', id='HeatmapHead-98',
                 marks=slow),
    pytest.param('body_2d_keypoint/topdown_heatmap/crowdpose/td-hm_res50_8xb64-210e_crowdpose-256x192.py', id='HeatmapHead-14',
                 marks=slow),
    pytest.param(f'{COCO}/td-hm_hourglass52_8xb32-210e_coco-256x256.py', id='CPMHead-Hourglass', marks=slow),
    pytest.param(f'{COCO}/td-hm_cpm_8xb64-210e_coco-256x192.py', id='CPMHead-CPM', marks=slow),
    pytest.param(f'{COCO}/td-hm_hrnet-w32_dark-8xb64-210e_coco-256x192.py', id='HeatmapHead-DARK', marks=slow),
]
STAGED = [pytest.param(f'{COCO}/td-hm_rsn18_8xb32-210e_coco-256x192.py', id='RSN'),
          pytest.param(f'{COCO}/td-hm_mspn50_8xb32-210e_coco-256x192.py', id='MSPN', marks=slow),
          pytest.param(f'{COCO}/td-hm_2xmspn50_8xb32-210e_coco-256x192.py', id='2xMSPN', marks=slow)]


@pytest.fixture(autouse=True)
def registered() -> None:
    register_all_modules()


def read(text: str, folder: Path, recipe: str | None = None) -> Config:
    """A config from a block of the documentation, with another recipe in its ``_base_`` line if one is named."""
    if recipe is not None:
        base = Config.fromfile(Path(find_spec('mmpose').origin).parent / '.mim' / 'configs' / recipe)
        codec = base.codec if isinstance(base.codec, dict) else base.codec[-1]
        text = re.sub(r'mmpose::[^\']+', f'mmpose::{recipe}', text)
        text = re.sub(r'input_size=\([\d, ]+\)', f'input_size={tuple(codec.input_size)}', text)
        text = re.sub(r'heatmap_size=\([\d, ]+\)', f'heatmap_size={tuple(codec.heatmap_size)}', text)
    for name in re.findall(r"mmpose::([^']+)", text):
        if not (Path(find_spec('mmpose').origin).parent / '.mim' / 'configs' / name).is_file():
            pytest.skip(f'this MMPose has no recipe {name}')
    path = folder / 'config.py'
    path.write_text(text)
    return Config.fromfile(path)


def build(cfg: Config) -> torch.nn.Module:
    model = MODELS.build(cfg.model)
    if any(isinstance(module, EMDHeatmapLoss) for module in model.modules()):
        assert not [finding for finding in check_config(cfg) if finding.level == 'error']
    return model


def train_a_step(model: torch.nn.Module, cfg: Config) -> None:
    """Loss and gradient of one batch are finite, and reach the first layer."""
    model.train()
    batch = model.data_preprocessor(samples(cfg), training=True)
    losses = model.loss(**batch)
    assert losses['loss_kpt'].shape == () and losses['loss_kpt'] > 0
    model.parse_losses(losses)[0].backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert all(gradient.isfinite().all() for gradient in gradients)
    first = next(model.backbone.parameters()).grad
    assert first is not None and first.abs().max() > 0


def predict(model: torch.nn.Module, cfg: Config, joints: int) -> None:
    model.eval()
    batch = model.data_preprocessor(samples(cfg, 'val_dataloader'), training=False)
    with torch.no_grad():
        for sample in model.predict(**batch):
            assert sample.pred_instances.keypoints.shape == (1, joints, 2)
            assert np.isfinite(sample.pred_instances.keypoints).all()
            assert np.isfinite(sample.pred_instances.keypoint_scores).all()


def decodes_its_targets(cfg: Config) -> None:
    """What the pipeline draws, the head's decoder reads."""
    decoder = KEYPOINT_CODECS.build(dict(cfg.model.head.decoder, supplier='relu'))  # reads masses as they are
    for sample in samples(cfg, count=4)['data_samples']:
        maps = sample.gt_fields.heatmaps
        maps = maps[-1] if isinstance(maps, list) else maps
        points, scores = decoder.decode(maps)
        wanted = sample.gt_instances.transformed_keypoints
        weights = np.asarray(sample.gt_instance_labels.keypoint_weights).reshape(-1, wanted.shape[1])[-1]
        assert (weights > 0).sum() > 0.5 * len(weights)
        np.testing.assert_allclose(points[0][weights > 0], wanted[0][weights > 0], atol=1e-3)
        assert ((scores >= 0) & (scores <= 1)).all()


# ------------------------------------------------------------------------------------------ the documentation as printed


def test_documentation_has_every_depth() -> None:
    assert {*DEPTHS, 'stages', 'two-losses', 'visibility'} == set(BLOCKS) == set(LAZY)


@pytest.mark.parametrize('depth', DEPTHS)
def test_depth_as_printed(depth: str, tmp_path: Path) -> None:
    cfg = read(BLOCKS[depth], tmp_path)
    levels = {finding.rule: finding.level for finding in check_config(cfg)}
    expected = {'loss-only': {'gaussian-decoder', 'rounded-targets', 'flip-half-pixel'}, 'loss-codec-decoder': set(),
                'decoder-only': {'flip-half-pixel'}}
    assert set(levels) == expected[depth] and 'error' not in levels.values()
    model = build(cfg)
    if depth != 'decoder-only':
        train_a_step(model, cfg)
    if depth == 'loss-codec-decoder':
        decodes_its_targets(cfg)
    predict(model, cfg, joints=17)


LAZY_RECIPES = {
    'stages': f'{COCO}/td-hm_rsn18_8xb32-210e_coco-256x192.py',
    'two-losses': 'body_2d_keypoint/integral_regression/coco/ipr_res50_dsnt-8xb64-210e_coco-256x256.py',
    'visibility': f'{COCO}/td-hm-vis_res50_8xb64-210e_coco-aic-256x192-merge.py',
}


@pytest.mark.skipif(not hasattr(Config, '_is_lazy_import'), reason='MMEngine before 0.8 has no configs in pure Python style')
@pytest.mark.parametrize('block', BLOCKS)
def test_lazy_form_says_the_same(block: str, tmp_path: Path) -> None:
    """On the same recipe, written in pure Python style, the lazy block gives the same model and finds the same."""
    recipe = LAZY_RECIPES.get(block, f'{COCO}/td-hm_vipnas-mbv3_8xb64-210e_coco-256x192.py')
    wanted = read(BLOCKS[block], tmp_path, recipe if block in DEPTHS else None)
    base = Config.fromfile(Path(find_spec('mmpose').origin).parent / '.mim' / 'configs' / recipe)
    lines = [f'{name} = {value!r}' for name, value in base.to_dict().items()]
    (tmp_path / 'my_recipe.py').write_text('from mmpose.models import ResNet\n' + '\n'.join(lines))
    (tmp_path / 'lazy.py').write_text(LAZY[block])
    got = Config.fromfile(tmp_path / 'lazy.py')
    assert named(without_scope(got.to_dict()['model'])) == named(without_scope(wanted.to_dict()['model']))
    for loader in ('train_dataloader', 'val_dataloader'):
        assert named(without_scope(got.to_dict()[loader])) == named(without_scope(wanted.to_dict()[loader]))
    levels = {finding.rule: finding.level for finding in check_config(got)}
    assert levels == {finding.rule: finding.level for finding in check_config(wanted)}


def named(value):
    """A config value with bare names in place of dotted ones, and lists in place of tuples."""
    if isinstance(value, dict):
        return {key: str(each).rpartition('.')[2] if key == 'type' else named(each) for key, each in value.items() if key != '_delete_'}
    if isinstance(value, (list, tuple)):
        return [named(each) for each in value]
    return value


def test_nothing_but_the_lines_shown_is_changed(tmp_path: Path) -> None:
    """The merged config differs from the recipe where the block says so, and nowhere else."""
    cfg = read(BLOCKS['loss-codec-decoder'], tmp_path).to_dict()
    base = Config.fromfile(re.search(r"_base_ = \['(.+?)'\]", BLOCKS['loss-codec-decoder'])[1].replace(
        'mmpose::', f'{Path(find_spec("mmpose").origin).parent}/.mim/configs/')).to_dict()
    changed = {key for key in cfg if cfg[key] != base.get(key)} - {'default_scope'}
    scoped = {key for key in changed if without_scope(cfg[key]) != without_scope(base.get(key))}
    assert scoped == {'custom_imports', 'codec', 'loss', 'target', 'model', 'train_pipeline', 'train_dataloader'}


def without_scope(value):
    """A config value without the registry scopes that inheritance adds."""
    if isinstance(value, dict):
        return {key: without_scope(each) for key, each in value.items() if key != '_scope_'}
    return [without_scope(each) for each in value] if isinstance(value, (list, tuple)) else value


def test_readme_block_on_a_stock_recipe(tmp_path: Path) -> None:
    blocks = re.findall(r'```python\n(.*?)```', (ROOT / 'README.md').read_text(), re.S)
    (block,) = [block for block in blocks if 'EMDHeatmapLoss' in block and 'custom_imports' in block]
    base = re.search(r'_base_ = .*\n', BLOCKS['loss-only'])[0]
    cfg = read(block if '_base_' in block else base + block, tmp_path)
    train_a_step(build(cfg), cfg)


# ------------------------------------------------------------------------------------------------ other recipes and heads


@pytest.mark.parametrize('recipe', RECIPES)
@pytest.mark.parametrize('depth', DEPTHS)
def test_depth_on_other_recipes(depth: str, recipe: str, tmp_path: Path) -> None:
    cfg = read(BLOCKS[depth], tmp_path, recipe)
    model = build(cfg)
    if depth != 'decoder-only':
        train_a_step(model, cfg)
    if depth == 'loss-codec-decoder':
        decodes_its_targets(cfg)
    predict(model, cfg, joints=cfg.model.head.out_channels)


@pytest.mark.parametrize('recipe', STAGED)
def test_stages(recipe: str, tmp_path: Path) -> None:
    cfg = read(BLOCKS['stages'], tmp_path, recipe)
    model = build(cfg)
    train_a_step(model, cfg)
    decodes_its_targets(cfg)
    predict(model, cfg, joints=17)


@pytest.mark.parametrize('block', ['two-losses', 'visibility'])
@pytest.mark.slow
def test_several_losses(block: str, tmp_path: Path) -> None:
    cfg = read(BLOCKS[block], tmp_path)
    model = build(cfg)
    train_a_step(model, cfg)
    predict(model, cfg, joints=17)


# ------------------------------------------------------------------------------------------------------------ refused


REFUSED = {
    'body_2d_keypoint/associative_embedding/coco/ae_hrnet-w32_8xb24-300e_coco-512x512.py': 'refused-estimator',
    f'{COCO}/td-hm_hrnet-w32_udp-regress-8xb64-210e_coco-256x192.py': 'combined-offsets',
    'body_2d_keypoint/simcc/coco/simcc_res50_8xb64-210e_coco-256x192.py': 'refused-head',
    'body_2d_keypoint/topdown_regression/coco/td-reg_res50_rle-8xb64-210e_coco-256x192.py': 'refused-head',
    'body_2d_keypoint/integral_regression/coco/ipr_res50_8xb64-210e_coco-256x256.py': 'loss-place',
}


@pytest.mark.parametrize(('recipe', 'rule'), REFUSED.items(), ids=[Path(recipe).stem for recipe in REFUSED])
def test_what_cannot_work_is_refused(recipe: str, rule: str, tmp_path: Path) -> None:
    path = tmp_path / 'config.py'
    path.write_text(re.sub(r'mmpose::[^\']+', f'mmpose::{recipe}', BLOCKS['loss-only']))
    findings = {finding.rule: finding for finding in check_config(Config.fromfile(path))}
    assert findings[rule].level == 'error' and findings[rule].repair


def test_loss_itself_refuses_combined_targets() -> None:
    maps = torch.rand(2, 51, 8, 6)
    with pytest.raises(ValueError, match='target_weights must have shape'):
        EMDHeatmapLoss()(maps, maps, torch.ones(2, 17))


# -------------------------------------------------------------------------------------- decoders on what MSE has trained


DECODERS = {
    'MSRAHeatmap (quarter shift)': dict(type='MSRAHeatmap', sigma=2),
    'MSRAHeatmap, unbiased (DARK)': dict(type='MSRAHeatmap', sigma=2, unbiased=True),
    "SubPixelDecoder, 'relu', blur 2": dict(type='SubPixelDecoder', alignment='msra', supplier='relu', score='max', blur=2),
    "SubPixelDecoder, 'relu', no blur": dict(type='SubPixelDecoder', alignment='msra', supplier='relu', score='max', blur=0),
}


def gaussian_table() -> dict[str, list[float]]:
    """Mean error in cells of each decoder on Gaussians of sigma 2 with their centre at random points."""
    width, height, stride, count = 48, 64, 4, 2000
    rng = np.random.default_rng(0)
    dots = rng.uniform((6, 6), (width - 7, height - 7), (count, 2))
    x, y = np.arange(width), np.arange(height)[:, None]
    maps = np.exp(-((x - dots[:, 0, None, None])**2 + (y - dots[:, 1, None, None])**2) / (2 * 2**2)).astype(np.float32)
    noisy = maps + rng.normal(0, 0.02, maps.shape).astype(np.float32)
    table = {}
    for name, cfg in DECODERS.items():
        decoder = KEYPOINT_CODECS.build(dict(cfg, input_size=(width * stride, height * stride), heatmap_size=(width, height)))
        errors = [np.linalg.norm(decoder.decode(each)[0][0] / stride - dots, axis=-1).mean() for each in (maps, maps / 2, noisy)]
        table[name] = [float(error) for error in errors]
    return table


def test_gaussian_maps() -> None:
    """The reading that docs/swap.md recommends for existing checkpoints beats the quarter shift; its table is this one."""
    table = gaussian_table()
    lines = [f'| {name} | ' + ' | '.join(f'{error:.3f}' for error in errors) + ' |' for name, errors in table.items()]
    print('\n'.join(lines))
    quarter, _, blurred, square = table.values()
    assert all(new < 0.2 * old for new, old in zip(blurred, quarter))
    assert square[0] > quarter[0]
    assert all(line in SWAP for line in lines), 'the table in docs/swap.md is not what is measured'
