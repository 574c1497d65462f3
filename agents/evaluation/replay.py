"""Hyperparameters that were once used, in the same order again."""

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
        used: hyperparameters in each decision, `(1,)` each.
    """

    def __init__(self, used: Sequence[Hyperparameters]) -> None:
        self._used = list(used)

    def begin(self, n_runs: int, actions: ActionSpec, seed: int) -> None:
        """Get ready for a new run.

        Raises:
            TrainpilotError: if there is more than one.
        """
        require(n_runs == 1, "a replay decides for 1 run", n_runs)

    def decide(self, view: View) -> Decision:
        """What was used in this decision, the learning rate times the guard's factor."""
        used = self._used[view.decision]
        return Decision(replace(used, learning_rate=used.learning_rate * view.guard_scale))
