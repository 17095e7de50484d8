"""What a config says, collected in one place: heads with their losses and decoders, encoders, crops, data sets.

The rules compare these parts. Nothing here compares, and nothing is built.
"""

from __future__ import annotations

import copy
import inspect
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

from mmengine.config import Config
from mmengine.registry import Registry
from mmpose.datasets.datasets.utils import parse_pose_metainfo
from mmpose.models.heads.base_head import BaseHead
from mmpose.registry import DATASETS, KEYPOINT_CODECS, MODELS

from hdm_mmpose.components.alignment import ALIGNMENTS, STOCK_ALIGNMENTS
from hdm_mmpose.transport import SupplierRule, build_supplier

OUR_LOSS = 'EMDHeatmapLoss'
OUR_CODECS = ('DotAnnotationCodec', 'SubPixelDecoder')
LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')


@dataclass(frozen=True)
class Part:
    """A dict of the config that builds something.

    Attributes:
        where: dotted path, such as ``model.head.decoder``.
        cfg: the dict itself.
    """

    where: str
    cfg: dict

    @property
    def type(self) -> str:
        return type_name(self.cfg)

    def get(self, name: str, registry: Any = None) -> Any:
        """The option ``name``, or what the class in ``registry`` takes when it is not given, or None."""
        if name in self.cfg:
            return self.cfg[name]
        built = registry.get(self.type) if registry is not None else None
        parameter = inspect.signature(built).parameters.get(name) if built is not None else None
        return None if parameter is None or parameter.default is parameter.empty else parameter.default


class Codec(Part):
    """An encoder, a decoder, or the ``codec`` at the top of a config."""

    @property
    def ours(self) -> bool:
        return self.type in OUR_CODECS

    def option(self, name: str) -> Any:
        return self.get(name, KEYPOINT_CODECS)

    def size(self, name: str) -> tuple[int, int] | None:
        """``input_size`` (w, h) or ``heatmap_size`` (W, H), or None if it is not two numbers."""
        value = self.option(name)
        known = isinstance(value, (list, tuple)) and len(value) == 2 and all(isinstance(side, Real) for side in value)
        return (int(value[0]), int(value[1])) if known else None

    @property
    def alignment(self) -> str | None:
        name = self.option('alignment') if self.ours else STOCK_ALIGNMENTS.get(self.type)
        return name if name in (*ALIGNMENTS, *STOCK_ALIGNMENTS.values()) else None  # building the part says what is wrong with it

    @property
    def supplier(self) -> SupplierRule | None:
        return supplier_or_none(self.option('supplier')) if self.ours else None

    @property
    def combined(self) -> bool:
        return self.option('heatmap_type') == 'combined'


class Loss(Part):
    """An ``EMDHeatmapLoss``."""

    def option(self, name: str) -> Any:
        return self.get(name, MODELS)

    @property
    def supplier(self) -> SupplierRule | None:
        return supplier_or_none(self.option('supplier'))


@dataclass(frozen=True)
class Head(Part):
    """A head, with the losses of this package inside its ``loss`` in the order they are written, and its decoder."""

    losses: list[Loss] = field(default_factory=list)
    decoder: Codec | None = None


@dataclass(frozen=True)
class ConfigParts:
    """All parts of a config that have to agree.

    Attributes:
        cfg: the whole config.
        filename: where it was read from, or None.
        lazy: whether it is in MMEngine's pure Python style, in which ``custom_imports`` is ignored.
        heads: heads anywhere in ``model``; those inside others, such as ``VisPredictHead``'s, are of their own.
        encoders: encoders of all pipelines; lists are taken apart.
        crops: all ``TopdownAffine`` of all pipelines.
        datasets: (where, data set, number of joints its pipeline hands on, or None if not known) of each loader.
        hooks: members of ``custom_hooks``.
        codecs: the top-level ``codec``; a list is taken apart.
    """

    cfg: dict
    heads: list[Head]
    encoders: list[Codec]
    crops: list[Part]
    datasets: list[tuple[str, dict, int | None]]
    hooks: list[Part]
    codecs: list[Codec]
    filename: str | None = None
    lazy: bool = False

    @property
    def decoders(self) -> list[Codec]:
        return [head.decoder for head in self.heads if head.decoder is not None]

    @property
    def losses(self) -> list[Loss]:
        return [loss for head in self.heads for loss in head.losses]

    @property
    def test_cfg(self) -> dict:
        model = self.cfg.get('model')
        written = model.get('test_cfg') if isinstance(model, dict) else None
        return written if isinstance(written, dict) else {}  # a trial of a prediction says what is wrong with it


def read_parts(cfg: Config | dict) -> ConfigParts:
    """Collect the parts of a merged config."""
    filename = cfg.filename if isinstance(cfg, Config) else None
    cfg = cfg.to_dict() if isinstance(cfg, Config) else cfg
    loaders = {name: cfg[name] for name in LOADERS if isinstance(cfg.get(name), dict)}
    pipelines = {name: loader['dataset'] for name, loader in loaders.items() if isinstance(loader.get('dataset'), dict)}
    steps = [part for name, dataset in pipelines.items() for part in walk(dataset, f'{name}.dataset')]
    steps += walk(cfg.get('custom_hooks') or [], 'custom_hooks')  # PipelineSwitchHook brings another pipeline
    encoders = [codec for part in steps if part.type == 'GenerateTarget'
                for codec in codecs_in(part.cfg.get('encoder'), f'{part.where}.encoder')]
    return ConfigParts(
        cfg=cfg,
        heads=[read_head(part) for part in walk(cfg.get('model') or {}, 'model') if is_head(part)],
        encoders=encoders,
        crops=[part for part in steps if part.type == 'TopdownAffine'],
        datasets=[entry for name, dataset in pipelines.items() for entry in datasets_in(dataset, f'{name}.dataset')],
        hooks=[Part(f'custom_hooks[{index}]', hook) for index, hook in enumerate(cfg.get('custom_hooks') or [])
               if isinstance(hook, dict) and 'type' in hook],
        codecs=codecs_in(cfg.get('codec'), 'codec'),
        filename=filename,
        lazy=is_lazy(filename))


def is_lazy(filename: str | None) -> bool:
    """Whether a file is in MMEngine's pure Python style (MMEngine 0.8 and later)."""
    return filename is not None and os.path.isfile(filename) and hasattr(Config, '_is_lazy_import') and Config._is_lazy_import(filename)


def annotation_file(dataset: dict) -> str:
    """Path of a data set's annotation file, as MMEngine joins it."""
    return os.path.join(dataset.get('data_root') or '', dataset.get('ann_file') or '')


def type_name(cfg: dict) -> str:
    """Last part of ``type``, which may be a string with a scope or a module in front, a class, or missing."""
    kind = cfg.get('type', '')
    return str(kind).rpartition('.')[2] if isinstance(kind, str) else getattr(kind, '__name__', str(kind))


def class_of(cfg: dict, registry: Registry) -> Any:
    """What a dict builds, from a registry or named itself, or None if nothing of the name is registered."""
    kind = cfg.get('type') if isinstance(cfg, dict) else None
    return registry.get(kind) if isinstance(kind, str) else kind if callable(kind) else None


def walk(value: Any, where: str) -> Iterator[Part]:
    """Every dict inside ``value``, outer ones first, with its dotted path."""
    if isinstance(value, dict):
        yield Part(where, value)
        for key, inner in value.items():
            yield from walk(inner, f'{where}.{key}' if where else str(key))
    elif isinstance(value, (list, tuple)):
        for index, inner in enumerate(value):
            yield from walk(inner, f'{where}[{index}]')


def is_head(part: Part) -> bool:
    """Whether a dict builds a head of MMPose."""
    built = MODELS.get(part.type) if part.type else None
    return inspect.isclass(built) and issubclass(built, BaseHead)


def read_head(part: Part) -> Head:
    """A head with the losses of this package in it, and its first decoder."""
    losses = [Loss(inner.where, inner.cfg) for inner in walk(part.cfg.get('loss'), f'{part.where}.loss')
              if inner.type == OUR_LOSS]
    decoders = codecs_in(part.cfg.get('decoder'), f'{part.where}.decoder')
    return Head(part.where, part.cfg, losses, decoders[0] if decoders else None)


def codecs_in(value: Any, where: str) -> list[Codec]:
    """The codec that a value is, or those in a list, which may be nested, with their dotted paths."""
    if isinstance(value, (list, tuple)):
        return [codec for index, inner in enumerate(value) for codec in codecs_in(inner, f'{where}[{index}]')]
    return [Codec(where, value)] if isinstance(value, dict) and 'type' in value else []


def datasets_in(dataset: dict, where: str, joints: int | None = None) -> Iterator[tuple[str, dict, int | None]]:
    """Data sets inside a data set, each with the number of joints that reaches the model."""
    pipeline = dataset.get('pipeline')
    converted = [step['num_keypoints'] for step in (pipeline if isinstance(pipeline, (list, tuple)) else [])
                 if isinstance(step, dict) and type_name(step) == 'KeypointConverter' and 'num_keypoints' in step]
    joints = joints or (converted[-1] if converted else None)
    several = dataset.get('datasets')
    inner = {f'{where}.datasets[{index}]': each for index, each in enumerate(several)} if isinstance(several, (list, tuple)) else {}
    if isinstance(dataset.get('dataset'), dict):
        inner[f'{where}.dataset'] = dataset['dataset']
    if not inner:
        yield where, dataset, joints or declared_joints(dataset)
    for path, each in inner.items():
        if isinstance(each, dict):
            yield from datasets_in(each, path, joints)


def declared_joints(dataset: dict) -> int | None:
    """Number of joints in a data set's meta information, or None if it cannot be read."""
    try:
        return int(meta_of(dataset)['num_keypoints'])
    except Exception:  # metainfo may be anything, and a rule of its own says what is wrong with it
        return None


_PARSED: dict[str, dict] = {}


def meta_of(dataset: dict) -> dict:
    """The meta information of a data set, parsed as MMPose parses it.

    Raises:
        Exception: whatever it raises for what it cannot read.
    """
    metainfo = dataset.get('metainfo') or getattr(class_of(dataset, DATASETS), 'METAINFO', {})
    if not isinstance(metainfo, dict):
        raise TypeError(f'metainfo must be a dict, got {metainfo!r}')
    if repr(metainfo) not in _PARSED:  # several rules ask, and MMPose reads a config for each answer
        _PARSED[repr(metainfo)] = parse_pose_metainfo(dict(metainfo))
    return copy.deepcopy(_PARSED[repr(metainfo)])


def supplier_or_none(spec: Any) -> SupplierRule | None:
    """The supplier rule that a config names, or None if it names none."""
    try:
        return build_supplier(spec)
    except (TypeError, ValueError):  # building the part says what is wrong with it
        return None


def is_number(value: Any) -> bool:
    """Whether a value of a config is a number, which True and False are not."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def heads_to_check(parts: ConfigParts) -> list[Head]:
    """Heads with our loss or our decoder."""
    return [head for head in parts.heads if head.losses or (head.decoder is not None and head.decoder.ours)]


def uses_ours(parts: ConfigParts) -> bool:
    """Whether anything of this package is in the config."""
    return bool(heads_to_check(parts)) or any(codec.ours for codec in parts.encoders + parts.codecs)
