"""Finished runs with given curves, for tests of what is measured of them."""

from __future__ import annotations

import math

from trainpilot.agents.run import Run

#: Four decisions of 100 samples.
DECISIONS, BUDGET = 4, 400
SLOW = [4.0, 3.0, 2.0, 1.5, 1.0]


def run(controller, losses, seed=0, task="t", optimizers=None, diverged=False, **fields) -> Run:
    """A run whose curves are all the same."""
    used = optimizers or ["adam"] * (len(losses) - 1)
    given = {
        "samples": [100 * point for point in range(len(losses))],
        "valid_loss": list(losses),
        "outer_valid_loss": list(losses),
        "test_curve": list(losses),
        "decisions": [
            {"optimizer": name, "learning_rate": 1e-3, "batch_size": 1, "clamped": False}
            for name in used
        ],
        "test_loss": math.inf if diverged else losses[-1],
        "test_metrics": {} if diverged else {"accuracy": 1 - losses[-1] / 10},
        "best_test_loss": min(losses),
        "seconds": 2.0,
    }
    return Run(task, controller, seed, BUDGET, diverged=diverged, **(given | fields))
