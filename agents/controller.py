"""The one interface of everything that decides."""

from __future__ import annotations

from typing import NamedTuple, Protocol, runtime_checkable

from trainpilot.envs.actions import ActionSpec
from trainpilot.envs.hyperparameters import FloatArray, Hyperparameters, IntArray
from trainpilot.envs.observation import Observation


class View(NamedTuple):
    """What a controller sees before it decides.

    Attributes:
        observation: `(n_runs, n_features)`.
        hyperparameters: in use, `(n_runs,)` each.
        valid_loss: on the observed part of `valid`, `(n_runs,)`.
        decision: number of this decision, from 0; the same for all runs.
        decisions: decisions in the budget.
        guard_scale: what the guard has multiplied the learning rate by in all, `(n_runs,)`;
            `hyperparameters` show it. A controller that does not start from those must heed
            it, or repeats what the guard has just undone (default: 1, nothing).
    """

    observation: Observation
    hyperparameters: Hyperparameters
    valid_loss: FloatArray
    decision: int
    decisions: int
    guard_scale: FloatArray | float = 1.0


class Explanation(NamedTuple):
    """Why a learned policy decided so.

    Attributes:
        action: index of the choice of each head, `(n_runs, n_heads)`.
        probabilities: of each head's choices, `(n_runs, n_choices)` for each head.
        value: expected return, `(n_runs,)`.
    """

    action: IntArray
    probabilities: list[FloatArray]
    value: FloatArray


class Decision(NamedTuple):
    """What a controller wants.

    Attributes:
        hyperparameters: for each run; the environment moves them into its bounds.
        explanation: a learned policy's, else None.
    """

    hyperparameters: Hyperparameters
    explanation: Explanation | None = None


@runtime_checkable
class Controller(Protocol):
    """Decides on the hyperparameters of inner runs that start together."""

    def begin(self, n_runs: int, actions: ActionSpec, seed: int) -> None:
        """Forget what was and get ready for new runs.

        Args:
            n_runs: how many.
            actions: the environment's actions.
            seed: for what the controller draws at random.
        """
        ...

    def decide(self, view: View) -> Decision:
        """Decide for every run."""
        ...
