"""What runs lose on `test` as they train: for reports alone, no controller sees it."""

from __future__ import annotations

import numpy as np

from trainpilot.agents.run import Run
from trainpilot.envs.engine import Engine
from trainpilot.envs.evaluating import observed_sample
from trainpilot.envs.roll_back import LastGood
from trainpilot.inner_tasks.protocol import Split

#: Most examples of `test` that curves, and final and best weights, are measured on, always the
#: same ones: two text tasks have four times as many, which would take longer than to train.
CURVE_SIZE, FINAL_SIZE = 128, 2048


class HeldOut:
    """Measures runs on `test`, and what early stopping would have kept of each.

    Args:
        engine: of the runs, at their initial weights.
        runs: one for each row.
        valid_loss: of each, `(n_runs,)`.
    """

    def __init__(self, engine: Engine, runs: list[Run], valid_loss: np.ndarray) -> None:
        self._engine = engine
        self._runs = runs
        self._sample = observed_sample(engine.task.splits.test, CURVE_SIZE)
        self._test = observed_sample(engine.task.splits.test, FINAL_SIZE)
        self._lowest = np.full(len(runs), np.inf)
        self._is_last = np.zeros(len(runs), dtype=bool)
        self._best = LastGood(engine.seen())
        self.look(valid_loss)

    def look(self, valid_loss: np.ndarray) -> None:
        """Add a point to the curves of the runs that go on.

        Args:
            valid_loss: of each run, `(n_runs,)`.
        """
        going = np.array([not run.diverged for run in self._runs])
        better = going & (valid_loss < self._lowest)
        self._lowest = np.where(better, valid_loss, self._lowest)
        self._is_last = better
        self._best.keep(self._engine.seen(), better)
        found = self._engine.evaluate_split(self._sample)
        accuracy = found.metrics.get("accuracy")
        for row in np.flatnonzero(going):
            run = self._runs[row]
            run.test_curve.append(float(found.loss[row]))
            if accuracy is not None:
                run.accuracy_curve.append(float(accuracy[row]))

    def finish(self) -> None:
        """Measure the last weights and those with the lowest valid loss on `test`."""
        measure_test(self._engine, self._runs, self._test)
        weights = self._engine.seen()
        last = [values.clone() for values in weights]
        other = np.flatnonzero(~self._is_last)
        self._best.restore(weights, ~self._is_last)
        if len(other):
            found = self._engine.evaluate_split(self._test, other.tolist())
        for values, own in zip(weights, last, strict=True):
            values.copy_(own)
        for run in self._runs:
            run.best_test_loss = run.test_loss
            run.best_test_accuracy = run.test_metrics.get("accuracy")
        for place, row in enumerate(other):
            run = self._runs[row]
            run.best_test_loss = float(found.loss[place])
            if "accuracy" in found.metrics:
                run.best_test_accuracy = float(found.metrics["accuracy"][place])


def measure_test(engine: Engine, runs: list[Run], test: Split) -> None:
    """Measure the last weights of runs, unless they diverged.

    Args:
        engine: of the runs.
        runs: one for each row.
        test: the split, or examples of it.
    """
    found = engine.evaluate_split(test)
    for row, run in enumerate(runs):
        if not run.diverged:
            run.test_loss = float(found.loss[row])
            run.test_metrics = {name: float(value[row]) for name, value in found.metrics.items()}
