"""Curves of many seeds as quartiles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

QUARTILES = (0.25, 0.5, 0.75)


def quartile_curves(
    runs: Sequence[dict[str, Any]], measure: str, worst: float = np.inf
) -> tuple[list[int], Floats]:
    """Quartiles over the seeds of a task and controller.

    A run that diverged counts as the worst from where its curve ends, so that quartiles do not
    flatter a controller by its survivors; any other run that ends early keeps its last value.

    Args:
        runs: of `results.json`, at least one.
        measure: a key of `curve` that has a point at the start and one after each decision.
        worst: what a diverged run counts as: infinity for a loss, 0 for an accuracy.

    Returns:
        Samples `(n_points,)`, and the quartiles `(3, n_points)`, NaN where there is no number.
    """
    samples = sorted({point for run in runs for point in run["curve"]["samples"]})
    rows = []
    for run in runs:
        values = [np.nan if v is None else float(v) for v in run["curve"].get(measure) or []]
        if not values:
            continue
        own = run["curve"]["samples"][: len(values)]
        held = np.array(values)[np.maximum(np.searchsorted(own, samples, side="right") - 1, 0)]
        if run["diverged"]:
            # No number, or the end of the list: it had been lost by then.
            held[np.isnan(held) | (np.array(samples) > own[-1])] = worst
        rows.append(held)
    if not rows:
        return samples, np.full((len(QUARTILES), len(samples)), np.nan)
    return samples, quantiles(np.array(rows), QUARTILES)


def quantiles(rows: Floats, shares: Sequence[float]) -> Floats:
    """Quantiles over the first axis, linear between values, that know infinity.

    Args:
        rows: `(n_rows, n_points)`; NaN is left out.
        shares: which quantiles, 0 to 1.

    Returns:
        `(n_quantiles, n_points)`; NaN where the quantile is infinite or there are no values.
    """
    result = np.full((len(shares), rows.shape[1]), np.nan)
    for point, column in enumerate(rows.T):
        values = np.sort(column[~np.isnan(column)])
        for index, share in enumerate(shares if len(values) else ()):
            place = share * (len(values) - 1)
            low, part = values[int(place)], place - int(place)
            # Values are sorted: where this one is infinite, nothing above it is finite.
            value = (
                low if part == 0 or np.isinf(low) else low + part * (values[int(place) + 1] - low)
            )
            result[index, point] = value if np.isfinite(value) else np.nan
    return result
