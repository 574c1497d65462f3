"""When each run updates, and with which scalars: what is known before a decision's steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from trainpilot.envs.hyperparameters import FloatArray, Hyperparameters, IntArray
from trainpilot.envs.optimizers import ADAM_BETA2

#: Columns of the scalars that an update takes for each row.
STEP_SCALARS = (
    "gradient_clip", "carried", "share", "learning_rate", "weight_decay", "momentum",
    "one_minus_momentum", "mean_correction", "square_correction", "step", "optimizer", "applied",
)  # fmt: skip


class Plan(NamedTuple):
    """The scalars of a decision's steps.

    Attributes:
        scalars: `STEP_SCALARS`, `(n_runs, n_steps, 12)`.
        updated: whether the micro-batch ends with an update, `(n_runs, n_steps)`.
        mean_correction: Adam's bias correction after it, `(n_runs, n_steps)`.
    """

    scalars: FloatArray
    updated: NDArray[np.bool_]
    mean_correction: FloatArray


class Schedule:
    """Counts every run's updates and accumulated micro-batches.

    Args:
        n_runs: number of runs.
    """

    def __init__(self, n_runs: int) -> None:
        self._updates = np.zeros(n_runs, dtype=np.int64)
        self._accumulated = np.zeros(n_runs, dtype=np.int64)

    def reset(self, rows: Sequence[int]) -> None:
        """Begin anew in these rows."""
        self._updates[list(rows)] = 0
        self._accumulated[list(rows)] = 0

    @property
    def counts(self) -> tuple[IntArray, IntArray]:
        """Updates and accumulated micro-batches of each run, `(n_runs,)` each."""
        return self._updates, self._accumulated

    def plan(
        self,
        hyperparameters: Hyperparameters,
        n_steps: int,
        learning_rates: FloatArray | None = None,
    ) -> Plan:
        """The scalars of the next micro-batches; they count as done.

        A run updates as soon as it has accumulated its batch size or more, should that have
        been lowered in between.

        Args:
            hyperparameters: of every run, `(n_runs,)` each.
            n_steps: micro-batches, at least 1.
            learning_rates: of each of them, `(n_runs, n_steps)`; an update takes that of the
                micro-batch which it ends (default: the hyperparameters' throughout).
        """
        batch, gathered = hyperparameters.batch_size[:, None], self._accumulated[:, None]
        number = np.arange(1, n_steps + 1)
        # Micro-batches since the first update of these, that at which enough have been gathered.
        since = number - np.maximum(batch - gathered, 1)
        count = np.where(since <= 0, gathered + number, (since - 1) % batch + 1)
        updated = (since >= 0) & (since % batch == 0)
        step = self._updates[:, None] + np.where(since >= 0, since // batch + 1, 0)
        self._updates = step[:, -1].copy()
        self._accumulated = np.where(updated[:, -1], 0, count[:, -1])
        momentum = hyperparameters.momentum[:, None]
        # A run that has not updated yet needs no correction, but a finite number.
        counted = np.maximum(step, 1)
        rates = hyperparameters.learning_rate[:, None] if learning_rates is None else learning_rates
        columns = {
            "gradient_clip": hyperparameters.gradient_clip[:, None],
            "carried": count > 1,
            "share": 1 / count,
            "learning_rate": rates,
            "weight_decay": hyperparameters.weight_decay[:, None],
            "momentum": momentum,
            "one_minus_momentum": 1 - momentum,
            "mean_correction": 1 / (1 - momentum**counted),
            "square_correction": 1 / (1 - ADAM_BETA2**counted),
            "step": step,
            "optimizer": hyperparameters.optimizer[:, None],
            "applied": updated,
        }
        scalars = np.empty((*updated.shape, len(STEP_SCALARS)))
        for place, name in enumerate(STEP_SCALARS):
            scalars[:, :, place] = columns[name]
        return Plan(
            scalars=scalars,
            updated=updated,
            mean_correction=columns["mean_correction"],
        )


def step_keys(seeds: IntArray, position: IntArray, n_steps: int) -> IntArray:
    """A key of random numbers for every run and micro-batch to come (splitmix64).

    Args:
        seeds: of the runs, `(n_runs,)`.
        position: micro-batches behind each, `(n_runs,)`.
        n_steps: micro-batches to come.

    Returns:
        `(n_runs, n_steps)`.
    """
    place = position[:, None] + np.arange(n_steps) + 1
    with np.errstate(over="ignore"):
        key = _mix(seeds.astype(np.uint64))[:, None] + place.astype(np.uint64) * _GOLDEN
        return _mix(key).astype(np.int64)


_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of splitmix64 (Steele, Lea and Flood, 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
