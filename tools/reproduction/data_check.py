"""Is everything there that a row reads? Every missing thing with where to get it."""

from __future__ import annotations

import json
import os
from pathlib import Path

from .commands import read_config
from .manifest import Manifest, Row

PACKAGES = {'mmpretrain': 'mmpretrain==1.2.0', 'albumentations': 'albumentations==1.3.1'}


def missing(manifest: Manifest, rows: list[Row], boxes: str = 'ap56') -> list[str]:
    """What the rows need and is not there, one line each.

    Args:
        manifest: the manifest.
        rows: the rows to look at; those they need are looked at too.
        boxes: name of the person boxes for COCO val.
    """
    rows = with_needed(manifest, rows)
    evaluations = {manifest.tables[row.table].evaluation for row in rows if row.config}
    parts = dict.fromkeys(part for evaluation in sorted(filter(None, evaluations)) for part in manifest.evaluations[evaluation]['data'])
    faults = [fault for part in parts for fault in _data_faults(manifest, part)]
    configs = dict.fromkeys(manifest.config_path(row.config) for row in rows if row.config)
    if any(manifest.data[part].get('person_boxes') for part in parts):
        faults += _file_faults(manifest.root / manifest.boxes[boxes]['file'], manifest.boxes[boxes]['where'])
    faults += [fault for path in configs for fault in _config_faults(path)]
    return list(dict.fromkeys(faults))


def with_needed(manifest: Manifest, rows: list[Row]) -> list[Row]:
    """The rows, each after those it is made from."""
    ordered: dict[str, Row] = {}
    for row in rows:
        for name in (*row.needs, row.id):
            ordered.setdefault(name, manifest.rows[name])
    return list(ordered.values())


def _data_faults(manifest: Manifest, part: str) -> list[str]:
    data = manifest.data[part]
    root = manifest.root / data['root']
    if not root.is_dir():
        return [f'{root} (folder): {data["where"]}']
    faults = [fault for entry in data['annotations'] for fault in _annotation_faults(root, entry, data['where'])]
    for entry in data.get('files', []):
        faults += _file_faults(root / entry['file'], entry['where'])
    return faults


def _annotation_faults(root: Path, entry: dict, where: str) -> list[str]:
    path = root / entry['file']
    if not path.exists():
        return [f'{path}: {where}']
    content, damage = _read_json(path)
    if damage:
        return [f'{path}: {damage}: {where}']
    if isinstance(content, dict):
        pictures, wanted = {image['file_name'] for image in content.get('images', [])}, entry.get('images')
        counted, unit = len(pictures), 'pictures'
    else:
        pictures, wanted = {person['image'] for person in content}, entry.get('persons')
        counted, unit = len(content), 'persons'
    faults = []
    if wanted is not None and counted != wanted:
        faults.append(f'{path}: lists {counted} {unit}, the published file {wanted}: {where}')
    folder = root / entry['folder']
    present = {each.name for each in os.scandir(folder)} if folder.is_dir() else set()
    absent = pictures - present
    if absent:
        faults.append(f'{folder}: {len(absent)} of {len(pictures)} pictures missing, such as {min(absent)}: {where}')
    return faults


def _file_faults(path: Path, where: str) -> list[str]:
    if not path.exists():
        return [f'{path}: {where}']
    damage = _read_json(path)[1] if path.suffix == '.json' else ''
    return [f'{path}: {damage}: {where}'] if damage else []


def _read_json(path: Path) -> tuple[object, str]:
    """What a file holds, and what is wrong with it: a download may have ended early."""
    try:
        return json.loads(path.read_text()), ''
    except (OSError, ValueError) as error:
        return None, f'cannot be read ({error})'


def _config_faults(path: Path) -> list[str]:
    if not path.exists():
        return [f'{path}: the config of a row']
    config = read_config(path)
    return [*_package_faults(config), *_backbone_faults(config)]


def _backbone_faults(config) -> list[str]:
    import torch

    url = (config.model.backbone.get('init_cfg') or {}).get('checkpoint', '')
    if url.startswith('torchvision://'):
        from torchvision.models import get_model_weights

        url = get_model_weights(url[len('torchvision://'):]).IMAGENET1K_V1.url
    if not url.startswith('http'):
        return []
    path = Path(torch.hub.get_dir()) / 'checkpoints' / url.rpartition('/')[2]
    return [] if path.exists() else [f'{path} (pretrained backbone, fetched by the first training): {url}']


def _package_faults(config) -> list[str]:
    from importlib.util import find_spec

    wanted = {
        'mmpretrain': str(config.model.backbone.type).startswith('mmpretrain.'),
        'albumentations': any(step['type'] == 'Albumentation' for step in config.train_dataloader.dataset.pipeline),
    }
    return [
        f'{name} (Python package): {PACKAGES[name]}, installed as docs/reproduce.md says'
        for name, needed in wanted.items()
        if needed and find_spec(name) is None
    ]
