"""Statistics of log speed-ups: an array `(n_seeds,)` for each task, whichever task comes first.

Every task has the same weight, and every seed of a task. After Agarwal et al., arXiv 2108.13264.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import bootstrap, trim_mean

from trainpilot.envs.hyperparameters import FloatArray

#: Of every bootstrap.
N_RESAMPLES = 2000
CONFIDENCE = 0.95

#: Ends of a confidence interval, as ratios; None for both where there is none.
Interval = tuple[float, float] | tuple[None, None]


def geometric_mean(tasks: Sequence[FloatArray]) -> float:
    """Over tasks of the geometric mean over a task's seeds."""
    return math.exp(_mean_of_means(*tasks))


def interquartile_mean(tasks: Sequence[FloatArray]) -> float:
    """Of the middle half of all runs, whatever their tasks (arXiv 2108.13264)."""
    return math.exp(trim_mean(np.concatenate(tasks), 0.25))


def probability_of_improvement(tasks: Sequence[FloatArray]) -> float:
    """Mean over tasks of the share of seeds whose run is faster than the reference's.

    A tie counts one half. Unlike in arXiv 2108.13264 a run is compared with the reference's run
    of its own seed alone, since each seed has a target of its own.
    """
    return float(np.mean([np.mean((np.sign(task) + 1) / 2) for task in tasks]))


def interval_over_seeds(tasks: Sequence[FloatArray]) -> Interval:
    """Where the geometric mean would lie with other seeds, on these tasks.

    The 95 % interval of a percentile bootstrap that is stratified: seeds are resampled within
    each task (arXiv 2108.13264). A log speed-up is paired with its reference
    already, so that pairs are resampled.

    Returns:
        The ends; None for both where a task has one seed.
    """
    return _interval(tasks)


def interval_over_tasks(tasks: Sequence[FloatArray]) -> Interval:
    """Where the geometric mean would lie with other tasks like these.

    The 95 % interval of a percentile bootstrap that resamples the tasks' own means.

    Returns:
        The ends; None for both where there is one task.
    """
    return _interval([np.array([task.mean() for task in tasks])])


def _interval(samples: Sequence[FloatArray]) -> Interval:
    if min(map(len, samples)) < 2:
        return None, None
    if all(np.ptp(sample) == 0 for sample in samples):
        centre = geometric_mean(samples)
        return centre, centre
    # Resamples of n values spread by (n - 1) / n of the variance that n values tell of: too narrow
    # where n is small (Davison & Hinkley 1997, chapter 3).
    widened = [
        sample.mean() + (sample - sample.mean()) * math.sqrt(len(sample) / (len(sample) - 1))
        for sample in samples
    ]
    ends = bootstrap(
        widened,
        _mean_of_means,
        n_resamples=N_RESAMPLES,
        confidence_level=CONFIDENCE,
        method="percentile",
        vectorized=True,
        rng=np.random.default_rng(0),
    ).confidence_interval
    return math.exp(ends.low), math.exp(ends.high)


def _mean_of_means(*samples: FloatArray, axis: int = -1) -> Any:
    return np.mean([sample.mean(axis=axis) for sample in samples], axis=0)
