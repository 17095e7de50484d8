"""What tools/train.py and tools/test.py share: run the launcher that MMPose installs, after looking for the data.

The launchers of MMPose are used as they are installed, so flags and behaviour are theirs. Added are four things: the
plug-in is importable without being installed, ``hdm_mmpose.compat`` is applied whatever the config imports, a data
set that is not there is named before anything is built, and a checkpoint of another model is refused in a test.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def run(name: str, loaders: tuple[str, ...]) -> None:
    """Run MMPose's launcher ``name`` with this process' arguments.

    Args:
        name: file name of the launcher, such as ``train.py``.
        loaders: names of the data loaders whose data must be there.
    """
    launcher = load_stock_launcher(name)
    make_plugin_importable()
    from hdm_mmpose import compat

    compat.apply()
    merge_args = launcher.merge_args

    def merge_args_and_look_for_data(cfg: Any, args: Any) -> Any:
        cfg = merge_args(cfg, args)
        require_data(cfg, loaders)
        return cfg

    launcher.merge_args = merge_args_and_look_for_data
    if name == "test.py":
        require_fitting_weights()
    launcher.main()


def require_fitting_weights() -> None:
    """Let MMEngine's runner refuse a checkpoint of another model in place of testing with layers at random."""
    from mmengine.runner import Runner

    load_checkpoint = Runner.load_checkpoint

    def load_fitting(self: Any, filename: str, *args: Any, **kwargs: Any) -> Any:
        checkpoint = load_checkpoint(self, filename, *args, **kwargs)
        refuse_unfit_weights(self.model, checkpoint, filename)
        return checkpoint

    Runner.load_checkpoint = load_fitting


def init_fitting_model(config: Any, path: str, device: str = "cpu") -> Any:
    """MMPose's ``init_model``, for a checkpoint of this very model.

    Raises:
        SystemExit: the weights do not fit.
    """
    from mmengine.runner.checkpoint import load_checkpoint
    from mmpose.apis import init_model

    model = init_model(config, str(path), device=device)
    refuse_unfit_weights(model, load_checkpoint(model, str(path), map_location="cpu"), path)
    return model


def refuse_unfit_weights(model: Any, checkpoint: Any, path: Any) -> None:
    """Stop where a checkpoint leaves weights of a model as they were: MMEngine only warns of it and goes on.

    Args:
        model: wrapped for several processes or not.
        checkpoint: as MMEngine loaded it.
        path: named in the message.

    Raises:
        SystemExit: naming how many weights are missing or of another shape, and the first of them.
    """
    wanted = getattr(model, "module", model).state_dict()
    weights = checkpoint.get("state_dict", checkpoint)
    given = {name[len("module."):] if name.startswith("module.") else name: value for name, value in weights.items()}
    faults = [
        f"{name} is missing" if name not in given else f"{name} is {tuple(given[name].shape)}, the model's {tuple(value.shape)}"
        for name, value in wanted.items()
        if "num_batches_tracked" not in name and (name not in given or given[name].shape != value.shape)
    ]
    if faults:
        raise SystemExit(
            f"{path} does not hold the weights of this model: {len(faults)} of {len(wanted)} do not fit ({'; '.join(faults[:3])}). "
            "Use the config that the checkpoint was trained with."
        )


def make_plugin_importable() -> None:
    """Put this checkout first on the import path, of child processes too."""
    sys.path.insert(0, str(ROOT))
    inherited = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), inherited] if inherited else [str(ROOT)])


def load_stock_launcher(name: str) -> ModuleType:
    """Import ``tools/<name>`` of the installed MMPose without running it."""
    spec = importlib.util.find_spec("mmpose")
    if spec is None or spec.origin is None:
        raise SystemExit(f"{sys.executable} has no MMPose: run `make install`, or use the Python that has it")
    package = Path(spec.origin).parent
    places = (package / ".mim" / "tools" / name, package.parent / "tools" / name)  # a wheel; a checkout
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise SystemExit(f"this MMPose brings no launcher: neither {places[0]} nor {places[1]} exists")
    launcher_spec = importlib.util.spec_from_file_location(f"mmpose_tools_{path.stem}", path)
    assert launcher_spec is not None and launcher_spec.loader is not None
    launcher = importlib.util.module_from_spec(launcher_spec)
    launcher_spec.loader.exec_module(launcher)
    return launcher


def require_data(cfg: Any, loaders: tuple[str, ...]) -> None:
    """Stop with a message if a file that MMPose will read is not there.

    Only classes of MMPose are looked at, whose reading is known, and only what they read in any case: what a class of one's own
    reads is its own affair. A relative path that does not exist from the working directory but does from this repository is
    made absolute, so that the launchers work from any directory.

    Args:
        cfg: merged config; its paths may be changed in place.
        loaders: names of the data loaders to look at; each one's evaluator is looked at too.

    Raises:
        SystemExit: naming what is missing and the section of the README that says how to get it.
    """
    from mmpose.registry import DATASETS, METRICS

    missing: list[str] = []
    for loader in loaders:
        for dataset in datasets_in((cfg.get(loader) or {}).get("dataset")):
            missing += missing_paths(dataset, is_of_mmpose(dataset, DATASETS))
        for evaluator in evaluators_in(cfg.get(loader.replace("dataloader", "evaluator"))):
            absent = missing_file(evaluator, "ann_file")
            missing += absent if is_of_mmpose(evaluator, METRICS) else []
    if missing:
        listed = "\n".join(f"  {path}" for path in dict.fromkeys(missing))
        raise SystemExit(
            f"The data this config reads is not there:\n{listed}\n"
            f"(relative paths are looked for in {Path.cwd()} and in {ROOT})\n"
            "README.md, section 'Data', says how to get it and where to put it."
        )


def is_of_mmpose(cfg: Any, registry: Any) -> bool:
    """Whether a dict builds a class of MMPose itself, not one of the project's own."""
    from mmpose.utils import register_all_modules

    register_all_modules()
    kind = cfg.get("type")
    built = registry.get(kind) if isinstance(kind, str) else kind
    return getattr(built, "__module__", "").startswith("mmpose.")


def datasets_in(dataset: Any) -> Iterator[Any]:
    """All data sets in a config, those inside wrappers such as CombinedDataset included."""
    if not dataset:
        return
    inner = [*(dataset.get("datasets") or []), dataset.get("dataset")]
    if any(inner):
        for each in inner:
            yield from datasets_in(each)
    else:
        yield dataset


def evaluators_in(evaluator: Any) -> list[Any]:
    """The evaluators of a config, given as one, as a list or not at all."""
    if not evaluator:
        return []
    return list(evaluator) if isinstance(evaluator, (list, tuple)) else [evaluator]


def missing_paths(dataset: Any, of_mmpose: bool) -> list[str]:
    """What a data set of MMPose reads and is not there; paths are joined as MMEngine does it, and changed in any data set."""
    root = dataset.get("data_root") or ""
    if root and is_local(root):
        root = dataset["data_root"] = from_here_or_repository(root)
    boxes = missing_file(dataset, "bbox_file")
    if not of_mmpose:
        return []
    if root and is_local(root) and not os.path.isdir(root):
        return [f"{root} (folder)", *boxes]
    pictures = (dataset.get("data_prefix") or {}).get("img")
    wanted = [os.path.join(root, path) for path in (dataset.get("ann_file"), pictures) if path]
    return [path for path in wanted if is_local(path) and not os.path.exists(path)] + boxes


def missing_file(cfg: Any, key: str) -> list[str]:
    """``cfg[key]`` if it names a file that is not there."""
    path = cfg.get(key)
    if not isinstance(path, str) or not path or not is_local(path):
        return []
    cfg[key] = from_here_or_repository(path)
    return [] if os.path.exists(cfg[key]) else [path]


def is_local(path: str) -> bool:
    """Whether a path is on a file system here, rather than in a store that MMEngine reads by URL."""
    return "://" not in path


def from_here_or_repository(path: str) -> str:
    """The path itself if it exists or is absolute, else the same path in this repository if it exists there."""
    if os.path.isabs(path) or os.path.exists(path) or not (ROOT / path).exists():
        return path
    return str(ROOT / path)
