"""tools/install.sh with a Python that only pretends: order of the steps, repeats, interrupts, what it says."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

# Answers every question of install.sh with yes and notes each pip call. `state/` decides what goes wrong:
# bad_mmcv: mmcv does not work until it is compiled with --no-binary; no_backbones: that extra is not installed; hang: pip
# install never ends; fail: it fails.
PRETENDER = r"""#!/bin/bash
state=$(dirname "$0")/../../state
case "$*" in
-) grep -q mmcv.ops && [ -e "$state/bad_mmcv" ] && exit 1; exit 0 ;;
*albumentations,\ mmpretrain*) [ ! -e "$state/no_backbones" ]; exit ;;
"-m pip --version" | "-m pip check" | -c*) exit 0 ;;
"-m pip "*)
    echo "$*" >>"$state/calls"
    [ ! -e "$state/hang" ] || { echo $$ >"$state/pid"; exec sleep 60; }
    [ ! -e "$state/fail" ] || { echo "no space left on device"; exit 1; }
    case "$*" in *"--no-binary mmcv"*) rm "$state/bad_mmcv" ;; *"[backbones]"*) rm "$state/no_backbones" ;; esac ;;
esac
"""


class Sandbox:
    """A checkout with nothing but what install.sh reads, and an environment with the pretender in it."""

    def __init__(self, root: Path, folder: Path) -> None:
        self.folder, self.venv, self.state = folder, folder / "venv", folder / "state"
        (folder / "tools").mkdir()
        (self.venv / "bin").mkdir(parents=True)
        self.state.mkdir()
        shutil.copy(root / "tools" / "install.sh", folder / "tools")
        for name in ("pyproject.toml", "constraints.txt", "constraints-oldest.txt"):
            shutil.copy(root / name, folder)
        python = self.venv / "bin" / "python"
        python.write_text(PRETENDER)
        python.chmod(0o755)
        self.command = ["bash", str(folder / "tools" / "install.sh"), "venv", str(self.venv)]

    def install(self) -> subprocess.CompletedProcess:
        return subprocess.run(
            self.command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60, cwd=self.folder
        )

    def calls(self) -> list[str]:
        calls = self.state / "calls"
        return calls.read_text().splitlines() if calls.exists() else []


@pytest.fixture
def sandbox(root: Path, tmp_path: Path) -> Sandbox:
    if not shutil.which("c++") and not shutil.which("g++"):
        pytest.skip("install.sh wants a C++ compiler and this machine has none")
    return Sandbox(root, tmp_path)


def test_the_second_time_installs_nothing(sandbox: Sandbox) -> None:
    first = sandbox.install()
    assert first.returncode == 0, first.stderr
    calls = sandbox.calls()
    assert "setuptools" in calls[0] and "torch torchvision" in calls[1] and ".[test,bench,export,dev]" in calls[-1]
    assert all("constraints.txt" in call for call in calls)
    second = sandbox.install()
    assert (second.returncode, second.stdout, sandbox.calls()) == (0, "", calls)


def test_backbones_come_on_top(sandbox: Sandbox) -> None:
    sandbox.command[2] = "backbones"
    (sandbox.state / "no_backbones").touch()
    assert sandbox.install().returncode == 0
    assert "--no-binary albumentations,qudida -e .[backbones]" in sandbox.calls()[-1]
    many = len(sandbox.calls())
    assert sandbox.install().returncode == 0 and len(sandbox.calls()) == many


def test_the_oldest_stack_has_its_own_constraints(sandbox: Sandbox) -> None:
    sandbox.command[2] = "oldest"
    assert sandbox.install().returncode == 0
    calls = sandbox.calls()
    assert all("constraints-oldest.txt" in call for call in calls)
    assert "torch torchvision" in calls[1] and calls[-1].endswith(".[test,bench,export]")


def test_torch_alone_comes_without_the_project_and_mmcv(sandbox: Sandbox) -> None:
    sandbox.command[2] = "torch"
    assert sandbox.install().returncode == 0
    calls = sandbox.calls()
    assert all("constraints-oldest.txt" in call for call in calls)
    assert not [call for call in calls if " mmcv" in call or "-e " in call] and "pytest" in calls[-1]
    assert sandbox.install().returncode == 0 and sandbox.calls() == calls


def shim(folder: Path, name: str, body: str) -> Path:
    """An executable script."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{body}\n")
    (folder / name).chmod(0o755)
    return folder / name


def oldest_python(root: Path, **environment: str) -> subprocess.CompletedProcess:
    command = ["bash", str(root / "tools" / "install.sh"), "oldest-python"]
    env = {name: value for name, value in os.environ.items() if name != "OLDEST_PYTHON"}
    return subprocess.run(command, capture_output=True, text=True, env={**env, **environment}, timeout=60)


def test_a_shim_that_does_not_run_is_passed_over(root: Path, tmp_path: Path) -> None:
    shim(tmp_path / "shims", "python3.8", "echo 'pyenv: python3.8: command not found' >&2; exit 127")
    works = shim(tmp_path / "pyenv" / "versions" / "3.8.18" / "bin", "python", "exit 0")
    path = f"{tmp_path / 'shims'}{os.pathsep}{os.environ['PATH']}"
    done = oldest_python(root, PATH=path, PYENV_ROOT=str(tmp_path / "pyenv"))
    assert (done.returncode, done.stdout.strip()) == (0, str(works)), done.stderr
    done = oldest_python(root, PATH=path, PYENV_ROOT=str(tmp_path / "nothing"))
    assert done.returncode == 1 and "wanted 3.8" in done.stderr and "OLDEST_PYTHON=" in done.stderr


def test_what_changed_is_installed(sandbox: Sandbox) -> None:
    sandbox.install()
    before = len(sandbox.calls())
    with (sandbox.folder / "constraints.txt").open("a") as changed:
        changed.write("six==1.16.0\n")
    assert sandbox.install().returncode == 0
    assert len(sandbox.calls()) > before


def test_an_mmcv_built_against_another_torch_is_compiled_again(sandbox: Sandbox) -> None:
    (sandbox.state / "bad_mmcv").touch()
    done = sandbox.install()
    assert done.returncode == 0, done.stderr
    mmcv = [call for call in sandbox.calls() if " mmcv" in call]
    assert mmcv[0].endswith(" mmcv") and "--no-build-isolation" in mmcv[0]
    assert mmcv[1] == "-m pip cache remove mmcv"
    assert "--no-binary mmcv --force-reinstall --no-deps" in mmcv[2]
    assert done.stdout.index("about 9 minutes") < done.stdout.index("-- mmcv: compiling"), "say so before it starts"


def test_a_failed_step_shows_its_log_and_can_be_repeated(sandbox: Sandbox) -> None:
    (sandbox.state / "fail").touch()
    failed = sandbox.install()
    assert failed.returncode == 1
    assert "no space left on device" in failed.stderr and str(sandbox.venv / "log") in failed.stderr
    (sandbox.state / "fail").unlink()
    assert sandbox.install().returncode == 0


def test_no_usable_python_is_said(root: Path, tmp_path: Path) -> None:
    command = ["bash", str(root / "tools" / "install.sh"), "venv", str(tmp_path / "venv")]
    env = dict(os.environ, BASE_PYTHON="/no/python3.11")
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=60)
    assert done.returncode == 1
    assert "/no/python3.11" in done.stderr and "3.10, 3.11 or 3.12" in done.stderr


def test_check_names_what_is_missing_and_installs_nothing(root: Path) -> None:
    command = ["bash", str(root / "tools" / "install.sh"), "check", sys.executable]
    assert subprocess.run([*command, "sys", "json"], timeout=60).returncode == 0
    done = subprocess.run([*command, "json", "no_such_module"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "lacks: no_such_module" in done.stderr and "Nothing was installed" in done.stderr
    done = subprocess.run([*command[:3], "/no/python", "json"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "/no/python does not run" in done.stderr


@pytest.mark.faults
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_pip_and_the_next_time_goes_on(sandbox: Sandbox, how: signal.Signals) -> None:
    (sandbox.state / "hang").touch()
    running = subprocess.Popen(sandbox.command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    pid_file = sandbox.state / "pid"
    while not pid_file.exists() or not pid_file.read_text():
        assert running.poll() is None, running.stdout.read()
        time.sleep(0.05)
    running.send_signal(how)
    running.wait(timeout=30)
    assert running.returncode in (128 + how, -how)
    pid = int(pid_file.read_text())
    for _ in range(100):  # pip is told to end; its end is not awaited
        if not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text().split()[2]:
            break
        time.sleep(0.05)
    else:
        pytest.fail("pip outlived the interrupt")
    (sandbox.state / "hang").unlink()
    assert sandbox.install().returncode == 0


@pytest.mark.faults
def test_two_at_once_install_once(sandbox: Sandbox) -> None:
    if not shutil.which("flock"):
        pytest.skip("this machine has no flock")
    both = [subprocess.Popen(sandbox.command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [each.wait(timeout=60) for each in both] == [0, 0]
    assert sum("[test,bench,export,dev]" in call for call in sandbox.calls()) == 1


@pytest.mark.faults
def test_a_half_installed_package_is_forgotten(root: Path, tmp_path: Path) -> None:
    """A killed pip leaves metadata without INSTALLER; pip would take the package for installed."""
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True, timeout=120)
    (site,) = venv.glob("lib/python*/site-packages")
    half, leftover = site / "torch-2.11.0.dist-info", site / "~orch"
    for folder in (half, leftover):
        folder.mkdir()
    (half / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 2.11.0\n")
    env = dict(os.environ, PIP_CONFIG_FILE=os.devnull, PIP_NO_INDEX="1", PIP_FIND_LINKS=str(tmp_path))
    command = ["bash", str(root / "tools" / "install.sh"), "venv", str(venv)]
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=120)
    assert "torch-2.11.0 was being installed when it was interrupted" in done.stdout
    assert not half.exists() and not leftover.exists()
    assert any(site.glob("pip-*.dist-info")), "what is complete stays"
