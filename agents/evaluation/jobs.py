"""The runs of an evaluation as jobs, spread over processes."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing import active_children, get_context, parent_process
from multiprocessing.connection import wait as wait_for
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, cast

import cloudpickle
import torch

from trainpilot.agents.controller import Controller
from trainpilot.agents.evaluation.adaptive import AdaptiveOptimizer, train_side_by_side
from trainpilot.agents.evaluation.contenders import Contender
from trainpilot.agents.evaluation.method import Method
from trainpilot.agents.rollout import roll_out
from trainpilot.agents.run import Run
from trainpilot.envs.config import EnvConfig
from trainpilot.inner_tasks.errors import TrainpilotError, first_line
from trainpilot.inner_tasks.protocol import InnerTask

#: Runs of controllers in a job, at most: enough to share the calls' fixed cost, few enough for a
#: job to end soon.
_RUNS = 80
#: Between two looks at how far the workers are (seconds).
_LOOK = 0.2

Advance = Callable[[float], None]


@dataclass(frozen=True)
class Job:
    """Runs that are made together.

    Attributes:
        task: the inner task.
        contenders: controllers, adaptive optimizers, or one other method.
        seeds: of each.
        work: how much it is, in any unit that jobs share.
    """

    task: InnerTask
    contenders: tuple[Contender, ...]
    seeds: tuple[int, ...]
    work: float


def make_jobs(
    task: InnerTask,
    contenders: Sequence[Contender],
    seeds: Sequence[int],
    config: EnvConfig,
    row_cost: float,
) -> list[Job]:
    """The jobs of a task: controllers side by side, and adaptive optimizers, other methods alone.

    Args:
        task: the inner task.
        contenders: whose runs are wanted.
        seeds: of each.
        config: of the environment.
        row_cost: work of an inner step of a run, in any unit that tasks share.
    """
    seeds = tuple(seeds)
    controllers = [each for each in contenders if not isinstance(each.made, Method)]
    at_once = max(_RUNS // len(seeds), 1)
    groups = [
        tuple(controllers[first : first + at_once]) for first in range(0, len(controllers), at_once)
    ]
    jobs = [
        Job(task, group, seeds, row_cost * len(group) * len(seeds) * config.decisions)
        for group in groups
    ]
    methods = [each for each in contenders if isinstance(each.made, Method)]
    adaptive = [each for each in methods if isinstance(each.made, AdaptiveOptimizer)]
    together = [
        tuple(adaptive[first : first + at_once]) for first in range(0, len(adaptive), at_once)
    ]
    alone = [(each,) for each in methods if each not in adaptive]
    for group in [*together, *alone]:
        jobs.append(Job(task, group, seeds, row_cost * _n_decisions(group, len(seeds), config)))
    return jobs


def _n_decisions(methods: Sequence[Contender], n_seeds: int, config: EnvConfig) -> int:
    """How often methods tell of a decision."""
    return sum(cast("Method", each.made).n_decisions(n_seeds, config) for each in methods)


def run_jobs(
    jobs: Sequence[Job], config: EnvConfig, n_workers: int, advance: Advance
) -> Generator[tuple[Job, list[Run]]]:
    """Carry out jobs, the largest first.

    Args:
        jobs: to be done.
        config: of the environment.
        n_workers: processes; 0 for none but this one.
        advance: told of work that was done since the last time.

    Yields:
        Each job with its runs, for each of its lines and then each seed, as it ends.

    Raises:
        TrainpilotError: if a task cannot be trained, or a process dies.
    """
    jobs = sorted(jobs, key=lambda job: -job.work)
    n_workers = min(n_workers, len(jobs))
    if n_workers == 0:
        for job in jobs:
            yield job, _carry_out(job, config, advance)
        return
    yield from _run_in_processes(jobs, config, n_workers, advance)


def _carry_out(job: Job, config: EnvConfig, advance: Advance) -> list[Run]:
    """The runs of a job, done here."""
    n_calls = config.decisions
    first = job.contenders[0]
    if isinstance(first.made, Method):
        n_calls = _n_decisions(job.contenders, len(job.seeds), config)
    done = 0

    def on_decision() -> None:
        nonlocal done
        if done < n_calls:
            done += 1
            advance(job.work / n_calls)

    if isinstance(first.made, AdaptiveOptimizer):
        optimizers = {each.name: cast("AdaptiveOptimizer", each.made) for each in job.contenders}
        runs = train_side_by_side(optimizers, job.task, job.seeds, config, on_decision)
    elif isinstance(first.made, Method):
        runs = first.made.train(first.name, job.task, job.seeds, config, on_decision)
    else:
        controllers = {each.name: cast("Controller", each.made) for each in job.contenders}
        runs = roll_out(job.task, controllers, job.seeds, config, on_decision, held_out=True).runs
    advance(job.work * (1 - done / n_calls))
    return runs


def _run_in_processes(
    jobs: Sequence[Job], config: EnvConfig, n_workers: int, advance: Advance
) -> Generator[tuple[Job, list[Run]]]:
    context = get_context("spawn")
    counter = context.Value("d", 0.0)
    seen = 0.0
    with tempfile.TemporaryDirectory() as folder:
        paths = _write_tasks(Path(folder), jobs)
        pool = ProcessPoolExecutor(
            n_workers, mp_context=context, initializer=_begin, initargs=(counter,)
        )
        others = set(active_children())
        try:
            futures: dict[Future[list[Run]], Job] = {
                pool.submit(
                    _work,
                    paths[id(job.task)],
                    _packed((job.contenders, job.seeds, job.work, config)),
                ): job
                for job in jobs
            }
            left = set(futures)
            while left:
                ended, left = wait(left, timeout=_LOOK, return_when=FIRST_COMPLETED)
                advance(counter.value - seen)
                seen = counter.value
                for future in ended:
                    yield futures[future], future.result()
        except BrokenProcessPool as error:
            pool.shutdown()
            raise TrainpilotError(
                "the processes that train must stay alive; given: one that died, for want of "
                "memory perhaps (n_workers=0 trains in this process)"
            ) from error
        except BaseException:
            _stop(pool, [child for child in active_children() if child not in others])
            raise
        pool.shutdown()


def _stop(pool: ProcessPoolExecutor, children: Sequence[BaseProcess]) -> None:
    """Leave no process behind, whatever it is doing."""
    for child in children:
        child.terminate()
    pool.shutdown(cancel_futures=True)


def _write_tasks(folder: Path, jobs: Sequence[Job]) -> dict[int, str]:
    """A file for each task, so that workers read it once and not with every job."""
    paths: dict[int, str] = {}
    for job in jobs:
        if id(job.task) not in paths:
            path = folder / f"{len(paths)}.pickle"
            path.write_bytes(_packed(job.task))
            paths[id(job.task)] = str(path)
    return paths


def _packed(thing: Any) -> bytes:
    try:
        return bytes(cloudpickle.dumps(thing))
    except Exception as error:
        raise TrainpilotError(
            "tasks and controllers must be such as can be pickled for other processes "
            f"(n_workers=0 trains in this one); given: {first_line(error)}"
        ) from error


#: Of a worker's process: where it counts the work that it has done.
_counter: Any = None


def _begin(counter: Any) -> None:
    """Get a worker's process ready."""
    global _counter
    _counter = counter
    torch.set_num_threads(1)
    # Ctrl-C is for the parent, which stops the workers; so is its death.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_leave_with_the_parent, daemon=True).start()


def _leave_with_the_parent() -> None:
    parent = parent_process()
    if parent is not None:
        wait_for([parent.sentinel])
        os._exit(1)


@lru_cache(maxsize=2)
def _read_task(path: str) -> InnerTask:
    # Written by the parent, for its workers alone.
    return cast("InnerTask", cloudpickle.loads(Path(path).read_bytes()))


def _work(path: str, packed: bytes) -> list[Run]:
    """Carry out a job in a worker's process."""
    contenders, seeds, work, config = cloudpickle.loads(packed)

    def advance(amount: float) -> None:
        with _counter.get_lock():
            _counter.value += amount

    runs = _carry_out(Job(_read_task(path), contenders, seeds, work), config, advance)
    sys.stdout.flush()
    return runs
