"""How many configurations of hyperparameters all cores try in an hour."""

from __future__ import annotations

import multiprocessing
import time
from typing import Any

import torch
from engines import mixed, new_engine

from trainpilot.envs.optimizers import OPTIMIZER_NAMES
from trainpilot.inner_tasks.vision import digits_mlp

#: Runs of an engine, and the inner steps of a configuration.
N_RUNS, N_STEPS = 64, 100


def configurations_per_hour(n_processes: int, seconds: float = 30.0) -> dict[str, Any]:
    """Full digits trainings, 100 inner steps of 64, on all cores."""
    context = multiprocessing.get_context("spawn")
    ready, counted = context.Barrier(n_processes), context.Queue()
    processes = [
        context.Process(target=_search, args=(seconds, 10**7 * number, ready, counted))
        for number in range(n_processes)
    ]
    for process in processes:
        process.start()
    rates = [counted.get() for _ in processes]
    for process in processes:
        process.join()
    return {"per_hour": sum(rates), "per_hour_of_each_process": rates}


def _search(seconds: float, seed: int, ready: Any, counted: Any) -> None:
    """Try configurations until the time is up; in a process of its own.

    A configuration keeps its optimizer, so that each engine needs the moments of one alone.
    """
    torch.set_num_threads(1)
    task = digits_mlp(micro_batch_size=64)
    searches = [
        (new_engine(task, N_RUNS, [name], N_STEPS), mixed(N_RUNS, [name]))
        for name in OPTIMIZER_NAMES
    ]
    ready.wait()
    start, done = time.perf_counter(), 0
    while time.perf_counter() < start + seconds:
        for engine, settings in searches:
            engine.reset(range(N_RUNS), range(seed + done, seed + done + N_RUNS))
            engine.advance(settings, N_STEPS)
            engine.evaluate()
            done += N_RUNS
    counted.put(3600 * done / (time.perf_counter() - start))
