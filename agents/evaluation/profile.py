"""AlgoPerf's performance profiles and score (Dahl et al., arXiv 2306.07179).

The profiles are those of Dolan and Moré (2002).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

#: The greatest ratio to the best controller that still counts; AlgoPerf's r_max.
GREATEST_RATIO = 4.0


def performance_profiles(times: Mapping[str, Sequence[float]]) -> dict[str, dict[str, Any]]:
    """How often each controller is within a factor of the best controller.

    The ratio of a controller on a task is its time over the least time of any controller on it.
    The profile at tau is the share of tasks whose ratio is at most tau; the score is its mean over
    tau from 1 to `GREATEST_RATIO`, in [0, 1]:
    `mean over tasks of max(0, GREATEST_RATIO - ratio) / (GREATEST_RATIO - 1)`.

    Args:
        times: to target, by controller: one for each task, above 0, infinite for a miss. A task
            that every controller misses counts against all of them.

    Returns:
        By controller: `ratio`, from 1 to `GREATEST_RATIO`: the ends and where the profile steps;
        `share`, its value from there on; `score`.
    """
    table = np.array(list(times.values()))
    best = table.min(axis=0)
    # Where nobody gets there the best is infinite too.
    ratios = table / np.where(np.isfinite(best), best, 1.0)
    return {name: _profile(row) for name, row in zip(times, ratios, strict=True)}


def _profile(ratios: np.ndarray) -> dict[str, Any]:
    counted = ratios[ratios <= GREATEST_RATIO]
    steps = np.unique([1.0, *counted, GREATEST_RATIO])
    missing = GREATEST_RATIO - counted
    return {
        "ratio": steps.tolist(),
        "share": [float(np.mean(ratios <= step)) for step in steps],
        "score": math.fsum(missing) / (GREATEST_RATIO - 1) / len(ratios),
    }
