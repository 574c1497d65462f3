"""Environment steps a second beside those of DACBench's SGD environment."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from statistics import median
from typing import Any

from engines import STEPS, flops_of_a_step, new_engine, stepper
from measuring import TURNS, MultiplyPeak, in_turns
from subjects import dacbench_network, images

from trainpilot.envs.config import ActionConfig, EnvConfig, StartConfig
from trainpilot.envs.hyperparameters import Hyperparameters
from trainpilot.envs.inner_runs import InnerRuns
from trainpilot.inner_tasks.protocol import InnerTask


def against_dacbench(python: Path, n_runs: int = 16) -> dict[str, Any]:
    """Environment steps a second of DACBench's SGD environment, and of ours.

    One environment step is one update of 32 images in both, the same network, and an
    observation and a reward. DACBench validates on 1,024 images at each step, ours on the 64
    that this configuration asks for; the second number has the same 1,024.

    Args:
        python: of the environment that has DACBench.
        n_runs: of ours.
    """
    theirs = _dacbench(python)
    task = images("dacbench", dacbench_network, (3, 32, 32))
    runs, runs_same = _runs(task, n_runs, 32), _runs(task, n_runs, 512)
    settings = Hyperparameters.full(n_runs)
    engine, peak = new_engine(task, n_runs, ["adam"]), MultiplyPeak()
    n_decisions = 5
    taken = in_turns(
        {
            "ours": lambda: [runs.step(settings) for _ in range(n_decisions)],
            "ours_same_validation": lambda: [runs_same.step(settings) for _ in range(n_decisions)],
            "inner_steps": stepper(engine, 1, settings),
            "peak": peak,
        },
        TURNS,
    )
    result: dict[str, Any] = {"dacbench": theirs}
    n_steps = n_decisions * n_runs
    for name, ratio in (("ours", "ratio"), ("ours_same_validation", "ratio_same_validation")):
        result[f"{name}_steps_per_second"] = n_steps / median(taken[name])
        result[ratio] = result[f"{name}_steps_per_second"] / theirs["dacbench_steps_per_second"]
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
