"""``python -m hdm_mmpose``: where this installation is and what it can tell.

Each command is one function that adds its own parser and names the function to run, listed in ``COMMANDS``.
Without a command, ``info`` runs.
"""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Sequence
from importlib import metadata
from types import ModuleType

from hdm_mmpose import __version__, configs_dir

STACK = ("torch", "numpy", "mmengine", "mmcv", "mmdet", "mmpose")


def add_info(commands) -> None:
    """Add the command ``info`` to argparse's subparsers."""
    parser = commands.add_parser("info", help="print what this environment has and what follows (the default); bug reports start with it")
    parser.set_defaults(run=run_info)


def run_info(args: argparse.Namespace) -> int:
    """Print one line for each thing that decides how the package works here; exit status 0."""
    print(f"hdm_mmpose {__version__} on Python {platform.python_version()}, {platform.system()} {platform.machine()}")
    print(f"configs {configs_dir()}")
    print("stack:", ", ".join(f"{name} {installed(name) or 'is missing'}" for name in STACK))
    try:
        from hdm_mmpose import features
    except ImportError as missing:
        print(f"torch does not work here ({missing}): nothing but this command does")
        return 0
    print("torch.compile:", compiling(features))
    print("kernel:", kernel(features))
    print("torch.load:", loading(features))
    return 0


def installed(name: str) -> str | None:
    """Version of a distribution, None if it is not installed; imports nothing."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def compiling(features: ModuleType) -> str:
    """What ``torch.compile`` makes of the loss."""
    if not features.HAS_COMPILE:
        return "not in this torch"
    if features.HAS_CUSTOM_OPERATORS:
        return "the distance is one operator of the graph"
    return "the distance breaks the graph once, since this torch has no custom operators; the values are the same"


def kernel(features: ModuleType) -> str:
    """Whether the Triton kernel computes the loss on GPUs."""
    import torch

    obstacle = features.triton_obstacle() or (None if torch.cuda.is_available() else "torch sees no GPU")
    if obstacle is not None:
        return f"PyTorch computes the distance ({obstacle})"
    from hdm_mmpose.transport import EMDOptions
    from hdm_mmpose.transport.backend import kernel_for

    maps = torch.zeros(1, 1, 48, 40, device="cuda")
    if kernel_for(maps, maps, EMDOptions()) is None:
        return "PyTorch computes the distance on this GPU, for the reason above"
    return "computes the distance on this GPU, where it agrees with PyTorch"


def loading(features: ModuleType) -> str:
    """What ``torch.load`` does with a checkpoint."""
    if features.loads_safely():
        return "refuses what is not weights; of MMEngine's checkpoints numbers and logged scalars are let through"
    return "runs whatever a file says, so load only checkpoints you trust; all of MMEngine's load"


def add_check(commands) -> None:
    """Add the command ``check`` to argparse's subparsers."""
    parser = commands.add_parser("check", help="say what in a config disagrees with distribution matching")
    parser.add_argument("config", help="a config file, or mmpose::NAME; configs are Python code, and reading one runs it")
    parser.add_argument("--cfg-options", nargs="+", default=(), metavar="KEY=VALUE", help="changes, as in tools/train.py")
    parser.add_argument("--strict", action="store_true", help="fail on warnings too")
    parser.add_argument("--data", action="store_true", help="look through the annotation files too")
    parser.set_defaults(run=run_check)


def run_check(args: argparse.Namespace) -> int:
    """Check one config (``hdm_mmpose.check.check_file``); exit status 1 also where MMPose is missing."""
    try:
        from hdm_mmpose.check import check_file  # the other commands do not need MMPose
    except ModuleNotFoundError as missing:
        print(f"error: check needs MMPose and what it needs, but {sys.executable} has no {missing.name}: use the Python that has it")
        return 1
    return check_file(args.config, args.cfg_options, args.strict, args.data)


COMMANDS = (add_info, add_check)


def build_parser() -> argparse.ArgumentParser:
    """The parser of all ``COMMANDS``; ``info`` runs when none is given."""
    parser = argparse.ArgumentParser(prog="python -m hdm_mmpose", description="Tools of the hdm_mmpose plug-in.")
    parser.add_argument("--version", action="version", version=__version__)
    parser.set_defaults(run=run_info)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for add_command in COMMANDS:
        add_command(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: arguments after the program name; those of the process if None.

    Returns:
        Exit status: 0 for success.
    """
    args = build_parser().parse_args(argv)
    return args.run(args)


if __name__ == "__main__":
    sys.exit(main())
