"""What decides where a policy does not know its way."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from trainpilot.agents.controller import Decision, View
from trainpilot.agents.policy import PolicyController
from trainpilot.envs.actions import ActionSpec
from trainpilot.envs.observation import FEATURE_NAMES
from trainpilot.inner_tasks.errors import require

_HAS_BUDGET = FEATURE_NAMES.index("has_budget")


class WithFallback:
    """A policy, overruled where what it sees is far from what it was trained on.

    There, the learning rate falls in a straight line from where it is to 0 at the end of the
    run, or stays where that end is not known; all else stays as it is.

    Args:
        policy: decides elsewhere.
        threshold: largest distance (`ObservationNormaliser.distance`) at which it does, > 0.
    """

    def __init__(self, policy: PolicyController, threshold: float) -> None:
        require(threshold > 0, "a pilot's farthest must be above 0", threshold)
        self._policy = policy
        self._threshold = threshold

    def fingerprint(self) -> str:
        """All that its decisions depend on."""
        return f"{self._policy.fingerprint()} up to {self._threshold}"

    def begin(self, n_runs: int, actions: ActionSpec, seed: int) -> None:
        """Get ready for new runs."""
        self._policy.begin(n_runs, actions, seed)

    def decide(self, view: View) -> Decision:
        """The policy's decision, or the straight line's."""
        decision = self._policy.decide(view)
        why = decision.explanation
        if why is None:
            return decision
        far = why.distance > self._threshold
        # Where the end is not known, the run may go on after as many decisions.
        left = max(view.decisions - view.decision, 0)
        factor = np.where(view.observation[:, _HAS_BUDGET] > 0, left / (left + 1), 1.0)
        if view.decision == 0:
            factor = np.ones_like(factor)
        now, wanted = view.hyperparameters, decision.hyperparameters
        line = replace(now, learning_rate=now.learning_rate * factor)
        return decision._replace(
            hyperparameters=line.where(far, wanted), explanation=why._replace(overruled=far)
        )
