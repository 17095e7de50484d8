"""``python -m hdm_mmpose``: where this installation is and what it can tell.

Each command is one function that adds its own parser and names the function to run, listed in ``COMMANDS``.
Without a command, ``info`` runs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.machinery import ExtensionFileLoader, ModuleSpec
from importlib.util import module_from_spec
from pathlib import Path

from hdm_mmpose import __version__, configs_dir


def add_info(commands) -> None:
    """Add the command ``info`` to argparse's subparsers."""
    parser = commands.add_parser("info", help="print version, folder of the configs and how CPUs decode (the default)")
    parser.set_defaults(run=run_info)


def run_info(args: argparse.Namespace) -> int:
    """Print version, folder of the configs and how CPUs decode; exit status 0."""
    print(f"hdm_mmpose {__version__}")
    print(f"configs {configs_dir()}")
    print("decoding on the CPU:", decoding())
    return 0


def decoding() -> str:
    """Whether the compiled decoder loads; without importing the package around it, which would import torch."""
    files = sorted(Path(__file__).parent.glob("transport/_sub_pixel_cpu*.so"))
    if not files:
        return "by torch (there was no C++ compiler when this was installed)"
    try:
        loader = ExtensionFileLoader("_sub_pixel_cpu", str(files[0]))
        loader.exec_module(module_from_spec(ModuleSpec(loader.name, loader, origin=loader.path)))
    except ImportError as problem:
        return f"by torch ({problem})"
    return "compiled"


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
