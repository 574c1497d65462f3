"""What a row takes of memory, and whether the process grows."""

from __future__ import annotations

import gc
import resource
from pathlib import Path
from typing import Any

from engines import STEPS, mixed
from measuring import in_new_process
from subjects import ACTIVATIONS, SUBJECTS, variants

from trainpilot.envs.config import EnvConfig
from trainpilot.envs.inner_runs import InnerRuns


def memory() -> dict[str, Any]:
    """Bytes a row, measured, and growth of the process over 10,000 decisions."""
    # What others have freed and the process has kept would be used first, and not be seen.
    growth = {name: in_new_process(_growth, name) for name in ACTIVATIONS}
    return {**in_new_process(_bytes_of_a_row), "growth_bytes_over_10000_decisions": growth}


def _bytes_of_a_row(n_runs: int = 1024) -> dict[str, float]:
    task = SUBJECTS["mlp"]()
    n_params = sum(parameter.numel() for parameter in task.make_model().parameters())
    config = EnvConfig(decisions=30, micro_batches_per_decision=STEPS, compiled=True)

    def started(n_runs: int) -> InnerRuns:
        runs = InnerRuns(task, n_runs, config)
        runs.reset(range(n_runs), range(n_runs))
        runs.step(mixed(n_runs))
        return runs

    few = started(16)
    before = _resident()
    many = started(n_runs)
    each = (_resident() - before) / n_runs
    del few, many
    return {"bytes_per_row": each, "bytes_per_row_over_params": each / (4 * n_params)}


def _growth(name: str) -> float:
    n_decisions = 50
    config = EnvConfig(decisions=n_decisions, micro_batches_per_decision=1, compiled=True)
    runs, settings = InnerRuns(variants(1, ACTIVATIONS[name])[0], 2, config), mixed(2)

    def decisions(n: int) -> None:
        for number in range(n):
            if number % n_decisions == 0:
                runs.reset(range(2), range(2), decisions=[n_decisions] * 2)
            runs.step(settings)

    decisions(1000)
    start = _resident()
    decisions(10_000)
    return float(_resident() - start)


def _resident() -> int:
    gc.collect()
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
