"""What the benchmarks share: where they ran, how time and memory are taken, and how numbers are kept."""

from __future__ import annotations

import gc
import importlib.metadata
import importlib.util
import json
import os
import platform
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from tools.jobs import commit, processor, write_whole

PACKAGES = ('torch', 'triton', 'numpy', 'mmpose', 'POT', 'geomloss', 'ott-jax', 'jax')
WARM_UP = 3
# Long enough for the host to have queued what is timed: the device's own time is wanted, not that of launching.
HEAD_START_CYCLES = 20_000_000


def machine(device: str, seed: int) -> dict:
    """Where and with what numbers were made."""
    about = {
        'script': script(),
        'date': time.strftime('%Y-%m-%d'),
        'commit': commit(),
        'seed': seed,
        'cpu': processor(),
        'cores': os.cpu_count(),
        'threads': torch.get_num_threads(),
        'load': round(os.getloadavg()[0], 1),
        'python': platform.python_version(),
        'packages': {name: version for name in PACKAGES if (version := installed(name))},
    }
    if device == 'cuda':
        about['gpu'] = torch.cuda.get_device_name()
        about['cuda'] = torch.version.cuda
    return about


def script() -> str:
    """The command line of this process, without the interpreter and the script's folder."""
    return ' '.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def installed(package: str) -> str | None:
    """Version of a package, None where it is absent."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def time_in_turns(
    runners: dict[str, Callable[[int], object]], device: str, repeats: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, dict[str, float]]:
    """Seconds of each runner, called in turns with the number of the repeat; ``summary`` of each.  ``clock`` is the host's."""
    times: dict[str, list[float]] = {name: [] for name in runners}
    for repeat in range(-WARM_UP, repeats):
        for name, runner in runners.items():
            seconds = _on_gpu(runner, repeat) if device == 'cuda' else _on_cpu(runner, repeat, clock)
            if repeat >= 0:
                times[name].append(seconds)
    return {name: summary(values) for name, values in times.items()}


def _on_cpu(runner: Callable[[int], object], repeat: int, clock: Callable[[], float]) -> float:
    start = clock()
    runner(repeat)
    return clock() - start


def _on_gpu(runner: Callable[[int], object], repeat: int) -> float:
    """The device's time between two events, with everything queued before the first one is reached."""
    torch.cuda.synchronize()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda._sleep(HEAD_START_CYCLES)
    start.record()
    runner(repeat)
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1e3


def summary(seconds: Sequence[float]) -> dict[str, float]:
    """Median, quartiles and the number of values."""
    if len(seconds) < 2:
        return dict(median=seconds[0], quartile_1=seconds[0], quartile_3=seconds[0], repeats=1)
    low, median, high = statistics.quantiles(seconds, n=4)
    return dict(median=median, quartile_1=low, quartile_3=high, repeats=len(seconds))


def peak_memory(function: Callable[[], object], device: str) -> int:
    """Bytes of tensors that were alive at once during the call, beyond those alive before it."""
    gc.collect()
    if device == 'cuda':
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', message='.*Profiler clears events')  # of cycles, and this is one
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
            function()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'trace.json'
        profile.export_chrome_trace(str(path))
        events = [event for event in json.loads(path.read_text())['traceEvents'] if event.get('name') == '[memory]']
    alive = highest = 0
    for event in sorted(events, key=lambda event: event['ts']):
        alive += event['args']['Bytes']
        highest = max(highest, alive)
    return highest


def copy_bandwidth(device: str, elements: int = 1 << 28) -> float:
    """Bytes per second that a plain copy moves, read and written."""
    source = torch.zeros(elements, device=device)
    target = torch.empty_like(source)
    median = time_in_turns({'copy': lambda _: target.copy_(source)}, device, 20)['copy']['median']
    return 2 * 4 * elements / median


def conditions(about: dict) -> str:
    """One line that says where a table comes from."""
    where = about.get('gpu') or f'{about["cpu"]}, {about["threads"]} threads'
    versions = ', '.join(f'{name} {version}' for name, version in about['packages'].items() if name in ('torch', 'POT', 'geomloss'))
    return f'Made by `{about["script"]}` on {about["date"]}: {where}; {versions}; seed {about["seed"]}; commit {about["commit"]}.'


def write_json(path: Path, content: dict) -> None:
    """Numbers, rounded to what is worth keeping; a kill in the middle leaves the old file."""
    write_whole(path, json.dumps(_rounded(content), indent=1) + '\n')
    print(f'wrote {path}')


def _rounded(value: object) -> object:
    if isinstance(value, float):
        return float(f'{value:.4g}')
    if isinstance(value, dict):
        return {key: _rounded(entry) for key, entry in value.items()}
    return [_rounded(entry) for entry in value] if isinstance(value, (list, tuple)) else value


def available(module: str) -> bool:
    """Is this module installed?"""
    return importlib.util.find_spec(module) is not None
