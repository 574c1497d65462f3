"""What a decision asks for, moved into the hard ranges."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from trainpilot.envs.actions import clamp, clamp_rates
from trainpilot.envs.hyperparameters import HYPERPARAMETER_NAMES, FloatArray, Hyperparameters
from trainpilot.envs.limits import BoundsConfig
from trainpilot.inner_tasks.errors import require


class Bounded(NamedTuple):
    """What a decision may have of what it asked for.

    Attributes:
        hyperparameters: `(n_runs,)` each; where the learning rate changes during the decision,
            that of its first micro-batch.
        learning_rates: of each micro-batch, `(n_runs, n_micro_batches)`; None where they do not
            change.
        clamped: whether the bounds changed anything, be it for one micro-batch, `(n_runs,)`.
    """

    hyperparameters: Hyperparameters
    learning_rates: FloatArray | None
    clamped: NDArray[np.bool_]


def bound(
    asked: Hyperparameters,
    factors: FloatArray | None,
    n_micro_batches: int,
    bounds: BoundsConfig,
) -> Bounded:
    """Move what a decision asks for into the bounds.

    Args:
        asked: hyperparameters for each run.
        factors: what the learning rate is multiplied by in each micro-batch, `(n_runs,
            n_micro_batches)`; None for 1 throughout. The products are what is bounded.
        n_micro_batches: of the decision.
        bounds: the ranges.

    Raises:
        TrainpilotError: if something that is asked for is not a number, or the factors have
            another shape.
    """
    for name in HYPERPARAMETER_NAMES:
        unknown = np.isnan(getattr(asked, name)).any()
        require(not unknown, f"a controller must ask for a number as {name}", "NaN")
    if factors is None:
        used = clamp(asked, bounds)
        return Bounded(used, None, _differs(asked, used))
    check_factors(factors, asked.n_runs, n_micro_batches)
    rates = asked.learning_rate[:, None] * factors
    require(not np.isnan(rates).any(), "a decision's learning_rate_factors must be numbers", "NaN")
    asked = replace(asked, learning_rate=rates[:, 0])
    used = clamp(asked, bounds)
    held = clamp_rates(rates, used.optimizer, bounds)
    return Bounded(used, held, _differs(asked, used) | (held != rates).any(1))


def check_factors(factors: FloatArray, n_runs: int, n_micro_batches: int) -> None:
    """Refuse factors of another shape than `(n_runs, n_micro_batches)`.

    Raises:
        TrainpilotError: if they have it.
    """
    shape = (n_runs, n_micro_batches)
    right = factors.shape == shape
    require(right, f"a decision's learning_rate_factors must have the shape {shape}", factors.shape)


def _differs(asked: Hyperparameters, used: Hyperparameters) -> NDArray[np.bool_]:
    changed = [getattr(asked, name) != getattr(used, name) for name in HYPERPARAMETER_NAMES]
    return np.asarray(np.any(changed, axis=0))
