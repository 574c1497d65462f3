"""The reference of a task: what the best of a grid of fixed configurations reaches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np

from trainpilot.envs.hyperparameters import Hyperparameters
from trainpilot.envs.inner_runs import InnerRuns
from trainpilot.envs.optimizers import LEARNING_RATE_SCALES, menu, optimizer_index
from trainpilot.envs.rewards import HIGHEST_LEVEL, TaskReference, level

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


def measure_reference(runs: InnerRuns, n_seeds: int = 2) -> TaskReference:
    """Train every configuration of the grid on the task and keep the best.

    Args:
        runs: rows to use; they must be reset afterwards.
        n_seeds: seeds that a configuration's final level is the mean of, at least 1.

    Returns:
        The level of `outer_valid` that the best configuration ends at.
    """
    configurations = grid(runs.config.optimizers)
    jobs = list(product(range(len(configurations)), range(n_seeds)))
    totals = np.zeros(len(configurations))
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
        for _ in range(runs.config.decisions):
            outcome = runs.step(runs.hyperparameters)
            # A fixed configuration is one that nobody had to mend.
            diverged |= outcome.terminated | outcome.interventions.rolled_back
        final = np.where(diverged, HIGHEST_LEVEL, level(outcome.outer_valid.loss, start))
        for (number, _), value in zip(chunk, final, strict=False):
            totals[number] += value / n_seeds
    return TaskReference(float(totals.min()))


def _chunks(jobs: list[tuple[int, int]], size: int) -> Iterator[list[tuple[int, int]]]:
    for first in range(0, len(jobs), size):
        yield jobs[first : first + size]
