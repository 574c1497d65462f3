"""The guard: watches every run for divergence."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trainpilot.envs.config import GuardConfig
from trainpilot.envs.hyperparameters import FloatArray
from trainpilot.envs.signals import Signals


def diverged(
    config: GuardConfig,
    signals: Signals,
    valid_loss: FloatArray,
    start_loss: FloatArray,
) -> NDArray[np.bool_]:
    """Which runs have diverged: one number that is not finite is enough.

    Args:
        config: the thresholds.
        signals: of the last inner steps, `(n_runs, n_steps)` each.
        valid_loss: after them, `(n_runs,)`.
        start_loss: valid loss at the initial weights, `(n_runs,)`.

    Returns:
        `(n_runs,)`.
    """
    finite = np.isfinite(valid_loss)
    for signal in (signals.train_loss, signals.gradient_norm, signals.update_norm):
        finite &= np.isfinite(signal).all(1)
    with np.errstate(invalid="ignore"):
        exploded = valid_loss > config.max_loss_ratio * start_loss
    return np.asarray(~finite | exploded)
