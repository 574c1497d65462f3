"""The Gymnasium vector environment behaves as Gymnasium's own do."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import trainpilot
from trainpilot.envs.config import EnvConfig, StartConfig
from trainpilot.envs.limits import GuardConfig
from trainpilot.inner_tasks import TrainpilotError

CONFIG = EnvConfig(
    decisions=3,
    micro_batches_per_decision=4,
    start=StartConfig(["adam", "sgd"], 1e-3, 3e-1),
    # So strict that some runs diverge and rows end at different times.
    guard=GuardConfig(max_roll_backs=1, max_loss_ratio=1.05),
)


def make(num_envs, **arguments):
    return gymnasium.make_vec(
        trainpilot.ENV_ID,
        num_envs=num_envs,
        vectorization_mode="vector_entry_point",
        **arguments,
    )


def assert_same(ours, theirs):
    """Compare infos: the same keys and types, numbers up to rounding."""
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        if isinstance(value, dict):
            assert_same(ours[key], value)
        elif key == "final_obs":
            for one, two in zip(ours[key], value, strict=True):
                assert (one is None) == (two is None)
                if one is not None:
                    np.testing.assert_allclose(one, two, atol=1e-3)
        elif value.dtype.kind == "f":
            assert ours[key].dtype == value.dtype, key
            np.testing.assert_allclose(ours[key], value, rtol=1e-3, atol=1e-6, err_msg=key)
        else:
            assert ours[key].dtype == value.dtype, key
            assert ours[key].tolist() == value.tolist(), key


def test_every_answer_is_that_of_gymnasiums_own_vector_environment(moons):
    ours = make(4, task=moons, config=CONFIG)
    theirs = SyncVectorEnv(
        [lambda: gymnasium.make(trainpilot.ENV_ID, task=moons, config=CONFIG)] * 4,
        autoreset_mode=AutoresetMode.SAME_STEP,
    )
    assert ours.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP
    for name in ("single_observation_space", "single_action_space", "observation_space"):
        assert getattr(ours, name) == getattr(theirs, name)
    assert ours.action_space == theirs.action_space
    ends = []
    for seed in (3, None, [5, 6, 7, 8]):
        observation, info = ours.reset(seed=seed)
        expected, expected_info = theirs.reset(seed=seed)
        np.testing.assert_allclose(observation, expected, atol=1e-3)
        assert_same(info, expected_info)
        actions = np.random.default_rng(0).integers([5, 3], size=(8, 4, 2))
        for action in actions:
            *numbers, info = ours.step(action)
            *expected_numbers, expected_info = theirs.step(action)
            for one, two in zip(numbers, expected_numbers, strict=True):
                assert one.dtype == two.dtype
                np.testing.assert_allclose(one, two, atol=2e-3)
            assert_same(info, expected_info)
            ends.append((numbers[2] | numbers[3]).sum())
        assert ours.observation_space.contains(numbers[0])
    assert {0, 4} < set(ends)  # none, all, and some of the rows ended
    ours.close()
    theirs.close()


def test_several_tasks_share_the_rows():
    env = make(5, task=["iris_mlp", "wine_mlp"], config=EnvConfig(decisions=2))
    assert env.unwrapped.task_names == ["iris_mlp"] * 2 + ["wine_mlp"] * 3
    first, _ = env.reset(seed=1)
    again, _ = env.reset(seed=1)
    other, _ = env.reset()
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    env.close()
    env.close()


def test_workers_change_nothing_and_leave_with_the_environment():
    alone = make(4, task="iris_mlp", config=CONFIG)
    spread = make(4, task="iris_mlp", config=CONFIG, n_workers=2)
    workers = spread.unwrapped._groups.workers
    np.testing.assert_array_equal(alone.reset(seed=0)[0], spread.reset(seed=0)[0])
    for _ in range(4):
        actions = alone.action_space.sample()
        for one, two in zip(alone.step(actions)[:4], spread.step(actions)[:4], strict=True):
            np.testing.assert_array_equal(one, two)
    spread.close()
    assert [worker.process.exitcode for worker in workers] == [0, 0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task": []}, "task must name at least one task; given: none"),
        ({"task": ["iris_mlp", "wine_mlp"]}, "num_envs must be at least .* 2; given: 1"),
        ({"task": "mnist"}, "unknown task 'mnist'"),
        ({"n_workers": -1}, "n_workers must be at least 0; given: -1"),
    ],
)
def test_values_out_of_range_are_named(arguments, message):
    with pytest.raises(TrainpilotError, match=message):
        make(1, **arguments)


def test_seeds_must_be_one_a_row(moons):
    env = make(2, task=moons, config=CONFIG)
    with pytest.raises(TrainpilotError, match="seeds must be 2, one a row; given: 3"):
        env.reset(seed=[1, 2, 3])


def test_how_runs_are_trained_is_logged(moons, uncommon_moons, caplog):
    with caplog.at_level("INFO", "trainpilot"):
        gymnasium.make(trainpilot.ENV_ID, task=moons)
        make(2, task=[moons, uncommon_moons]).close()
    first, same, other = caplog.messages
    assert first == same == "task 'moons': inner runs are trained by C++ of our own"
    assert "inner steps are not compiled: C++ of our own does not cover the task" in other
