"""Trials: many configurations trained side by side, each in a row of its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from trainpilot.agents.controller import Controller, View
from trainpilot.agents.evaluation.configuration import Configuration
from trainpilot.agents.evaluation.mixed import decide_each
from trainpilot.agents.run import Run
from trainpilot.envs.config import EnvConfig
from trainpilot.envs.inner_runs import InnerRuns
from trainpilot.inner_tasks.protocol import InnerTask

#: Rows that are trained side by side, at most. More are hardly faster and take their memory.
MOST_ROWS = 128


class Trial(NamedTuple):
    """A configuration to be trained.

    Attributes:
        configuration: how.
        seed: of initial weights and data order.
    """

    configuration: Configuration
    seed: int


class TrialRows:
    """Rows that trials are trained in; a row may begin another trial at any decision.

    What comes of a trial does not depend on those beside it.

    Args:
        task: the inner task.
        n_rows: how many; at least two are made.
        config: of the environment.

    Attributes:
        n_rows: how many there are, all of which must have begun before the first step.
        runs: the run of each row, as far as it has come: its curves, and whether it diverged.
    """

    def __init__(self, task: InnerTask, n_rows: int, config: EnvConfig) -> None:
        # A lone row takes other paths through the arithmetic than one of several.
        self.n_rows = max(n_rows, 2)
        self._inner = InnerRuns(task, self.n_rows, config)
        self._budget = config.n_micro_batches * task.micro_batch_size
        self._decision_samples = self._budget // config.decisions
        self._controllers: dict[int, Controller] = {}
        self._valid_loss = np.zeros(self.n_rows)
        self.runs = [Run(task.name, "trial", 0, self._budget) for _ in range(self.n_rows)]

    def begin(self, rows: Sequence[int], trials: Sequence[Trial]) -> None:
        """Begin a trial in each of these rows."""
        inner = self._inner
        decisions = [inner.config.decisions] * len(rows)
        inner.reset(rows, [trial.seed for trial in trials], decisions=decisions)
        valid, outer_valid = inner.engine.evaluate(rows)
        for row, trial in zip(rows, trials, strict=True):
            self._controllers[row] = trial.configuration.controller()
            self._controllers[row].begin(1, inner.actions, trial.seed)
            run = Run(inner.task.name, "trial", trial.seed, self._budget)
            run.configuration = trial.configuration.to_json()
            self._valid_loss[row] = valid.loss[row]
            run.add_point(0, valid.loss[row], outer_valid.loss[row])
            self.runs[row] = run

    def step(self) -> None:
        """Train every row until its next decision; rows whose budget is spent must begin anew."""
        inner = self._inner
        made = inner.decisions_made.tolist()
        view = View(
            inner.observation,
            inner.hyperparameters,
            self._valid_loss,
            0,
            inner.config.decisions,
            inner.guard_scale,
            inner.config.micro_batches_per_decision,
        )
        controllers = [self._controllers[row] for row in range(self.n_rows)]
        decided = decide_each(controllers, view, made)
        outcome = inner.step(decided.hyperparameters, decided.learning_rate_factors)
        self._valid_loss = outcome.valid.loss.copy()
        for row, run in enumerate(self.runs):
            if run.diverged:
                continue
            samples = (made[row] + 1) * self._decision_samples
            run.add_point(samples, outcome.valid.loss[row], outcome.outer_valid.loss[row])
            run.roll_backs += int(outcome.interventions.rolled_back[row])
            run.diverged = bool(outcome.terminated[row])

    def train(
        self, trials: Sequence[Trial], on_decision: Callable[[], None] = lambda: None
    ) -> list[Run]:
        """Train each trial for a whole budget; at most as many as there are rows, at least one."""
        filled = [*trials, *[trials[0]] * (self.n_rows - len(trials))]
        self.begin(range(self.n_rows), filled)
        for _ in range(self._inner.config.decisions):
            self.step()
            times(on_decision, len(trials))
        return self.runs[: len(trials)]


def train_trials(
    task: InnerTask,
    trials: Sequence[Trial],
    config: EnvConfig,
    on_decision: Callable[[], None] = lambda: None,
    most_rows: int = MOST_ROWS,
) -> list[Run]:
    """Train any number of trials for a whole budget each.

    Args:
        task: the inner task.
        trials: at least one.
        config: of the environment.
        on_decision: called for each trial's decision, for progress.
        most_rows: trials side by side, at most; no matter of the results.

    Returns:
        A run for each trial: its curves, whether it diverged, its configuration; no records of
        decisions, and no test loss.
    """
    n_chunks = math.ceil(len(trials) / most_rows)
    size = math.ceil(len(trials) / n_chunks)
    rows = TrialRows(task, size, config)
    runs: list[Run] = []
    for first in range(0, len(trials), size):
        runs += rows.train(trials[first : first + size], on_decision)
    return runs


def times(action: Callable[[], None], number: int) -> None:
    """Do something a number of times."""
    for _ in range(number):
        action()


def final_valid_loss(run: Run) -> float:
    """The valid loss at the run's end; infinite if it diverged."""
    return math.inf if run.diverged else run.valid_loss[-1]


def final_outer_valid_loss(run: Run) -> float:
    """The outer_valid loss at the run's end; infinite if it diverged."""
    return math.inf if run.diverged else run.outer_valid_loss[-1]
