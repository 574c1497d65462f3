"""The reward telescopes, is bounded, and cannot be earned by misbehaving."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainpilot.envs.config import RewardConfig
from trainpilot.envs.rewards import (
    HIGHEST_LEVEL,
    START_LEVEL,
    LogImprovement,
    TaskReference,
    level,
)

REFERENCE = TaskReference(-1.0)
DECISIONS = 10


def total(losses, *, area_weight=0.0, switches=0, diverged_at=None, hopeless_at=None):
    """The return of a run that starts at loss 1 and then has these losses."""
    config = RewardConfig(area_weight=area_weight, switch_cost=0.01)
    reward = LogImprovement(config, REFERENCE)
    levels = level(np.array([1.0, *losses]), np.ones(len(losses) + 1))
    earned = 0.0
    for step in range(len(losses)):
        diverged, hopeless = step == diverged_at, step == hopeless_at
        earned += reward(
            levels[step : step + 1],
            levels[step + 1 : step + 2],
            np.array([diverged]),
            np.array([hopeless]),
            np.array([DECISIONS]),
            np.array([DECISIONS - step - 1]),
            np.array([step < switches]),
        )[0]
        if diverged or hopeless:
            break
    return earned


losses = st.lists(st.floats(1e-6, 1e6), min_size=DECISIONS, max_size=DECISIONS)


@given(losses)
def test_without_area_the_return_is_the_improvement_alone(values):
    end = level(np.array(values[-1:]), np.ones(1))[0]
    assert total(values) == pytest.approx((START_LEVEL - end) / REFERENCE.span, abs=1e-9)


@given(losses)
def test_blowing_up_and_recovering_never_pays(values):
    calm = [min(value, 1.0) for value in values]
    assert total(values, area_weight=1.0) <= total(calm, area_weight=1.0) + 1e-9


def test_oscillation_earns_less_than_standing_still_at_its_best():
    assert total([0.5, 3.0] * 5, area_weight=1) < total([0.5] * 10, area_weight=1)


def test_reaching_the_reference_early_earns_more_than_late():
    best = np.exp(REFERENCE.final_level) - 0.02
    early, late = [best] * 10, [1.0] * 9 + [best]
    assert total(early, area_weight=1) == pytest.approx(1.0)
    assert total(late) == pytest.approx(total(early))
    assert total(late, area_weight=1) == pytest.approx(0.1)


@given(losses, st.integers(0, DECISIONS - 1))
def test_diverging_never_pays(values, when):
    assert total(values, area_weight=1, diverged_at=when) <= total(values, area_weight=1) + 1e-9


@given(losses, st.integers(0, DECISIONS - 1))
def test_being_given_up_earns_what_staying_there_would(values, when):
    stayed = values[: when + 1] + [values[when]] * (DECISIONS - when - 1)
    assert total(values, area_weight=1, hopeless_at=when) == pytest.approx(
        total(stayed, area_weight=1), abs=1e-9
    )


def test_level_is_bounded_and_takes_what_is_not_finite_as_the_worst():
    values = np.array([0.0, 1.0, 1e9, np.inf, np.nan])
    expected = [np.log(0.02), START_LEVEL, HIGHEST_LEVEL, HIGHEST_LEVEL, HIGHEST_LEVEL]
    np.testing.assert_allclose(level(values, np.ones(5)), expected)


def test_a_switch_costs_its_price():
    assert total([0.5] * 10) - total([0.5] * 10, switches=3) == pytest.approx(0.03)
