"""Heatmap distribution matching for MMPose: human pose estimation supervised by the earth mover's distance.

Importing this package imports nothing else. ``hdm_mmpose.transport`` needs torch only;
importing ``hdm_mmpose.components`` registers everything with MMPose.
"""

from __future__ import annotations

from pathlib import Path

__version__ = "0.1.0"


def configs_dir() -> Path:
    """Folder of the project's configs: inside the package when installed from a wheel, beside it in a checkout.

    Returns:
        Existing folder with ``demo``, ``coco``, ``mpii``, ... in it.

    Raises:
        FileNotFoundError: if neither place has the configs, that is, if the installation is incomplete.
    """
    package = Path(__file__).resolve().parent
    candidates = (package / "configs", package.parent / "configs")
    for folder in candidates:
        if folder.is_dir():
            return folder
    raise FileNotFoundError(f"the configs are neither in {candidates[0]} nor in {candidates[1]}: reinstall hdm-mmpose")
