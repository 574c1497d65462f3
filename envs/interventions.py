"""What the guard did to a run, and why: a code for arrays, a text for people."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from trainpilot.envs.hyperparameters import FloatArray, IntArray


class Reason(IntEnum):
    """Why the guard is not content with a run; the first that holds is given."""

    NONE = 0
    TRAIN_LOSS_NOT_FINITE = 1
    GRADIENT_NOT_FINITE = 2
    PARAMETERS_NOT_FINITE = 3
    UPDATE_NOT_FINITE = 4
    VALID_LOSS_NOT_FINITE = 5
    OUTER_VALID_LOSS_NOT_FINITE = 6
    VALID_LOSS_EXPLODED = 7
    TRAIN_LOSS_EXPLODED = 8
    GRADIENT_EXPLODED = 9
    PARAMETERS_EXPLODED = 10
    HOPELESS = 11


_TEXTS = {
    Reason.TRAIN_LOSS_NOT_FINITE: "train loss is not finite",
    Reason.GRADIENT_NOT_FINITE: "gradient norm is not finite",
    Reason.PARAMETERS_NOT_FINITE: "parameter norm is not finite",
    Reason.UPDATE_NOT_FINITE: "update norm is not finite",
    Reason.VALID_LOSS_NOT_FINITE: "valid loss is not finite",
    Reason.OUTER_VALID_LOSS_NOT_FINITE: "outer_valid loss is not finite",
    Reason.VALID_LOSS_EXPLODED: "valid loss is {ratio:.3g} times its start",
    Reason.TRAIN_LOSS_EXPLODED: "train loss is {ratio:.3g} times its start",
    Reason.GRADIENT_EXPLODED: "gradient norm is {ratio:.3g} times its start",
    Reason.PARAMETERS_EXPLODED: "parameter norm is {ratio:.3g} times its start",
    Reason.HOPELESS: "improved too little for the budget that is spent",
}


#: Fields of `GuardConfig` that say from when on something has exploded.
LIMITS = {
    Reason.VALID_LOSS_EXPLODED: "max_loss_ratio",
    Reason.TRAIN_LOSS_EXPLODED: "max_train_loss_ratio",
    Reason.GRADIENT_EXPLODED: "max_gradient_ratio",
    Reason.PARAMETERS_EXPLODED: "max_parameter_ratio",
}


class Interventions(NamedTuple):
    """What the guard did after a decision, `(n_runs,)` each.

    Attributes:
        reason: a `Reason`; 0 where it let the run go on.
        ratio: how many times its start what exploded has become; NaN for other reasons.
        rolled_back: whether the run was rolled back; where there is a reason and this is
            false, it was ended.
        learning_rate: of the run from the next decision on, as the guard has left it.
    """

    reason: IntArray
    ratio: FloatArray
    rolled_back: NDArray[np.bool_]
    learning_rate: FloatArray

    @classmethod
    def blank(cls, n_runs: int) -> Self:
        """None in any run."""
        return cls(
            np.zeros(n_runs, dtype=np.int64),
            np.full(n_runs, np.nan),
            np.zeros(n_runs, dtype=bool),
            np.full(n_runs, np.nan),
        )

    def texts(self, learning_rate: FloatArray) -> list[str | None]:
        """What was done to each run and why, in words; None where nothing was.

        Args:
            learning_rate: in use during the decision, `(n_runs,)`.
        """
        texts: list[str | None] = [None] * len(self.reason)
        for row in np.flatnonzero(self.reason).tolist():
            why = _TEXTS[Reason(self.reason[row])].format(ratio=self.ratio[row])
            if self.rolled_back[row]:
                change = f"{learning_rate[row]:.3g} to {self.learning_rate[row]:.3g}"
                texts[row] = f"rolled back: {why}; learning rate {change}"
            else:
                texts[row] = f"ended: {why}"
        return texts
