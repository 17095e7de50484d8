"""The half that needs torch only: it imports no mm package, and neither do its tests."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGES = ('hdm_mmpose.transport', 'hdm_mmpose.decoding', 'hdm_mmpose.features')
MM = ('mmcv', 'mmdet', 'mmengine', 'mmpose')
OURS_WITH_MM = ('components', 'compat', 'check', 'recipe')  # of hdm_mmpose
HEAVY = ('cv2', 'matplotlib', 'pandas', 'scipy', 'torchvision', 'triton', 'torch._dynamo')


@pytest.mark.parametrize('package', PACKAGES)
def test_a_fresh_process_loads_torch_and_no_mm_package(root: Path, tmp_path: Path, package: str):
    """Every module of it but the kernel's, which is Triton's language."""
    script = f'''
import importlib, pkgutil, sys
import torch
before = set(sys.modules)
package = importlib.import_module({package!r})
for module in pkgutil.walk_packages(getattr(package, '__path__', []), {package!r} + '.'):
    if not module.name.endswith(('.triton_emd', '.operator')):
        importlib.import_module(module.name)
print(*sorted(set(sys.modules) - before))
'''
    done = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True, cwd=tmp_path, timeout=300,
                          env=dict(os.environ, PYTHONPATH=str(root)))
    assert done.returncode == 0, done.stderr[-3000:]
    loaded = done.stdout.split()
    assert package in loaded
    assert not [name for name in loaded if name.startswith('mm')]
    assert not [name for name in loaded if name.split('.')[0] in MM or name in HEAVY]
    ours = {name.split('.')[1] for name in loaded if name.startswith('hdm_mmpose.')}
    assert not ours & set(OURS_WITH_MM)


def imported(file: Path) -> set[str]:
    """Every module that a file names in an import, at its top or inside a function."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f'{"." * node.level}{node.module or ""}.{alias.name}' for alias in node.names}
    return names


@pytest.mark.parametrize('folder', ['hdm_mmpose/transport', 'hdm_mmpose/decoding', 'tests/transport', 'tests/decoding'])
def test_no_file_names_the_other_half(root: Path, folder: str):
    files = sorted((root / folder).glob('**/*.py'))
    assert files
    for file in files:
        for name in imported(file):
            parts = name.split('.')
            assert parts[0] not in MM, f'{file}: {name}'
            assert parts[0] != 'hdm_mmpose' or len(parts) < 2 or parts[1] not in OURS_WITH_MM, f'{file}: {name}'
            assert parts[:2] != ['tests', 'components'], f'{file}: {name}'
