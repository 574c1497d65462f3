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
#: Curves that are at the reference's end at once, at last and never.
EARLY, LATE, NEVER = [-1.0] * 10, [START_LEVEL] * 9 + [-1.0], [START_LEVEL] * 10
#: From the lowest level to the highest.
RANGE = HIGHEST_LEVEL - LOWEST_LEVEL

every_reward = pytest.mark.parametrize("name", REWARD_NAMES)
level = st.floats(LOWEST_LEVEL, HIGHEST_LEVEL)
curves = st.lists(level, min_size=DECISIONS, max_size=DECISIONS)
references = st.lists(level, min_size=1, max_size=12).map(lambda curve: TaskReference(tuple(curve)))
configs = st.builds(
    lambda name, area, shaping: RewardConfig(name, area, shaping, 0.0),
    st.sampled_from(REWARD_NAMES),
    st.sampled_from([0.0, 1.0]),
    st.floats(0, 1),
)


@pytest.fixture(scope="module")
def total(rewards_of):
    """The return of a curve beside `REFERENCE`, by the name of a reward."""
    return lambda name, curve, **changes: rewards_of(
        RewardConfig(name), curve, REFERENCE, **changes
    ).sum()


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


@given(configs, curves, references)
def test_the_return_is_its_closed_form(rewards_of, config, curve, reference):
    earned = rewards_of(config, curve, reference).sum()
    assert earned == pytest.approx(closed_form(config, curve, reference), abs=1e-7)


@given(configs, curves, references, st.none() | st.integers(0, DECISIONS - 1), st.booleans())
def test_rewards_and_returns_are_bounded(rewards_of, config, curve, reference, ended, diverged):
    end = {"diverged_at" if diverged else "hopeless_at": ended}
    earned = rewards_of(config, curve, reference, **end)
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
def test_a_curve_earns_the_same_over_any_number_of_decisions(total, name):
    held = np.linspace(0, -1.5, 15)
    fine = total(name, np.repeat(held, 2))
    assert total(name, held) == pytest.approx(fine)
    assert total(name, np.repeat(held, 4)) == pytest.approx(fine)

    def falling(decisions):
        return START_LEVEL - 1.5 * np.arange(1, decisions + 1) / decisions

    # Seen more often, a smooth curve earns what it earned, but for half a decision's area.
    for decisions in (15, 300):
        coarse, fine = total(name, falling(decisions)), total(name, falling(2 * decisions))
        assert coarse == pytest.approx(fine, abs=1 / decisions)


@every_reward
def test_reaching_the_reference_early_earns_more_than_late(total, name):
    assert total(name, EARLY) > total(name, LATE) > total(name, NEVER)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("log_improvement", [1.0, 0.1, -1.0]),
        ("area_under_curve", [0.0, -0.9, -1.0]),
        ("over_reference", np.array([0.4, 0.4, 0.4]) / REFERENCE.span - [0.0, 0.9, 2.0]),
    ],
)
def test_known_returns(total, name, expected):
    assert [total(name, curve) for curve in (EARLY, LATE, NEVER)] == pytest.approx(expected)


def test_time_to_target_is_a_share_of_the_budget_and_shaping_says_how_far_away(rewards_of):
    def returns(shaping):
        config = RewardConfig("time_to_target", shaping=shaping)
        return [rewards_of(config, curve, REFERENCE).sum() for curve in (EARLY, LATE, NEVER)]

    assert returns(0.0) == pytest.approx([0.0, -0.9, -1.0])
    height = (START_LEVEL + 1) / (HIGHEST_LEVEL + 1)
    assert returns(1.0) == pytest.approx([0.0, -0.9 * height, -height])


def test_the_reference_itself_earns_nothing_over_itself_whatever_its_budget(rewards_of):
    config = RewardConfig("over_reference")
    assert rewards_of(config, REFERENCE.curve, REFERENCE) == pytest.approx([0.0] * 5)
    longer = rewards_of(config, np.repeat(REFERENCE.curve, 3), REFERENCE)
    assert longer.sum() == pytest.approx(0.0)


@given(curves, curves, references)
def test_over_the_reference_ranks_runs_as_the_improvement_does(rewards_of, one, other, reference):
    differences = [
        rewards_of(config, one, reference).sum() - rewards_of(config, other, reference).sum()
        for config in (RewardConfig("log_improvement"), RewardConfig("over_reference"))
    ]
    assert differences[0] == pytest.approx(differences[1], abs=1e-7)


def test_the_default_is_the_improvement_as_it_always_was(rewards_of):
    assert RewardConfig().name == "log_improvement"
    before, after = -0.3, -0.5
    earned = rewards_of(RewardConfig(), [before] * 5 + [after] + [0.0] * 4, REFERENCE)[5]
    expected = (before - after - (after + 1.0) / DECISIONS) / (START_LEVEL + 1.0)
    assert earned == pytest.approx(expected, rel=1e-12)


@every_reward
def test_a_switch_costs_its_price(total, name):
    assert total(name, EARLY) - total(name, EARLY, switches=3) == pytest.approx(0.03)


@every_reward
def test_rows_are_held_to_references_of_their_own(name):
    def together(*references):
        rows = RowReferences(len(references))
        for row, reference in enumerate(references):
            rows.put(reference, [row])
        zeros, no = np.zeros(len(references)), np.zeros(len(references), dtype=bool)
        stretch = Stretch(zeros, zeros - 0.7, zeros + 0.2, zeros + 0.4, no, no, no)
        return REWARDS[name](RewardConfig(name))(stretch, rows)

    deep = TaskReference((-2.0, -3.0))
    alone = [together(REFERENCE)[0], together(deep)[0], together(REFERENCE)[0]]
    np.testing.assert_array_equal(together(REFERENCE, deep, REFERENCE), alone)
    assert alone[0] != alone[1]


def test_an_unknown_reward_is_refused_with_the_list():
    with pytest.raises(TrainpilotError, match="unknown reward 'speed'; allowed: log_improvement,"):
        EnvConfig(reward=RewardConfig("speed")).validate()
    with pytest.raises(TrainpilotError, match=r"shaping must lie in \[0, 1\]; given: 1.5"):
        EnvConfig(reward=RewardConfig(shaping=1.5)).validate()
