"""Actions are relative and bounded."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainpilot.envs.actions import ActionSpec, Head, clamp, relative_learning_rate
from trainpilot.envs.config import ActionConfig, EnvConfig
from trainpilot.envs.hyperparameters import Hyperparameters
from trainpilot.envs.limits import BoundsConfig
from trainpilot.envs.optimizers import LEARNING_RATE_SCALES, OPTIMIZER_NAMES, optimizer_index
from trainpilot.envs.stage import Stage
from trainpilot.inner_tasks import TrainpilotError

FULL = ActionConfig(weight_decay=[0.3, 1.0, 3.0], momentum=[0.5, 1.0, 2.0])


def test_heads_follow_the_configuration():
    assert ActionSpec(ActionConfig()).n_choices == [5, 3]
    assert ActionSpec(FULL).n_choices == [5, 3, 3, 3]
    assert ActionSpec(ActionConfig(optimizers=[])).n_choices == [5]
    assert ActionSpec(ActionConfig(learning_rate=[])).n_choices == [3]


def test_factors_multiply():
    start = Hyperparameters.full(2, learning_rate=1e-3, weight_decay=0.1, momentum=0.9)
    after = ActionSpec(FULL).apply(start, np.array([[4, 2, 0, 1], [0, 0, 2, 1]]))
    np.testing.assert_allclose(after.learning_rate, [2.8e-3, 0.35e-3])
    np.testing.assert_allclose(after.weight_decay, [0.3, 0.03])
    np.testing.assert_allclose(after.momentum, [0.95, 0.8])


def test_weight_decay_can_be_raised_from_zero_and_stays_there_otherwise():
    start = Hyperparameters.full(3, weight_decay=0.0)
    after = ActionSpec(FULL).apply(start, np.array([[2, 0, 1, 1], [2, 1, 1, 1], [2, 2, 1, 1]]))
    np.testing.assert_allclose(after.weight_decay, [0, 0, 1e-4])


def test_a_ceiling_holds_what_is_raised_and_lowers_nothing():
    config = ActionConfig(
        learning_rate=[0.5, 1.0, 2.0, 10.0], optimizers=["keep", "sgd"], learning_rate_ceiling=0.01
    )
    spec = ActionSpec(config)
    start = Hyperparameters.full(7)
    start.learning_rate[:] = [1e-3, 1e-3, 1e-3, 8e-3, 0.05, 0.05, 0]
    places = [2, 3, 0, 2, 3, 0, 3]
    after = spec.apply(start, np.array([[place, 0] for place in places]))
    expected = [2e-3, 0.01, 0.5e-3, 0.01, 0.05, 0.025, 0]
    np.testing.assert_allclose(after.learning_rate, expected, rtol=1e-12)
    # Of another optimizer it is as much in Adam's units, be it chosen now or before.
    for begun in ("adam", "sgd"):
        scale = 1 if begun == "adam" else LEARNING_RATE_SCALES[optimizer_index("sgd")]
        start = Hyperparameters.full(1, learning_rate=5e-3 * scale, optimizer=begun)
        after = spec.apply(start, np.array([[3, 1]]))
        np.testing.assert_allclose(relative_learning_rate(after), 0.01, rtol=1e-12)
    config.continuous = True
    start = Hyperparameters.full(1, learning_rate=5e-3)
    after = ActionSpec(config).apply(start, np.array([[1.0, 1.0, 0.0]]))
    np.testing.assert_allclose(after.learning_rate, 0.01, rtol=1e-12)


def test_a_floor_holds_a_momentum_that_is_lowered_and_raises_nothing():
    config = ActionConfig(momentum=[0.5, 1.0, 2.0, 20.0], momentum_floor=0.8)
    spec, size = ActionSpec(replace(config, learning_rate=[], optimizers=[])), (6, 1)
    start = Hyperparameters.full(6)
    start.momentum[:] = [0.9, 0.9, 0.9, 0.95, 0.5, 0.5]
    after = spec.apply(start, np.array([2, 3, 0, 2, 2, 0]).reshape(size))
    np.testing.assert_allclose(after.momentum, [0.8, 0.8, 0.95, 0.9, 0.5, 0.75], rtol=1e-12)
    # Without a floor it is the bounds that hold it, and say so.
    spec = ActionSpec(ActionConfig(momentum=[3.0], learning_rate=[], optimizers=["adam"]))
    after = spec.apply(Hyperparameters.full(1, momentum=0.5), np.array([[0, 0]]))
    np.testing.assert_allclose(after.momentum, -0.5)
    # One factor alone: from anywhere above, every run comes down to the floor.
    spec = ActionSpec(replace(config, momentum=[2.0]))
    now = Hyperparameters.full(1, momentum=0.99)
    for expected in (0.98, 0.96, 0.92, 0.84, 0.8, 0.8):
        now = spec.apply(now, np.array([[2, 0, 1]]))
        np.testing.assert_allclose(now.momentum, expected, rtol=1e-12)


@pytest.mark.parametrize("floor", [-0.1, 1.0])
def test_a_floor_that_is_no_momentum_is_refused(floor):
    config = EnvConfig(actions=ActionConfig(momentum=[2.0], momentum_floor=floor))
    with pytest.raises(TrainpilotError, match=r"momentum_floor must lie in \[0, 1\); given"):
        config.validate()


def test_a_floor_needs_factors_of_the_momentum():
    config = EnvConfig(actions=ActionConfig(momentum_floor=0.8))
    with pytest.raises(TrainpilotError, match="momentum_floor needs factors"):
        config.validate()


@pytest.mark.parametrize("floor", [0, 1.0, -0.5, float("nan"), True, "0.8", None, [0.8]])
def test_a_floor_in_json_that_is_none_is_refused(floor):
    heads = [{"name": "momentum", "choices": [2.0], "floor": floor}]
    with pytest.raises(TrainpilotError, match="floor must be a number between 0 and 1, of the mom"):
        ActionSpec.from_json(heads)


def test_only_the_momentum_has_a_floor():
    heads = [{"name": "learning_rate", "choices": [1.0, 2.0], "floor": 0.1}]
    with pytest.raises(TrainpilotError, match=r"of the momentum; given: 0.1, of learning_rate"):
        ActionSpec.from_json(heads)


@pytest.mark.parametrize("ceiling", [0.0, -1.0])
def test_a_ceiling_that_is_no_rate_is_refused(ceiling):
    config = EnvConfig(actions=ActionConfig(learning_rate_ceiling=ceiling))
    with pytest.raises(TrainpilotError, match="learning_rate_ceiling must be a number above 0"):
        config.validate()


KEPT = ActionConfig(learning_rate=[0.5, 1.0, 10.0], optimizers=[], learning_rate_schedule="cosine")


def test_a_rate_that_is_kept_falls_along_the_cosine_where_the_budget_is_known():
    spec, now = ActionSpec(KEPT), Hyperparameters.full(3, learning_rate=1e-2)
    decisions, known = np.array([8, 4, 8]), np.array([True, True, False])
    for k in range(4):
        now = spec.apply(now, np.full((3, 1), 1), Stage.of(known, k, decisions))
        expected = [(1 + np.cos(np.pi * k / n)) / 2 for n in (8, 4)]
        np.testing.assert_allclose(now.learning_rate, [*np.multiply(1e-2, expected), 1e-2])


def test_after_the_last_decision_a_schedule_stays():
    known = np.array([True])
    last = Stage.of(known, 7, 8)
    assert 0 < last.now[0] < last.before[0] < 1
    for later in (8, 9, 100):
        np.testing.assert_allclose(Stage.of(known, later, 8), last.now[0])
    np.testing.assert_array_equal(Stage.of(known, 0, 1), 1)


def test_factors_and_ceiling_are_of_the_rate_without_its_schedule():
    spec = ActionSpec(replace(KEPT, learning_rate_ceiling=0.04))
    half, quarter = 0.5, 0.25
    # Of a level of 1e-3, 0.02 and 0.08: ten times as high, at most 0.04, and no higher than it is.
    start = Hyperparameters.full(3)
    start.learning_rate[:] = np.array([1e-3, 0.02, 0.08]) * half
    after = spec.apply(start, np.full((3, 1), 2), Stage(half, quarter))
    np.testing.assert_allclose(after.learning_rate, np.array([0.01, 0.04, 0.08]) * quarter)
    lowered = spec.apply(start, np.full((3, 1), 0), Stage(half, quarter))
    np.testing.assert_allclose(lowered.learning_rate, np.array([5e-4, 0.01, 0.04]) * quarter)


def test_without_a_schedule_the_stage_is_nothing():
    spec = ActionSpec(replace(KEPT, learning_rate_schedule=None))
    after = spec.apply(
        Hyperparameters.full(1, learning_rate=1e-3), np.array([[1]]), Stage(0.5, 0.1)
    )
    np.testing.assert_array_equal(after.learning_rate, 1e-3)


def test_a_schedule_that_is_none_is_refused():
    config = EnvConfig(actions=replace(KEPT, learning_rate_schedule="step"))
    with pytest.raises(TrainpilotError, match="must be cosine, or null for none; given: step"):
        config.validate()
    config = EnvConfig(actions=replace(KEPT, learning_rate=[], optimizers=["adam", "sgd"]))
    with pytest.raises(TrainpilotError, match="learning_rate_schedule needs factors in"):
        config.validate()
    for name, schedule in (
        ("learning_rate", "step"),
        ("learning_rate", [1]),
        ("momentum", "cosine"),
    ):
        heads = [{"name": name, "choices": [1.0, 2.0], "schedule": schedule}]
        with pytest.raises(TrainpilotError, match="schedule must be cosine, of the learning_rate"):
            ActionSpec.from_json(heads)


def test_decays_of_the_average_are_chosen_as_they_are():
    config = ActionConfig(learning_rate=[], optimizers=[], ema_decay=[0.0, 0.5, 0.9])
    spec, start = ActionSpec(config), Hyperparameters.full(3, ema_decay=0.4)
    assert spec.n_choices == [3]
    assert spec.apply(start, np.array([[0], [1], [2]])).ema_decay.tolist() == [0, 0.5, 0.9]
    (head,) = spec.heads
    assert head.keep_place is None
    start.ema_decay[:] = [0.1, 0.65, 0.8]
    assert head.least_change(start).tolist() == [0, 1, 2]
    config.continuous = True
    numbers = np.array([[-2.0], [0.0], [1.0]], dtype=np.float32)
    after = ActionSpec(config).apply(start, numbers)
    np.testing.assert_allclose(after.ema_decay, [0, 0.45, 0.9], rtol=1e-12)
    with pytest.raises(TrainpilotError, match=r"ema_decay must hold decays in \[0, 1\); given"):
        EnvConfig(actions=ActionConfig(ema_decay=[0.5, 1.0])).validate()


CONTINUOUS = ActionSpec(ActionConfig(batch_size=[1.0, 2.0], continuous=True))


def test_continuous_numbers_lie_between_the_factors():
    assert CONTINUOUS.space.shape == (1 + 1 + 3,)
    start = Hyperparameters.full(7, learning_rate=1e-3, batch_size=4)
    places = [-1.0, -0.5, 0.0, 0.5, 1.0, 9.0, np.nan]
    action = np.zeros((7, 5), dtype=np.float32)
    action[:, 0] = action[:, 1] = places
    action[:, 3] = 1  # the second optimizer, Adam
    after = CONTINUOUS.apply(start, action)
    factors = [0.35, 0.35**0.5, 1, 2.8**0.5, 2.8, 2.8, 1]
    np.testing.assert_allclose(after.learning_rate, 1e-3 * np.array(factors))
    # There is no factor below 1 to go to.
    np.testing.assert_array_equal(after.batch_size, [4, 4, 4, 6, 8, 8, 4])
    assert (after.optimizer == start.optimizer).all()


def test_the_largest_number_chooses_the_optimizer():
    start = Hyperparameters.full(3, learning_rate=1e-3, optimizer="adam")
    action = np.zeros((3, 5), dtype=np.float32)
    action[:, 2:] = [[0.1, -0.2, 0.0], [-0.9, -0.2, -0.5], [0.3, 0.2, 0.9]]
    after = CONTINUOUS.apply(start, action)
    assert [OPTIMIZER_NAMES[index] for index in after.optimizer] == ["sgd", "adam", "rmsprop"]
    np.testing.assert_allclose(after.learning_rate, [0.03, 1e-3, 1e-3])


@pytest.mark.parametrize("continuous", [False, True])
def test_random_actions_lie_in_the_space(continuous):
    spec = ActionSpec(ActionConfig(momentum=[0.5, 1.0, 2.0], continuous=continuous))
    drawn = spec.draw(np.random.default_rng(0), 200)
    assert all(spec.space.contains(each.astype(spec.space.dtype)) for each in drawn)
    assert len(np.unique(drawn[:, 0])) >= 5


def test_a_switch_keeps_the_size_of_the_update():
    start = Hyperparameters.full(1, learning_rate=1e-3, optimizer="adam")
    spec = ActionSpec(ActionConfig())
    sgd = spec.apply(start, np.array([[2, OPTIMIZER_NAMES.index("sgd")]]))
    assert sgd.learning_rate[0] == pytest.approx(0.03)
    back = spec.apply(sgd, np.array([[2, OPTIMIZER_NAMES.index("adam")]]))
    assert back.learning_rate[0] == pytest.approx(1e-3)


@pytest.mark.parametrize("continuous", [False, True])
def test_to_keep_the_optimizer_is_a_choice_of_its_own(continuous):
    config = ActionConfig(optimizers=["sgd", "keep", "rmsprop"], continuous=continuous)
    spec = ActionSpec(config)
    start = Hyperparameters.full(3, learning_rate=1e-3, weight_decay=0.1)
    # Lion is none of the choices.
    start.optimizer[:] = [OPTIMIZER_NAMES.index(name) for name in ("sgd", "lion", "rmsprop")]
    keep = np.array([[0, 0, 1, 0]] * 3, dtype=np.float32) if continuous else np.array([[2, 1]] * 3)
    after = spec.apply(start, keep)
    for name in ("optimizer", "learning_rate", "weight_decay"):
        np.testing.assert_array_equal(getattr(after, name), getattr(start, name))
    switch = np.array([[0, 0, 0, 1]] * 3, dtype=np.float32) if continuous else [[2, 2]] * 3
    switched = spec.apply(start, np.array(switch))
    assert (switched.optimizer == OPTIMIZER_NAMES.index("rmsprop")).all()


def test_the_choice_that_changes_nothing_is_known():
    rate, optimizer = ActionSpec(ActionConfig(optimizers=["sgd", "adam", "keep"])).heads
    assert (rate.keep_place, optimizer.keep_place) == (2, 2)
    (without,) = ActionSpec(ActionConfig(learning_rate=[], optimizers=["sgd", "adam"])).heads
    assert without.keep_place is None
    start = Hyperparameters.full(2, optimizer="adam")
    assert optimizer.least_change(start).tolist() == [2, 2]
    assert without.least_change(start).tolist() == [1, 1]
    assert Head("learning_rate", (0.3, 0.9, 2.0)).least_change(start).tolist() == [1, 1]


def test_a_switch_keeps_the_decay_of_the_weights():
    start = Hyperparameters.full(1, learning_rate=1e-3, weight_decay=0.3)
    spec = ActionSpec(ActionConfig())
    sgd = spec.apply(start, np.array([[2, OPTIMIZER_NAMES.index("sgd")]]))
    assert sgd.learning_rate[0] * sgd.weight_decay[0] == pytest.approx(3e-4)


@given(
    rate=st.floats(1e-12, 1e12),
    decay=st.floats(0, 1e6),
    momentum=st.floats(-1, 1, exclude_max=True),
    optimizer=st.sampled_from(OPTIMIZER_NAMES),
)
def test_clamped_values_lie_within_bounds_and_stay_there(rate, decay, momentum, optimizer):
    bounds = BoundsConfig()
    asked = Hyperparameters.full(
        1, learning_rate=rate, weight_decay=decay, momentum=momentum, optimizer=optimizer
    )
    used = clamp(asked, bounds)
    relative = relative_learning_rate(used)[0]
    low, high = bounds.learning_rate_low, bounds.learning_rate_high
    assert low * (1 - 1e-9) <= relative <= high * (1 + 1e-9)
    assert 0 <= used.weight_decay[0] <= bounds.weight_decay_high
    assert 0 <= used.momentum[0] <= bounds.momentum_high
    assert clamp(used, bounds).learning_rate[0] == used.learning_rate[0]


def test_every_hyperparameter_is_kept_between_both_of_its_bounds():
    bounds = BoundsConfig(
        learning_rate_low=1e-4,
        learning_rate_high=1e-2,
        weight_decay_low=0.01,
        weight_decay_high=0.1,
        momentum_low=0.5,
        momentum_high=0.9,
        gradient_clip_low=0.1,
        gradient_clip_high=5.0,
        batch_size_low=2,
        batch_size_high=8,
        ema_decay_high=0.5,
    )
    asked = Hyperparameters(
        learning_rate=np.array([1e-9, 1e-3, 1.0]),
        weight_decay=np.array([0.0, 0.05, 1.0]),
        momentum=np.array([0.0, 0.7, 0.99]),
        gradient_clip=np.array([0.01, 1.0, np.inf]),
        batch_size=np.array([1, 4, 99]),
        ema_decay=np.array([-0.1, 0.3, 1.0]),
        optimizer=np.full(3, OPTIMIZER_NAMES.index("adam")),
    )
    used = clamp(asked, bounds)
    assert used.learning_rate.tolist() == [1e-4, 1e-3, 1e-2]
    assert used.weight_decay.tolist() == [0.01, 0.05, 0.1]
    assert used.momentum.tolist() == [0.5, 0.7, 0.9]
    assert used.gradient_clip.tolist() == [0.1, 1.0, 5.0]
    assert used.batch_size.tolist() == [2, 4, 8]
    assert used.ema_decay.tolist() == [0, 0.3, 0.5]
    assert np.isinf(clamp(asked, BoundsConfig()).gradient_clip[2])  # no high bound by default


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ({"learning_rate_low": 0.0}, "learning_rate_low must be above 0; given: 0.0"),
        ({"learning_rate_low": 2.0}, "learning_rate_low <= learning_rate_high; given: 2.0 and 1.0"),
        ({"weight_decay_low": -0.1}, "weight_decay_low must be at least 0; given: -0.1"),
        ({"weight_decay_low": 2.0}, "weight_decay_low <= weight_decay_high"),
        ({"momentum_low": -0.1}, "momentum_low must be at least 0"),
        ({"momentum_high": 1.0}, "momentum_high must be below 1; given: 1.0"),
        ({"gradient_clip_low": 0.0}, "gradient_clip_low must be above 0"),
        ({"gradient_clip_high": 1e-5}, "gradient_clip_low <= gradient_clip_high"),
        ({"batch_size_low": 0}, "batch_size_low must be at least 1; given: 0"),
        ({"batch_size_low": 2}, "batch_size_low <= batch_size_high; given: 2 and 1"),
    ],
)
def test_bounds_out_of_range_are_named(bounds, message):
    with pytest.raises(TrainpilotError, match=message):
        EnvConfig(bounds=BoundsConfig(**bounds)).validate()


def test_a_batch_size_that_the_bounds_hold_where_it_is_cannot_be_controlled():
    config = EnvConfig(actions=ActionConfig(batch_size=[0.5, 1.0, 2.0]))
    with pytest.raises(TrainpilotError, match=r"batch_size_high above .*_low, 1; given: 1"):
        config.validate()
    config.bounds.batch_size_high = 2
    config.validate()
    config.bounds.batch_size_low = 2
    with pytest.raises(TrainpilotError, match=r"batch_size_high above .*_low, 2; given: 2"):
        config.validate()


def test_json_round_trip():
    for ceiling, schedule in ((None, None), (0.01, None), (None, "cosine"), (0.01, "cosine")):
        spec = ActionSpec(
            replace(
                FULL,
                learning_rate_ceiling=ceiling,
                learning_rate_schedule=schedule,
                momentum_floor=0.5,
                ema_decay=[0.3],
            )
        )
        assert ActionSpec.from_json(json.loads(json.dumps(spec.to_json()))).heads == spec.heads


def test_unknown_head_in_json_is_refused():
    with pytest.raises(TrainpilotError, match=r"may control learning_rate.*given: batch"):
        ActionSpec.from_json([{"name": "batch", "choices": [1]}])


@pytest.mark.parametrize(
    "ceiling", [0, -1.0, float("nan"), float("inf"), True, "0.01", None, [0.01], 10**400]
)
def test_a_ceiling_in_json_that_is_none_is_refused(ceiling):
    heads = [{"name": "learning_rate", "choices": [1.0, 2.0], "ceiling": ceiling}]
    with pytest.raises(TrainpilotError, match="ceiling must be a number above 0, of the learning"):
        ActionSpec.from_json(heads)


@pytest.mark.parametrize("decays", [["a"], [1.0], [-0.5], [float("nan")], [None], [0.5, True]])
def test_decays_in_json_that_are_none_are_refused(decays):
    with pytest.raises(TrainpilotError, match=r"ema_decay must hold decays in \[0, 1\); given"):
        ActionSpec.from_json([{"name": "ema_decay", "choices": decays}])


def test_only_the_learning_rate_has_a_ceiling():
    heads = [{"name": "momentum", "choices": [1.0, 2.0], "ceiling": 0.1}]
    with pytest.raises(TrainpilotError, match=r"of the learning_rate; given: 0.1, of momentum"):
        ActionSpec.from_json(heads)
    config = EnvConfig(actions=ActionConfig(learning_rate=[], learning_rate_ceiling=0.1))
    with pytest.raises(TrainpilotError, match="learning_rate_ceiling needs factors"):
        config.validate()


def test_heads_in_another_order_are_refused():
    heads = ActionSpec(FULL).to_json()
    with pytest.raises(TrainpilotError, match="heads must stand in the order learning_rate"):
        ActionSpec.from_json(heads[::-1])
