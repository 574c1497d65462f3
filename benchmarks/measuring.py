"""How the benchmarks measure: side by side, in turns, medians of several."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch


def seconds(action: Callable[[], object]) -> float:
    """Wall-clock seconds that an action takes."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def in_turns(actions: dict[str, Callable[[], object]], n_turns: int) -> dict[str, list[float]]:
    """Seconds of each action in each turn; each has run once before, uncounted."""
    for action in actions.values():
        action()
    taken: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(n_turns):
        for name, action in actions.items():
            taken[name].append(seconds(action))
    return taken


def median_ratio(taken: dict[str, list[float]], over: str, under: str) -> float:
    """Median over turns of one action's seconds over another's in the same turn."""
    return median(a / b for a, b in zip(taken[over], taken[under], strict=True))


def multiply_peak() -> float:
    """GFLOP/s of a 1024 x 1024 x 1024 matrix product on one thread, best of a few."""
    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    out = torch.empty(1024, 1024)
    best = min(seconds(lambda: torch.mm(a, b, out=out)) for _ in range(3))
    return float(2 * 1024**3 / best / 1e9)


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    described = Path("/proc/cpuinfo")
    lines = described.read_text().splitlines() if described.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "vector_instructions": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
