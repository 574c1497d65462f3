"""The reference of a task, as data: the curve of its best fixed configuration."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainpilot.envs.hyperparameters import FloatArray
from trainpilot.envs.levels import LOWEST_LEVEL, START_LEVEL
from trainpilot.inner_tasks.errors import require

#: The least unit of a reward: a reference that hardly improves must not make rewards huge.
_LEAST_SPAN = 0.3


@dataclass(frozen=True)
class TaskReference:
    """What a task's best fixed configuration reaches, and when: the unit of its reward.

    Attributes:
        curve: level of `outer_valid` at the end of each decision, at least one. The default
            stands for a reference that is not known: the lowest level there is, at once.

    Raises:
        TrainpilotError: if the curve is empty or a level is not finite.
    """

    curve: tuple[float, ...] = (LOWEST_LEVEL,)

    def __post_init__(self) -> None:
        """Check the curve: a level that is not a number would silently spoil every reward."""
        require(len(self.curve) > 0, "a reference's curve must hold at least one level", "none")
        finite = all(math.isfinite(value) for value in self.curve)
        require(finite, "the levels of a reference's curve must be finite", self.curve)

    @property
    def final_level(self) -> float:
        """The level at the end of the budget."""
        return self.curve[-1]

    @property
    def span(self) -> float:
        """The improvement from the start to the reference's end, at least 0.3."""
        return max(START_LEVEL - self.final_level, _LEAST_SPAN)


class RowReferences:
    """The reference of every row, which may differ from row to row.

    Curves are read by share of the budget, so that runs with other budgets than the reference's
    are held to the same curve, stretched.

    Args:
        n_runs: number of rows; their references are not known yet.

    Attributes:
        known: whether the row's reference is known, `(n_runs,)`.
        final_level: level that it ends at, `(n_runs,)`.
        span: improvement from the start to there, at least 0.3, `(n_runs,)`.
    """

    def __init__(self, n_runs: int) -> None:
        self._references = [TaskReference()] * n_runs
        self.known: NDArray[np.bool_] = np.zeros(n_runs, dtype=bool)
        self._lay_out()

    def put(self, reference: TaskReference, rows: Sequence[int] | None = None) -> None:
        """Change the reference of the given rows (default: of all)."""
        for row in range(len(self._references)) if rows is None else rows:
            self._references[row] = reference
            self.known[row] = True
        self._lay_out()

    def __getitem__(self, row: int) -> TaskReference:
        return self._references[row]

    def at(self, progress: FloatArray) -> FloatArray:
        """The curve's level, linear between decisions and `START_LEVEL` at 0, `(n_runs,)`.

        Args:
            progress: share of each run's budget, `(n_runs,)`, from 0 to 1.
        """
        return self._interpolated(self._levels, progress)

    def area(self, progress: FloatArray) -> FloatArray:
        """The area under the curve from the start of the budget, `(n_runs,)`.

        A decision counts with the level at its end, as it does for a run. At 1 the area is the
        mean of the curve.

        Args:
            progress: share of each run's budget, `(n_runs,)`, from 0 to 1.
        """
        return self._interpolated(self._areas, progress)

    def _lay_out(self) -> None:
        """Write the references as arrays."""
        curves = [reference.curve for reference in self._references]
        self.final_level = np.array([reference.final_level for reference in self._references])
        self.span = np.array([reference.span for reference in self._references])
        self._lengths = np.array([len(curve) for curve in curves])
        # (n_runs, longest + 1): a row's curve with its start before it; the rest is not read.
        self._levels = np.full((len(curves), int(self._lengths.max()) + 1), START_LEVEL)
        self._areas = np.zeros_like(self._levels)
        for row, curve in enumerate(curves):
            self._levels[row, 1 : len(curve) + 1] = curve
            self._areas[row, 1 : len(curve) + 1] = np.cumsum(curve) / len(curve)

    def _interpolated(self, table: FloatArray, progress: FloatArray) -> FloatArray:
        place = progress * self._lengths
        left = np.minimum(place.astype(np.int64), self._lengths - 1)
        rows, share = np.arange(len(table)), place - left
        return np.asarray((1 - share) * table[rows, left] + share * table[rows, left + 1])
