"""From a study's YAML to the config of each of its runs.

A study names supervisions, backbones and stages; a run is one of each with a seed. Its config is the backbone's base
config with the supervision put in all the places where it belongs: encoder of the training pipeline, decoder of the
head, loss, affine transform, flip test. MMEngine dumps the result in the run's work dir.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from mmengine.config import Config, ConfigDict
from mmengine.hub import get_config

from tools import jobs
from tools.studies.domains import DOMAINS
from tools.studies.epoch_seed_hook import EpochSeedHook

SUPERVISION_KEYS = {
    'title', 'like', 'recipe', 'codec', 'loss', 'udp', 'head', 'test_cfg', 'options', 'hooks', 'decoders', 'score_mode',
    'epochs_share', 'start_from'}
READING_KEYS = {'title', 'decoders', 'score_mode'}
# What does not change what a run learns, and variables of the config files that stand in the config itself too.
PLACES = (
    'work_dir', 'experiment_name', 'load_from', 'resume', 'launcher', 'val_evaluator', 'test_evaluator', 'default_hooks',
    'data_root', 'max_epochs', 'base_lr', 'batch_size', 'num_workers', 'coco_metric', 'affine', 'target', 'pack', 'pipeline',
    'train_pipeline', 'val_pipeline')
DECODER_KEYS = {'title', 'codec', 'test_cfg', 'score_mode'}


@dataclass(frozen=True)
class StudyRun:
    """One training: what, on what, how long."""

    stage: str
    backbone: str
    supervision: str
    seed: int

    @property
    def name(self) -> str:
        return f'{self.stage}/{self.backbone}/{self.supervision}/seed{self.seed}'


class Study:
    """A study file, its ``extends`` resolved.

    Args:
        path: YAML file.
        data_root: folder of the data, instead of the file's.
        work_dir: folder of the runs, instead of the file's.

    Raises:
        ValueError: unknown names or keys anywhere in the file.
    """

    def __init__(self, path: Path, data_root: str | None = None, work_dir: str | None = None) -> None:
        spec = read(Path(path))
        self.name = Path(path).stem
        self.title = spec['title']
        self.note = spec.get('note', '')
        self.data_root = data_root or spec['data_root']
        self.work_dir = Path(work_dir or spec['work_dir'])
        known('domain', [spec.get('domain', 'persons')], DOMAINS, 'domain')
        self.domain = DOMAINS[spec.get('domain', 'persons')]
        self.threads = spec.get('threads')  # of a run; None: as torch likes
        self.options = spec.get('options') or {}
        self.headline = spec.get('headline') or {}
        self.backbones = spec['backbones']
        self.supervisions = {name: self._supervision(spec['supervisions'], name) for name in spec['supervisions']}
        self.stages = spec['stages']
        for name, stage in self.stages.items():
            known('backbone', stage['backbones'], self.backbones, f'stage {name!r}')
            known('supervision', stage['supervisions'], self.supervisions, f'stage {name!r}')
            known('supervision', stage.get('finalists', []), stage['supervisions'], f"'finalists' of stage {name!r}")
            known('supervision', stage.get('more_seeds', {}), stage['supervisions'], f"'more_seeds' of stage {name!r}")
            self._check_reference(name)
        self.comparisons = spec.get('comparisons') or {}
        known('stage', self.comparisons, self.stages, 'comparisons')
        for name, comparisons in self.comparisons.items():
            for reading in (each for pair in comparisons for each in pair):
                self.reading(reading, f'comparisons of stage {name!r}')
        for network in self.headline.get('networks', {}).values():
            known('stage', network['stages'], self.stages, 'headline')
            known('backbone', [network['backbone']], self.backbones, 'headline')
        for supervision, decoder in (row['reads'] for row in self.headline.get('rows', {}).values()):
            known('supervision', [supervision], self.supervisions, 'headline')
            known('decoder', [decoder], self.supervisions[supervision].get('decoders', {'own': {}}), f'headline, {supervision!r}')

    def _supervision(self, supervisions: dict, name: str) -> dict:
        """The supervision with what it is ``like`` filled in."""
        own = supervisions[name] or {}
        known('key', own, SUPERVISION_KEYS, f'supervision {name!r}')
        for decoder, spec in (own.get('decoders') or {}).items():
            known('key', spec or {}, DECODER_KEYS, f'decoder {decoder!r} of supervision {name!r}')
        if 'like' not in own:
            return own
        known('supervision', [own['like']], supervisions, f"'like' of supervision {name!r}")
        own = dict(own)
        return merge(self._supervision(supervisions, own.pop('like')), own)

    def reading(self, name: str, where: str) -> tuple[str, str]:
        """Supervision and decoder that ``SUPERVISION/DECODER`` names.

        Raises:
            ValueError: the study has no such supervision or decoder.
        """
        supervision, _, decoder = name.partition('/')
        known('supervision', [supervision], self.supervisions, where)
        known('decoder', [decoder], self.supervisions[supervision].get('decoders') or {'own': {}}, f'{where}, {supervision!r}')
        return supervision, decoder

    def _check_reference(self, name: str) -> None:
        """Raises ValueError unless a stage refers to runs that there are, as long and on the same networks as its own."""
        stage = self.stages[name]
        if 'reference' not in stage:
            return
        reference = stage['reference']
        known('stage', [reference['stage']], self.stages, f"'reference' of stage {name!r}")
        other = self.stages[reference['stage']]
        known('supervision', reference['supervisions'], other['supervisions'], f"'reference' of stage {name!r}")
        known('backbone', stage['backbones'], other['backbones'], f"'reference' of stage {name!r}")
        if other['epochs'] != stage['epochs']:
            raise ValueError(f'stage {name!r} has {stage["epochs"]} epochs, its reference {reference["stage"]!r} {other["epochs"]}')

    def runs(self, stages: list[str] | None = None, supervisions: list[str] | None = None,
             seeds: list[int] | None = None) -> Iterator[StudyRun]:
        """The runs of some stages, supervisions and seeds (all by default), the first seed of everything before the second of anything.

        Raises:
            ValueError: one of them is in no stage.
        """
        known('stage', stages or [], self.stages, 'the command line')
        chosen = {name: self.stages[name] for name in stages or self.stages}
        known('supervision', supervisions or [], {name for stage in chosen.values() for name in stage['supervisions']}, 'the command line')
        known('seed', seeds or [], {seed for name in chosen for seed in self.seeds(name)}, 'the command line')
        for name, stage in chosen.items():
            for seed in (seed for seed in self.seeds(name) if seeds is None or seed in seeds):
                for backbone in stage['backbones']:
                    for supervision in stage['supervisions']:
                        if (supervisions is None or supervision in supervisions) and seed in self.seeds(name, supervision):
                            yield StudyRun(name, backbone, supervision, seed)

    def seeds(self, stage: str, supervision: str | None = None) -> list[int]:
        """The seeds of a stage: of one supervision, ``more_seeds`` of it included, or of all."""
        spec = self.stages[stage]
        more = [seed for name, seeds in spec.get('more_seeds', {}).items() if supervision in (None, name) for seed in seeds]
        return list(dict.fromkeys([*spec['seeds'], *more]))

    def epochs(self, run: StudyRun) -> int:
        return max(1, round(self.stages[run.stage]['epochs'] * self.supervisions[run.supervision].get('epochs_share', 1)))

    def is_finalist(self, run: StudyRun) -> bool:
        """Whether the study file admits this run to the people that no choice has seen."""
        return run.supervision in self.stages[run.stage].get('finalists', [])

    def folder(self, run: StudyRun) -> Path:
        return self.work_dir / run.name

    def config(self, run: StudyRun) -> Config:
        """The whole config of a run."""
        backbone, supervision, stage = self.backbones[run.backbone], self.supervisions[run.supervision], self.stages[run.stage]
        cfg = copy.deepcopy(base_config(backbone['config']))
        cfg.merge_from_dict({**self.options, **(backbone.get('options') or {}), **(stage.get('options') or {})})
        set_data_root(cfg, self.data_root)
        set_epochs(cfg, self.epochs(run), stage.get('validations', 10))
        supervise(cfg, supervision)
        cfg.custom_hooks = [*cfg.custom_hooks, ConfigDict(type=EpochSeedHook.__name__)]
        cfg.randomness = dict(seed=run.seed)
        cfg.work_dir = str(self.folder(run))
        cfg.experiment_name = cfg.work_dir.replace('/', '_')
        if 'start_from' in supervision:
            before = self.folder(StudyRun(run.stage, run.backbone, supervision['start_from'], run.seed))
            cfg.load_from = str(before / 'weights.pth')
        return cfg

    def trains_alike(self, first: str, second: str) -> bool:
        """Whether two supervisions differ in nothing but how their heatmaps are read."""
        one, other = ({key: value for key, value in self.supervisions[name].items() if key not in READING_KEYS} for name in (first, second))
        return one == other

    def decoders(self, run: StudyRun) -> dict[str, dict]:
        """The ways in which a run's heatmaps are read, by name."""
        return {name: spec or {} for name, spec in (self.supervisions[run.supervision].get('decoders') or {'own': {}}).items()}

    def decoder_config(self, run: StudyRun, name: str, checkpoint: Path, part: str = 'val') -> Config:
        """A run's config for testing its weights with one of its decoders.

        Args:
            run: the run.
            name: of the decoder.
            checkpoint: the weights.
            part: ``'val'``, by which choices are made, or ``'test'``, the people that no choice has seen.

        Raises:
            ValueError: ``'test'`` for a run that is not marked as a finalist.
        """
        if part == 'test' and not self.is_finalist(run):
            raise ValueError(f"{run.name} must be among the 'finalists' of stage {run.stage!r} to be read on test; choices are made on val")
        spec = self.decoders(run)[name]
        cfg = self.config(run)
        cfg.load_from, cfg.resume, cfg.custom_hooks = str(checkpoint), False, []
        cfg.experiment_name += f'_{name}_{part}'
        if 'codec' in spec:
            cfg.model.head.decoder = sized(spec['codec'], cfg)
        cfg.model.test_cfg.update(spec.get('test_cfg') or {})
        dataset = cfg.test_dataloader.dataset
        dataset.ann_file = dataset.ann_file.replace('val', part)
        dataset.data_prefix.img = dataset.data_prefix.img.replace('val', part)
        if not any(metric.type == 'CocoMetric' for metric in cfg.test_evaluator):  # what saves the predictions
            cfg.test_evaluator.insert(0, ConfigDict(type='CocoMetric', format_only=True, nms_mode='none'))
        metric = cfg.test_evaluator[0]
        metric.ann_file = str(self.annotations(part))
        metric.outfile_prefix = str(self.predictions(run, name, part).with_name(name))
        metric.score_mode = spec.get('score_mode') or self.supervisions[run.supervision].get('score_mode', 'bbox_keypoint')
        return cfg

    def annotations(self, part: str) -> Path:
        return Path(self.data_root) / 'annotations' / f'{part}.json'

    def predictions(self, run: StudyRun, decoder: str, part: str) -> Path:
        """Where the predictions of a part of the data are saved."""
        return self.folder(run) / 'predictions' / ('' if part == 'val' else part) / f'{decoder}.keypoints.json'


@functools.lru_cache(maxsize=None)
def base_config(path: str) -> Config:
    return Config.fromfile(path)


@functools.lru_cache(maxsize=None)
def recipe_config(name: str) -> Config:
    return get_config(name)


def read(path: Path) -> dict:
    """A study file merged over the one it ``extends``; stages, headline and comparisons are not inherited."""
    spec = yaml.safe_load(path.read_text())
    if 'extends' not in spec:
        return spec
    base = read(path.parent / spec.pop('extends'))
    for key in ('stages', 'headline', 'comparisons'):
        base.pop(key, None)
    return merge(base, spec)


def merge(base: dict, own: dict) -> dict:
    """``own`` over ``base``, dicts within dicts alike; ``_delete_: true`` in a dict drops what ``base`` has there."""
    out = dict(base)
    for key, value in own.items():
        if isinstance(value, dict) and isinstance(out.get(key), dict) and not value.get('_delete_'):
            out[key] = merge(out[key], value)
        else:
            out[key] = {k: v for k, v in value.items() if k != '_delete_'} if isinstance(value, dict) else value
    return out


def known(what: str, names: Any, options: Any, where: str) -> None:
    """Raises ValueError naming the first unknown name and all known ones."""
    for name in names:
        if name not in options:
            raise ValueError(f'{where}: unknown {what} {name!r}; known are {", ".join(map(str, sorted(options)))}')


def set_data_root(cfg: Config, data_root: str) -> None:
    """Point data sets and metrics to a folder."""
    for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        cfg[loader].dataset.data_root = data_root
    for evaluator in ('val_evaluator', 'test_evaluator'):
        cfg[evaluator] = cfg[evaluator] if isinstance(cfg[evaluator], list) else [cfg[evaluator]]
        for metric in cfg[evaluator]:
            if 'ann_file' in metric:
                metric.ann_file = str(Path(data_root) / 'annotations/val.json')


def set_epochs(cfg: Config, epochs: int, validations: int) -> None:
    """Train so long, the learning rate's descent along with it, and validate so many times, the end included; 0: never."""
    cfg.train_cfg.max_epochs = epochs
    cfg.train_cfg.val_interval = max(1, epochs // max(validations, 1))
    cfg.train_cfg.val_begin = 1 if validations else epochs + 1
    for scheduler in cfg.param_scheduler:
        if scheduler.type == 'CosineAnnealingLR':
            scheduler.end = scheduler.T_max = epochs


def supervise(cfg: Config, spec: dict) -> None:
    """Put a supervision in every place of a config where it belongs."""
    if 'recipe' in spec:
        take_recipe(cfg, spec['recipe'])
    cfg.codec = sized(spec.get('codec') or {}, cfg)
    cfg.model.head.decoder = cfg.codec
    for transform in cfg.train_dataloader.dataset.pipeline:
        if transform.type == 'GenerateTarget':
            transform.encoder = cfg.codec
    if 'loss' in spec:
        cfg.model.head.loss = ConfigDict(spec['loss'])
    cfg.model.head.update(spec.get('head') or {})
    cfg.model.test_cfg.update(spec.get('test_cfg') or {})
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        for transform in loader.dataset.pipeline:
            if transform.type == 'TopdownAffine' and spec.get('udp'):
                transform.use_udp = True
    cfg.custom_hooks = [*(cfg.get('custom_hooks') or []), *(spec.get('hooks') or [])]
    cfg.merge_from_dict(spec.get('options') or {})


def take_recipe(cfg: Config, name: str) -> None:
    """Head, neck, codec and test settings of one of MMPose's own recipes, fitted to this config's sizes."""
    recipe = copy.deepcopy(recipe_config(name))
    sizes, channels = cfg.codec, cfg.model.head.in_channels
    cfg.codec = recipe.codec
    for key in ('input_size', 'heatmap_size'):
        if key in recipe.codec:
            cfg.codec[key] = sizes[key]
    head = recipe.model.head
    head.in_channels = channels
    head['num_joints' if 'num_joints' in head else 'out_channels'] = cfg.model.head.out_channels
    if 'in_featuremap_size' in head:
        upsampled = cfg.model.head.get('deconv_out_channels', True)  # else the head begins at the maps' size
        head.in_featuremap_size = tuple(side // 32 for side in sizes['input_size']) if upsampled else tuple(sizes['heatmap_size'])
    if 'input_size' in head:
        head.input_size = sizes['input_size']
    if 'deconv_out_channels' in cfg.model.head and head.type != 'RLEHead':
        head.deconv_out_channels = cfg.model.head.deconv_out_channels
    cfg.model.head = head
    if 'neck' in recipe.model:
        cfg.model.neck = recipe.model.neck
    cfg.model.test_cfg = recipe.model.test_cfg


def sized(codec: dict, cfg: Config) -> ConfigDict:
    """A codec with the sizes of the config's own; those it does not name stay the config's."""
    own = {key: value for key, value in cfg.codec.items() if key in ('input_size', 'heatmap_size')}
    return ConfigDict({**own, **codec} if 'type' in codec else {**cfg.codec, **codec})


def fingerprint(cfg: Config) -> str:
    """Hash of everything in a config that decides what a run learns, the defaults of this package's classes included."""
    spec = {**cfg.to_dict(), 'resolved': resolved(cfg)}
    for key in PLACES:
        spec.pop(key, None)
    for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        for key in ('num_workers', 'persistent_workers', 'pin_memory'):
            spec[loader].pop(key, None)
        spec[loader]['dataset'].pop('data_root', None)
    return jobs.fingerprint(spec)[:16]


def resolved(cfg: Config) -> dict[str, str]:
    """What the loss and the codec of this package are once their defaults are filled in."""
    from hdm_mmpose.components import DotAnnotationCodec, EMDHeatmapLoss

    loss, codec, found = dict(cfg.model.head.get('loss') or {}), dict(cfg.codec), {}
    if loss.pop('type', None) == EMDHeatmapLoss.__name__:
        found['loss'] = repr(EMDHeatmapLoss(**loss).options)
    if codec.pop('type', None) == DotAnnotationCodec.__name__:
        found['codec'] = repr(vars(DotAnnotationCodec(**codec)))
    return found
