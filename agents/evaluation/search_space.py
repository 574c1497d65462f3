"""What searches search: the same space for each of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trainpilot.agents.evaluation.configuration import Configuration, check_schedule
from trainpilot.envs.optimizers import optimizer_index
from trainpilot.envs.reference import GRID_LEARNING_RATES, GRID_OPTIMIZERS
from trainpilot.inner_tasks.errors import require


@dataclass(frozen=True)
class SearchSpace:
    """Configurations to choose among.

    Args:
        optimizers: at least one (default: sgd, adam, rmsprop).
        learning_rate_low: in units of Adam's, > 0 (default: 1e-4).
        learning_rate_high: at least `learning_rate_low` (default: 1e-1).
        schedules: at least one (default: constant and cosine).

    Raises:
        TrainpilotError: if a name is unknown or something is out of range.
    """

    optimizers: Sequence[str] = GRID_OPTIMIZERS
    learning_rate_low: float = GRID_LEARNING_RATES[0]
    learning_rate_high: float = GRID_LEARNING_RATES[-1]
    schedules: Sequence[str] = ("constant", "cosine")

    def __post_init__(self) -> None:
        """Check every range."""
        # Hydra's own lists, as which they may come, are no plain data.
        object.__setattr__(self, "optimizers", tuple(self.optimizers))
        object.__setattr__(self, "schedules", tuple(self.schedules))
        for name in self.optimizers:
            optimizer_index(name)
        for name in self.schedules:
            check_schedule(name)
        require(len(self.optimizers) > 0, "a search must have an optimizer to choose", "none")
        require(len(self.schedules) > 0, "a search must have a schedule to choose", "none")
        low, high = self.learning_rate_low, self.learning_rate_high
        require(
            0 < low <= high,
            "a search must hold 0 < learning_rate_low <= learning_rate_high",
            f"{low} and {high}",
        )

    def draw(self, generator: np.random.Generator) -> Configuration:
        """A configuration at random: the rate log-uniform, names each as likely."""
        optimizer = self.optimizers[int(generator.integers(len(self.optimizers)))]
        low, high = np.log(self.learning_rate_low), np.log(self.learning_rate_high)
        rate = self.clip(float(np.exp(generator.uniform(low, high))))
        schedule = self.schedules[int(generator.integers(len(self.schedules)))]
        return Configuration(optimizer, rate, schedule)

    def clip(self, learning_rate: float) -> float:
        """The nearest learning rate within bounds."""
        return min(max(learning_rate, self.learning_rate_low), self.learning_rate_high)
