"""Rules: is every class that the config names registered by the time MMPose looks for it?"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator
from typing import Any

import mmpose.registry
from mmengine.config import Config
from mmengine.registry import FUNCTIONS, Registry

from .finding import Finding, config_rule, error, unchecked
from .parts import ConfigParts, Part, type_name
from .rules_build import IMPORTS, PACKAGE, registered_by_us

OWN = [each for each in vars(mmpose.registry).values() if isinstance(each, Registry)]
REGISTRIES = [*OWN, *(each.parent for each in OWN if each.parent is not None), FUNCTIONS]
SCOPES = ('mmengine', 'mmpose')  # always there
DATA_KEYS = ('metainfo', 'dataset_info', 'mapping')  # dicts that build nothing, whatever they hold
FREE_OPTIONS = ('Albumentation',)  # of MMPose's own: their options name classes of other packages


@config_rule('registered names', {
    'not-registered': 'a name in the config that no imported module registers: an own head, data set, transform, hook or metric',
    'lost-imports': "the config's `custom_imports` replaces that of its base config, whose own classes are then not found",
    'scope': 'a class of a package that is not installed'})
def rule_names(parts: ConfigParts) -> Iterator[Finding]:
    """Every ``type`` is looked up as MMPose will do it, wherever it stands."""
    lost = lost_imports(parts)
    if lost:
        yield error('lost-imports', 'custom_imports', f'the base config imports {", ".join(lost)}, which this custom_imports replaces: '
                    'MMEngine does not merge lists', written_imports(parts, lost))
    for part in named_parts(parts.cfg, ''):
        name = part.cfg['type']
        if isinstance(name, str) and '.' not in name and find(name) is None and part.cfg.get('_scope_') not in (None, *SCOPES):
            name = f'{part.cfg["_scope_"]}.{name}'
        if not isinstance(name, str) or find(name) is not None or type_name(part.cfg) in known_elsewhere(part):
            continue
        scope = name.partition('.')[0] if '.' in name else ''
        if scope.startswith('mm') and scope not in SCOPES:
            yield unchecked('scope', part.where, f'{name}: {scope} is not installed here', f'pip install {scope}, and check again')
            continue
        alike = sorted({close for registry in REGISTRIES for close in difflib.get_close_matches(name, registry.module_dict, cutoff=0.75)})
        hint = f'write {" or ".join(alike)}, or ' if alike else ''
        yield error('not-registered', part.where, f'{name} is registered by none of the modules that this config imports',
                    f'{hint}name its module in custom_imports, also where your training script imports it itself: '
                    + (written_imports(parts, lost) if lost else written_imports(parts, ['<its module>'])))


def named_parts(value: Any, where: str) -> Iterator[Part]:
    """Every dict with a ``type`` that MMPose builds; options of others' classes are their own affair."""
    if isinstance(value, dict):
        if 'type' in value:
            yield Part(where, value)
            if keeps_options(value):
                return
        for key, inner in value.items():
            if key not in DATA_KEYS:
                yield from named_parts(inner, f'{where}.{key}' if where else str(key))
    elif isinstance(value, (list, tuple)):
        for index, inner in enumerate(value):
            yield from named_parts(inner, f'{where}[{index}]')


def keeps_options(cfg: dict) -> bool:
    """Whether the dicts inside a dict are read by its class alone: our loss and codecs, and names of other packages."""
    built = find(cfg['type']) if isinstance(cfg['type'], str) else cfg['type']
    return getattr(built, '__module__', '').startswith(PACKAGE) or type_name(cfg) in FREE_OPTIONS


def find(name: str) -> Any:
    """What MMPose or what stands above it has registered under a name, or None."""
    if '.' in name:
        return next(filter(None, (registry.get(name) for registry in REGISTRIES)), None)
    return next((registry.module_dict[name] for registry in REGISTRIES if name in registry.module_dict), None)


def known_elsewhere(part: Part) -> list[str]:
    """Names that a rule of their own answers: losses, codecs and hooks are built one by one."""
    last = part.where.rpartition('.')[2].partition('[')[0]
    return [part.type] if last in ('loss', 'losses', 'encoder', 'decoder', 'codec', 'custom_hooks') else []


def imported_modules(cfg: dict) -> list[str]:
    """Modules in ``custom_imports``."""
    imports = (cfg.get('custom_imports') or {}).get('imports', [])
    return [imports] if isinstance(imports, str) else [str(name) for name in imports]


def lost_imports(parts: ConfigParts) -> list[str]:
    """Modules that a base config imports and the merged config does not."""
    bases = base_files(parts.filename)
    found = [name for base in bases for name in imported_modules(Config.fromfile(base, import_custom_modules=False)._cfg_dict)]
    here = imported_modules(parts.cfg)
    return [name for name in dict.fromkeys(found) if name not in here]


def base_files(filename: str | None) -> list[str]:
    """The configs that a file names in ``_base_``; none for a config in pure Python style, or one that was not read from a file."""
    if not filename or not filename.endswith('.py') or not os.path.isfile(filename) or not hasattr(Config, '_get_base_files'):
        return []
    folder = os.path.dirname(filename)
    return [Config._get_cfg_path(base, filename)[0] if '::' in base else os.path.join(folder, base)
            for base in Config._get_base_files(filename)]


def written_imports(parts: ConfigParts, more: list[str]) -> str:
    """``custom_imports`` as one writes it, with what is missing."""
    names = [*imported_modules(parts.cfg), *more]
    ours = any(registered_by_us(part.cfg['type']) for part in named_parts(parts.cfg, ''))
    names += [IMPORTS] if ours and not any(name.startswith(IMPORTS) for name in names) else []
    return f'custom_imports = dict(imports={list(dict.fromkeys(names))}, allow_failed_imports=False)'
