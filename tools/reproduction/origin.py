"""Where results come from: the commit of this checkout, and the checkpoint that a training left.

Standard library only: the benchmarks, which run where torch alone is installed, use it too.
"""

from __future__ import annotations

import subprocess
import zipfile
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent.parent


def commit() -> str:
    """The commit of this checkout, with a plus sign if tracked files have been changed since; 'unknown' outside git."""
    def git(*arguments: str) -> str:
        return subprocess.run(['git', *arguments], cwd=CHECKOUT, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git('rev-parse', '--short=12', 'HEAD') + ('+' if git('status', '--porcelain', '--untracked-files=no') else '')
    except (OSError, subprocess.CalledProcessError):
        return 'unknown'


def checkpoint(folder: Path, which: str) -> Path:
    """The checkpoint to evaluate: ``best`` by the validation metric, as MMPose publishes, or ``last``.

    Where there is no best one, the last is taken.

    Raises:
        FileNotFoundError: the folder holds none.
    """
    # a kill while a best one was written leaves a part of it
    whole = filter(zipfile.is_zipfile, folder.glob('best_*.pth'))
    best = sorted(whole, key=lambda path: path.stat().st_mtime)
    if which == 'best' and best:
        return best[-1]
    marker = folder / 'last_checkpoint'
    if not marker.exists():
        raise FileNotFoundError(f'{folder} holds no checkpoint')
    # the folder may have moved since it was written
    return folder / Path(marker.read_text().strip()).name
