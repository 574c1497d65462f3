"""The guard: what it finds, what it says, and that nothing is to be had from it."""

from __future__ import annotations

import numpy as np
import pytest

from trainpilot.envs.guard import Guard
from trainpilot.envs.interventions import Interventions, Reason
from trainpilot.envs.limits import GuardConfig
from trainpilot.envs.signals import Signals

N_STEPS = 3
WATCHED = ("train_loss", "gradient_norm", "parameter_norm", "update_norm")


def signals(**changes):
    """Two runs whose signals are all 1, but for what the first run's are changed to."""
    values = {}
    for name in Signals._fields:
        values[name] = np.ones((2, N_STEPS))
        if name in changes:
            values[name][0] = changes[name]
    return Signals(**values)


def judged(config=None, valid=1.0, outer_valid=1.0, **changes):
    """Reason and ratio of the first run after a quiet decision and one with these changes."""
    guard = Guard(config or GuardConfig(), 2)
    guard.reset(np.ones(2, dtype=bool), np.ones(2))
    assert not guard.judge(signals(), np.ones(2), np.ones(2)).any.any()
    found = guard.judge(signals(**changes), np.array([valid, 1.0]), np.array([outer_valid, 1.0]))
    assert found.reason[1] == Reason.NONE
    return found.reason[0], found.ratio[0]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"train_loss": [1, np.nan, 1]}, Reason.TRAIN_LOSS_NOT_FINITE),
        ({"gradient_norm": [1, 1, np.inf]}, Reason.GRADIENT_NOT_FINITE),
        ({"parameter_norm": [np.inf, 1, 1]}, Reason.PARAMETERS_NOT_FINITE),
        ({"update_norm": [1, np.inf, 1]}, Reason.UPDATE_NOT_FINITE),
        ({"valid": np.nan}, Reason.VALID_LOSS_NOT_FINITE),
        ({"outer_valid": np.inf}, Reason.OUTER_VALID_LOSS_NOT_FINITE),
        # The first that holds: a train loss that is not finite makes all else so.
        ({"valid": np.nan, "train_loss": np.nan}, Reason.TRAIN_LOSS_NOT_FINITE),
    ],
)
def test_one_number_that_is_not_finite_is_enough(changes, reason):
    found, ratio = judged(**changes)
    assert found == reason
    assert np.isnan(ratio)


@pytest.mark.parametrize(
    ("name", "limit", "reason"),
    [
        ("train_loss", "max_train_loss_ratio", Reason.TRAIN_LOSS_EXPLODED),
        ("gradient_norm", "max_gradient_ratio", Reason.GRADIENT_EXPLODED),
        ("parameter_norm", "max_parameter_ratio", Reason.PARAMETERS_EXPLODED),
    ],
)
def test_what_stays_above_its_limit_has_exploded_and_a_peak_has_not(name, limit, reason):
    config = GuardConfig(**{limit: 20.0})
    assert judged(config, **{name: [21, 50, 30]}) == (reason, 21)
    assert judged(config, **{name: [1e9, 1e9, 19]})[0] == Reason.NONE


def test_the_valid_loss_is_compared_with_that_of_the_initial_weights():
    assert judged(valid=101.0) == (Reason.VALID_LOSS_EXPLODED, 101)
    assert judged(valid=99.0)[0] == Reason.NONE


def test_an_update_that_there_was_none_of_and_a_start_of_zero_say_nothing():
    assert judged(update_norm=np.nan)[0] == Reason.NONE
    guard = Guard(GuardConfig(), 2)
    guard.reset(np.ones(2, dtype=bool), np.ones(2))
    guard.judge(signals(parameter_norm=0, gradient_norm=0), np.ones(2), np.ones(2))
    assert not guard.judge(signals(), np.ones(2), np.ones(2)).any.any()


def test_a_run_that_begins_anew_has_a_start_of_its_own():
    guard = Guard(GuardConfig(), 2)
    guard.reset(np.ones(2, dtype=bool), np.ones(2))
    guard.judge(signals(), np.ones(2), np.ones(2))
    guard.reset(np.array([True, False]), np.full(2, 1e6))
    high = {name: 1e6 for name in WATCHED}
    assert not guard.judge(signals(**high), np.array([1e6, 1]), np.ones(2)).any.any()


def test_a_run_is_rolled_back_as_often_as_allowed_and_counts_for_itself():
    guard = Guard(GuardConfig(max_roll_backs=2), 2)
    guard.reset(np.ones(2, dtype=bool), np.ones(2))
    first = [bool(guard.roll_back(np.array([True, False]))[0]) for _ in range(3)]
    assert first == [True, True, False]
    assert guard.roll_back(np.array([True, True])).tolist() == [False, True]
    guard.reset(np.array([True, False]), np.ones(2))
    assert guard.roll_backs.tolist() == [0, 1]
    ending = Guard(GuardConfig(on_divergence="end"), 2)
    assert not ending.roll_back(np.ones(2, dtype=bool)).any()


def test_texts_say_what_was_done_and_why():
    done = Interventions(
        np.array([Reason.NONE, Reason.TRAIN_LOSS_NOT_FINITE, Reason.VALID_LOSS_EXPLODED, 11]),
        np.array([np.nan, np.nan, 140.2, np.nan]),
        np.array([False, True, False, False]),
        np.array([0.1, 0.03, 0.1, 0.1]),
    )
    assert done.texts(np.full(4, 0.1)) == [
        None,
        "rolled back: train loss is not finite; learning rate 0.1 to 0.03",
        "ended: valid loss is 140 times its start",
        "ended: improved too little for the budget that is spent",
    ]


def test_every_reason_has_a_text():
    reasons = np.array(Reason)[1:]
    done = Interventions.blank(len(reasons))._replace(reason=reasons)
    texts = done.texts(np.ones(len(reasons)))
    assert all(text.startswith("ended: ") for text in texts)
    assert len(set(texts)) == len(reasons) == 11


@pytest.mark.parametrize(
    "changes",
    [
        {"train_loss": [1, 1e9, 1]},
        {"gradient_norm": [1, 1, 1e9]},
        {"parameter_norm": [1, 1, 1e9]},
        {"update_norm": [1, 1, 1e9]},  # the last update shows in no later parameter norm
    ],
)
def test_weights_after_a_peak_are_none_to_roll_back_to(changes):
    guard = Guard(GuardConfig(), 2)
    guard.reset(np.ones(2, dtype=bool), np.ones(2))
    assert guard.judge(signals(), np.ones(2), np.ones(2)).sound.all()
    found = guard.judge(signals(**changes), np.ones(2), np.ones(2))
    assert found.reason.tolist() == [Reason.NONE] * 2
    assert found.sound.tolist() == [False, True]
    accumulating = guard.judge(signals(update_norm=np.nan), np.ones(2), np.ones(2))
    assert accumulating.sound.all()
    wrong = guard.judge(signals(), np.array([1e3, 1.0]), np.ones(2))
    assert wrong.sound.tolist() == [False, True]


def test_good_weights_that_give_a_high_loss_are_a_new_start():
    guard = Guard(GuardConfig(), 2)
    guard.reset(np.ones(2, dtype=bool), np.ones(2))
    guard.judge(signals(), np.ones(2), np.ones(2))
    found = guard.judge(signals(train_loss=500), np.ones(2), np.ones(2))
    assert found.reason.tolist() == [Reason.TRAIN_LOSS_EXPLODED, Reason.NONE]
    assert guard.wants_first.tolist() == [False, False]
    guard.roll_back(found.any)
    assert guard.wants_first.tolist() == [True, False]
    state = {name: value.clone() for name, value in guard.state_dict().items()}
    for first, reason in ((500, Reason.NONE), (1, Reason.TRAIN_LOSS_EXPLODED)):
        guard.load_state_dict(state)
        later = guard.judge(signals(train_loss=[first, 600, 600]), np.ones(2), np.ones(2))
        assert later.reason.tolist() == [Reason.NONE, Reason.NONE]  # for a moment, it was low
        later = guard.judge(signals(train_loss=600), np.ones(2), np.ones(2))
        assert later.reason.tolist() == [reason, Reason.NONE]
    # Of both runs: the start of the other is what it was.
    later = guard.judge(
        signals(train_loss=600)._replace(train_loss=np.full((2, N_STEPS), 600.0)),
        np.ones(2),
        np.ones(2),
    )
    assert later.reason[1] == Reason.TRAIN_LOSS_EXPLODED


def test_no_limit_is_never_exceeded():
    config = GuardConfig(
        max_loss_ratio=None,
        max_train_loss_ratio=None,
        max_gradient_ratio=None,
        max_parameter_ratio=None,
    )
    for name in ("train_loss", "gradient_norm", "parameter_norm"):
        assert judged(config, **{name: 1e300})[0] == Reason.NONE
        assert judged(config, **{name: np.inf})[0] != Reason.NONE
    assert judged(config, valid=1e300)[0] == Reason.NONE


def test_a_start_of_zero_is_none():
    guard = Guard(GuardConfig(), 2)
    guard.reset(np.ones(2, dtype=bool), np.ones(2))
    guard.judge(signals(train_loss=0), np.ones(2), np.ones(2))
    assert guard.wants_first.tolist() == [True, False]
    guard.judge(signals(train_loss=2), np.ones(2), np.ones(2))
    found = guard.judge(signals(train_loss=300), np.ones(2), np.ones(2))
    assert found.ratio[0] == 150


def test_a_loss_below_zero_is_compared_with_nothing():
    guard = Guard(GuardConfig(), 2)
    guard.reset(np.ones(2, dtype=bool), np.ones(2))
    for loss in (-20, -1, 0.01, 5, 1e6):
        found = guard.judge(signals(train_loss=loss), np.ones(2), np.ones(2))
        assert found.reason.tolist() == [Reason.NONE] * 2
        guard.roll_back(np.ones(2, dtype=bool))
