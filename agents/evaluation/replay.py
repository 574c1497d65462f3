"""Hyperparameters that were once asked for, in the same order again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from trainpilot.agents.controller import Decision, View
from trainpilot.envs.actions import ActionSpec
from trainpilot.envs.hyperparameters import Hyperparameters
from trainpilot.inner_tasks.errors import require


class Replay:
    """Decides as a run did before: the schedule that a population has found.

    Args:
        asked: hyperparameters in each decision, `(1,)` each; learning rates as they are before
            the guard lowers them.
    """

    def __init__(self, asked: Sequence[Hyperparameters]) -> None:
        self._asked = list(asked)

    def begin(self, n_runs: int, actions: ActionSpec, seed: int) -> None:
        """Get ready for a new run.

        Raises:
            TrainpilotError: if there is more than one.
        """
        require(n_runs == 1, "a replay decides for 1 run", n_runs)

    def decide(self, view: View) -> Decision:
        """What was asked for in this decision, the learning rate times the guard's factor."""
        asked = self._asked[view.decision]
        return Decision(replace(asked, learning_rate=asked.learning_rate * view.guard_scale))
