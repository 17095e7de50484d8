"""Rules: would MMEngine's runner build what surrounds model and data: loaders, loops, optimiser, schedules, hooks?"""

from __future__ import annotations

import copy
import inspect
import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from mmengine.optim import build_optim_wrapper
from mmpose.registry import DATA_SAMPLERS, HOOKS, LOOPS, METRICS, PARAM_SCHEDULERS, VISUALIZERS
from torch import nn
from torch.utils.data import DataLoader

from .finding import Finding, config_rule, error
from .parts import LOADERS, ConfigParts, class_of, type_name
from .trial import quietly

RUN_PARTS = {
    'train': ('train_dataloader', 'train_cfg', 'optim_wrapper'),
    'val': ('val_dataloader', 'val_cfg', 'val_evaluator'),
    'test': ('test_dataloader', 'test_cfg', 'test_evaluator'),
}
LOOP_DEFAULTS = {'train_cfg': 'IterBasedTrainLoop', 'val_cfg': 'ValLoop', 'test_cfg': 'TestLoop'}
GIVEN_TO_LOOPS = ('runner', 'dataloader', 'evaluator', 'self')
EPOCH = 10  # iterations, for schedules that are converted


@config_rule(
    'runner',
    {
        'run-parts': 'a loader without its loop, its evaluator or its optimiser, or the other way round',
        'runner': 'a loader, loop, optimiser, schedule, hook or visualiser that MMEngine cannot build',
        'no-checkpoint': '`load_from` names a file that is not there',
    },
    builds=1,
)
def rule_runner(parts: ConfigParts) -> Iterator[Finding]:
    """What stands around model and data is built, or its options are compared with what its class takes."""
    cfg = parts.cfg
    for names in RUN_PARTS.values():
        missing = [name for name in names if cfg.get(name) is None]
        if 0 < len(missing) < len(names) and any(name.endswith('dataloader') or 'loop' in name for name in cfg):
            yield error(
                'run-parts',
                ', '.join(missing),
                f'MMEngine takes {", ".join(names)} together or not at all',
                'write them, or set all to None',
            )
    path = cfg.get('load_from')
    if isinstance(path, str) and path and '://' not in path and not os.path.exists(path):
        yield error('no-checkpoint', 'load_from', f'{path} does not exist', 'put the file there, or load_from=None')
    for where, build in builders(cfg):
        try:
            with quietly():
                build()
        except Exception as problem:  # whatever a constructor raises is what the user wants to read
            yield error(
                'runner',
                where,
                f'MMEngine cannot build it: {type(problem).__name__}: {problem}',
                'correct the option that the message names',
            )


def builders(cfg: dict) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Where each part stands, and what builds it."""
    for name in LOADERS:
        if cfg.get(name) is not None:
            yield name, partial(try_loader, cfg[name])
    for name, kind in LOOP_DEFAULTS.items():
        if cfg.get(name) is not None:
            yield name, partial(try_loop, cfg[name], kind)
    if cfg.get('optim_wrapper') is not None:
        yield 'optim_wrapper', lambda: try_optimizer(cfg)
    hooks = {f'default_hooks.{name}': hook for name, hook in (cfg.get('default_hooks') or {}).items() if hook is not None}
    hooks.update({f'custom_hooks[{index}]': hook for index, hook in enumerate(cfg.get('custom_hooks') or [])})
    for where, hook in hooks.items():
        yield where, partial(try_hook, hook)
    for name in ('val_evaluator', 'test_evaluator'):
        written = cfg.get(name)
        written = written['metrics'] if isinstance(written, dict) and 'metrics' in written else written
        for index, metric in enumerate(written if isinstance(written, (list, tuple)) else [written] if written is not None else []):
            yield f'{name}[{index}]', partial(bind, metric, METRICS)
    if cfg.get('visualizer') is not None:
        yield 'visualizer', lambda: bind(cfg['visualizer'], VISUALIZERS)


def try_hook(hook: Any) -> None:
    """Compare the options of a hook with what its class takes; those of MMEngine, which need nothing else, are built."""
    bind(hook, HOOKS)
    if class_of(hook, HOOKS).__module__.startswith('mmengine.'):
        HOOKS.build(copy.deepcopy(hook))


def try_loader(loader: dict) -> None:
    """Let torch judge the options of a loader."""
    options = {
        key: value
        for key, value in loader.items()
        if key not in ('dataset', 'sampler', 'batch_sampler', 'collate_fn', 'num_batch_per_epoch')
    }
    if loader.get('batch_sampler') is None:
        bind(loader['sampler'], DATA_SAMPLERS, ('dataset',))
    DataLoader([0] * 8, **options)  # type: ignore[arg-type]


def try_loop(loop: dict, default: str) -> None:
    """Compare the options of a loop with what its class takes."""
    kind = 'EpochBasedTrainLoop' if 'type' not in loop and loop.get('by_epoch') else default
    options = {key: value for key, value in loop.items() if key != 'by_epoch' or 'type' in loop}
    bind({'type': kind, **options}, LOOPS, GIVEN_TO_LOOPS)
    for name in ('max_epochs', 'max_iters', 'val_interval', 'val_begin'):
        if name in loop and (
            isinstance(loop[name], bool) or not isinstance(loop[name], (int, float)) or loop[name] != int(loop[name]) or loop[name] < 0
        ):
            raise ValueError(f'{name} must be a whole number, got {loop[name]!r}')


def bind(cfg: Any, registry: Any, given: tuple[str, ...] = ()) -> None:
    """Raise TypeError or KeyError where a class does not take the options of a dict."""
    if not isinstance(cfg, dict) or 'type' not in cfg:
        raise TypeError(f'a dict with a type is wanted, got {cfg!r}')
    built = class_of(cfg, registry)
    if built is None:
        raise KeyError(f'{type_name(cfg)} is not registered here')
    options = {key: value for key, value in cfg.items() if key not in ('type', '_scope_')}
    inspect.signature(built).bind(**{name: None for name in given if name in inspect.signature(built).parameters}, **options)


def try_optimizer(cfg: dict) -> None:
    """Build optimiser and schedules on two layers; constructors that look for parts of a network, and AMP, are left to a run."""
    wrapper = copy.deepcopy(cfg['optim_wrapper'])
    if wrapper.get('constructor') or (type_name(wrapper).startswith('Amp') and not torch.cuda.is_available()):
        return
    wrapper.setdefault('type', 'OptimWrapper')
    optimizer = build_optim_wrapper(nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1)), wrapper)
    schedules = cfg.get('param_scheduler') or []
    for schedule in schedules if isinstance(schedules, (list, tuple)) else [schedules]:
        schedule = copy.deepcopy(schedule)
        kind = class_of(schedule, PARAM_SCHEDULERS)
        if schedule.pop('convert_to_iter_based', False):
            kind.build_iter_from_epoch(
                optimizer=optimizer.optimizer,
                epoch_length=EPOCH,
                **{key: value for key, value in schedule.items() if key not in ('type', '_scope_')},
            )
        else:
            PARAM_SCHEDULERS.build(schedule, default_args=dict(optimizer=optimizer.optimizer))
