"""When a run decides, and which of its steps are measured."""

from __future__ import annotations

from typing import NamedTuple


class Interval(NamedTuple):
    """The steps between two decisions.

    Attributes:
        first: number of the first of them, from 0.
        end: number of the first step after them.
        measured: numbers of those that are measured, in ascending order; the last step always is.
    """

    first: int
    end: int
    measured: tuple[int, ...]


class Clock:
    """Cuts a run into intervals, each of which shows a policy as much as one of meta-training.

    A policy has learned from runs of some decisions with some inner steps between two. A run of
    any length makes as many decisions, at even distances, and of the steps between two as many
    are measured, at even distances. So time passes for the policy as it did when it learned.

    Args:
        total_steps: of the run; None where that is not known.
        decisions: of the run, where its length is known; at most one a step.
        measured_steps: of an interval, or all where it has fewer.
        decide_every: steps between two decisions where the run's length is not known.
    """

    def __init__(
        self, total_steps: int | None, decisions: int, measured_steps: int, decide_every: int
    ) -> None:
        self._total = total_steps
        self.decisions = decisions if total_steps is None else min(decisions, total_steps)
        self._measured = measured_steps
        self._every = decide_every

    @property
    def settings(self) -> list[int | None]:
        """What it was made with, but for what has no part in it."""
        every = self._every if self._total is None else None
        return [self._total, self.decisions, self._measured, every]

    def interval(self, decision: int) -> Interval:
        """The steps after a decision, until the next."""
        first, end = self._begin(decision), self._begin(decision + 1)
        n_steps = end - first
        n_measured = min(n_steps, self._measured)
        places = ((number + 1) * n_steps // n_measured for number in range(n_measured))
        return Interval(first, end, tuple(first + place - 1 for place in places))

    def is_over(self, decision: int) -> bool:
        """Whether the run is over before this decision."""
        return self._total is not None and decision >= self.decisions

    def progress(self, decision: int) -> float:
        """Share of the run that is behind this decision; NaN where its length is not known."""
        return (
            float("nan") if self._total is None else min(self._begin(decision) / self._total, 1.0)
        )

    def age(self, decision: int) -> int:
        """Steps behind this decision, as many as were measured: the policy's own time."""
        return decision * len(self.interval(0).measured)

    def _begin(self, decision: int) -> int:
        if self._total is None:
            return decision * self._every
        # After its end a run goes on at the same pace.
        return decision * self._total // self.decisions
