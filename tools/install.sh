#!/usr/bin/env bash
# Creates or completes the environments that `make` uses. May be interrupted and repeated: finished steps are kept.
#
#   tools/install.sh venv DIR              virtual environment DIR with constraints.txt and this checkout in it
#   tools/install.sh backbones DIR         the same, and what the ViTPose and CSPNeXt configs need besides
#   tools/install.sh oldest DIR            the oldest stack, constraints-oldest.txt, with this checkout in it
#   tools/install.sh torch DIR             of the oldest stack Python, torch and what tests need: no mm package
#   tools/install.sh oldest-python         print the Python of the last two, or say why there is none
#   tools/install.sh check PYTHON MODULE.. say what an existing environment lacks; installs nothing
#
# BASE_PYTHON   Python 3.10, 3.11 or 3.12 to make the environment with (default: the first found)
# OLDEST_PYTHON Python 3.8 for the oldest stack (default: python3.8 or pyenv's, the first that runs)
# MAX_JOBS      compilers at once (default: one per core, and per 2 GB of memory)
# FORCE_CUDA=1  compile mmcv's CUDA operators too (needs nvcc; nothing here uses them)
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
heartbeat=${HEARTBEAT:-15} # seconds between signs of life

say() { printf '%s\n' "$*"; }
die() {
    printf '%s\n' "$@" >&2
    exit 1
}

# ---------------------------------------------------------------------------------------------------------------------
# What the machine has

# Which stack is being made; `oldest` and `torch` change these.
constraints=constraints.txt
pythons="3.10, 3.11 or 3.12"
pythons_tried=${BASE_PYTHON:-python3.11 python3.12 python3.10 python3 python}
packages=(-e '.[test,bench,export,dev]')
how_to_get_python="On Debian and Ubuntu: apt install python3 python3-venv python3-dev. Elsewhere: make BASE_PYTHON=/path/to/python3.11 ..."

choose_oldest() {
    constraints=constraints-oldest.txt
    pythons=3.8
    # A shim of pyenv's may stand in the path and not run.
    pythons_tried=${OLDEST_PYTHON:-python3.8 $(printf '%s ' "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.8*/bin/python)}
    packages=(-e '.[test,bench,export]')
    how_to_get_python="pyenv install 3.8 brings one; or name it: OLDEST_PYTHON=/path/to/python3.8"
}

supported() {
    "$1" -c 'import ensurepip, sys, venv; sys.exit("%d.%d" % sys.version_info[:2] not in sys.argv[1].replace(",", "").split())' \
        "$pythons" 2>/dev/null
}

find_python() {
    local candidate
    for candidate in $pythons_tried; do
        if supported "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
    die "No Python to work with: wanted $pythons with its venv module, tried: $pythons_tried." \
        "python3 is: $(python3 --version 2>&1 || true)." "$how_to_get_python"
}

require_compiler() { # require_compiler PYTHON
    command -v c++ >/dev/null || command -v g++ >/dev/null ||
        die "No C++ compiler (c++ or g++) found; mmcv is compiled here. On Debian and Ubuntu: apt install build-essential."
    "$1" -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' ||
        die "$1 comes without Python.h, which mmcv needs. On Debian and Ubuntu: apt install python3-dev."
}

compile_jobs() {
    local cores memory
    cores=$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1)
    memory=$(awk '/^MemTotal/ {print int($2 / 2000000)}' /proc/meminfo 2>/dev/null || true)
    memory=${memory:-$cores}
    [ "$memory" -ge 1 ] || memory=1
    echo $((cores < memory ? cores : memory))
}

# ---------------------------------------------------------------------------------------------------------------------
# Running a step

# step NAME WHAT COMMAND...: run it into a log, give signs of life, show the end of the log if it fails.
step() {
    local name=$1 what=$2 log status=0 begun=$SECONDS beat=$SECONDS
    shift 2
    log=$venv/log/$name.log
    mkdir -p "$venv/log"
    say "-- $what"
    set -m # its own process group, so that an interrupt ends the compilers as well
    "$@" >"$log" 2>&1 </dev/null &
    running=$!
    set +m
    while kill -0 "$running" 2>/dev/null; do
        sleep 0.5
        if ((SECONDS - beat >= heartbeat)); then
            beat=$SECONDS
            say "   $(((SECONDS - begun) / 60)) min $(((SECONDS - begun) % 60)) s: $(last_sign "$log")"
        fi
    done
    wait "$running" || status=$?
    running=
    if ((status)); then
        tail -n 40 "$log" >&2
        die "" "This step failed: $what" "Its whole output: $log" "Repeat the same command to go on from here."
    fi
}

# The compiler's counter if there is one, else the last line.
last_sign() {
    local counter
    counter=$(grep -oE '^ *\[[0-9]+/[0-9]+\]' "$1" | tail -n 1 | tr -d ' []' || true)
    if [ -n "$counter" ]; then
        say "${counter%/*} of ${counter#*/} files compiled"
    else
        tail -n 1 "$1" | cut -c 1-100
    fi
}

stop_running() { [ -z "${running:-}" ] || kill -TERM -- "-$running" 2>/dev/null || true; }

pip_install() { "$python" -m pip install -c "$root/$constraints" --no-build-isolation "$@"; }

# ---------------------------------------------------------------------------------------------------------------------
# The environment

fingerprint() { # of everything that decides what must be installed
    printf '%s ' "$root"
    cat "$root/pyproject.toml" "$root/$constraints" "$root/tools/install.sh" | cksum
}

complete() { [ "$(cat "$venv/.complete" 2>/dev/null)" = "$(fingerprint)" ] && "$python" -c '' 2>/dev/null; }

create() {
    if [ -e "$venv/pyvenv.cfg" ] && ! "$python" -c '' 2>/dev/null; then
        say "The Python of $venv does not run any more: making the environment anew"
        rm -rf "$venv"
    fi
    if ! "$python" -m pip --version >/dev/null 2>&1; then
        local base
        base=$(find_python)
        say "-- virtual environment $venv with $("$base" --version) ($base)"
        "$base" -m venv "$venv"
    fi
    supported "$python" || die "$venv was made with $("$python" --version), wanted $pythons: remove it and repeat."
}

# A pip that is killed leaves packages that look installed and are not: pip writes INSTALLER after the files.
forget_half_installed() {
    "$python" - <<'PY'
import pathlib, shutil, sysconfig
site = pathlib.Path(sysconfig.get_path("purelib"))
for info in site.glob("*.dist-info"):
    if not (info / "INSTALLER").is_file():
        print(f"   {info.name[:-10]} was being installed when it was interrupted: again")
        shutil.rmtree(info)
for leftover in site.glob("~*"):
    shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
PY
}

mmcv_works() { # compiled against this torch, not only importable
    "$python" - >"$venv/log/mmcv-check.log" 2>&1 <<'PY'
import torch
from mmcv.ops import nms
boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 4.0, 3.9], [8.0, 8.0, 9.0, 9.0]])
kept = nms(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.5)[1]
assert kept.tolist() == [0, 2], kept
PY
}

compile_mmcv() { # compile_mmcv PIP-OPTION...
    export MAX_JOBS=${MAX_JOBS:-$(compile_jobs)}
    # mmcv asks for nvcc as soon as it sees a GPU. The models here use none of its CUDA operators.
    [ "${FORCE_CUDA:-0}" = 1 ] || export CUDA_VISIBLE_DEVICES=
    pip_install -v "$@" mmcv
}

install_mmcv() {
    if mmcv_works; then return; fi
    say "-- mmcv comes as source. Compiling it takes about 9 minutes on 2 cores ($(compile_jobs) here), unless pip kept it from"
    say "   an earlier time. Interrupted, the compilation starts over; finished, pip keeps the result."
    step mmcv "mmcv: compiling, or taking what pip kept" compile_mmcv
    if mmcv_works; then return; fi
    say "   The mmcv that pip kept was built against another torch. Dropping it from pip's cache and compiling."
    "$python" -m pip cache remove mmcv >/dev/null 2>&1 || true
    step mmcv-again "mmcv: compiling (about 9 minutes on 2 cores)" compile_mmcv --no-binary mmcv --force-reinstall --no-deps
    mmcv_works || die "$(tail -n 5 "$venv/log/mmcv-check.log")" "mmcv was compiled and does not work with this torch: see $venv/log/mmcv-again.log"
}

check_stack() {
    "$python" -m pip check
    cd "$venv" # where only what is installed can be imported
    "$python" -W ignore -c 'import hdm_mmpose, mmcv.ops, mmdet, mmpose.models, pytest, torchvision, xtcocotools.coco'
}

be_ready_to_install() {
    trap stop_running EXIT
    trap 'say "Interrupted. Repeat the same command to go on from here."; exit 130' INT
    trap 'exit 143' TERM
    mkdir -p "$venv/log"
    export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_PROGRESS_BAR=off
    unset PYTHONPATH # an outer one would hide what is missing here
}

# Built on the spot, two of these are content with the opencv-python that is there; their wheels would overwrite it.
add_backbones() {
    if "$python" -W ignore -c 'import albumentations, mmpretrain' 2>/dev/null; then return; fi
    be_ready_to_install
    cd "$root"
    step backbones "MMPretrain and Albumentations, for the ViTPose and CSPNeXt configs" \
        pip_install --no-binary albumentations,qudida -e '.[backbones]'
    "$python" -W ignore -c 'import albumentations, mmpretrain' || die "MMPretrain and Albumentations were installed and do not work: see $venv/log/backbones.log"
}

start() { # start DIR: whether there is anything to do in it
    venv=$1
    python=$venv/bin/python
    if complete; then return 1; fi

    be_ready_to_install
    if command -v flock >/dev/null; then
        exec 9>"$venv/.lock"
        flock -n 9 || { say "another installation is working in $venv: waiting for it" && flock 9; }
        if complete; then return 1; fi
    fi
}

finish() {
    fingerprint >"$venv/.complete"
    say "The environment is complete: $venv"
}

make_venv() {
    start "$1" || return 0
    say "Installing into $venv: about 6 GB, of which torch is most. What is there is kept; logs are in $venv/log."
    create
    require_compiler "$python"
    forget_half_installed
    cd "$root" # pip reads the local package and its extras from here
    step tools "pip, setuptools and what compiles" "$python" -m pip install -c "$constraints" pip setuptools wheel ninja cython numpy
    step torch "torch and torchvision (a large download)" pip_install torch torchvision
    install_mmcv
    step rest "MMPose, its dependencies, the tools of this project and the project itself" pip_install "${packages[@]}"
    step check "checking that everything fits together" check_stack
    finish
}

make_torch_venv() {
    start "$1" || return 0
    say "Installing into $venv: about 3 GB, of which torch is most. Logs are in $venv/log."
    create
    forget_half_installed
    cd "$root"
    step tools "pip" "$python" -m pip install -c "$constraints" pip setuptools wheel
    step torch "torch (a large download) and what tests need" pip_install torch numpy pytest pytest-xdist hypothesis POT mpmath
    finish
}

check_modules() { # check_modules PYTHON MODULE...
    local python=$1 missing
    shift
    "$python" --version >/dev/null 2>&1 || die "PYTHON=$python does not run."
    missing=$("$python" -c 'import importlib.util, sys; print(*(m for m in sys.argv[1:] if importlib.util.find_spec(m) is None))' "$@")
    [ -z "$missing" ] ||
        die "$python lacks: $missing" "Nothing was installed into it. The versions that work together: constraints.txt." \
            "Without PYTHON=..., make installs them into an environment of its own."
}

usage() { die "usage: tools/install.sh venv DIR | backbones DIR | oldest DIR | torch DIR | oldest-python | check PYTHON MODULE..."; }

case ${1:-} in
venv | backbones | oldest | torch)
    [ $# -eq 2 ] || usage
    case $1 in oldest | torch) choose_oldest ;; esac
    mkdir -p "$2"
    folder=$(cd "$2" && pwd)
    if [ "$1" = torch ]; then make_torch_venv "$folder"; else make_venv "$folder"; fi
    [ "$1" != backbones ] || add_backbones
    ;;
oldest-python)
    choose_oldest
    find_python
    ;;
check)
    [ $# -ge 3 ] || usage
    shift
    check_modules "$@"
    ;;
*) usage ;;
esac
