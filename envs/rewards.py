"""The reward of a decision: bounded, telescoping, on `outer_valid` alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from trainpilot.envs.config import RewardConfig
from trainpilot.envs.hyperparameters import FloatArray, IntArray

#: Losses above `e ** 1.5` times the start look alike, so that a blow-up costs a bounded sum.
_CEILING = float(np.exp(1.5))
#: Keeps tasks whose loss goes to zero from ruling all others.
_FLOOR = 0.02

HIGHEST_LEVEL = float(np.log(_CEILING + _FLOOR))
START_LEVEL = float(np.log(1 + _FLOOR))


def level(loss: FloatArray, start_loss: FloatArray) -> FloatArray:
    """How high a loss stands: `log(min(loss / start_loss, e ** 1.5) + 0.02)`.

    The level is bounded, not its increments: clipped increments would pay a policy for
    blowing up and recovering.

    Args:
        loss: `(n_runs,)`; what is not finite stands highest.
        start_loss: at the initial weights, `(n_runs,)`, > 0.
    """
    with np.errstate(all="ignore"):
        ratio = np.clip(loss / start_loss, 0, _CEILING)
    return np.asarray(np.log(np.where(np.isfinite(loss), ratio, _CEILING) + _FLOOR))


class TaskReference(NamedTuple):
    """What a task's best fixed configuration reaches, the unit of its reward.

    Attributes:
        final_level: level of `outer_valid` at the end of the budget; below `START_LEVEL`.
    """

    final_level: float = float(np.log(_FLOOR))

    @property
    def span(self) -> float:
        """The improvement from the start to the reference, > 0."""
        return max(START_LEVEL - self.final_level, 0.05)


@dataclass(frozen=True)
class LogImprovement:
    """Improvement of the level, and the area under its curve, in units of the task's span.

    `reward = (before - after - area_weight * (after - final_level) / decisions) / span`
    `         - switch_cost * switched`

    The first two terms telescope: over a run they sum to the improvement from its start to its
    end, whatever lies between. A run that diverges is charged as if it stood at the highest
    level for the rest of its budget, and one that is ended as hopeless as if it stayed where
    it is, so that ending early never pays.

    Attributes:
        config: the weights.
        reference: of the task.
    """

    config: RewardConfig
    reference: TaskReference

    def __call__(
        self,
        before: FloatArray,
        after: FloatArray,
        diverged: NDArray[np.bool_],
        hopeless: NDArray[np.bool_],
        decisions: IntArray,
        remaining: IntArray,
        switched: NDArray[np.bool_],
    ) -> FloatArray:
        """The reward of a decision, `(n_runs,)`.

        Args:
            before: level before the decision, `(n_runs,)`.
            after: level after it.
            diverged: whether the run ended as diverged.
            hopeless: whether it was ended as hopeless.
            decisions: in the run's budget.
            remaining: decisions left in the run's budget after this one.
            switched: whether the decision changed the optimizer.
        """
        after = np.where(diverged, HIGHEST_LEVEL, after)
        charged = np.where(diverged | hopeless, 1 + remaining, 1.0)
        area = (after - self.reference.final_level) * charged / decisions
        improvement = before - after - self.config.area_weight * area
        return improvement / self.reference.span - self.config.switch_cost * switched
