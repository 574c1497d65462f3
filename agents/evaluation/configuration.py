"""What a search chooses: an optimizer, a learning rate and a schedule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from trainpilot.agents.controller import Controller
from trainpilot.agents.heuristics import Constant
from trainpilot.agents.schedules import CosineWithWarmup, Exponential, Linear, OneCycle, StepDecay
from trainpilot.envs.optimizers import LEARNING_RATE_SCALES, optimizer_index
from trainpilot.inner_tasks.errors import require, unknown

#: Schedules by name: each makes a controller from an optimizer and its learning rate.
SCHEDULES: dict[str, Callable[[str, float], Controller]] = {
    "constant": Constant,
    "cosine": CosineWithWarmup,
    "exponential": Exponential,
    "linear": Linear,
    "one_cycle": OneCycle,
    "step_decay": StepDecay,
}


@dataclass(frozen=True)
class Configuration:
    """How a whole run is trained.

    Args:
        optimizer: its name.
        learning_rate: in units of Adam's, > 0; an optimizer's own is this times its scale.
        schedule: one of `SCHEDULES`, with its defaults (default: "constant").

    Raises:
        TrainpilotError: if a name is unknown or the rate is out of range.
    """

    optimizer: str
    learning_rate: float
    schedule: str = "constant"

    def __post_init__(self) -> None:
        """Check every range."""
        optimizer_index(self.optimizer)
        check_schedule(self.schedule)
        rate = self.learning_rate
        require(rate > 0, "a configuration's learning_rate must be above 0", rate)

    def own_learning_rate(self) -> float:
        """The learning rate as `torch.optim` would be given it."""
        return self.learning_rate * LEARNING_RATE_SCALES[optimizer_index(self.optimizer)]

    def controller(self) -> Controller:
        """What decides so."""
        return SCHEDULES[self.schedule](self.optimizer, self.own_learning_rate())

    def to_json(self) -> dict[str, Any]:
        """For reports; the learning rate as `torch.optim` would be given it."""
        return {
            "optimizer": self.optimizer,
            "learning_rate": self.own_learning_rate(),
            "schedule": self.schedule,
        }


def check_schedule(name: str) -> None:
    """Check that there is a schedule of that name.

    Raises:
        TrainpilotError: if there is none.
    """
    if name not in SCHEDULES:
        raise unknown("schedule", name, SCHEDULES)
