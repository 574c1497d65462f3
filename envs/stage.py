"""Where runs stand on the schedule that a policy's learning rate follows by itself."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from trainpilot.envs.hyperparameters import FloatArray, IntArray

#: Schedules that an action's learning rate may follow, by name.
SCHEDULES = ("cosine",)


class Stage(NamedTuple):
    """Shares of the highest learning rate that a schedule has, each in (0, 1], `(n_runs,)`.

    Attributes:
        before: at the last decision; 1 before the first.
        now: at this decision.
    """

    before: FloatArray | float = 1.0
    now: FloatArray | float = 1.0

    @classmethod
    def of(
        cls, known: NDArray[np.bool_], decision: IntArray | int, decisions: IntArray | int
    ) -> Stage:
        """Half a cosine over the run: `(1 + cos(pi * k / n)) / 2` at decision k of n.

        Without restarts (Loshchilov and Hutter, arXiv 1608.03983, equation 5). A run whose budget
        is not observed follows none.

        Args:
            known: whether the budget is observed, `(n_runs,)`.
            decision: number of this decision, from 0, of all runs or `(n_runs,)`; the last share
                stays after the last one.
            decisions: in the budget, at least 1, likewise.
        """
        place = np.minimum(decision, np.asarray(decisions) - 1)
        before = np.where(np.asarray(decision) > place, place, np.maximum(place - 1, 0))
        return cls(_share(before, decisions, known), _share(place, decisions, known))


def _share(
    place: NDArray[np.integer], decisions: IntArray | int, known: NDArray[np.bool_]
) -> FloatArray:
    return np.where(known, (1 + np.cos(np.pi * place / decisions)) / 2, 1.0)


#: Of a run that follows no schedule.
NOTHING_FALLS = Stage()
