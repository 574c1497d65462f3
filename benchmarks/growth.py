"""How speed and start-up change as runs, tasks and worker processes grow."""

from __future__ import annotations

import os
import tempfile
import time
from statistics import median
from typing import Any

import numpy as np
from engines import STEPS, new_engine, stepper
from measuring import in_new_process, seconds
from subjects import ACTIVATIONS, SUBJECTS, variants

from trainpilot.envs.config import EnvConfig
from trainpilot.envs.engine import Engine
from trainpilot.envs.groups import GroupSpec
from trainpilot.envs.vector import InnerTrainingVecEnv
from trainpilot.envs.worker_pool import start_groups

#: How many tasks are trained, by what trains them. torch.compile takes its time with each.
_TASKS = {"native": (1, 8, 32), "torch_compile": (1, 8)}


def growth_with_runs() -> dict[str, float]:
    """Inner steps a second as rows grow."""
    task, rates = SUBJECTS["mlp"](), {}
    for n_runs in (1, 4, 16, 64, 256, 1024):
        steps = stepper(new_engine(task, n_runs), 1)
        steps()
        times = [seconds(steps) for _ in range(5)]
        rates[str(n_runs)] = STEPS * n_runs / median(times)
    return rates


def growth_with_tasks() -> dict[str, Any]:
    """Start-up and inner steps a second as tasks grow, eight rows each, in one process.

    The start-up is measured in new processes: in a first with nothing in the cache of compiled
    code, and in a second that finds there what the first has left.
    """
    result: dict[str, Any] = {}
    for kind in _TASKS:
        with tempfile.TemporaryDirectory() as cache:
            cold, warm = (in_new_process(_tasks, kind, cache) for _ in range(2))
        result[kind] = {
            n_tasks: {
                "start_seconds_cold": cold[n_tasks]["start_seconds"],
                "start_seconds_warm": warm[n_tasks]["start_seconds"],
                "steps_per_second": warm[n_tasks]["steps_per_second"],
                "report": warm[n_tasks]["report"],
            }
            for n_tasks in warm
        }
    return result


def _tasks(kind: str, cache: str) -> dict[str, dict[str, Any]]:
    """Start engines one after the other; in a process of its own."""
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
    numbers = _TASKS[kind]
    tasks = variants(max(numbers), ACTIVATIONS[kind])
    engines: list[Engine] = []
    started = []
    start = time.perf_counter()
    for task in tasks:
        engines.append(new_engine(task, 8))
        started.append(time.perf_counter() - start)
    moves = [stepper(engine, 1) for engine in engines]
    result = {}
    for n_tasks in numbers:
        some = moves[:n_tasks]
        times = [seconds(lambda some=some: [move() for move in some]) for _ in range(6)]
        result[str(n_tasks)] = {
            "start_seconds": started[n_tasks - 1],
            "steps_per_second": STEPS * 8 * n_tasks / median(times[1:]),
            "report": engines[0].report,
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
