"""Loading what a training left behind, for the tools that look at predictions."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from tools.jobs import checkpoint
from tools.launcher import init_fitting_model, make_plugin_importable, require_data


def find(path: Path) -> tuple[Path, Path]:
    """Config and checkpoint of a work directory, or of a checkpoint inside one.

    The best checkpoint is taken, or the last where there is no best one.

    Raises:
        SystemExit: the path does not exist, or the folder does not hold exactly one config, or no checkpoint.
    """
    if not path.exists():
        raise SystemExit(f'{path} does not exist: wanted a work directory, or a checkpoint inside one')
    folder = path if path.is_dir() else path.parent
    configs = sorted(folder.glob('*.py'))
    if len(configs) != 1:
        raise SystemExit(f'{folder} must hold the one config of its training, found {[each.name for each in configs]}')
    if path.is_file():
        return configs[0], path
    try:
        return configs[0], checkpoint(folder, 'best')
    except FileNotFoundError as problem:
        raise SystemExit(str(problem)) from None


def load(path: Path, options: dict | None = None, device: str = 'cpu'):
    """Model in evaluation mode and its config.

    Args:
        path: a work directory, or a checkpoint inside one.
        options: overrides, as ``--cfg-options`` gives them.
        device: where the model goes.

    Returns:
        The estimator and its config, whose val data set exists, on annotated boxes.
    """
    make_plugin_importable()
    from mmengine.config import Config

    config_path, weights = find(path)
    config = Config.fromfile(config_path)
    config.merge_from_dict(options or {})
    config.val_dataloader.dataset.pop('bbox_file', None)  # `annotated_dataset` does without: nobody needs to fetch it
    require_data(config, ('val_dataloader',))
    model = init_fitting_model(config, str(weights), device=device)
    return model, config


def annotated_dataset(config, limit: int = 0):
    """The validation data set on annotated boxes, its first ``limit`` persons if that is not 0."""
    from mmpose.registry import DATASETS

    from hdm_mmpose.components.predictions import annotated_loader

    dataset = annotated_loader(config.val_dataloader)['dataset']
    if limit:
        dataset['indices'] = limit
    return DATASETS.build(dataset)


def title_of(folder: Path) -> str:
    """Name of a training: its folder's, or the one above where that only says which seed."""
    return folder.parent.name if folder.name.startswith('seed-') else folder.name


def add_arguments(parser: argparse.ArgumentParser, dict_action: Callable) -> None:
    """The options every tool that looks at predictions has."""
    import torch

    parser.add_argument('--limit', type=int, default=0, help='look at the first persons only (default: all)')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu', help='default here: %(default)s')
    parser.add_argument('--cfg-options', nargs='+', action=dict_action, default={}, help='overrides of the config')
