"""The level of a loss: its bounded logarithm, relative to where the run began."""

from __future__ import annotations

import numpy as np

from trainpilot.envs.hyperparameters import FloatArray

#: Losses above `e ** 1.5` times the start look alike, so that a blow-up costs a bounded sum.
_CEILING = float(np.exp(1.5))
#: Keeps tasks whose loss goes to zero from ruling all others.
_FLOOR = 0.02

HIGHEST_LEVEL = float(np.log(_CEILING + _FLOOR))
START_LEVEL = float(np.log(1 + _FLOOR))
LOWEST_LEVEL = float(np.log(_FLOOR))


def level(loss: FloatArray, start_loss: FloatArray) -> FloatArray:
    """How high a loss stands: `log(min(loss / start_loss, e ** 1.5) + 0.02)`.

    The level is bounded, not its increments: clipped increments would pay a policy for
    blowing up and recovering.

    Args:
        loss: `(n_runs,)`; what is not finite stands highest.
        start_loss: at the initial weights, `(n_runs,)`, > 0.

    Returns:
        `(n_runs,)`, from `LOWEST_LEVEL` (-3.91) to `HIGHEST_LEVEL` (1.50); `START_LEVEL` (0.02)
        at the start.
    """
    with np.errstate(all="ignore"):
        ratio = np.clip(loss / start_loss, 0, _CEILING)
    return np.asarray(np.log(np.where(np.isfinite(loss), ratio, _CEILING) + _FLOOR))
