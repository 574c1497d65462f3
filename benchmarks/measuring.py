"""How the benchmarks measure: side by side, in turns, medians of several."""

from __future__ import annotations

import multiprocessing
import os
import platform
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import torch

#: How often what is compared takes its turn.
TURNS = 7


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


def median_difference(taken: dict[str, list[float]], more: str, less: str) -> float:
    """Median over turns of one action's seconds less another's in the same turn, at least 0."""
    return max(median(a - b for a, b in zip(taken[more], taken[less], strict=True)), 0.0)


class Timed:
    """A function whose calls are timed.

    Attributes:
        seconds: of each call.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.seconds: list[float] = []
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        start = time.perf_counter()
        result = self._function(*arguments)
        self.seconds.append(time.perf_counter() - start)
        return result


class MultiplyPeak:
    """A 1024 x 1024 x 1024 matrix product on one thread; each call is a measurement.

    Attributes:
        gflops: of each call, the best of a few products.
    """

    def __init__(self) -> None:
        self.gflops: list[float] = []
        self._a, self._b = torch.randn(1024, 1024), torch.randn(1024, 1024)
        self._out = torch.empty(1024, 1024)

    def __call__(self) -> None:
        best = min(seconds(lambda: torch.mm(self._a, self._b, out=self._out)) for _ in range(3))
        self.gflops.append(2 * 1024**3 / best / 1e9)

    def compared(
        self, taken: dict[str, list[float]], name: str, n_steps: int, flops: int
    ) -> dict[str, float]:
        """Arithmetic of an action that took turns with this one.

        Args:
            taken: of `in_turns`.
            name: of the action.
            n_steps: inner steps that it makes each time.
            flops: of a step.
        """
        rates = [n_steps * flops / 1e9 / each for each in taken[name]]
        # The call before the turns is not counted.
        peaks = self.gflops[-len(rates) :]
        return {
            "gflops": median(rates),
            "peak_share": median(a / b for a, b in zip(rates, peaks, strict=True)),
        }


def in_new_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function gives, in a process that has done nothing else."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, torch.set_num_threads, (1,)) as process:
        return process.submit(function, *arguments).result()


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
