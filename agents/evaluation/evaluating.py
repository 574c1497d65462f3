"""Runs of all contenders on all tasks, those that are known from the cache."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from trainpilot.agents.evaluation.contenders import Contender
from trainpilot.agents.evaluation.fingerprints import (
    fingerprint_of_contender,
    fingerprint_of_setting,
    fingerprint_of_task,
)
from trainpilot.agents.evaluation.jobs import make_jobs, run_jobs
from trainpilot.agents.evaluation.run_cache import RunCache, run_key
from trainpilot.agents.progress import ProgressBar
from trainpilot.agents.run import Run
from trainpilot.envs.config import EnvConfig
from trainpilot.envs.row_cost import row_cost
from trainpilot.inner_tasks.protocol import InnerTask

#: Inner steps of a controller, over all seeds, from which on torch.compile pays for models that
#: need it: measured, the runs of a transformer and of a GRU take 0.7 and 0.6 of the time.
_WORTHWHILE = 2000


class Evaluation:
    """Makes the runs of contenders on tasks.

    Args:
        tasks: of different names.
        seeds: of the runs.
        config: of the environment.
        cache: where finished runs are kept; None for nowhere.
        n_workers: processes; None for as many as cores, 0 for none but this one.

    Attributes:
        n_cached: runs that were not made anew.
    """

    def __init__(
        self,
        tasks: Sequence[InnerTask],
        seeds: Sequence[int],
        config: EnvConfig,
        cache: Path | None,
        n_workers: int | None = None,
    ) -> None:
        self.n_cached = 0
        self._seeds = list(seeds)
        if config.compiled is None and len(self._seeds) * config.n_micro_batches >= _WORTHWHILE:
            config = replace(config, compiled=True)
        self._config = config
        self._cache = RunCache(cache)
        self._n_workers = _n_cores() if n_workers is None else n_workers
        self._tasks = {task.name: task for task in tasks}
        self._setting = None if cache is None else fingerprint_of_setting(config)
        self._known = {
            task.name: None if cache is None else fingerprint_of_task(task) for task in tasks
        }
        self._costs = {task.name: row_cost(task) for task in tasks}

    def runs(self, wanted: Mapping[str, Sequence[Contender]], what: str) -> list[Run]:
        """The runs of contenders, by task.

        Args:
            wanted: contenders for each task, by its name.
            what: is being done, for the progress.

        Returns:
            In the order of `wanted`, and of the lines and seeds of each contender.
        """
        found: dict[tuple[str, str], list[Run]] = {}
        # Before they run: a controller may keep what it draws in itself.
        keys = {
            (name, each.name): self._key(name, each)
            for name, contenders in wanted.items()
            for each in contenders
        }
        jobs = []
        for name, contenders in wanted.items():
            missing = []
            for each in contenders:
                runs = self._cache.load(keys[name, each.name])
                if runs is None:
                    missing.append(each)
                else:
                    found[name, each.name] = runs
                    self.n_cached += len(runs)
            task = self._tasks[name]
            jobs += make_jobs(task, missing, self._seeds, self._config, self._costs[name])
        if jobs:
            with (
                _Work(what, sum(job.work for job in jobs)) as work,
                # Closed at once, and its processes with it, whatever happens here.
                closing(run_jobs(jobs, self._config, self._n_workers, work.advance)) as ended,
            ):
                for job, runs in ended:
                    for each in job.contenders:
                        own = [run for run in runs if run.controller in each.lines]
                        found[job.task.name, each.name] = own
                        self._cache.store(keys[job.task.name, each.name], own)
                    work.note = job.task.name
        return [
            run
            for name, contenders in wanted.items()
            for each in contenders
            for run in found[name, each.name]
        ]

    def _key(self, task: str, contender: Contender) -> str | None:
        return run_key(
            self._setting,
            self._known[task],
            contender.name,
            fingerprint_of_contender(contender.made),
            seeds=self._seeds,
        )


def _n_cores() -> int:
    """Cores that this process may use; all where the system does not say."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class _Work:
    """Progress in units of work."""

    def __init__(self, what: str, total: float) -> None:
        self.note = ""
        self._total = total
        self._done = 0.0
        self._bar = ProgressBar(what, _STEPS)

    def __enter__(self) -> Self:
        self._bar.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.__exit__(kind, error, trace)

    def advance(self, amount: float) -> None:
        """Count work."""
        self._done += amount
        self._bar.update(min(round(_STEPS * self._done / self._total), _STEPS), self.note)


#: Steps of the progress.
_STEPS = 1000
