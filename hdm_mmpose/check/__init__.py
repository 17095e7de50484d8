"""``python -m hdm_mmpose check``: what in a config, and in the data it reads, still disagrees with distribution matching.

``command.py`` reads a config and prints the answer, ``parts.py`` collects what has to agree, the ``rules_*.py`` compare, and
``data.py`` asks MMPose's own data sets and metrics. A new rule is a function with a decorator and a planted fault in its test.
"""

from __future__ import annotations

from .command import check_config, check_file

__all__ = ['check_config', 'check_file']
