"""Every reward over a made curve: its closed form, its bounds, and no dependence on steps."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainpilot.envs.config import REWARD_NAMES, EnvConfig, RewardConfig
from trainpilot.envs.levels import HIGHEST_LEVEL, LOWEST_LEVEL, START_LEVEL
from trainpilot.envs.rewards import REWARDS, Stretch
from trainpilot.envs.task_reference import RowReferences, TaskReference
from trainpilot.inner_tasks import TrainpilotError

DECISIONS = 10
REFERENCE = TaskReference((-0.2, -0.4, -0.6, -0.8, -1.0))
#: From the lowest level to the highest.
RANGE = HIGHEST_LEVEL - LOWEST_LEVEL

every_reward = pytest.mark.parametrize("name", REWARD_NAMES)
levels = st.lists(st.floats(LOWEST_LEVEL, HIGHEST_LEVEL), min_size=DECISIONS, max_size=DECISIONS)
references = st.lists(st.floats(LOWEST_LEVEL, HIGHEST_LEVEL), min_size=1, max_size=12).map(
    lambda curve: TaskReference(tuple(curve))
)
weights = st.builds(
    lambda name, area, shaping: RewardConfig(name, area, shaping, 0.0),
    st.sampled_from(REWARD_NAMES),
    st.sampled_from([0.0, 1.0]),
    st.floats(0, 1),
)


def rewards(config, curve, reference=REFERENCE, switches=0, diverged_at=None, hopeless_at=None):
    """The rewards of a run with these levels after its decisions, until the guard ends it."""
    rows = RowReferences(1)
    rows.put(reference)
    reward = REWARDS[config.name](config)
    earned = []
    for step, (before, after) in enumerate(zip([START_LEVEL, *curve], curve, strict=False)):
        stretch = Stretch(
            before=np.array([before]),
            after=np.array([after]),
            since=np.array([step / len(curve)]),
            until=np.array([(step + 1) / len(curve)]),
            diverged=np.array([step == diverged_at]),
            hopeless=np.array([step == hopeless_at]),
            switched=np.array([step < switches]),
        )
        earned.append(reward(stretch, rows)[0])
        if stretch.ended[0]:
            break
    return earned


def total(name, curve, **changes):
    return sum(rewards(RewardConfig(name), curve, **changes))


def closed_form(config, curve, reference):
    """What each reward sums to, from the curve as a whole."""
    end, mean, span, final = curve[-1], np.mean(curve), reference.span, reference.curve[-1]
    if config.name == "log_improvement":
        return (START_LEVEL - end - config.area_weight * (mean - final)) / span
    if config.name == "area_under_curve":
        return (final - mean) / span
    if config.name == "over_reference":
        behind = config.area_weight * (mean - np.mean(reference.curve))
        return (final - end - behind) / span
    target = START_LEVEL - span
    away = np.array([value for value in curve if value > target])
    heights = (away - target) / (HIGHEST_LEVEL - target)
    charge = (1 - config.shaping) * len(away) + config.shaping * heights.sum()
    return -charge / len(curve)


@given(weights, levels, references)
def test_the_return_is_its_closed_form(config, curve, reference):
    earned = sum(rewards(config, curve, reference))
    assert earned == pytest.approx(closed_form(config, curve, reference), abs=1e-7)


@given(weights, levels, references, st.none() | st.integers(0, DECISIONS - 1), st.booleans())
def test_rewards_and_returns_are_bounded(config, curve, reference, ended, diverged):
    end = {"diverged_at" if diverged else "hopeless_at": ended}
    earned = np.array(rewards(config, curve, reference, **end))
    unit = RANGE / reference.span
    # A decision that ends a run answers for the whole rest of its budget.
    each, whole = {
        "log_improvement": (2 * unit, 2 * unit),
        "area_under_curve": (unit, unit),
        "time_to_target": (1.0, 1.0),
        "over_reference": (3 * unit, 2 * unit),
    }[config.name]
    assert np.abs(earned).max() <= each + 1e-9
    assert abs(earned.sum()) <= whole + 1e-7
    if config.name == "time_to_target":
        assert (earned <= 0).all()


@every_reward
def test_a_curve_earns_the_same_over_any_number_of_decisions(name):
    held = np.linspace(0, -1.5, 15)
    fine = total(name, np.repeat(held, 2))
    assert total(name, held) == pytest.approx(fine)
    assert total(name, np.repeat(held, 4)) == pytest.approx(fine)

    def falling(decisions):
        return START_LEVEL - 1.5 * np.arange(1, decisions + 1) / decisions

    # Seen more often, a smooth curve earns what it earned, but for half a decision's area.
    assert total(name, falling(15)) == pytest.approx(total(name, falling(30)), abs=1 / 15)
    assert total(name, falling(300)) == pytest.approx(total(name, falling(600)), abs=1 / 300)


@every_reward
def test_reaching_the_reference_early_earns_more_than_late(name):
    early, late = [-1.0] * 10, [START_LEVEL] * 9 + [-1.0]
    assert total(name, early) > total(name, late)


def test_known_returns():
    early, late, never = [-1.0] * 10, [START_LEVEL] * 9 + [-1.0], [START_LEVEL] * 10
    expected = {
        "log_improvement": (1.0, 0.1, -1.0),
        "area_under_curve": (0.0, -0.9, -1.0),
        "over_reference": (0.4 / REFERENCE.span, 0.4 / REFERENCE.span - 0.9, None),
    }
    for name, returns in expected.items():
        for curve, value in zip((early, late, never), returns, strict=True):
            if value is not None:
                assert total(name, curve) == pytest.approx(value), name
    pure = RewardConfig("time_to_target", shaping=0.0)
    assert [sum(rewards(pure, curve)) for curve in (early, late, never)] == pytest.approx(
        [0.0, -0.9, -1.0]
    )


def test_the_reference_itself_earns_nothing_over_itself_whatever_its_budget():
    config = RewardConfig("over_reference")
    assert rewards(config, REFERENCE.curve) == pytest.approx([0.0] * 5)
    assert sum(rewards(config, np.repeat(REFERENCE.curve, 3))) == pytest.approx(0.0)


@given(levels, levels, references)
def test_over_the_reference_ranks_runs_as_the_improvement_does(one, other, reference):
    differences = [
        sum(rewards(RewardConfig(name), one, reference))
        - sum(rewards(RewardConfig(name), other, reference))
        for name in ("log_improvement", "over_reference")
    ]
    assert differences[0] == pytest.approx(differences[1], abs=1e-7)


def test_the_default_is_the_improvement_as_it_always_was():
    assert RewardConfig().name == "log_improvement"
    before, after, remaining = -0.3, -0.5, 4
    earned = rewards(RewardConfig(), [before] * 5 + [after] + [0.0] * remaining)[5]
    span = START_LEVEL + 1.0
    assert earned == pytest.approx((before - after - (after + 1.0) / DECISIONS) / span, rel=1e-12)


@every_reward
def test_a_switch_costs_its_price(name):
    assert total(name, [-0.5] * 10) - total(name, [-0.5] * 10, switches=3) == pytest.approx(0.03)


def test_rows_are_held_to_references_of_their_own():
    rows = RowReferences(3)
    rows.put(REFERENCE)
    rows.put(TaskReference((-2.0, -3.0)), [1])
    np.testing.assert_allclose(rows.final_level, [-1.0, -3.0, -1.0])
    np.testing.assert_allclose(rows.span, START_LEVEL - rows.final_level)
    zeros, ones = np.zeros(3), np.ones(3)
    for name in REWARD_NAMES:
        stretch = Stretch(zeros, -ones, zeros, ones, zeros > 0, zeros > 0, zeros > 0)
        together = REWARDS[name](RewardConfig(name))(stretch, rows)
        alone = [
            sum(rewards(RewardConfig(name), [-1.0], rows[row]))
            + (START_LEVEL / rows.span[row]) * -(name in ("log_improvement", "over_reference"))
            for row in range(3)
        ]
        np.testing.assert_allclose(together, alone)
        assert together[0] != together[1]


def test_an_unknown_reward_is_refused_with_the_list():
    with pytest.raises(TrainpilotError, match="unknown reward 'speed'; allowed: log_improvement,"):
        EnvConfig(reward=RewardConfig("speed")).validate()
    with pytest.raises(TrainpilotError, match=r"shaping must lie in \[0, 1\]; given: 1.5"):
        EnvConfig(reward=RewardConfig(shaping=1.5)).validate()
