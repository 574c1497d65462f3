"""The guard: watches every run for divergence and for want of hope."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trainpilot.envs.config import GuardConfig
from trainpilot.envs.hyperparameters import FloatArray
from trainpilot.envs.levels import START_LEVEL
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
    for signal in (signals.train_loss, signals.gradient_norm, signals.parameter_norm):
        finite &= np.isfinite(signal).all(1)
    # NaN here says that there was no update; one that makes NaN shows in the valid loss.
    finite &= ~np.isinf(signals.update_norm).any(1)
    with np.errstate(invalid="ignore"):
        exploded = valid_loss > config.max_loss_ratio * start_loss
    return np.asarray(~finite | exploded)


def hopeless(
    config: GuardConfig, progress: FloatArray, level_now: FloatArray, reference_level: FloatArray
) -> NDArray[np.bool_]:
    """Which runs have improved too little, beside their reference, to be worth their budget.

    Args:
        config: the thresholds.
        progress: share of each run's budget that is spent, `(n_runs,)`.
        level_now: level of `outer_valid` (`trainpilot.envs.levels`), `(n_runs,)`.
        reference_level: level that the reference had at the same progress, `(n_runs,)`.

    Returns:
        `(n_runs,)`.
    """
    improvement, expected = START_LEVEL - level_now, START_LEVEL - reference_level
    late = (progress >= config.hopeless_after) & (progress < 1)
    # Nobody is hopeless while the reference itself has not improved.
    behind = (expected > 0) & (improvement < config.hopeless_share * expected)
    return np.asarray(late & behind & (config.hopeless_share > 0))
