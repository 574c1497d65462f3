"""Statistics of log speed-ups or samples: an array `(n_seeds,)` for each task, in any order.

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

#: Ends of a confidence interval; None for both where there is none.
Interval = tuple[float, float] | tuple[None, None]


def geometric_mean(tasks: Sequence[FloatArray]) -> float:
    """Over tasks of the geometric mean over a task's seeds."""
    return math.exp(_mean_of_means(*tasks))


def interquartile_mean(tasks: Sequence[FloatArray]) -> float:
    """Of the middle half of all runs, whatever their tasks (arXiv 2108.13264)."""
    return math.exp(trim_mean(np.concatenate(tasks), 0.25))


def probability_of_improvement(
    own: Sequence[FloatArray], reference: Sequence[FloatArray]
) -> tuple[float, Interval]:
    """How likely a run is to need fewer samples than one of the reference, on one of the tasks.

    As in arXiv 2108.13264: the mean over tasks of the share of all pairs of a run and a run of
    the reference, whatever their seeds, in which the run needs fewer. A tie counts one half.

    Args:
        own: samples to the target of each run's own seed, `(n_seeds,)` for each task.
        reference: likewise, of the same seeds in the same order.

    Returns:
        It, and the 95 % interval of a percentile bootstrap that resamples seeds within each task,
        both runs of a seed together, as they share weights and data; widened as all intervals
        here; None for both ends where a task has one seed.
    """
    random = np.random.default_rng(0)
    shares, resampled = [], []
    for runs, others in zip(own, reference, strict=True):
        n_seeds = len(runs)
        wins = (np.sign(others - runs[:, None]) + 1) / 2
        shares.append(wins.mean())
        # How often each resample holds each seed.
        held = random.multinomial(n_seeds, np.full(n_seeds, 1 / n_seeds), N_RESAMPLES)
        share = ((held @ wins) * held).sum(1) / n_seeds**2
        resampled.append((share - shares[-1]) * _widening(n_seeds))
    found = float(np.mean(shares))
    if min(map(len, own)) < 2:
        return found, (None, None)
    tails = [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]
    low, high = np.clip(found + np.quantile(np.mean(resampled, axis=0), tails), 0, 1)
    return found, (float(low), float(high))


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
    widened = [
        sample.mean() + (sample - sample.mean()) * _widening(len(sample)) for sample in samples
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


def _widening(n: int) -> float:
    """What deviations are multiplied by before they are resampled.

    Resamples of n values spread by (n - 1) / n of the variance that n values tell of: too narrow
    where n is small (Davison & Hinkley 1997, chapter 3).
    """
    return math.sqrt(n / max(n - 1, 1))


def _mean_of_means(*samples: FloatArray, axis: int = -1) -> Any:
    return np.mean([sample.mean(axis=axis) for sample in samples], axis=0)
