"""The level of a loss is bounded and ordered, whatever the loss."""

from __future__ import annotations

import numpy as np

from trainpilot.envs.levels import HIGHEST_LEVEL, LOWEST_LEVEL, START_LEVEL, level


def test_level_is_bounded_and_takes_what_is_not_finite_as_the_worst():
    values = np.array([0.0, 1.0, 1e9, np.inf, np.nan])
    expected = [LOWEST_LEVEL, START_LEVEL, HIGHEST_LEVEL, HIGHEST_LEVEL, HIGHEST_LEVEL]
    np.testing.assert_allclose(level(values, np.ones(5)), expected)
    assert np.log(0.02) == LOWEST_LEVEL
    assert np.log(1.02) == START_LEVEL


def test_only_the_ratio_to_the_start_counts():
    values = np.array([0.1, 1.0, 7.0])
    np.testing.assert_allclose(
        level(values, np.full(3, 2.0)), level(values * 50, np.full(3, 100.0))
    )
