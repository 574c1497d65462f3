"""How many configurations of hyperparameters all cores try in an hour."""

from __future__ import annotations

import multiprocessing
import time
from statistics import median
from typing import Any

import torch
from engines import mixed, new_engine

from trainpilot.envs.optimizers import OPTIMIZER_NAMES
from trainpilot.inner_tasks.vision import digits_mlp

#: Runs of an engine, and the inner steps of a configuration.
N_RUNS, N_STEPS = 64, 100


#: How often they are counted, and for how long each time.
N_TIMES, SECONDS = 5, 10.0


def configurations_per_hour(n_processes: int) -> dict[str, Any]:
    """Full digits trainings, 100 inner steps of 64, on all cores: the median of several counts."""
    context = multiprocessing.get_context("spawn")
    ready, counted = context.Barrier(n_processes), context.Queue()
    processes = [
        context.Process(target=_search, args=(10**7 * number, ready, counted))
        for number in range(n_processes)
    ]
    for process in processes:
        process.start()
    # Each process gives all its counts; they are made at the same times.
    rates = [counted.get() for _ in processes]
    for process in processes:
        process.join()
    together = [sum(each) for each in zip(*rates, strict=True)]
    return {
        "per_hour": median(together),
        "per_hour_each_time": together,
        "per_hour_of_each_process": [median(each) for each in rates],
    }


def _search(seed: int, ready: Any, counted: Any) -> None:
    """Try configurations until each time is up; in a process of its own.

    A configuration keeps its optimizer, so that each engine needs the moments of one alone.
    """
    torch.set_num_threads(1)
    task = digits_mlp(micro_batch_size=64)
    searches = [
        (new_engine(task, N_RUNS, [name], N_STEPS), mixed(N_RUNS, [name]))
        for name in OPTIMIZER_NAMES
    ]
    rates = []
    for _ in range(N_TIMES):
        ready.wait()
        start, done = time.perf_counter(), 0
        while time.perf_counter() < start + SECONDS:
            for engine, settings in searches:
                engine.reset(range(N_RUNS), range(seed, seed + N_RUNS))
                engine.advance(settings, N_STEPS)
                engine.evaluate()
                seed += N_RUNS
                done += N_RUNS
        rates.append(3600 * done / (time.perf_counter() - start))
    counted.put(rates)
