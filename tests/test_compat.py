"""The faults of the installed stack, with the real MMEngine: its own checkpoints, its own process groups."""

from __future__ import annotations

import logging
import os
import pickle
import re
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("mmengine", reason="the faults are MMEngine's")

from mmengine.device import get_device  # noqa: E402
from mmengine.hooks import CheckpointHook  # noqa: E402
from mmengine.logging import HistoryBuffer, MessageHub  # noqa: E402

from hdm_mmpose import compat  # noqa: E402
from hdm_mmpose.features import loads_safely  # noqa: E402

TOY = Path(__file__).with_name("toy_training.py")


def run(root: Path, *command: str | Path) -> str:
    """Output of a command that must succeed; the checkout is importable for it."""
    env = dict(os.environ, PYTHONPATH=str(root), OMP_NUM_THREADS="1")
    done = subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True, env=env, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def training(root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Work folder and output of a training of two epochs, resumed for a third."""
    folder = tmp_path_factory.mktemp("toy")
    return folder, run(root, TOY, folder, "none")


def test_own_checkpoint_is_refused_without_help(training: tuple[Path, str]) -> None:
    if not loads_safely():
        pytest.skip("this torch loads anything")
    output = training[1]
    assert "refused without help" in output, "this MMEngine or torch is repaired: remove allow_mmengine_checkpoints"


def test_resume_goes_on_where_it_stopped(training: tuple[Path, str]) -> None:
    folder, output = training
    assert "rank 0 of 1: epoch 2" in output and "rank 0 of 1: epoch 3" in output
    assert "resumed epoch: 2, iter: 8" in output
    assert (folder / "epoch_3.pth").is_file()


def test_best_checkpoint_loads_with_the_safe_loader(training: tuple[Path, str]) -> None:
    compat.apply()
    best = max(training[0].glob("best_error_*.pth"))  # MMEngine 0.7 forgets the one before when it resumes
    assert torch.load(best).keys() >= {"meta", "state_dict"}


def test_everything_in_the_checkpoint_comes_back(training: tuple[Path, str]) -> None:
    compat.apply()
    path = training[0] / "epoch_2.pth"
    ours, plain = torch.load(path), torch.load(path, weights_only=False)
    assert ours.keys() == plain.keys() >= {"meta", "state_dict", "message_hub", "optimizer", "param_schedulers"}
    assert ours["meta"]["epoch"] == 2
    for name, array in (("sigmas", np.full(17, 0.05, np.float32)), ("keypoint_colors", np.zeros((17, 3), np.uint8))):
        restored = ours["meta"]["dataset_meta"][name]
        assert type(restored) is np.ndarray and restored.dtype == array.dtype
        np.testing.assert_array_equal(restored, array)
    HistoryBuffer()  # with the first one MMEngine 0.7 registers the statistics
    scalars, wanted = ours["message_hub"]["log_scalars"], plain["message_hub"]["log_scalars"]
    assert scalars.keys() == wanted.keys() >= {"train/loss", "train/lr"}
    for name, buffer in scalars.items():
        assert isinstance(buffer, HistoryBuffer)
        np.testing.assert_array_equal(buffer.data[0], wanted[name].data[0])
        assert buffer.statistics("mean") == wanted[name].mean()
    best = ours["message_hub"]["runtime_info"]["best_score"]
    assert best == plain["message_hub"]["runtime_info"]["best_score"] and np.isfinite(best)
    assert torch.equal(ours["state_dict"]["line.weight"], plain["state_dict"]["line.weight"])


class Reduced:
    """Pickles as the call ``function(*arguments)``."""

    def __init__(self, function, *arguments) -> None:
        self.call = function, arguments

    def __reduce__(self):
        return self.call


FOREIGN = {
    "a shell": Reduced(os.system, "true"),
    "eval": Reduced(eval, "1"),
    "another method of HistoryBuffer": Reduced(getattr, HistoryBuffer, "register_statistics"),
    "a dunder of HistoryBuffer": Reduced(getattr, HistoryBuffer, "__init__"),
    "a method of another admitted class": Reduced(getattr, np.ndarray, "tofile"),
    "a method of a string": Reduced(getattr, "text", "format"),
    "a call of an admitted method": Reduced(HistoryBuffer.mean, "text"),
    "object dtype": Reduced(np.dtype, "O"),
    "compound dtype": Reduced(np.dtype, "f8,O"),
    "dtype by fields": Reduced(np.dtype, [("a", "O")]),
    "array of objects": np.array([{"a": 1}], dtype=object),
}


@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN)
def test_everything_else_is_still_refused(content: object, tmp_path: Path) -> None:
    if not loads_safely():
        pytest.skip("this torch loads anything")
    compat.apply()
    torch.save({"state_dict": {}, "message_hub": content}, tmp_path / "foreign.pth")
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "foreign.pth")


def test_the_global_dtypes_survive_loading(tmp_path: Path) -> None:
    compat.apply()
    torch.save(np.arange(3.0).astype(">f8"), tmp_path / "big_endian.pth")
    assert torch.load(tmp_path / "big_endian.pth").tolist() == [0.0, 1.0, 2.0]
    assert np.dtype("f8").isnative and np.dtype("f8").metadata is None


class Saves:
    """What ``CheckpointHook`` needs of a runner; ``seen`` says what was in the folder when each file was written."""

    def __init__(self, folder: Path, save_best: str | list[str]) -> None:
        compat.apply()
        self.work_dir, self.epoch, self.iter, self.seen = str(folder), 0, 0, {}
        self.logger, self.message_hub = logging.getLogger("saves"), MessageHub.get_instance(f"saves {folder}")
        self.hook = CheckpointHook(interval=1, max_keep_ckpts=1, save_best=save_best, rule="less")
        self.hook.before_train(self)

    def save_checkpoint(self, out_dir: str, filename: str, *args, **kwargs) -> None:
        self.seen[filename] = self.files()
        (Path(out_dir) / filename).touch()

    def files(self) -> set[str]:
        return {path.name for path in Path(self.work_dir).glob("*.pth")}

    def validate(self, epoch: int, **metrics: float) -> None:
        self.epoch = epoch
        self.hook.after_val_epoch(self, metrics)


@pytest.mark.parametrize("others", [(), ("spread",)], ids=["one metric", "two metrics"])
def test_old_best_is_removed_after_the_new_one_is_written(tmp_path: Path, others: tuple[str, ...]) -> None:
    runner = Saves(tmp_path, ["error", *others])
    for epoch, error in ((1, 5.0), (2, 3.0), (3, 4.0), (4, 2.0)):
        runner.hook._save_checkpoint(runner)
        runner.validate(epoch, error=error, **dict.fromkeys(others, float(epoch)))
    kept = {f"best_{name}_epoch_1.pth" for name in others}
    assert runner.seen["best_error_epoch_2.pth"] >= {"best_error_epoch_1.pth"}
    assert runner.seen["best_error_epoch_4.pth"] >= {"best_error_epoch_2.pth"}
    assert runner.files() == kept | {"best_error_epoch_4.pth", "epoch_4.pth"}


def test_a_best_of_the_same_name_is_not_removed(tmp_path: Path) -> None:
    runner = Saves(tmp_path, "error")
    runner.validate(2, error=5.0)
    runner.validate(2, error=4.0)
    assert runner.files() == {"best_error_epoch_2.pth"}


def test_several_processes_without_an_accelerator(root: Path, tmp_path: Path) -> None:
    if get_device() != "cpu":
        pytest.skip(f"this machine has an accelerator ({get_device()}); the fault is absent")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    output = run(
        root, "-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={port}", TOY, tmp_path, "pytorch"
    )
    ranks = dict(re.findall(r"rank (\d) of 2: epoch 2, weights (\[.*?\])", output))
    assert ranks.keys() == {"0", "1"}, output
    assert ranks["0"] == ranks["1"], "the processes did not share their gradients"
    assert (tmp_path / "epoch_2.pth").is_file()


def test_apply_changes_nothing_the_second_time() -> None:
    from mmengine.dist import utils
    from mmengine.model import MMDistributedDataParallel

    def state() -> tuple:
        safe = {str(entry) for entry in torch.serialization.get_safe_globals()} if loads_safely() else set()
        saves = [getattr(CheckpointHook, name) for name in dir(CheckpointHook) if name.startswith("_save_")]
        return safe, utils._init_dist_pytorch, MMDistributedDataParallel.__init__, torch.cuda.set_device, torch.cuda.device_count, saves

    compat.apply()
    once = state()
    compat.apply()
    assert state() == once


def test_a_joint_that_is_not_annotated_leaves_the_divergence_finite() -> None:
    """Value and gradient of the others are MMPose's own."""
    from mmpose.models.losses import JSDiscretLoss

    compat.apply()
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 20, generator=generator, dtype=torch.float64)
    target = torch.rand(2, 3, 20, generator=generator, dtype=torch.float64).softmax(-1)
    weights = torch.ones(2, 3)
    weights[0, 1] = 0

    def value_and_gradient(logits: torch.Tensor, *others: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        leaf = logits.clone().requires_grad_()
        loss = JSDiscretLoss(size_average=False)(leaf.softmax(-1), *others)
        return loss.detach(), torch.autograd.grad(loss, leaf)[0]

    value, gradient = value_and_gradient(logits, target, weights)
    present = weights > 0
    alone, slope = value_and_gradient(logits[present], target[present], torch.ones(5))
    assert (gradient[0, 1] == 0).all()
    torch.testing.assert_close(gradient[present], slope, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(value, alone, rtol=1e-9, atol=1e-12)


def test_meta_information_of_every_stock_data_set_comes_back(tmp_path: Path) -> None:
    """MMEngine writes it into every checkpoint; one without a skeleton holds an array without elements."""
    pytest.importorskip("mmpose")
    from mmpose.datasets.datasets.utils import parse_pose_metainfo
    from mmpose.registry import DATASETS
    from mmpose.utils import register_all_modules

    register_all_modules()
    compat.apply()
    plain = dict(dataset_name="own", paper_info={}, keypoint_info={0: dict(name="a", id=0, color=[0, 0, 0], type="", swap="")},
                 skeleton_info={}, joint_weights=[1.0], sigmas=[])
    metas = {"own": plain}
    for name, kind in DATASETS.module_dict.items():
        if getattr(kind, "METAINFO", None):
            metas[name] = kind.METAINFO
    assert len(metas) > 30
    empty = 0
    for name, meta in metas.items():
        parsed = parse_pose_metainfo(dict(meta))
        torch.save({"meta": {"dataset_meta": parsed}}, tmp_path / "one.pth")
        restored = torch.load(tmp_path / "one.pth")["meta"]["dataset_meta"]
        np.testing.assert_equal(restored, parsed, err_msg=name)
        empty += sum(isinstance(value, np.ndarray) and not value.size for value in parsed.values())
    assert empty > 1


def test_bytes_are_admitted_without_a_length_only(tmp_path: Path) -> None:
    if not loads_safely():
        pytest.skip("this torch loads anything")
    compat.apply()
    torch.save({"state_dict": {}, "much": Reduced(bytes, 10**9)}, tmp_path / "long.pth")
    with pytest.raises((pickle.UnpicklingError, TypeError)):
        torch.load(tmp_path / "long.pth")


def test_tensors_of_bfloat16_become_arrays_wherever_mmpose_makes_them() -> None:
    pytest.importorskip("mmpose")
    from mmpose.models.heads import heatmap_heads
    from mmpose.utils import tensor_utils

    compat.apply()
    value = torch.tensor([1.5, 2.0], dtype=torch.bfloat16)
    for module in (tensor_utils, heatmap_heads.heatmap_head):
        assert module.to_numpy(value).dtype == np.float32
        assert [each.tolist() for each in module.to_numpy([value, value])] == [[1.5, 2.0]] * 2
        array, device = module.to_numpy(value, return_device=True)
        assert array.tolist() == [1.5, 2.0] and device == value.device
        assert len(module.to_numpy((value[None], value[None]), unzip=True)) == 1


@pytest.mark.parametrize("joints", [1, 2, 17])
def test_heatmaps_of_any_number_of_joints_are_laid_over_the_picture(joints: int) -> None:
    pytest.importorskip("mmpose")
    from mmpose.structures import revert_heatmap
    from mmpose.structures import utils as structures

    compat.apply()
    for function in (revert_heatmap, structures.revert_heatmap):
        for maps in (np.random.rand(joints, 8, 6).astype(np.float32), torch.rand(joints, 8, 6)):
            assert function(maps, np.array([30.0, 40]), np.array([60.0, 80]), (80, 60)).shape == (joints, 80, 60)
    assert structures.revert_heatmap(np.ones((8, 6), np.float32), np.array([30.0, 40]), np.array([60.0, 80]), (80, 60)).shape == (80, 60)


def test_the_crop_is_noted() -> None:
    """By every MMPose: what ``input_center`` and ``input_scale`` say is where the picture was cut."""
    pytest.importorskip("mmpose")
    from mmpose.datasets.transforms import TopdownAffine

    compat.apply()
    results = dict(
        img=np.zeros((60, 80, 3), np.uint8), bbox_center=np.array([[40.0, 30.0]]), bbox_scale=np.array([[24.0, 20.0]]),
        bbox_rotation=np.zeros(1), keypoints=np.array([[[28.0, 14.0], [40.0, 30.0]]]), keypoints_visible=np.ones((1, 2)))
    results = TopdownAffine(input_size=(48, 64)).transform(results)
    np.testing.assert_allclose(results["input_scale"], [24, 32])
    mapped = ((np.array([[28.0, 14.0], [40.0, 30.0]]) - results["input_center"]) / results["input_scale"] + 0.5) * [48, 64]
    np.testing.assert_allclose(mapped, results["transformed_keypoints"][0], atol=1e-4)
