"""Schedules: controllers whose learning rate changes at every inner step, as torch's do.

Each is the scheduler of `torch.optim.lr_scheduler` that its docstring names, stepped after every
inner step. They count micro-batches, which are inner steps at the batch size of 1 they ask for.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainpilot.agents.controller import Decision, View
from trainpilot.agents.heuristics import Constant
from trainpilot.envs.hyperparameters import FloatArray, IntArray
from trainpilot.inner_tasks.errors import require


@dataclass
class LearningRateSchedule(Constant, ABC):
    """A learning rate that depends on the step and the budget alone.

    The arguments are those of `Constant`; `learning_rate` is the highest of the schedule.
    """

    @abstractmethod
    def multipliers(self, steps: IntArray, budget: int) -> FloatArray:
        """What the learning rate is multiplied by, > 0.

        Args:
            steps: inner steps from 0, each below the budget, `(n_steps,)`.
            budget: inner steps of the whole run, at least 1.

        Returns:
            `(n_steps,)`.
        """

    def decide(self, view: View) -> Decision:
        """The rate of the decision's first step, and what it is multiplied by in each."""
        budget = view.decisions * view.micro_batches
        steps = view.decision * view.micro_batches + np.arange(view.micro_batches)
        # A pilot that is told no length goes on after it: the last rate stays.
        multipliers = self.multipliers(np.minimum(steps, budget - 1), budget)
        rate = self._fixed.learning_rate * multipliers[0] * view.guard_scale
        return Decision(
            replace(self._fixed, learning_rate=rate),
            learning_rate_factors=np.tile(multipliers / multipliers[0], (len(rate), 1)),
        )


@dataclass
class CosineWithWarmup(LearningRateSchedule):
    """Linear warm-up, then half a cosine down to 0 (Loshchilov and Hutter, arXiv 1608.03983).

    The learning rate is multiplied by `(t + 1) / W` in the first W of T steps, then by
    `(1 + cos(pi * (t - W) / (T - W))) / 2`: `SequentialLR` of `LinearLR(start_factor=1 / W,
    total_iters=W - 1)` and `CosineAnnealingLR(T_max=T - W)`, with W = `warmup * T`, rounded, and
    at least one step left for the cosine.

    Args:
        warmup: share of the budget that warms up, in [0, 1) (default: 0.1). The other
            arguments are those of `Constant`.
    """

    warmup: float = 0.1

    def __post_init__(self) -> None:
        """Check every range."""
        super().__post_init__()
        require(0 <= self.warmup < 1, "a controller's warmup must lie in [0, 1)", self.warmup)

    def multipliers(self, steps: IntArray, budget: int) -> FloatArray:
        """See `LearningRateSchedule`."""
        warmup = min(round(self.warmup * budget), budget - 1)
        falling = _cosine(1.0, 0.0, (steps - warmup) / (budget - warmup))
        return np.where(steps < warmup, (steps + 1) / max(warmup, 1), falling)


@dataclass
class OneCycle(LearningRateSchedule):
    """Up along a cosine and down along another (Smith and Topin, arXiv 1708.07120).

    As `OneCycleLR(max_lr=learning_rate, total_steps=T, cycle_momentum=False)`: the momentum
    stays what it is, where torch's default lowers it while the rate rises.

    Args:
        pct_start: share of the budget in which the rate rises, in [0, 1] (default: 0.3).
        div_factor: the rate starts at `learning_rate / div_factor`; > 0 (default: 25).
        final_div_factor: it ends at that over `final_div_factor`; > 0 (default: 1e4). The
            other arguments are those of `Constant`.
    """

    pct_start: float = 0.3
    div_factor: float = 25.0
    final_div_factor: float = 1e4

    def __post_init__(self) -> None:
        """Check every range."""
        super().__post_init__()
        start, end = self.div_factor, self.final_div_factor
        inside = 0 <= self.pct_start <= 1
        require(inside, "a controller's pct_start must lie in [0, 1]", self.pct_start)
        require(start > 0, "a controller's div_factor must be above 0", start)
        require(end > 0, "a controller's final_div_factor must be above 0", end)

    def multipliers(self, steps: IntArray, budget: int) -> FloatArray:
        """See `LearningRateSchedule`."""
        peak, start = self.pct_start * budget - 1, 1 / self.div_factor
        # A phase of no length holds its first step at most: what it is divided by does not matter.
        rise, fall = (length if length > 0 else 1.0 for length in (peak, budget - 1 - peak))
        rising = _cosine(start, 1.0, steps / rise)
        falling = _cosine(1.0, start / self.final_div_factor, (steps - peak) / fall)
        return np.where(steps <= peak, rising, falling)


@dataclass
class StepDecay(LearningRateSchedule):
    """The learning rate is multiplied by a factor at each milestone.

    As `MultiStepLR(gamma=factor)`, each milestone being the first step at which that share of
    the budget is spent.

    Args:
        milestones: shares of the budget, in (0, 1) (default: 0.5 and 0.75).
        factor: at each milestone, in (0, 1) (default: 0.1). The other arguments are those
            of `Constant`.
    """

    milestones: Sequence[float] = (0.5, 0.75)
    factor: float = 0.1

    def __post_init__(self) -> None:
        """Check every range."""
        super().__post_init__()
        require(
            all(0 < milestone < 1 for milestone in self.milestones),
            "a controller's milestones must lie in (0, 1)",
            list(self.milestones),
        )
        require(0 < self.factor < 1, "a controller's factor must lie in (0, 1)", self.factor)
        # Plain data, by which a run is known again, and not the list of a configuration.
        self.milestones = tuple(self.milestones)

    def multipliers(self, steps: IntArray, budget: int) -> FloatArray:
        """See `LearningRateSchedule`."""
        passed = sum((steps / budget >= share for share in self.milestones), np.zeros(len(steps)))
        return np.asarray(self.factor**passed)


@dataclass
class Linear(LearningRateSchedule):
    """The learning rate falls along a straight line.

    As `LinearLR(start_factor=1, end_factor=end_factor, total_iters=T)`.

    Args:
        end_factor: what the rate is multiplied by when the budget is spent, in [0, 1]
            (default: 0). The other arguments are those of `Constant`.
    """

    end_factor: float = 0.0

    def __post_init__(self) -> None:
        """Check every range."""
        super().__post_init__()
        inside = 0 <= self.end_factor <= 1
        require(inside, "a controller's end_factor must lie in [0, 1]", self.end_factor)

    def multipliers(self, steps: IntArray, budget: int) -> FloatArray:
        """See `LearningRateSchedule`."""
        return np.asarray(1 + (self.end_factor - 1) * steps / budget)


@dataclass
class Exponential(LearningRateSchedule):
    """The learning rate falls by the same factor in every step.

    As `ExponentialLR(gamma=end_factor ** (1 / T))`.

    Args:
        end_factor: what the rate is multiplied by when the budget is spent, in (0, 1]
            (default: 0.01). The other arguments are those of `Constant`.
    """

    end_factor: float = 0.01

    def __post_init__(self) -> None:
        """Check every range."""
        super().__post_init__()
        inside = 0 < self.end_factor <= 1
        require(inside, "a controller's end_factor must lie in (0, 1]", self.end_factor)

    def multipliers(self, steps: IntArray, budget: int) -> FloatArray:
        """See `LearningRateSchedule`."""
        return np.asarray(self.end_factor ** (steps / budget))


def _cosine(start: float, end: float, share: NDArray[np.floating[Any]]) -> FloatArray:
    """From start to end along half a cosine."""
    # (1 + cos(x)) / 2, but exact where that goes to 0.
    return np.asarray(end + (start - end) * np.cos(np.pi / 2 * share) ** 2)
