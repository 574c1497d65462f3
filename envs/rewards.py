"""The rewards of a decision, by name: bounded, on `outer_valid` alone, by samples and not steps.

In all of them a decision counts with its share of the budget, in samples, and with the level at
its end: the same curve earns the same whatever the batch size and however many decisions the
budget is cut into.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trainpilot.envs.config import REWARD_NAMES, EnvConfig, RewardConfig
from trainpilot.envs.hyperparameters import FloatArray
from trainpilot.envs.levels import HIGHEST_LEVEL, START_LEVEL
from trainpilot.envs.task_reference import RowReferences


class Stretch(NamedTuple):
    """A decision and what it led to, `(n_runs,)` each.

    Attributes:
        before: level of `outer_valid` before the decision (`trainpilot.envs.levels`).
        after: level after it.
        since: share of the run's budget, in samples, that was spent before it.
        until: share that is spent after it.
        diverged: whether the run ended as diverged.
        hopeless: whether it was ended as hopeless.
        switched: whether the decision changed the optimizer.
    """

    before: FloatArray
    after: FloatArray
    since: FloatArray
    until: FloatArray
    diverged: NDArray[np.bool_]
    hopeless: NDArray[np.bool_]
    switched: NDArray[np.bool_]

    @property
    def ended(self) -> NDArray[np.bool_]:
        """Whether the guard ended the run."""
        return self.diverged | self.hopeless

    @property
    def share(self) -> FloatArray:
        """Share of the budget that the decision answers for."""
        return self.until - self.since


class Reward(ABC):
    """The reward of a decision; what all rewards have in common is here.

    `reward = earned - switch_cost * switched`

    A run that diverges is charged as if it stood at the highest level for the rest of its budget,
    and one that is ended as hopeless as if it stayed where it is: the decision that ends a run
    answers for all that was left of the budget, so that ending early never pays.

    Args:
        config: the weights.

    Attributes:
        needs_reference: whether it says nothing of a run where no reference is known.
    """

    needs_reference: ClassVar[bool] = False

    def __init__(self, config: RewardConfig) -> None:
        self.config = config

    def __call__(self, stretch: Stretch, references: RowReferences) -> FloatArray:
        """The reward of a decision, `(n_runs,)`.

        Args:
            stretch: the decision.
            references: of the rows' tasks.
        """
        charged = stretch._replace(
            after=np.where(stretch.diverged, HIGHEST_LEVEL, stretch.after),
            until=np.where(stretch.ended, 1.0, stretch.until),
        )
        earned = self._earned(charged, references)
        return earned - self.config.switch_cost * stretch.switched

    @abstractmethod
    def _earned(self, stretch: Stretch, references: RowReferences) -> FloatArray:
        """What the decision earns, `(n_runs,)`; runs that ended are charged already."""


class LogImprovement(Reward):
    """Improvement of the level, and the area under its curve, in the task's span.

    `(before - after - area_weight * (after - final_level) * share) / span`

    Over a run: (level at the start - level at the end - area_weight * (mean level - final_level))
    / span, whatever lies between.
    """

    def _earned(self, stretch: Stretch, references: RowReferences) -> FloatArray:
        area = (stretch.after - references.final_level) * stretch.share
        improvement = stretch.before - stretch.after
        return np.asarray((improvement - self.config.area_weight * area) / references.span)


class AreaUnderCurve(Reward):
    """The area under the level's curve alone, in the task's span.

    `-(after - final_level) * share / span`

    Over a run: -(mean level - final_level) / span. 0 for a run that is at the reference's end from
    its first decision on; -1 for one that never improves, if the reference does by 0.3 or more.
    """

    def _earned(self, stretch: Stretch, references: RowReferences) -> FloatArray:
        above = stretch.after - references.final_level
        return np.asarray(-above * stretch.share / references.span)


class TimeToTarget(Reward):
    """The time that a run is not at its target, the level that the reference ends with.

    `-share * ((1 - shaping) + shaping * height)` where the run is not at the target, 0 where it is
    `target = START_LEVEL - span`; `height = (after - target) / (HIGHEST_LEVEL - target)`

    Over a run: -(1 - shaping) * share of the budget not at the target - shaping * mean height,
    from -1 to 0. Not sticky: to touch the target and leave it saves the decisions there alone. A
    run that the guard ends is not at the target for the rest of its budget. With `shaping` 0 a
    run that never arrives earns -1 whatever it does, and nothing can be learned from it.
    """

    needs_reference = True

    def _earned(self, stretch: Stretch, references: RowReferences) -> FloatArray:
        # The final level, unless the reference hardly improves: the start is no target.
        target = START_LEVEL - references.span
        away = (stretch.after > target) | stretch.ended
        height = np.clip((stretch.after - target) / (HIGHEST_LEVEL - target), 0, 1)
        shaping = self.config.shaping
        return np.asarray(-stretch.share * away * (1 - shaping + shaping * height))


class OverReference(Reward):
    """Improvement over the reference's curve at the same share of the budget.

    `(gap before - gap after - area_weight * area between the curves) / span`
    `gap = level - the reference's curve there`

    The idea of LHOPT's reward (arXiv 2106.00958, a stored baseline). Over a run: (final_level -
    level at the end - area_weight * (mean level - mean of the curve)) / span, 0 for the reference
    itself. A run's return is that of `log_improvement` and a constant of the task: the two differ
    in when they pay, this one for being ahead of the reference.
    """

    needs_reference = True

    def _earned(self, stretch: Stretch, references: RowReferences) -> FloatArray:
        since, until = stretch.since, stretch.until
        improvement = stretch.before - stretch.after
        expected = references.at(since) - references.at(until)
        between = stretch.after * stretch.share - (references.area(until) - references.area(since))
        total = improvement - expected - self.config.area_weight * between
        return np.asarray(total / references.span)


#: Every reward by its name in `env.reward.name`.
REWARDS: dict[str, type[Reward]] = dict(
    zip(REWARD_NAMES, (LogImprovement, AreaUnderCurve, TimeToTarget, OverReference), strict=True)
)


def needs_reference(config: EnvConfig) -> bool:
    """Whether reward or guard say nothing where a task's reference is not known."""
    return REWARDS[config.reward.name].needs_reference or config.guard.hopeless_share > 0
