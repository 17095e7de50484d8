"""tools/*.sh say the right commands; tools/train.py and test.py are MMPose's own, and name data that is not there."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch


@pytest.fixture
def fakes(tmp_path: Path) -> Path:
    """Folder with a torchrun and an srun that print their arguments, one per line, and the import path."""
    for name in ("torchrun", "srun"):
        fake = tmp_path / name
        fake.write_text(f'#!/bin/sh\necho {name}\nprintf "%s\\n" "$@"\necho "PYTHONPATH=$PYTHONPATH"\n')
        fake.chmod(0o755)
    return tmp_path


def shell(root: Path, fakes: Path, script: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess:
    """Run a script of tools/ from a foreign directory."""
    env = {"PATH": f"{fakes}:/usr/bin:/bin", **variables}
    command = ["bash", str(root / "tools" / script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=env, cwd=fakes, timeout=30)


def lines(done: subprocess.CompletedProcess) -> list[str]:
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_dist_train(root: Path, fakes: Path) -> None:
    told = lines(shell(root, fakes, "dist_train.sh", "my config.py", "4", "--resume", "--cfg-options", "a=[1, 2]"))
    assert told[:6] == [
        "torchrun",
        "--nnodes=1",
        "--node_rank=0",
        "--master_addr=127.0.0.1",
        "--master_port=29500",
        "--nproc_per_node=4",
    ]
    script, *rest, path = told[6:]
    assert Path(script).resolve() == root / "tools" / "train.py"
    assert rest == ["my config.py", "--launcher", "pytorch", "--resume", "--cfg-options", "a=[1, 2]"]
    assert Path(path[len("PYTHONPATH="):]).resolve() == root


def test_dist_test(root: Path, fakes: Path) -> None:
    variables = {"NNODES": "2", "NODE_RANK": "1", "MASTER_ADDR": "10.0.0.1", "PORT": "29777", "PYTHONPATH": "/mine"}
    told = lines(shell(root, fakes, "dist_test.sh", "c.py", "best.pth", "8", "--out", "m.json", **variables))
    assert told[1:6] == [
        "--nnodes=2",
        "--node_rank=1",
        "--master_addr=10.0.0.1",
        "--master_port=29777",
        "--nproc_per_node=8",
    ]
    assert Path(told[6]).resolve() == root / "tools" / "test.py"
    assert told[7:-1] == ["c.py", "best.pth", "--launcher", "pytorch", "--out", "m.json"]
    assert told[-1].endswith(":/mine")


def test_slurm_train(root: Path, fakes: Path) -> None:
    variables = {"GPUS": "16", "GPUS_PER_NODE": "4", "CPUS_PER_TASK": "3", "SRUN_ARGS": "--qos high --exclusive"}
    told = lines(shell(root, fakes, "slurm_train.sh", "part", "job", "c.py", "runs/a b", "--amp", **variables))
    at = told.index("python")
    assert told[:at] == [
        "srun",
        "-p",
        "part",
        "--job-name=job",
        "--gres=gpu:4",
        "--ntasks=16",
        "--ntasks-per-node=4",
        "--cpus-per-task=3",
        "--kill-on-bad-exit=1",
        "--qos",
        "high",
        "--exclusive",
    ]
    assert told[at + 1] == "-u" and Path(told[at + 2]).resolve() == root / "tools" / "train.py"
    assert told[at + 3 : -1] == ["c.py", "--work-dir=runs/a b", "--launcher=slurm", "--amp"]


def test_slurm_test(root: Path, fakes: Path) -> None:
    told = lines(shell(root, fakes, "slurm_test.sh", "part", "job", "c.py", "best.pth", "--show-dir", "shown"))
    at = told.index("python")
    assert {"--gres=gpu:8", "--ntasks=8", "--ntasks-per-node=8", "--cpus-per-task=5"} <= set(told[:at])
    assert Path(told[at + 2]).resolve() == root / "tools" / "test.py"
    assert told[at + 3 : -1] == ["c.py", "best.pth", "--launcher=slurm", "--show-dir", "shown"]


@pytest.mark.parametrize(
    ("script", "too_few"), [("dist_train.sh", 1), ("dist_test.sh", 2), ("slurm_train.sh", 3), ("slurm_test.sh", 3)]
)
def test_too_few_arguments_print_the_usage(root: Path, fakes: Path, script: str, too_few: int) -> None:
    done = shell(root, fakes, script, *["x"] * too_few)
    assert done.returncode == 2 and not done.stdout
    assert f"tools/{script} " in done.stderr


# ---------------------------------------------------------------------------------------------------------------------
# train.py and test.py


@pytest.fixture
def launcher(root: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """tools/launcher.py, whose changes to the import path are undone afterwards."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("PYTHONPATH", "")
    spec = importlib.util.spec_from_file_location("launcher", root / "tools" / "launcher.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["train.py", "test.py"])
def test_flags_are_those_of_mmpose(
    launcher: ModuleType, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    pytest.importorskip("mmpose")
    monkeypatch.setattr(sys, "argv", [f"tools/{name}", "--help"])
    with pytest.raises(SystemExit) as ours:
        launcher.run(name, ())
    help_of_ours = capsys.readouterr().out
    with pytest.raises(SystemExit):
        launcher.load_stock_launcher(name).main()
    assert ours.value.code == 0
    assert help_of_ours == capsys.readouterr().out
    assert "--cfg-options" in help_of_ours and "--launcher" in help_of_ours


def config_without_data(folder: Path, loader: str) -> Path:
    """A config that would fail on its model, were the data not looked for first."""
    dataset = dict(type="CocoDataset", data_root="data/nowhere/", ann_file="x.json", data_prefix=dict(img=""))
    path = folder / "config.py"
    path.write_text(f"{loader} = dict(dataset={dataset})\nmodel = dict(type='NoSuchModel')\n")
    return path


def test_train_names_missing_data_from_any_directory(root: Path, tmp_path: Path) -> None:
    pytest.importorskip("mmpose")
    config_without_data(tmp_path, "train_dataloader")
    command = [sys.executable, "-W", "ignore", str(root / "tools" / "train.py"), "config.py"]
    options = ["--cfg-options", "train_dataloader.dataset.data_root=data/elsewhere"]
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run([*command, *options], capture_output=True, text=True, cwd=tmp_path, env=env, timeout=120)
    assert done.returncode == 1
    assert "data/elsewhere (folder)" in done.stderr, "the message must name the folder, after --cfg-options"
    assert "README.md, section 'Data'" in done.stderr
    assert "Traceback" not in done.stderr


def test_test_names_missing_data(launcher: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mmpose")
    config = config_without_data(tmp_path, "test_dataloader")
    monkeypatch.setenv("LOCAL_RANK", "0")  # MMPose's launcher sets it
    monkeypatch.setattr(sys, "argv", ["tools/test.py", str(config), "no.pth"])
    with pytest.raises(SystemExit, match=r"data/nowhere/ \(folder\)"):
        launcher.run("test.py", ("test_dataloader",))


def test_the_readme_has_the_section_that_the_message_names(root: Path) -> None:
    readme = root / "README.md"
    if not readme.exists():
        pytest.skip("this copy has no README.md")
    headings = [line.strip("# ").strip() for line in readme.read_text().splitlines() if line.startswith("#")]
    assert "Data" in headings


def dataset_in(folder: Path) -> dict:
    (folder / "annotations").mkdir(parents=True)
    (folder / "images").mkdir()
    for name in ("annotations/train.json", "boxes.json"):
        (folder / name).write_text("[]")
    prefix = dict(img="images/")
    return dict(type="CocoDataset", data_root=str(folder), ann_file="annotations/train.json", data_prefix=prefix)


def refusal(launcher: ModuleType, cfg: dict) -> str:
    with pytest.raises(SystemExit) as stop:
        launcher.require_data(cfg, ("train_dataloader",))
    return str(stop.value)


def test_complete_data_passes(launcher: ModuleType, tmp_path: Path) -> None:
    dataset = dict(dataset_in(tmp_path / "d"), bbox_file=str(tmp_path / "d" / "boxes.json"))
    evaluator = dict(type="CocoMetric", ann_file=str(tmp_path / "d" / "boxes.json"))
    cfg = dict(train_dataloader=dict(dataset=dataset), train_evaluator=[evaluator])
    launcher.require_data(cfg, ("train_dataloader",))
    launcher.require_data(dict(val_dataloader=None), ("train_dataloader", "val_dataloader"))
    remote = dict(type="CocoDataset", data_root="s3://bucket/coco", ann_file="a.json", data_prefix=dict(img="images"))
    launcher.require_data(dict(train_dataloader=dict(dataset=remote)), ("train_dataloader",))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (dict(ann_file="annotations/val.json"), "annotations/val.json"),
        (dict(data_prefix=dict(img="val2017/")), "val2017/"),
        (dict(bbox_file="/no/boxes.json"), "/no/boxes.json"),
        (dict(data_root="/no/coco/"), "/no/coco/ (folder)"),
    ],
)
def test_whatever_is_missing_is_named(launcher: ModuleType, tmp_path: Path, change: dict, named: str) -> None:
    dataset = dict(dataset_in(tmp_path / "d"), **change)
    wrapped = dict(type="RepeatDataset", dataset=dataset)
    combined = dict(type="CombinedDataset", datasets=[dataset_in(tmp_path / "other"), wrapped])
    for each in (dataset, combined):
        message = refusal(launcher, dict(train_dataloader=dict(dataset=each)))
        assert named in message
        assert str(tmp_path / "other") not in message


def test_missing_evaluator_file_is_named(launcher: ModuleType, tmp_path: Path) -> None:
    cfg = dict(train_dataloader=dict(dataset=dataset_in(tmp_path / "d")), train_evaluator=dict(type="CocoMetric", ann_file="/no/gt.json"))
    assert "/no/gt.json" in refusal(launcher, cfg)


def test_data_of_the_repository_is_found_from_anywhere(
    launcher: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset_in(tmp_path / "repository" / "data" / "demo")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setattr(launcher, "ROOT", tmp_path / "repository")
    relative = dict(data_root="data/demo/", ann_file="annotations/train.json", bbox_file="data/demo/boxes.json")
    cfg = dict(train_dataloader=dict(dataset=relative), train_evaluator=dict(ann_file="data/demo/boxes.json"))
    launcher.require_data(cfg, ("train_dataloader",))
    for path in (relative["data_root"], relative["bbox_file"], cfg["train_evaluator"]["ann_file"]):
        assert os.path.isabs(path) and os.path.exists(path)


def test_only_what_mmpose_reads_is_looked_for(launcher: ModuleType, tmp_path: Path) -> None:
    """Classes of a project may leave out, or read otherwise, what their options name."""
    pytest.importorskip("mmpose")
    from mmpose.datasets import CocoDataset
    from mmpose.registry import DATASETS, METRICS

    class OwnPoints(CocoDataset):
        pass

    class OwnMetric:
        pass

    DATASETS.register_module(module=OwnPoints, force=True)
    METRICS.register_module(module=OwnMetric, force=True)
    own = dict(type="OwnPoints", data_root="data/aflw/", ann_file="x.json", data_prefix=dict(img="images/"), bbox_file="b.json")
    for dataset in (own, dict(own, type=OwnPoints)):
        cfg = dict(train_dataloader=dict(dataset=dataset), train_evaluator=dict(type="OwnMetric", ann_file="/no/gt.json"))
        launcher.require_data(cfg, ("train_dataloader",))
    assert "data/aflw/ (folder)" in refusal(launcher, dict(train_dataloader=dict(dataset=dict(own, type="AFLWDataset"))))
    other = dict(dataset_in(tmp_path / "d"), data_prefix=dict(img="images/", masks="nowhere/"))
    launcher.require_data(dict(train_dataloader=dict(dataset=other)), ("train_dataloader",))


class Net(torch.nn.Module):
    def __init__(self, joints: int) -> None:
        super().__init__()
        self.body, self.norm, self.final = torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3), torch.nn.Linear(3, joints)


def test_weights_of_another_model_are_refused(launcher: ModuleType) -> None:
    model, state = Net(4), Net(4).state_dict()
    launcher.refuse_unfit_weights(model, {"state_dict": state}, "ok.pth")
    launcher.refuse_unfit_weights(model, {"state_dict": {f"module.{name}": value for name, value in state.items()}}, "ok.pth")
    launcher.refuse_unfit_weights(model, {**state, "teacher.weight": torch.zeros(1)}, "more.pth")
    del state["norm.num_batches_tracked"]
    launcher.refuse_unfit_weights(model, state, "old.pth")
    with pytest.raises(SystemExit, match=r"9.pth .*: 2 of 9 do not fit \(final.weight is \(9, 3\), the model's \(4, 3\); final.bias"):
        launcher.refuse_unfit_weights(model, Net(9).state_dict(), "9.pth")
    del state["body.weight"]
    with pytest.raises(SystemExit, match="body.weight is missing"):
        launcher.refuse_unfit_weights(model, state, "half.pth")
