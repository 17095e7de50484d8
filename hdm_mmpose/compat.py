"""Known faults of the installed stack, one function each.

Every function says what is broken, where upstream knows about it, and when it can go. All of them do nothing where
their fault is absent, and all may be called repeatedly. ``apply()`` calls them all; importing ``hdm_mmpose.components``
calls ``apply()``, which through ``custom_imports`` happens while the config is read: before a checkpoint is loaded and
before a process group is made.
"""

from __future__ import annotations

import functools
import importlib
import pickle
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from hdm_mmpose.features import loads_safely

NUMPY_MODULES = ("multiarray", "numeric")
HISTORY_STATISTICS = ("min", "max", "current", "mean")
NUMERIC_KINDS = "biufc"


def apply() -> None:
    """Work around every fault listed here that this machine has."""
    let_numpy_names_find_each_other()
    allow_mmengine_checkpoints()
    allow_cpu_process_groups()
    keep_checkpoint_until_the_next_is_written()
    keep_divergence_of_absent_joints_finite()
    read_accuracy_in_bfloat16()
    draw_heatmaps_of_one_joint()
    note_the_crop()


# ---------------------------------------------------------------------------------------------------------------------
# numpy 1 and numpy 2 cannot read each other's checkpoints


@functools.lru_cache(maxsize=None)
def let_numpy_names_find_each_other() -> None:
    """Let arrays and scalars of a checkpoint be found under the module names of numpy 1 and of numpy 2.

    numpy 2 renamed ``numpy.core`` to ``numpy._core`` and writes that name into pickles. numpy before 1.26 does not know it:
    a checkpoint trained under numpy 2 cannot be loaded. Only the modules that pickles name become known under both names;
    ``import numpy._core`` itself still says what numpy this is.

    Upstream: numpy 1.26 knows both names, and so does numpy 2 for now.
    Remove when: the oldest numpy in pyproject.toml is 1.26 and the newest still knows ``numpy.core``.
    """
    for module in NUMPY_MODULES:
        for name, other in ((f"numpy.core.{module}", f"numpy._core.{module}"), (f"numpy._core.{module}", f"numpy.core.{module}")):
            try:
                importlib.import_module(name)
            except ModuleNotFoundError:
                sys.modules[name] = importlib.import_module(other)


# ---------------------------------------------------------------------------------------------------------------------
# torch >= 2.6 cannot reload MMEngine's own checkpoints


@functools.lru_cache(maxsize=None)
def allow_mmengine_checkpoints() -> None:
    """Let torch's safe loader read the checkpoints that MMEngine's runner writes.

    Since 2.6 ``torch.load`` unpickles weights only; where it does not, nothing is done here. MMEngine 0.10.7 calls it
    without saying otherwise, but its checkpoints also hold the logged scalars (``HistoryBuffer``: numpy arrays, and its
    statistics by ``getattr``) and the data set's meta information (numpy arrays): neither ``--resume`` nor testing a
    checkpoint works.

    The safe loader stays on. It gets stand-ins, under the names found in such files, that admit exactly this content:
    arrays and scalars of numbers, the empty ``bytes`` of an empty array (a data set without a skeleton has one), and the
    four statistics of ``HistoryBuffer``. Allowing ``getattr`` itself would hand every method of every admitted object to
    whoever made the file.

    Upstream: https://github.com/open-mmlab/mmengine/issues/1655 (fixed by #1670 on the main branch only).
    Remove when: the oldest MMEngine in pyproject.toml reads its own checkpoints.
    """
    if not loads_safely():
        return
    from mmengine.logging import HistoryBuffer

    reconstruct, scalar = np.array(0).__reduce__()[0], np.float64(0).__reduce__()[0]
    admitted: list[Any] = [HistoryBuffer, (_history_statistic, "builtins.getattr"), np.ndarray]
    for module in ("numpy.core.multiarray", "numpy._core.multiarray"):  # as numpy 1 and numpy 2 write it
        admitted += [(reconstruct, f"{module}._reconstruct"), (scalar, f"{module}.scalar")]
    admitted += [(_numeric_dtype, "numpy.dtype"), (_empty_bytes, "builtins.bytes")]
    admitted += {type(np.dtype(code)) for code in np.typecodes["All"] if np.dtype(code).kind in NUMERIC_KINDS}
    torch.serialization.add_safe_globals(admitted)


def _history_statistic(owner: type, name: str) -> Callable:
    """Stand-in for ``getattr`` while unpickling: a statistic of ``HistoryBuffer`` and nothing else."""
    from mmengine.logging import HistoryBuffer

    if owner is not HistoryBuffer or name not in HISTORY_STATISTICS:
        wanted = ", ".join(HISTORY_STATISTICS)
        raise pickle.UnpicklingError(f"a checkpoint may only name HistoryBuffer's {wanted}; got {owner!r}, {name!r}")
    return getattr(HistoryBuffer, name)


def _empty_bytes() -> bytes:
    """Stand-in for ``bytes`` while unpickling: what an array without elements holds; a length would reserve memory."""
    return b""


def _numeric_dtype(code: str, align: bool = False, copy: bool = True) -> np.dtype:
    """Stand-in for ``numpy.dtype`` while unpickling: numbers only, always a copy, since its state is set afterwards."""
    dtype = np.dtype(code) if isinstance(code, str) else None
    if dtype is None or dtype.kind not in NUMERIC_KINDS:
        raise pickle.UnpicklingError(f"a checkpoint may only hold numeric arrays; got numpy dtype {code!r}")
    return np.dtype(code, align=False, copy=True)


# ---------------------------------------------------------------------------------------------------------------------
# MMEngine cannot start several processes on a machine without an accelerator


@functools.lru_cache(maxsize=None)
def allow_cpu_process_groups() -> None:
    """Let ``--launcher pytorch``, ``slurm`` and ``mpi`` work where there is no accelerator.

    MMEngine then calls ``torch.cuda.set_device`` (0.7 with a rank modulo the number of devices, which is 0), asks for the
    nccl backend that every MMPose recipe names, and gives ``DistributedDataParallel`` a device number for a model on the
    CPU; each of the three raises. Here the first becomes harmless during the start, the second becomes gloo with a
    warning, the third is dropped for CPU modules.

    Upstream: ``mmengine/dist/utils.py`` (``_init_dist_*``) and ``Runner.wrap_model``; no report found.
    Remove when: MMEngine starts its tests' process groups on a CPU without help.
    """
    from mmengine.device import get_device

    if get_device() != "cpu":
        return
    from mmengine.dist import utils
    from mmengine.model import MMDistributedDataParallel

    for launcher in ("pytorch", "slurm", "mpi"):
        name = f"_init_dist_{launcher}"
        setattr(utils, name, _start_on_cpu(getattr(utils, name)))
    MMDistributedDataParallel.__init__ = _wrap_on_cpu(MMDistributedDataParallel.__init__)


def _start_on_cpu(init_dist: Callable) -> Callable:
    @functools.wraps(init_dist)
    def start(backend: str, *args: Any, **kwargs: Any) -> None:
        if backend == "nccl":
            warnings.warn("no accelerator here: the processes talk through gloo instead of nccl", stacklevel=2)
            backend = "gloo"
        with _no_device_is_set():
            init_dist(backend, *args, **kwargs)

    return start


@contextmanager
def _no_device_is_set() -> Iterator[None]:
    originals = torch.cuda.set_device, torch.cuda.device_count
    torch.cuda.set_device, torch.cuda.device_count = (lambda device: None), (lambda: 1)
    try:
        yield
    finally:
        torch.cuda.set_device, torch.cuda.device_count = originals


def _wrap_on_cpu(init: Callable) -> Callable:
    @functools.wraps(init)
    def wrap(self: Any, module: torch.nn.Module, *args: Any, **kwargs: Any) -> None:
        if all(parameter.device.type == "cpu" for parameter in module.parameters()):
            kwargs.update(device_ids=None, output_device=None)
        init(self, module, *args, **kwargs)

    return wrap


# ---------------------------------------------------------------------------------------------------------------------
# A run killed while it saves loses the checkpoint before, too


@functools.lru_cache(maxsize=None)
def keep_checkpoint_until_the_next_is_written() -> None:
    """Let ``CheckpointHook`` remove what it no longer keeps after it has written the new checkpoint, not before.

    MMEngine 0.10.7 removes first. With ``max_keep_ckpts=1`` a process that is killed while it writes leaves a truncated
    file, and ``last_checkpoint`` names one that is gone: nothing is left to resume from. With ``save_best`` the best
    checkpoint is lost in the same way, however many are kept.

    Upstream: ``mmengine/hooks/checkpoint_hook.py`` (``_save_checkpoint_with_step``, which is a part of
    ``_save_checkpoint`` in older ones, and ``_save_best_checkpoint``); no report found.
    Remove when: the oldest MMEngine in pyproject.toml writes before it removes.
    """
    from mmengine.hooks import CheckpointHook

    regular = "_save_checkpoint_with_step" if hasattr(CheckpointHook, "_save_checkpoint_with_step") else "_save_checkpoint"
    for name in (regular, "_save_best_checkpoint"):
        setattr(CheckpointHook, name, _save_then_remove(getattr(CheckpointHook, name)))


def _save_then_remove(save: Callable) -> Callable:
    @functools.wraps(save)
    def save_then_remove(self: Any, *args: Any, **kwargs: Any) -> None:
        removals: list[tuple[Callable, str]] = []
        stores = {name: getattr(self, name) for name in ("file_backend", "file_client")}  # MMEngine 0.7 removes through either
        for name, store in stores.items():
            setattr(self, name, _RemovesLater(store, removals))
        try:
            save(self, *args, **kwargs)
        finally:
            for name, store in stores.items():
                setattr(self, name, store)
        for remove, path in removals:
            if path not in _written_last(self):  # the new one may bear the old one's name
                remove(path)

    return save_then_remove


def _written_last(hook: Any) -> set[str | None]:
    """Paths a ``CheckpointHook`` wrote last; it has the attributes of what it was asked to save only."""
    best = getattr(hook, "best_ckpt_path_dict", None) or {}
    return {getattr(hook, "last_ckpt", None), getattr(hook, "best_ckpt_path", None), *best.values()}


class _RemovesLater:
    """A place for files that only notes what it should remove."""

    def __init__(self, store: Any, removals: list[tuple[Callable, str]]) -> None:
        self.store = store
        self.removals = removals

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)

    def remove(self, path: str) -> None:
        self.removals.append((self.store.remove, path))

    def rmtree(self, path: str) -> None:
        self.removals.append((self.store.rmtree, path))


# ---------------------------------------------------------------------------------------------------------------------
# DSNT and debiased IPR turn to NaN as soon as a joint is not annotated


@functools.lru_cache(maxsize=None)
def keep_divergence_of_absent_joints_finite() -> None:
    """Let ``JSDiscretLoss`` pass a gradient of 0, not NaN, to maps whose weight is 0.

    It multiplies predictions by their weights and takes ``p log p`` of the product. At ``p = 0`` torch's derivative of
    ``xlogy(p, p)`` with respect to its second argument is 0 / 0: the first step with a joint that is not annotated
    fills the network with NaN. 1e-24, which the loss adds to ``q`` already, makes it finite.

    Upstream: https://github.com/open-mmlab/mmpose/issues/2517 (closed without a change).
    Remove when: the oldest MMPose in pyproject.toml gives a finite gradient there.
    """
    from mmpose.models.losses import JSDiscretLoss

    def kl(self: Any, p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
        smallest = 1e-24  # as in MMPose's own
        return self.kl_loss((q + smallest).log(), p + smallest)

    JSDiscretLoss.kl = kl


# ---------------------------------------------------------------------------------------------------------------------
# MMPose's heads cannot measure their accuracy in bfloat16


@functools.lru_cache(maxsize=None)
def read_accuracy_in_bfloat16() -> None:
    """Let MMPose turn tensors of bfloat16 into arrays, as float32.

    With ``compute_acc=True``, the default, a head hands its maps to NumPy, which has no bfloat16: under
    ``AmpOptimWrapper(dtype='bfloat16')`` the first step raises ``Got unsupported ScalarType BFloat16``.

    Upstream: ``mmpose/utils/tensor_utils.py`` (``to_numpy``); no report found.
    Remove when: the oldest MMPose in pyproject.toml trains in bfloat16 with ``compute_acc=True``.
    """
    from mmpose.utils import tensor_utils

    original = tensor_utils.to_numpy

    @functools.wraps(original)
    def to_numpy(x: Any, *args: Any, **kwargs: Any) -> Any:
        return original(_lift_bfloat16(x), *args, **kwargs)

    _replace_everywhere("to_numpy", original, to_numpy)


def _replace_everywhere(name: str, original: Callable, replacement: Callable) -> None:
    """Replace a function of MMPose in all modules loaded so far; those loaded later take it from the first."""
    for module in [module for key, module in sys.modules.items() if key.startswith("mmpose.")]:
        if vars(module).get(name) is original:
            setattr(module, name, replacement)


def _lift_bfloat16(x: Any) -> Any:
    """Tensors of bfloat16, also those inside sequences, as float32; anything else as it is."""
    if isinstance(x, (list, tuple)) and any(isinstance(each, (torch.Tensor, list, tuple)) for each in x):
        return type(x)(_lift_bfloat16(each) for each in x)
    return x.float() if isinstance(x, torch.Tensor) and x.dtype == torch.bfloat16 else x


# ---------------------------------------------------------------------------------------------------------------------
# Predicted heatmaps of a single joint cannot be drawn


@functools.lru_cache(maxsize=None)
def draw_heatmaps_of_one_joint() -> None:
    """Let ``revert_heatmap`` lay the map of a single joint over the picture.

    OpenCV gives a picture of one channel back without its last axis, which MMPose then transposes: with one joint,
    ``output_heatmaps=True`` and ``merge_data_samples`` raise ``axes don't match array``.

    Upstream: ``mmpose/structures/utils.py`` (``revert_heatmap``); no report found.
    Remove when: the oldest MMPose in pyproject.toml reverts a map of shape (1, H, W).
    """
    from mmpose.structures import utils

    original = utils.revert_heatmap

    @functools.wraps(original)
    def revert_heatmap(heatmap: Any, *args: Any, **kwargs: Any) -> np.ndarray:
        if heatmap.ndim == 3 and len(heatmap) == 1:
            return original(heatmap[0], *args, **kwargs)[None]
        return original(heatmap, *args, **kwargs)

    _replace_everywhere("revert_heatmap", original, revert_heatmap)


# ---------------------------------------------------------------------------------------------------------------------
# MMPose 1.1 does not say where it cropped


@functools.lru_cache(maxsize=None)
def note_the_crop() -> None:
    """Let ``TopdownAffine`` note centre and size of its crop as ``input_center`` and ``input_scale``, as later ones do.

    MMPose 1.1 packs these two keys and never sets them; without them nothing maps a picture's points into the input.

    Upstream: ``mmpose/datasets/transforms/topdown_transforms.py``; set since MMPose 1.2.
    Remove when: the oldest MMPose in pyproject.toml is 1.2.
    """
    from mmpose.datasets.transforms import TopdownAffine

    original = TopdownAffine.transform

    @functools.wraps(original)
    def transform(self: Any, results: dict) -> dict | None:
        results = original(self, results)
        if results is not None and "bbox_center" in results:
            results.setdefault("input_center", results["bbox_center"][0])
            results.setdefault("input_scale", results["bbox_scale"][0])
        return results

    TopdownAffine.transform = transform
