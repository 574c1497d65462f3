"""Benchmarks of the engine: `make bench`. Writes `benchmarks/results/engine.json`.

Everything runs on one torch thread a process. What is compared is measured in turns in one run
(DACBench first and then ours, since it needs an environment of its own), and every number is the
median of several.
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import os
import resource
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from measuring import in_turns, machine, median_ratio, multiply_peak, seconds
from subjects import SUBJECTS, dacbench_network, images, plain_loop
from torch.utils.flop_counter import FlopCounterMode

from trainpilot.envs.config import ActionConfig, EnvConfig, StartConfig
from trainpilot.envs.engine import Engine
from trainpilot.envs.groups import GroupSpec
from trainpilot.envs.hyperparameters import Hyperparameters
from trainpilot.envs.inner_runs import InnerRuns
from trainpilot.envs.optimizers import LEARNING_RATE_SCALES, OPTIMIZER_NAMES
from trainpilot.envs.vector import InnerTrainingVecEnv
from trainpilot.envs.worker_pool import start_groups
from trainpilot.inner_tasks.models import mlp
from trainpilot.inner_tasks.protocol import InnerTask
from trainpilot.inner_tasks.tensor_task import TensorTask
from trainpilot.inner_tasks.vision import digits_mlp

HERE = Path(__file__).parent
STEPS = 10
TURNS = 7


def say(line: str) -> None:
    """Progress, at once."""
    print(line, flush=True)


def mixed(n_runs: int) -> Hyperparameters:
    """Every optimizer of the menu, rates over two decades: what a search tries."""
    generator = np.random.default_rng(0)
    optimizer = generator.integers(len(OPTIMIZER_NAMES), size=n_runs)
    scale = np.array(LEARNING_RATE_SCALES)[optimizer]
    rates = 10 ** generator.uniform(-4, -2, size=n_runs) * scale
    return replace(Hyperparameters.full(n_runs), optimizer=optimizer, learning_rate=rates)


def stepper(
    engine: Engine, n_decisions: int, settings: Hyperparameters | None = None
) -> Callable[[], None]:
    """Decisions of `STEPS` micro-batches; begins anew when the budget is spent."""
    chosen = settings or mixed(engine.n_runs)

    def steps() -> None:
        for _ in range(n_decisions):
            if (engine.budgets - engine.position).min() < STEPS:
                engine.reset(range(engine.n_runs), range(engine.n_runs))
            engine.advance(chosen, STEPS)

    engine.reset(range(engine.n_runs), range(engine.n_runs))
    return steps


def new_engine(task: InnerTask, n_runs: int, optimizers: Sequence[str] = OPTIMIZER_NAMES) -> Engine:
    """Compiled, with a budget that no measurement spends often."""
    engine = Engine(task, n_runs, n_micro_batches=400, optimizers=optimizers, compiled=True)
    if engine.report.startswith("inner steps are not compiled"):
        raise RuntimeError(engine.report)
    return engine


def against_the_loop(name: str, n_runs: int = 48) -> dict[str, float]:
    """Inner steps a second of the engine and of the plain loop, both with Adam alone.

    Beside it with the whole menu of optimizers, each run with one of its own.
    """
    task = SUBJECTS[name]()
    start = time.perf_counter()
    engine = new_engine(task, n_runs, ["adam"])
    started = time.perf_counter() - start
    whole_menu = new_engine(task, n_runs)
    loop = plain_loop(task)
    # About as long for the one as for the other.
    n_loop = 60 if name == "cnn" else 150
    n_decisions = 1 if name == "cnn" else 2
    taken = in_turns(
        {
            "loop": lambda: loop(n_loop),
            "engine": stepper(engine, n_decisions, Hyperparameters.full(n_runs)),
            "whole_menu": stepper(whole_menu, n_decisions),
        },
        TURNS,
    )
    n_engine = n_decisions * STEPS * n_runs
    return {
        "ratio": median_ratio(taken, "loop", "engine") * n_engine / n_loop,
        "ratio_whole_menu": median_ratio(taken, "loop", "whole_menu") * n_engine / n_loop,
        "loop_steps_per_second": n_loop / median(taken["loop"]),
        "engine_steps_per_second": n_engine / median(taken["engine"]),
        "start_seconds": started,
    }


def flops_of_a_step(task: InnerTask) -> int:
    """Matrix products of one inner step, forward and back, counted by torch."""
    model = task.make_model()
    train = task.splits.train
    inputs, targets = (part[: task.micro_batch_size] for part in train)
    with FlopCounterMode(display=False) as counter:
        task.loss(model(inputs), targets).backward()  # type: ignore[no-untyped-call]
    return int(counter.get_total_flops())


def share_of_the_peak(n_runs: int = 48) -> dict[str, float]:
    """Arithmetic of the MLP's matrix products over the peak of one thread, in turns."""
    task = SUBJECTS["mlp"]()
    engine = new_engine(task, n_runs)
    steps = stepper(engine, 2)
    steps()
    flops = flops_of_a_step(task)
    shares, peaks = [], []
    for _ in range(TURNS):
        peaks.append(multiply_peak())
        rate = 2 * STEPS * n_runs / seconds(steps)
        shares.append(rate * flops / 1e9 / peaks[-1])
    return {
        "peak_share": median(shares),
        "peak_gflops": median(peaks),
        "flops_per_step": float(flops),
    }


def share_of_the_observation(n_runs: int = 48) -> dict[str, float]:
    """Signals and observation over a whole decision of the environment.

    The signals' sums are measured by leaving them out: the compiler then drops their
    arithmetic. The numpy part is what is left between a decision and its bare steps.
    """
    from trainpilot.envs import inner_runs
    from trainpilot.envs.compiling import compile_function

    config = EnvConfig(decisions=400, micro_batches_per_decision=STEPS, compiled=True)
    runs = InnerRuns(SUBJECTS["mlp"](), n_runs, config)
    runs.reset(range(n_runs), range(n_runs))
    settings = mixed(n_runs)
    examples: list[torch.Tensor] = []
    engine: Any = runs.engine
    update = engine._update

    def recording(*tensors: torch.Tensor) -> Any:
        examples[:] = [tensor.clone() for tensor in tensors]
        return update(*tensors)

    engine._update = recording
    runs.step(settings)
    engine._update = update
    from trainpilot.envs.inner_step import InnerStep

    step = InnerStep(
        runs.task,
        engine._model,
        list(engine._buffers),
        optimizers=engine._menu,
        accumulates=False,
        row_by_row=False,
    )
    bare = compile_function(lambda *tensors: [torch.zeros(1), *step.update(*tensors)[1:]], examples)
    observing: list[float] = []
    observe = inner_runs.observe

    def timed(*arguments: Any) -> Any:
        start = time.perf_counter()
        result = observe(*arguments)
        observing.append(time.perf_counter() - start)
        return result

    inner_runs.observe = timed  # type: ignore[assignment]
    n_tiles = engine._n_rows // engine._tile

    def whole() -> None:
        if runs.decisions_made.max() >= 399:
            runs.reset(range(n_runs), range(n_runs))
        runs.step(settings)

    with torch.no_grad():
        taken = in_turns(
            {
                "decision": whole,
                "update": lambda: [update(*examples) for _ in range(STEPS * n_tiles)],
                "bare_update": lambda: [bare(*examples) for _ in range(STEPS * n_tiles)],
                "evaluation": lambda: engine.evaluate(),
            },
            4 * TURNS,
        )
    inner_runs.observe = observe
    decision = median(taken["decision"])
    signals = max(median(taken["update"]) - median(taken["bare_update"]), 0.0)
    return {
        "observation_share": (signals + median(observing)) / decision,
        "signals_share": signals / decision,
        "features_share": median(observing) / decision,
        "update_share": median(taken["update"]) / decision,
        "evaluation_share": median(taken["evaluation"]) / decision,
    }


def _search(seconds_given: float, seed: int, ready: Any, counted: Any) -> None:
    """Try configurations of the digits MLP until the time is up; in a process of its own."""
    torch.set_num_threads(1)
    n_runs, n_steps = 64, 100
    engine = Engine(digits_mlp(micro_batch_size=64), n_runs, n_micro_batches=n_steps, compiled=True)
    settings = mixed(n_runs)
    ready.wait()
    end, done = time.perf_counter() + seconds_given, 0
    start = time.perf_counter()
    while time.perf_counter() < end:
        engine.reset(range(n_runs), range(seed + done, seed + done + n_runs))
        engine.advance(settings, n_steps)
        engine.evaluate()
        done += n_runs
    counted.put(done / (time.perf_counter() - start))


def configurations_per_hour(n_workers: int) -> float:
    """Full digits trainings, 100 inner steps of 64, on all cores."""
    context = multiprocessing.get_context("spawn")
    ready, counted = context.Barrier(n_workers), context.Queue()
    workers = [
        context.Process(target=_search, args=(20.0, 10**6 * number, ready, counted))
        for number in range(n_workers)
    ]
    for worker in workers:
        worker.start()
    total = sum(counted.get() for _ in workers)
    for worker in workers:
        worker.join()
    return 3600 * float(total)


def against_dacbench(python: Path) -> dict[str, Any]:
    """Environment steps a second of DACBench's SGD environment, and of ours.

    One environment step is one update of 32 images in both, the same network, and an
    observation and a reward. DACBench validates on 1,024 images at each step, ours on the 64
    that this configuration asks for; the second number has the same 1,024.
    """
    process = subprocess.run(
        [str(python), str(HERE / "dacbench_steps.py"), "--steps", "30", "--repeats", "3"],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    theirs = json.loads(process.stdout.strip().splitlines()[-1])
    result: dict[str, Any] = {"dacbench": theirs}
    task = images("dacbench", dacbench_network, (3, 32, 32))
    for name, size in (("ours", 32), ("ours_same_validation", 512)):
        n_runs = 16
        config = EnvConfig(
            decisions=200,
            micro_batches_per_decision=1,
            evaluation_size=size,
            compiled=True,
            # As there: AdamW alone.
            optimizers=["adam"],
            start=StartConfig(optimizers=["adam"]),
            actions=ActionConfig(optimizers=[]),
        )
        runs = InnerRuns(task, n_runs, config)
        runs.reset(range(n_runs), range(n_runs))
        settings = Hyperparameters.full(n_runs)
        runs.step(settings)
        taken = [_decide(runs, settings, 5) for _ in range(TURNS)]
        result[f"{name}_steps_per_second"] = 5 * n_runs / median(taken)
    ours = result["ours_steps_per_second"]
    result["ratio"] = ours / theirs["dacbench_steps_per_second"]
    same = result["ours_same_validation_steps_per_second"]
    result["ratio_same_validation"] = same / theirs["dacbench_steps_per_second"]
    return result


def _decide(runs: InnerRuns, settings: Hyperparameters, n_decisions: int) -> float:
    start = time.perf_counter()
    for _ in range(n_decisions):
        runs.step(settings)
    return time.perf_counter() - start


def growth_with_runs() -> dict[str, float]:
    """Inner steps a second as rows grow."""
    task, rates = SUBJECTS["mlp"](), {}
    for n_runs in (1, 4, 16, 64, 256, 1024):
        steps = stepper(new_engine(task, n_runs), 1)
        steps()
        times = [seconds(steps) for _ in range(5)]
        rates[str(n_runs)] = STEPS * n_runs / median(times)
    return rates


def variants(n_tasks: int) -> list[InnerTask]:
    """Digits with MLPs of different widths: each compiles a step of its own."""
    digits = digits_mlp().splits
    return [
        TensorTask(
            f"digits_{width}",
            model=lambda width=width: mlp(64, (width, 32), 10),  # type: ignore[misc]
            splits=digits,
        )
        for width in range(16, 16 + n_tasks)
    ]


def growth_with_tasks() -> dict[str, dict[str, float]]:
    """Start-up and inner steps a second as tasks grow, eight rows each, in one process."""
    result = {}
    for n_tasks in (1, 8, 32):
        tasks = variants(n_tasks)
        # The first start fills the compile cache, and is not the one that counts.
        cold = seconds(lambda tasks=tasks: [new_engine(task, 8) for task in tasks])
        engines: list[Engine] = []
        warm = seconds(
            lambda tasks=tasks, engines=engines: engines.extend(new_engine(t, 8) for t in tasks)
        )
        moves = [stepper(engine, 1) for engine in engines]
        times = [seconds(lambda moves=moves: [move() for move in moves]) for _ in range(5)]
        result[str(n_tasks)] = {
            "start_seconds_first": cold,
            "start_seconds_warm": warm,
            "steps_per_second": STEPS * 8 * n_tasks / median(times),
        }
    return result


def growth_with_workers(cores: int) -> dict[str, float]:
    """Decisions a second of the whole environment as worker processes grow; 0 is in-process."""
    result = {}
    config = EnvConfig(compiled=True)
    for n_workers in range(cores + 1):
        specs = [GroupSpec(task, 24, config) for task in variants(4)]
        groups = start_groups(specs, n_workers)
        env = InnerTrainingVecEnv(groups, 0)
        env.reset()
        actions = np.array([env.action_space.sample() for _ in range(env.num_envs)])
        env.step(actions)
        times = [seconds(lambda env=env, actions=actions: env.step(actions)) for _ in range(15)]
        result[str(n_workers)] = env.num_envs / median(times)
        env.close()
    return result


def memory() -> dict[str, float]:
    """Bytes a row, measured, and growth of the process over 10,000 decisions."""

    def resident() -> int:
        gc.collect()
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmRSS"):
                return int(line.split()[1]) * 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    task = SUBJECTS["mlp"]()
    n_params = sum(parameter.numel() for parameter in task.make_model().parameters())
    config = EnvConfig(decisions=30, micro_batches_per_decision=STEPS, compiled=False)
    small = InnerRuns(task, 16, config)
    small.reset(range(16), range(16))
    small.step(mixed(16))
    before = resident()
    n_runs = 1024
    runs = InnerRuns(task, n_runs, config)
    runs.reset(range(n_runs), range(n_runs))
    runs.step(mixed(n_runs))
    per_row = (resident() - before) / n_runs
    del runs
    tiny = InnerRuns(variants(1)[0], 2, EnvConfig(decisions=50, micro_batches_per_decision=1))
    settings = mixed(2)

    def decisions(n: int) -> None:
        for _ in range(n):
            if tiny.decisions_made.max() >= 50 or not tiny.decisions_made.any():
                tiny.reset(range(2), range(2))
            tiny.step(settings)

    decisions(1000)
    start = resident()
    decisions(10_000)
    return {
        "bytes_per_row": per_row,
        "bytes_per_row_over_params": per_row / (4 * n_params),
        "growth_bytes_over_10000_decisions": float(resident() - start),
    }


def main() -> None:
    """Measure everything that is asked for and write it down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dacbench-python", type=Path, help="of the environment that has it")
    parser.add_argument("--only", nargs="*", help="names of the parts to measure")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "engine.json")
    given = parser.parse_args()
    torch.set_num_threads(1)
    cores = os.cpu_count() or 1
    parts: dict[str, Callable[[], Any]] = {
        **{f"loop.{name}": (lambda name=name: against_the_loop(name)) for name in SUBJECTS},
        "peak": share_of_the_peak,
        "observation": share_of_the_observation,
        "configs_per_hour": lambda: configurations_per_hour(cores),
        "runs": growth_with_runs,
        "tasks": growth_with_tasks,
        "workers": lambda: growth_with_workers(cores),
        "memory": memory,
    }
    if given.dacbench_python:
        parts["dacbench"] = lambda: against_dacbench(given.dacbench_python)
    measured: dict[str, Any] = {}
    for name, part in parts.items():
        if given.only and not any(name.startswith(prefix) for prefix in given.only):
            continue
        start = time.perf_counter()
        measured[name] = part()
        say(f"{name} ({time.perf_counter() - start:.0f} s): {json.dumps(measured[name])}")
    results = {"machine": machine(), "measured": measured, **headline(measured)}
    given.out.parent.mkdir(parents=True, exist_ok=True)
    temporary = given.out.with_suffix(".tmp")
    temporary.write_text(json.dumps(results, indent=2) + "\n")
    temporary.replace(given.out)
    say(f"\n{'':28}{'measured':>12}{'bar':>12}")
    for name, bar in BARS.items():
        value: Any = results
        for key in name.split(".", 1):
            value = value.get(key) if isinstance(value, dict) else None
        shown = "not measured" if value is None else f"{value:12,.3g}"
        say(f"{name:28}{shown:>12}{bar:>12}")


#: What is aimed at.
BARS = {
    "ratio.mlp_vs_loop": ">= 10",
    "ratio.cnn_vs_loop": ">= 3",
    "ratio.charlm_vs_loop": ">= 3",
    "ratio.transformer_vs_loop": ">= 3",
    "ratio.cnn_vs_dacbench": ">= 100",
    "configs_per_hour": ">= 1,000,000",
    "peak_share": ">= 0.40",
    "observation_share": "< 0.15",
    "bytes_per_row_over_params": "",
}


def headline(measured: dict[str, Any]) -> dict[str, Any]:
    """The numbers of `BARS`; None where a part was not measured."""
    ratio = {f"{name}_vs_loop": measured.get(f"loop.{name}", {}).get("ratio") for name in SUBJECTS}
    ratio["cnn_vs_dacbench"] = measured.get("dacbench", {}).get("ratio")
    return {
        "ratio": ratio,
        "configs_per_hour": measured.get("configs_per_hour"),
        "peak_share": measured.get("peak", {}).get("peak_share"),
        "observation_share": measured.get("observation", {}).get("observation_share"),
        "bytes_per_row_over_params": measured.get("memory", {}).get("bytes_per_row_over_params"),
    }


if __name__ == "__main__":
    main()
