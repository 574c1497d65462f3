"""The one interface of everything that decides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from trainpilot.envs.actions import ActionSpec
from trainpilot.envs.bounding import check_factors
from trainpilot.envs.hyperparameters import FloatArray, Hyperparameters, IntArray
from trainpilot.envs.observation import Observation, has_budget
from trainpilot.envs.stage import Stage


class View(NamedTuple):
    """What a controller sees before it decides.

    Attributes:
        observation: `(n_runs, n_features)`.
        hyperparameters: in use, `(n_runs,)` each; where the learning rate changed during the
            last decision, that of its first micro-batch.
        valid_loss: on the observed part of `valid`, `(n_runs,)`.
        decision: number of this decision, from 0; the same for all runs.
        decisions: decisions in the budget; where a pilot is told no length, as many as the policy
            learned with, after which `decision` goes on.
        guard_scale: what the guard has multiplied the learning rate by in all, `(n_runs,)`;
            `hyperparameters` show it. A controller that does not start from those must heed
            it, or repeats what the guard has just undone (default: 1, nothing).
        micro_batches: of a decision; each is an inner step where `batch_size` is 1 (default: 1).
    """

    observation: Observation
    hyperparameters: Hyperparameters
    valid_loss: FloatArray
    decision: int
    decisions: int
    guard_scale: FloatArray | float = 1.0
    micro_batches: int = 1

    @property
    def stage(self) -> Stage:
        """Of the runs on the schedule that a policy's learning rate may follow."""
        return Stage.of(has_budget(self.observation), self.decision, self.decisions)


class Explanation(NamedTuple):
    """Why a learned policy decided so.

    Attributes:
        action: index of the choice of each head, `(n_runs, n_heads)`.
        probabilities: of each head's choices, `(n_runs, n_choices)` for each head.
        value: expected return, `(n_runs,)`.
        distance: how far from what the policy was trained on the observation is, `(n_runs,)`
            (`trainpilot.agents.policy`).
        overruled: whether it was too far, so that a heuristic has decided instead, `(n_runs,)`
            (default: nowhere).
    """

    action: IntArray
    probabilities: list[FloatArray]
    value: FloatArray
    distance: FloatArray
    overruled: NDArray[np.bool_] | bool = False


class Decision(NamedTuple):
    """What a controller wants.

    Attributes:
        hyperparameters: for each run; the environment moves them into its bounds.
        explanation: a learned policy's, else None.
        learning_rate_factors: what the learning rate is multiplied by in each micro-batch,
            `(n_runs, view.micro_batches)`, for a rate that changes during the decision. The
            environment moves each product into its bounds; that of the first micro-batch is
            on record as the decision's learning rate. An update of several micro-batches takes
            the last one's (default: None, 1 throughout).
    """

    hyperparameters: Hyperparameters
    explanation: Explanation | None = None
    learning_rate_factors: FloatArray | None = None


def join_factors(decisions: Sequence[Decision], n_micro_batches: int) -> FloatArray | None:
    """The factors of several controllers' runs, one after the other; None where all have none.

    Args:
        decisions: of the controllers, in order.
        n_micro_batches: of a decision.

    Raises:
        TrainpilotError: if factors have another shape than `(n_runs, n_micro_batches)`.
    """
    if all(decision.learning_rate_factors is None for decision in decisions):
        return None
    parts = []
    for decision in decisions:
        factors, n_runs = decision.learning_rate_factors, decision.hyperparameters.n_runs
        if factors is None:
            factors = np.ones((n_runs, n_micro_batches))
        check_factors(factors, n_runs, n_micro_batches)
        parts.append(factors)
    return np.concatenate(parts)


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
