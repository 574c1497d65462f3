"""Controllers side by side: one for each run."""

from __future__ import annotations

from collections.abc import Sequence

from trainpilot.agents.controller import Controller, Decision, View, join_factors
from trainpilot.envs.actions import ActionSpec
from trainpilot.envs.hyperparameters import FloatArray, Hyperparameters
from trainpilot.inner_tasks.errors import require


class Mixed:
    """Gives each run a controller of its own: what was found for its seed.

    Args:
        controllers: of each run; each must be an object of its own.
    """

    def __init__(self, controllers: Sequence[Controller]) -> None:
        self._controllers = list(controllers)

    def begin(self, n_runs: int, actions: ActionSpec, seed: int) -> None:
        """Get ready for new runs.

        Raises:
            TrainpilotError: if there are more or fewer runs than controllers.
        """
        expected = len(self._controllers)
        require(n_runs == expected, f"this controller decides for {expected} runs", n_runs)
        for controller in self._controllers:
            controller.begin(1, actions, seed)

    def decide(self, view: View) -> Decision:
        """What each run's controller decides."""
        return decide_each(self._controllers, view, [view.decision] * len(self._controllers))


def decide_each(
    controllers: Sequence[Controller], view: View, decisions: Sequence[int]
) -> Decision:
    """What each run's own controller decides, without explanations.

    Args:
        controllers: of each run.
        view: of all runs; its own `decision` is not read.
        decisions: number of each run's decision, from 0.
    """
    decided = [
        controller.decide(_of_row(view, row, decision))
        for row, (controller, decision) in enumerate(zip(controllers, decisions, strict=True))
    ]
    return Decision(
        Hyperparameters.concatenate([each.hyperparameters for each in decided]),
        learning_rate_factors=join_factors(decided, view.micro_batches),
    )


def _of_row(view: View, row: int, decision: int) -> View:
    """What the controller of one run sees."""
    own = slice(row, row + 1)
    scale: FloatArray | float = view.guard_scale
    return View(
        view.observation[own],
        view.hyperparameters.rows(own),
        view.valid_loss[own],
        decision,
        view.decisions,
        scale if isinstance(scale, float) else scale[own],
        view.micro_batches,
    )
