"""Measures the reference of a task: the curve of the best of a grid of fixed configurations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np

from trainpilot.envs.hyperparameters import Hyperparameters
from trainpilot.envs.inner_runs import InnerRuns
from trainpilot.envs.levels import HIGHEST_LEVEL, level
from trainpilot.envs.optimizers import LEARNING_RATE_SCALES, menu, optimizer_index
from trainpilot.envs.task_reference import TaskReference

#: Optimizers of the grid.
GRID_OPTIMIZERS = ("sgd", "adam", "rmsprop")
#: Learning rates of the grid, in units of Adam's: half decades.
GRID_LEARNING_RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)


def grid(allowed: Sequence[str] = GRID_OPTIMIZERS) -> list[Hyperparameters]:
    """Every optimizer of the grid that is allowed, with every learning rate, `(1,)` each."""
    optimizers = [
        name for name in GRID_OPTIMIZERS if optimizer_index(name) in menu(allowed)
    ] or allowed
    return [
        Hyperparameters.full(
            1, optimizer=name, learning_rate=rate * LEARNING_RATE_SCALES[optimizer_index(name)]
        )
        for name, rate in product(optimizers, GRID_LEARNING_RATES)
    ]


def measure_reference(
    runs: InnerRuns, n_seeds: int = 2, configurations: Sequence[Hyperparameters] | None = None
) -> TaskReference:
    """Train every configuration on the task and keep the best.

    Args:
        runs: rows to use; they must be reset afterwards.
        n_seeds: seeds that a configuration's curve is the mean of, at least 1.
        configurations: `(1,)` each (default: the grid of the optimizers that runs may use).

    Returns:
        The curve of the configuration that ends lowest; one that diverges stands highest from
        there on.
    """
    if configurations is None:
        configurations = grid(runs.config.optimizers)
    jobs = list(product(range(len(configurations)), range(n_seeds)))
    curves = np.zeros((len(configurations), runs.config.decisions))
    for chunk in _chunks(jobs, runs.n_runs):
        # The last chunk is filled up with its first job, which is not counted twice.
        padded = chunk + chunk[:1] * (runs.n_runs - len(chunk))
        runs.reset(
            range(runs.n_runs),
            [seed for _, seed in padded],
            [configurations[number] for number, _ in padded],
            [runs.config.decisions] * runs.n_runs,
        )
        start = runs.engine.evaluate()[1].loss
        diverged = np.zeros(runs.n_runs, dtype=bool)
        for decision in range(runs.config.decisions):
            outcome = runs.step(runs.hyperparameters)
            # A fixed configuration is one that nobody had to mend.
            diverged |= outcome.terminated | outcome.interventions.rolled_back
            levels = np.where(diverged, HIGHEST_LEVEL, level(outcome.outer_valid.loss, start))
            for (number, _), value in zip(chunk, levels, strict=False):
                curves[number, decision] += value / n_seeds
    best = int(curves[:, -1].argmin())
    return TaskReference(tuple(curves[best].tolist()))


def _chunks(jobs: list[tuple[int, int]], size: int) -> Iterator[list[tuple[int, int]]]:
    for first in range(0, len(jobs), size):
        yield jobs[first : first + size]
