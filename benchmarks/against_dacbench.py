"""Environment steps a second beside those of DACBench's SGD environment."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from statistics import mean, median
from typing import Any

from engines import STEPS, flops_of_a_step, new_engine, stepper
from measuring import TURNS, MultiplyPeak, in_turns
from subjects import dacbench_network, images

from trainpilot.envs.config import ActionConfig, EnvConfig, StartConfig
from trainpilot.envs.hyperparameters import Hyperparameters
from trainpilot.envs.inner_runs import InnerRuns
from trainpilot.inner_tasks.protocol import InnerTask

#: Of each of the two splits that are observed, by the end of the results' names.
_EVALUATION_SIZES = {"": 32, "_default_validation": 128, "_same_validation": 512}


def against_dacbench(python: Path, n_runs: int = 16) -> dict[str, Any]:
    """Environment steps a second of DACBench's SGD environment, and of ours.

    One environment step is one update of 32 images in both, the same network, and an
    observation and a reward. DACBench validates on 1,024 images at each step, ours on as many as
    its configuration says (`evaluation_size`, of each of two splits): 64 in all, the 256 of
    the default, and the same 1,024. DACBench has a process of its own, before ours and after.

    Args:
        python: of the environment that has DACBench.
        n_runs: of ours.
    """
    before = _dacbench(python)
    task = images("dacbench", dacbench_network, (3, 32, 32))
    ours = {name: _runs(task, n_runs, size) for name, size in _EVALUATION_SIZES.items()}
    settings = Hyperparameters.full(n_runs)
    engine, peak = new_engine(task, n_runs, ["adam"]), MultiplyPeak()
    n_decisions = 5
    decisions = {
        name: lambda runs=runs: [runs.step(settings) for _ in range(n_decisions)]
        for name, runs in ours.items()
    }
    taken = in_turns(
        {
            **decisions,
            "inner_steps": stepper(engine, 1, settings),
            "peak": peak,
        },
        TURNS,
    )
    both = [before, _dacbench(python)]
    theirs = mean(each["dacbench_steps_per_second"] for each in both)
    result: dict[str, Any] = {"dacbench": both, "dacbench_steps_per_second": theirs}
    for name in ours:
        rate = n_decisions * n_runs / median(taken[name])
        result[f"ours{name}_steps_per_second"] = rate
        result[f"ratio{name}"] = rate / theirs
    result["inner_steps_per_second"] = STEPS * n_runs / median(taken["inner_steps"])
    result |= peak.compared(taken, "inner_steps", STEPS * n_runs, flops_of_a_step(task))
    return {**result, "report": engine.report}


def _dacbench(python: Path) -> dict[str, Any]:
    script = Path(__file__).with_name("dacbench_steps.py")
    process = subprocess.run(
        [str(python), str(script), "--steps", "30", "--repeats", "3"],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    measured: dict[str, Any] = json.loads(process.stdout.strip().splitlines()[-1])
    return measured


def _runs(task: InnerTask, n_runs: int, evaluation_size: int) -> InnerRuns:
    config = EnvConfig(
        decisions=200,
        micro_batches_per_decision=1,
        evaluation_size=evaluation_size,
        compiled=True,
        # As there: AdamW alone.
        optimizers=["adam"],
        start=StartConfig(optimizers=["adam"]),
        actions=ActionConfig(optimizers=[]),
    )
    runs = InnerRuns(task, n_runs, config)
    runs.reset(range(n_runs), range(n_runs), decisions=[config.decisions] * n_runs)
    return runs
