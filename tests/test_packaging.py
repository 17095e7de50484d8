"""The wheel carries the configs, works outside the checkout, and drags no environment anywhere."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:  # pytest needs it there, too
    import tomli as tomllib

STACK = ("mmcv", "mmdet", "mmengine", "mmpose")


def run(*command: str | Path, cwd: Path, path: str = "") -> str:
    """Output of a Python command that must succeed, with ``path`` as the whole extra import path."""
    env = dict(os.environ, PYTHONPATH=path, OMP_NUM_THREADS="1", PIP_DISABLE_PIP_VERSION_CHECK="1")
    command = [sys.executable, "-W", "ignore", *map(str, command)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=env, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def require_pip() -> None:
    if find_spec("pip") is None or find_spec("setuptools") is None:
        pytest.skip("this environment has no pip or no setuptools to build with")


def install(source: Path, target: Path) -> None:
    """``pip install --no-deps`` into a folder of its own, from what is on this machine."""
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--target", target)
    run("-m", "pip", "install", *options, source, cwd=target.parent)


@pytest.fixture(scope="module")
def source(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy to build from: setuptools writes into the folder it builds."""
    copy = tmp_path_factory.mktemp("source")
    for name in ("hdm_mmpose", "configs"):
        shutil.copytree(root / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "LICENSE"):
        shutil.copy(root / name, copy)
    readme = root / "README.md"
    (copy / "README.md").write_text(readme.read_text() if readme.exists() else "# absent in this copy\n")
    return copy


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    require_pip()
    out = tmp_path_factory.mktemp("wheel")
    run("-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", out, source, cwd=out)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def unpacked(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unpacked")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def test_wheel_holds_package_and_configs_and_nothing_else(root: Path, wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    wanted = {f"hdm_mmpose/{path.relative_to(root).as_posix()}" for path in [*root.glob("configs/**/*.py"), *root.glob("configs/**/*.yml")]}
    assert wanted and wanted <= names
    modules = {path.relative_to(root).as_posix() for path in root.glob("hdm_mmpose/**/*.py")}
    assert modules <= names
    assert {name.split("/")[0] for name in names} == {"hdm_mmpose", "hdm_mmpose-0.1.0.dist-info"}
    assert any(name.startswith("hdm_mmpose-0.1.0.dist-info/") and name.endswith("/LICENSE") for name in names)
    assert wheel.name == "hdm_mmpose-0.1.0-py3-none-any.whl"  # nothing is compiled


def test_every_package_is_listed(root: Path) -> None:
    listed = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {".".join(init.parent.relative_to(root).parts) for init in root.glob("hdm_mmpose/**/__init__.py")}
    folders = {".".join(folder.relative_to(root).parts) for folder in (root / "configs").iterdir() if folder.is_dir()}
    configs = {"hdm_mmpose.configs"} | {f"hdm_mmpose.{name}" for name in folders if not name.endswith("__pycache__")}
    assert set(listed) == found | configs


def test_info_from_an_unpacked_wheel(unpacked: Path, tmp_path: Path) -> None:
    told = run("-m", "hdm_mmpose", cwd=tmp_path, path=str(unpacked)).splitlines()
    assert told[0].startswith("hdm_mmpose 0.1.0 on Python 3.")
    assert told[1] == f"configs {unpacked / 'hdm_mmpose' / 'configs'}"
    assert told[2].startswith("stack: torch ") and told[2].count(", ") == 5
    assert [line.split(": ")[0] for line in told[3:]] == ["torch.compile", "kernel", "torch.load"]
    assert run("-m", "hdm_mmpose", "info", cwd=tmp_path, path=str(unpacked)).splitlines() == told


def test_info_in_the_checkout(root: Path, tmp_path: Path) -> None:
    told = run("-m", "hdm_mmpose", cwd=tmp_path, path=str(root)).splitlines()
    assert told[1] == f"configs {root / 'configs'}"


def test_info_without_torch_still_says_what_is_missing(root: Path, tmp_path: Path) -> None:
    script = "import runpy, sys; sys.modules['torch'] = None; runpy.run_module('hdm_mmpose', run_name='__main__')"
    told = run("-c", script, cwd=tmp_path, path=str(root)).splitlines()
    assert told[0].startswith("hdm_mmpose 0.1.0") and told[-1].startswith("torch does not work here")


def test_unknown_command_lists_the_known(root: Path, capsys: pytest.CaptureFixture) -> None:
    from hdm_mmpose.__main__ import main

    with pytest.raises(SystemExit) as stop:
        main(["no-such-command"])
    assert stop.value.code == 2
    assert "info" in capsys.readouterr().err


def test_install_without_dependencies_then_build_a_config(source: Path, tmp_path: Path) -> None:
    """The one line for an existing MMPose environment, `pip install --no-deps .`, into a folder of its own."""
    require_pip()
    if find_spec("mmpose") is None:
        pytest.skip("needs MMPose")
    target = tmp_path / "site"
    install(source, target)
    assert {path.name for path in target.iterdir()} == {"hdm_mmpose", "hdm_mmpose-0.1.0.dist-info"}
    script = """
from mmengine.config import Config
from mmpose.registry import MODELS
from mmpose.utils import register_all_modules
import hdm_mmpose
folder = hdm_mmpose.configs_dir()
config = min(folder.glob("mpii/*_hdm-8xb*.py"))
register_all_modules()
cfg = Config.fromfile(config)
cfg.model.backbone.init_cfg = None
model = MODELS.build(cfg.model)
print(hdm_mmpose.__file__, type(model.head.loss_module).__name__, type(model.head.decoder).__name__)
"""
    file, loss, decoder = run("-c", script, cwd=tmp_path, path=str(target)).split()[-3:]
    assert target in Path(file).parents
    assert (loss, decoder) == ("EMDHeatmapLoss", "DotAnnotationCodec")


def test_the_package_alone_imports_nothing_heavy(root: Path, tmp_path: Path) -> None:
    script = f"import sys, hdm_mmpose; print([m for m in ('torch', 'numpy', *{STACK}) if m in sys.modules])"
    assert run("-c", script, cwd=tmp_path, path=str(root)).strip() == "[]"


@pytest.mark.parametrize("constraints, pythons", [("constraints.txt", ("3.10", "3.11", "3.12")), ("constraints-oldest.txt", ("3.8",))])
def test_pins_lie_within_the_ranges(root: Path, constraints: str, pythons: tuple[str, ...]) -> None:
    requirements = pytest.importorskip("packaging.requirements")
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    lines = [line.partition("#")[0].strip() for line in (root / constraints).read_text().splitlines()]
    pins = [requirements.Requirement(line) for line in lines if line]
    extras = project["optional-dependencies"]
    ranges = [requirements.Requirement(text) for text in [*project["dependencies"], *extras["test"], *extras["bench"]]]
    for python in pythons:
        def counts(one: requirements.Requirement, here: dict = {"python_version": python}) -> bool:  # noqa: B006
            return one.marker is None or one.marker.evaluate(here)

        pinned = {pin.name.lower(): next(iter(pin.specifier)).version for pin in pins if counts(pin)}
        for wanted in filter(counts, ranges):
            version = pinned[wanted.name.lower()]
            assert wanted.specifier.contains(version), f"{constraints} pins {wanted.name} {version} for Python {python}, not in {wanted}"
