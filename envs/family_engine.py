"""The engine of a family: every run trains a task of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainpilot.envs.engine import Engine
from trainpilot.envs.hyperparameters import FloatArray, Hyperparameters, IntArray
from trainpilot.envs.signals import Evaluation, Signals
from trainpilot.inner_tasks.family import TaskFamily

#: Of the tasks with these first numbers the trainer is held against eager torch at the start. The
#: others' models are of the same kinds, and hundreds of comparisons would take as long as the runs.
_COMPARED = 16
#: Engines that wait for their task to be drawn again, at most: each holds the task's data.
_MOST_IDLE = 128
#: Apart from what else is drawn from a run's seed.
_STREAM = 2


def is_trusted(number: int) -> bool:
    """Whether the trainer of the family's task of that number is taken without a comparison."""
    return number >= _COMPARED


class FamilyEngine:
    """Advances `n_runs` inner runs of tasks of a family; the seed of a run draws its task.

    What an environment asks of `trainpilot.envs.engine.Engine`, row by row: each run has an
    engine of one row. An engine that is no longer in use waits a while for the next run of its
    task.

    Args:
        family: of the tasks.
        n_runs: how many runs, at least 1.
        settings: further arguments of `Engine`.

    Raises:
        TrainpilotError: as `Engine`.

    Attributes:
        report: how the runs of the first task are trained, and why so.
        numbers: of each row's task in the family, `(n_runs,)`.
    """

    def __init__(self, family: TaskFamily, n_runs: int, **settings: Any) -> None:
        self.family = family
        self.n_runs = n_runs
        self._settings = dict(settings)
        if self._settings.get("compiled") and self._settings.get("device", "cpu") != "cpu":
            # Elsewhere torch.compile alone could help, anew for every task that is drawn.
            self._settings["compiled"] = None
        self._idle: list[tuple[int, Engine]] = []
        self.numbers: IntArray = np.arange(n_runs) % family.n_tasks
        self._engines = [self._take(int(number)) for number in self.numbers]
        self.report = self._engines[0].report
        self.evaluate()

    def _take(self, number: int) -> Engine:
        for place, (waiting, engine) in enumerate(self._idle):
            if waiting == number:
                del self._idle[place]
                return engine
        task = self.family.task(number)
        return Engine(task, 1, trusted=is_trusted(number), **self._settings)

    def _give_back(self, row: int) -> None:
        self._idle.append((int(self.numbers[row]), self._engines[row]))
        del self._idle[:-_MOST_IDLE]

    @property
    def task_names(self) -> list[str]:
        """Name of each row's task, `n_runs` of them."""
        return [engine.task.name for engine in self._engines]

    @property
    def position(self) -> IntArray:
        """Micro-batches that each run has processed, `(n_runs,)`."""
        return np.concatenate([engine.position for engine in self._engines])

    @property
    def budgets(self) -> IntArray:
        """Micro-batches that each run may process, `(n_runs,)`."""
        return np.concatenate([engine.budgets for engine in self._engines])

    def reset(
        self, rows: Sequence[int], seeds: Sequence[int], budgets: Sequence[int] | None = None
    ) -> None:
        """Start runs anew in the given rows, each on the task that its seed draws.

        Args:
            rows: which rows.
            seeds: a seed for each of these rows: it draws the run's task, and is the seed of
                the run.
            budgets: micro-batches of each of these rows (default: the longest there is).
        """
        for place, (row, seed) in enumerate(zip(rows, seeds, strict=True)):
            number = int(np.random.default_rng([seed, _STREAM]).integers(self.family.n_tasks))
            if number != self.numbers[row]:
                self._give_back(row)
                self._engines[row] = self._take(number)
                self.numbers[row] = number
            own = None if budgets is None else [budgets[place]]
            self._engines[row].reset([0], [seed], own)

    def advance(
        self,
        hyperparameters: Hyperparameters,
        n_micro_batches: int,
        learning_rates: FloatArray | None = None,
    ) -> Signals:
        """Train every run on its next micro-batches.

        Args:
            hyperparameters: of every run, `(n_runs,)` each.
            n_micro_batches: how many; no run may pass its budget.
            learning_rates: of each micro-batch, as `Engine.advance`.

        Returns:
            The signals of these micro-batches, `(n_runs, n_micro_batches)` each.

        Raises:
            TrainpilotError: as `Engine.advance`.
        """
        parts = []
        for row, engine in enumerate(self._engines):
            own = slice(row, row + 1)
            rates = None if learning_rates is None else learning_rates[own]
            parts.append(engine.advance(hyperparameters.rows(own), n_micro_batches, rates))
        return Signals(*(np.concatenate(values) for values in zip(*parts, strict=True)))

    def average(self, decay: FloatArray) -> None:
        """Take the weights into the averages that evaluations see, as `Engine.average`."""
        for row, engine in enumerate(self._engines):
            engine.average(decay[row : row + 1])

    def keep(self, rows: NDArray[np.bool_]) -> None:
        """Keep what the runs of these rows carry now, as `Engine.keep`."""
        for row in np.flatnonzero(rows):
            self._engines[row].keep(np.ones(1, dtype=bool))

    def restore(self, rows: NDArray[np.bool_]) -> None:
        """Give these rows what was kept, as `Engine.restore`."""
        for row in np.flatnonzero(rows):
            self._engines[row].restore(np.ones(1, dtype=bool))

    def evaluate(self, rows: Sequence[int] | None = None) -> tuple[Evaluation, Evaluation]:
        """Evaluate every run on the observed parts of its task's `valid` and `outer_valid`.

        Args:
            rows: only these need to be evaluated anew since the last time (default: all).
        """
        if rows is None:
            self._evaluated = [engine.evaluate() for engine in self._engines]
        else:
            for row in rows:
                self._evaluated[row] = self._engines[row].evaluate()
        valid, outer_valid = (
            _joined([pair[which] for pair in self._evaluated]) for which in range(2)
        )
        return valid, outer_valid


def _joined(evaluations: Sequence[Evaluation]) -> Evaluation:
    """Those of one run each as one; NaN where a run has no metric of a name."""
    names = sorted({name for each in evaluations for name in each.metrics})

    def column(name: str) -> FloatArray:
        missing = np.full(1, np.nan)
        return np.concatenate([each.metrics.get(name, missing) for each in evaluations])

    return Evaluation(
        np.concatenate([each.loss for each in evaluations]), {name: column(name) for name in names}
    )
