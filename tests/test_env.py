"""The Gymnasium environment keeps Gymnasium's and Stable-Baselines3's contracts."""

from __future__ import annotations

from dataclasses import replace
from importlib.resources import files

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from omegaconf import OmegaConf
from stable_baselines3 import SAC
from stable_baselines3.common.env_checker import check_env as check_env_sb3

import trainpilot
from trainpilot.envs.config import (
    ActionConfig,
    EnvConfig,
    ObservationConfig,
    RewardConfig,
    StartConfig,
)
from trainpilot.envs.groups import GroupSpec
from trainpilot.envs.inner_runs import InnerRuns
from trainpilot.envs.limits import BoundsConfig, GuardConfig
from trainpilot.envs.observation import FEATURE_NAMES
from trainpilot.envs.task_reference import TaskReference
from trainpilot.envs.vector import InnerTrainingVecEnv
from trainpilot.envs.worker import Worker
from trainpilot.envs.worker_pool import start_groups
from trainpilot.inner_tasks import TrainpilotError

KEEP_ADAM = np.array([2, 1])

PROGRESS = FEATURE_NAMES.index("progress")


def make(task, **changes):
    config = EnvConfig(decisions=4, micro_batches_per_decision=3, **changes)
    return gymnasium.make(trainpilot.ENV_ID, task=task, config=config)


# Warnings are errors: a checker that only warns fails these tests too.
@pytest.mark.parametrize(
    "actions",
    [ActionConfig(), ActionConfig(weight_decay=[0.3, 1, 3], momentum=[0.5, 1, 2])],
)
def test_checkers_pass_without_a_warning(moons, actions):
    env = make(moons, actions=actions)
    check_env(env.unwrapped)
    check_env_sb3(env.unwrapped)
    check_env_sb3(env)


def test_continuous_actions_serve_algorithms_that_want_them(moons):
    """In a single environment, in workers and for SAC, which takes nothing else."""
    config = EnvConfig(
        decisions=4, micro_batches_per_decision=3, actions=ActionConfig(continuous=True)
    )
    check_env_sb3(gymnasium.make(trainpilot.ENV_ID, task=moons, config=config))
    groups = [start_groups([GroupSpec(moons, 4, config)], n_workers) for n_workers in (0, 2)]
    seeds = np.arange(4)
    rates = []
    for each in groups:
        each.reset(seeds)
        action = each.actions.draw(np.random.default_rng(0), 4)
        rates.append(each.step(action, seeds).hyperparameters.learning_rate)
    groups[1].close()
    np.testing.assert_array_equal(*rates)
    assert len(np.unique(rates[0])) == 4
    agent = SAC("MlpPolicy", InnerTrainingVecEnv(groups[0], 0), learning_starts=8, device="cpu")
    agent.learn(24)
    assert agent.num_timesteps == 24


def test_checkers_pass_on_the_default_task():
    env = gymnasium.make(trainpilot.ENV_ID)
    check_env(env.unwrapped)
    check_env_sb3(env)


def rollout(env, seed, actions):
    observations, rewards = [env.reset(seed=seed)[0]], []
    for action in actions:
        observation, reward, terminated, truncated, _ = env.step(action)
        observations.append(observation)
        rewards.append(reward)
        if terminated or truncated:
            break
    return np.array(observations), np.array(rewards)


def test_same_seed_same_run_to_the_last_bit(moons):
    actions = np.random.default_rng(0).integers([5, 3], size=(4, 2))
    one = rollout(make(moons), 3, actions)
    two = rollout(make(moons), 3, actions)
    other = rollout(make(moons), 4, actions)
    np.testing.assert_array_equal(one[0], two[0])
    np.testing.assert_array_equal(one[1], two[1])
    assert (one[0] != other[0]).any()


def test_a_spent_budget_truncates(moons):
    env = make(moons)
    env.reset(seed=0)
    ends = [env.step(KEEP_ADAM)[2:4] for _ in range(4)]
    assert ends == [(False, False)] * 3 + [(False, True)]


def test_a_diverging_run_terminates(quadratic):
    # SGD on curvature 1 diverges above rate 2: with 3 the distance doubles at every step.
    start = StartConfig(["sgd"], 0.1, 0.1, momentum=0.0)
    env = make(
        quadratic,
        start=start,
        guard=GuardConfig(on_divergence="end", max_loss_ratio=1e3),
        actions=ActionConfig(learning_rate=[1.0]),
    )
    _, info = env.reset(seed=0)
    assert info["learning_rate"] == pytest.approx(3.0)
    assert not env.step(np.array([0, 0]))[2]  # 3 steps: the loss is 4**3 = 64 times the start
    _, reward, terminated, truncated, _ = env.step(np.array([0, 0]))  # 4**6 = 4096 times
    assert (terminated, truncated) == (True, False)
    assert reward < -1


def test_info_tells_what_was_used_and_whether_bounds_changed_it(moons):
    start = StartConfig(["adam"], 0.9, 0.9)
    env = make(moons, start=start)
    env.reset(seed=0)
    info = env.step(np.array([4, 1]))[4]  # 2.8 * 0.9 is above the bound of 1
    assert info["clamped"]
    assert info["learning_rate"] == pytest.approx(1.0)
    assert info["optimizer"] == "adam"
    assert not env.step(np.array([2, 1]))[4]["clamped"]


def test_starts_are_drawn_within_their_range(moons):
    env = make(moons, start=StartConfig(["adam", "sgd"], 1e-4, 1e-2))
    infos = [env.reset(seed=seed)[1] for seed in range(40)]
    assert {info["optimizer"] for info in infos} == {"adam", "sgd"}
    rates = [i["learning_rate"] / (30 if i["optimizer"] == "sgd" else 1) for i in infos]
    assert min(rates) >= 1e-4
    assert max(rates) <= 1e-2
    assert max(rates) / min(rates) > 10


def test_the_reward_sees_outer_valid_and_the_observation_does_not(moons):
    twin = type(moons)(
        "moons",
        model=moons.make_model,
        splits=moons.splits._replace(outer_valid=moons.splits.test),
        micro_batch_size=10,
    )
    one = rollout(make(moons), 0, [KEEP_ADAM] * 4)
    two = rollout(make(twin), 0, [KEEP_ADAM] * 4)
    np.testing.assert_array_equal(one[0], two[0])
    assert (one[1] != two[1]).all()


def test_ansi_rendering_tells_the_state(moons):
    env = gymnasium.make(
        trainpilot.ENV_ID, task=moons, config=EnvConfig(decisions=2), render_mode="ansi"
    )
    env.reset(seed=0)
    assert env.render() == "not trained yet"
    env.step(KEEP_ADAM)
    assert env.render().startswith("decision 1/2  adam learning rate 0.001  train loss")


def test_vector_rows_equal_the_single_environment_and_restart_in_place(moons):
    config = EnvConfig(decisions=3, micro_batches_per_decision=2)
    env = InnerTrainingVecEnv(Worker([GroupSpec(moons, 2, config)]), seed=5)
    first = env.reset()
    seed = int(np.random.default_rng([5, 1]).integers(2**31))
    single = InnerRuns(moons, 1, config)
    alone = [single.reset([0], [seed])[0]]
    np.testing.assert_allclose(first[1], alone[0], atol=1e-5)
    total = 0.0
    for step in range(3):
        observation, reward, done, infos = env.step(np.array([KEEP_ADAM, KEEP_ADAM]))
        outcome = single.step(single.hyperparameters)
        total += reward[1]
        assert reward[1] == pytest.approx(outcome.reward[0], abs=1e-4)
        assert done.tolist() == [step == 2] * 2
    np.testing.assert_allclose(infos[1]["terminal_observation"], outcome.observation[0], atol=1e-3)
    assert infos[1]["episode"] == {"r": pytest.approx(total), "l": 3}
    assert not infos[1]["TimeLimit.truncated"]
    assert (observation[:, PROGRESS] == 0).all()  # both rows have started anew


def test_vector_seed_is_that_of_the_next_reset(moons):
    env = InnerTrainingVecEnv(Worker([GroupSpec(moons, 2, EnvConfig(decisions=2))]), seed=5)
    first = env.reset()
    second = env.reset()
    env.seed(5)
    np.testing.assert_array_equal(env.reset(), first)
    np.testing.assert_array_equal(env.reset(), second)
    assert (first != second).any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decisions": 0}, "env.decisions must be at least 1; given: 0"),
        ({"micro_batches_per_decision": -1}, "micro_batches_per_decision .* given: -1"),
        ({"start": StartConfig([])}, "start.optimizers must name an optimizer"),
        ({"start": StartConfig(["lamb"])}, "unknown optimizer 'lamb'"),
        ({"optimizers": ["adam"]}, "must be among env.optimizers, adam; given: sgd"),
        ({"start": StartConfig(shortest_budget=0.0)}, "shortest_budget must lie in"),
        ({"guard": GuardConfig(hopeless_share=1.0)}, "hopeless_share must lie in"),
        ({"start": StartConfig(["adam"], 1e-2, 1e-3)}, "0 < learning_rate_low <="),
        ({"actions": ActionConfig(learning_rate=[0.0])}, "factors above 0; given"),
        ({"actions": ActionConfig(learning_rate=[], optimizers=[])}, "at least one hyperparameter"),
        ({"actions": ActionConfig(optimizers=["keep"])}, "'keep' once at most, and an optimizer"),
        ({"actions": ActionConfig(optimizers=["keep", "sgd", "keep"])}, "must name 'keep' once"),
        ({"guard": GuardConfig(max_loss_ratio=1.0)}, "max_loss_ratio must be above 1, or null"),
        ({"guard": GuardConfig(max_gradient_ratio=0.5)}, "max_gradient_ratio must be above 1"),
        ({"guard": GuardConfig("retry")}, "must be 'end' or 'roll_back'; given: retry"),
        ({"guard": GuardConfig(shrink=1.0)}, "shrink must lie in .0, 1.; given: 1.0"),
        ({"guard": GuardConfig(max_roll_backs=-1)}, "max_roll_backs must be at least 0"),
        ({"guard": GuardConfig(penalty=-0.1)}, "penalty must be at least 0; given: -0.1"),
    ],
)
def test_values_out_of_range_are_named(moons, changes, message):
    with pytest.raises(TrainpilotError, match=message):
        InnerRuns(moons, 1, EnvConfig(**changes))


def test_a_hopeless_run_is_ended_and_its_row_starts_anew(quadratic):
    config = EnvConfig(
        decisions=8,
        micro_batches_per_decision=2,
        start=StartConfig(learning_rate_low=1e-7, learning_rate_high=1e-7),
        guard=GuardConfig(hopeless_share=0.2, hopeless_after=0.5),
    )
    runs = InnerRuns(quadratic, 3, config, TaskReference((-1.0,)))
    runs.reset(range(3), range(3))
    still = runs.hyperparameters
    learning = replace(still, learning_rate=np.array([1e-7, 0.3, 1e-7]))
    ended = [runs.step(learning).hopeless.tolist() for _ in range(4)]
    assert ended == [[False] * 3] * 3 + [[True, False, True]]
    runs.reset([0], [9])
    assert runs.decisions_made.tolist() == [0, 4, 4]
    # Without a reference there is nothing to judge by.
    unjudged = InnerRuns(quadratic, 1, config)
    unjudged.reset([0], [0])
    assert not any(unjudged.step(unjudged.hyperparameters).hopeless[0] for _ in range(8))


@pytest.mark.parametrize("name", ["log_improvement", "time_to_target", "over_reference"])
def test_rewards_that_need_a_reference_measure_it(moons, name):
    reward = RewardConfig(name)
    needed = name != "log_improvement"
    alone = make(moons, reward=reward).unwrapped.runs.references
    assert bool(alone.known[0]) == needed
    config = EnvConfig(decisions=4, micro_batches_per_decision=3, reward=reward)
    rows = gymnasium.make_vec(trainpilot.ENV_ID, num_envs=3, task=moons, config=config).unwrapped
    references = rows._groups.references
    assert set(references) == ({"moons"} if needed else set())
    if needed:
        assert len(references["moons"].curve) == 4
        np.testing.assert_allclose(references["moons"].curve, alone[0].curve, atol=1e-4)


def test_each_row_has_its_own_budget(moons):
    config = EnvConfig(decisions=6, micro_batches_per_decision=2)
    runs = InnerRuns(moons, 3, config)
    runs.reset(range(3), range(3), decisions=[2, 6, 3])
    truncated = []
    for step in range(2):
        truncated.append(runs.step(runs.hyperparameters).truncated.tolist())
        assert runs.observation[:, PROGRESS] == pytest.approx((step + 1) / np.array([2, 6, 3]))
    assert truncated == [[False] * 3, [True, False, False]]
    runs.reset([0], [7], decisions=[6])
    assert runs.step(runs.hyperparameters).truncated.tolist() == [False, False, True]


FALLING = ActionConfig([0.5, 1.0], optimizers=[], learning_rate_schedule="cosine")


def test_rates_that_are_kept_fall_along_each_rows_own_budget(moons):
    config = EnvConfig(decisions=6, micro_batches_per_decision=2, actions=FALLING)
    runs = InnerRuns(moons, 2, config)
    runs.reset([0, 1], [1, 2], decisions=[6, 3])
    for k in range(3):
        used = runs.step(runs.chosen(np.array([[1], [1]]))).hyperparameters.learning_rate
        expected = [1e-3 * (1 + np.cos(np.pi * k / n)) / 2 for n in (6, 3)]
        np.testing.assert_allclose(used, expected)


@pytest.mark.parametrize("drop", [{"drop_budget": 1.0}, {"hidden": ["has_budget", "progress"]}])
def test_a_budget_that_is_not_observed_makes_no_rate_fall(moons, drop):
    env = make(moons, actions=FALLING, observation=ObservationConfig(**drop))
    env.reset(seed=0)
    for action in ([1], [0], [1], [1]):
        *_, info = env.step(np.array(action))
    assert info["learning_rate"] == pytest.approx(5e-4)


def test_budgets_are_drawn_within_their_range(moons):
    config = EnvConfig(
        decisions=10, micro_batches_per_decision=1, start=StartConfig(shortest_budget=0.35)
    )
    runs = InnerRuns(moons, 60, config)
    runs.reset(range(60), range(60))
    assert set(runs.engine.budgets.tolist()) == set(range(4, 11))


def test_meta_training_draws_budgets_from_three_tenths_of_the_whole_upwards(moons):
    packaged = OmegaConf.load(str(files("trainpilot.conf") / "env" / "meta_training.yaml"))
    config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(EnvConfig), packaged))
    runs = InnerRuns(moons, 100, config)
    runs.reset(range(100), range(100))
    drawn = runs.engine.budgets // config.micro_batches_per_decision
    assert (drawn.min(), drawn.max()) == (9, config.decisions)
    assert drawn.mean() == pytest.approx(19.5, abs=2)


def test_a_run_that_accumulates_is_not_taken_for_one_that_diverged(moons):
    config = EnvConfig(
        decisions=4,
        micro_batches_per_decision=3,
        start=StartConfig(batch_size=2),
        bounds=BoundsConfig(batch_size_high=8),
        actions=ActionConfig(batch_size=[0.5, 1, 2]),
    )
    runs = InnerRuns(moons, 2, config)
    runs.reset([0, 1], [0, 1])
    for choice in (2, 1, 1, 0):  # 4 micro-batches to an update, at last 2
        action = np.array([[2, choice, 0]] * 2)
        outcome = runs.step(runs.actions.apply(runs.hyperparameters, action))
        assert not outcome.terminated.any()
        assert (outcome.observation > -5).all()
    assert runs.hyperparameters.batch_size.tolist() == [2, 2]
    with pytest.raises(TrainpilotError, match="batch_size_high, 1; given: 2"):
        InnerRuns(moons, 1, EnvConfig(start=StartConfig(batch_size=2)))


def test_a_controller_must_ask_for_numbers(moons):
    runs = InnerRuns(moons, 2, EnvConfig())
    runs.reset(range(2), range(2))
    asked = replace(runs.hyperparameters, learning_rate=np.array([1e-3, np.nan]))
    with pytest.raises(TrainpilotError, match="a number as learning_rate; given: NaN"):
        runs.step(asked)
