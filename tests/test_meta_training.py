"""Meta-training learns, keeps checkpoints, and goes on from them."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from trainpilot.agents.config import AgentConfig
from trainpilot.agents.meta_training import (
    CHECKPOINT,
    IDENTITY,
    _divisor,
    check_resumable,
    learn,
    make_agent,
    make_groups,
    resume_agent,
)
from trainpilot.agents.policy_file import load_policy, read_metadata, save_policy
from trainpilot.agents.rollout import roll_out
from trainpilot.envs.config import ActionConfig, EnvConfig, StartConfig
from trainpilot.envs.interventions import Reason
from trainpilot.envs.limits import GuardConfig
from trainpilot.inner_tasks import TrainpilotError, families


def configs(total_decisions=240, **changes):
    env = EnvConfig(
        decisions=6,
        micro_batches_per_decision=4,
        start=StartConfig(["adam"], 1e-3, 1e-2),
        guard=GuardConfig(on_divergence="end"),
    )
    agent = AgentConfig(
        total_decisions=total_decisions,
        runs_per_task=10,
        batch_size=60,
        hidden=[16],
        checkpoint_seconds=0,
        **changes,
    )
    return env, agent


def train(tasks, folder, agent_config, env):
    groups, _ = make_groups(tasks, env, agent_config, {})
    agent = make_agent(groups, agent_config, seed=0)
    learn(agent, agent_config, folder, resumed=False)
    return groups, agent


def test_the_policy_learns_what_earns(quadratic, tmp_path):
    # From Adam at 1e-3, a quadratic's optimum is out of reach unless the rate is raised.
    env, config = configs(total_decisions=6_000, learning_rate=3e-3, entropy_coefficient=0.0)
    env.start = StartConfig(["adam"], 1e-3, 1e-3)
    _, agent = train([quadratic], tmp_path, config, env)
    keep = env.actions.learning_rate.index(1.0), env.actions.optimizers.index("adam")
    returns = []
    for decide in (
        lambda observation: agent.predict(observation, deterministic=True)[0],
        lambda observation: np.tile(keep, (len(observation), 1)),
    ):
        agent.env.seed(1)
        observation, total = agent.env.reset(), np.zeros(agent.env.num_envs)
        for _ in range(env.decisions):
            observation, reward, _, _ = agent.env.step(decide(observation))
            total += reward
        returns.append(total)
    assert (returns[0] > returns[1] + 0.3).all()


def test_a_rollout_is_whole_inner_runs_and_decisions_are_rounded_up(moons, tmp_path):
    env, config = configs(total_decisions=61)
    _, agent = train([moons], tmp_path, config, env)
    assert agent.num_timesteps == 120  # a rollout is 10 runs of 6 decisions
    assert agent.policy.features_extractor.count == 120


def test_the_rate_of_roll_backs_and_their_reasons_are_logged(quadratic, tmp_path):
    env, config = configs(total_decisions=120)
    # SGD at rate 3 and momentum 0.9 leaves the bowl; at most once in each run's six decisions.
    env.start = StartConfig(["sgd"], 0.1, 0.1)
    env.actions = ActionConfig(learning_rate=[1.0], optimizers=["sgd"])
    env.guard = GuardConfig(max_roll_backs=6, max_loss_ratio=1.001, shrink=1e-6)
    train([quadratic], tmp_path, config, env)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    rates = [event.value for event in events.Scalars("guard/roll_back_rate")]
    assert rates == pytest.approx([1 / 6, 1 / 6])
    counts = {
        reason: [event.value for event in events.Scalars(f"guard/reason/{reason.name.lower()}")]
        for reason in Reason
        if reason != Reason.NONE
    }
    # Once in each of the ten runs of a rollout.
    assert {reason: count for reason, count in counts.items() if any(count)} == {
        Reason.VALID_LOSS_EXPLODED: [10, 10]
    }


def test_same_seed_same_policy(moons, tmp_path):
    states = []
    for name in ("a", "b"):
        env, config = configs()
        states.append(train([moons], tmp_path / name, config, env)[1].policy.state_dict())
    for key, value in states[0].items():
        assert torch.equal(value, states[1][key]), key


@pytest.mark.parametrize("n_workers", [1, 2])
def test_same_seed_same_policy_for_any_number_of_workers(moons, tmp_path, n_workers):
    states = []
    for workers in (0, n_workers):
        env, config = configs(n_workers=workers)
        # Two workers divide the task's rows, and its reference is measured in one of them.
        groups, agent = train([moons], tmp_path / str(workers), config, env)
        groups.close()
        states.append(agent.policy.state_dict())
    for key, value in states[0].items():
        assert torch.equal(value, states[1][key]), key


def test_training_goes_on_from_its_checkpoint(moons, tmp_path):
    env, config = configs(total_decisions=120)
    groups, agent = train([moons], tmp_path, config, env)
    assert agent.num_timesteps == 120
    resumed = resume_agent(groups, tmp_path, seed=0)
    for key, value in agent.policy.state_dict().items():
        assert torch.equal(value, resumed.policy.state_dict()[key])
    config.total_decisions = 240
    learn(resumed, config, tmp_path, resumed=True)
    assert resumed.num_timesteps == 240
    changed = [
        not torch.equal(value, resumed.policy.state_dict()[key])
        for key, value in agent.policy.state_dict().items()
    ]
    assert any(changed)


def test_features_stay_as_they_are_in_a_training_that_goes_on(moons, tmp_path):
    env, config = configs(total_decisions=120, normalise_observations=False)
    groups, agent = train([moons], tmp_path, config, env)
    resumed = resume_agent(groups, tmp_path, seed=0)
    file = tmp_path / "policy.safetensors"
    for each in (agent, resumed):
        save_policy(file, each.policy, groups.actions, config.hidden, [], {})
        assert read_metadata(file)["normalise_observations"] is False
        # What distances are measured by is taken in all the same.
        assert each.policy.features_extractor.count > 0


@pytest.mark.parametrize(("cut_at", "kept"), [(20, 180), (7, 60), (3, 0)])
def test_ctrl_c_keeps_every_whole_rollout(moons, tmp_path, monkeypatch, cut_at, kept):
    env, config = configs(total_decisions=240)
    groups, _ = make_groups([moons], env, config, {})
    agent = make_agent(groups, config, seed=0)
    original = groups.step
    calls = []

    def step(*arguments):
        calls.append(1)
        if len(calls) == cut_at:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(groups, "step", step)
    with pytest.raises(KeyboardInterrupt):
        learn(agent, config, tmp_path, resumed=False)
    monkeypatch.undo()
    assert (tmp_path / CHECKPOINT).is_file() == (kept > 0)
    if kept:
        resumed = resume_agent(groups, tmp_path, seed=0)
        assert resumed.num_timesteps == kept
        rates = []
        train = PPO.train
        monkeypatch.setattr(PPO, "train", lambda self: (train(self), rates.append(rate(self))))
        learn(resumed, config, tmp_path, resumed=True)
        assert resumed.num_timesteps == 240
        # The rate goes on falling from where it was, and stays above its floor.
        whole = [1e-3 * (0.1 + 0.9 * (1 - done / 240)) for done in range(60, 241, 60)]
        assert rates == pytest.approx(whole[kept // 60 :])


def rate(agent):
    return agent.policy.optimizer.param_groups[0]["lr"]


def test_resuming_needs_a_checkpoint_and_the_same_settings(tmp_path):
    identity = {"agent.hidden": [16], "seed": 0}
    with pytest.raises(TrainpilotError, match="needs a checkpoint in the run's folder"):
        check_resumable(tmp_path, identity)
    (tmp_path / CHECKPOINT).parent.mkdir()
    (tmp_path / CHECKPOINT).touch()
    (tmp_path / IDENTITY).write_text(json.dumps(identity))
    check_resumable(tmp_path, identity)
    with pytest.raises(TrainpilotError, match=r"agent.hidden=\[16\]; given: agent.hidden=\[32\]"):
        check_resumable(tmp_path, identity | {"agent.hidden": [32]})


def test_a_damaged_checkpoint_is_refused(moons, tmp_path):
    env, config = configs(total_decisions=60)
    groups, _ = train([moons], tmp_path, config, env)
    whole = (tmp_path / CHECKPOINT).read_bytes()
    (tmp_path / CHECKPOINT).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(TrainpilotError, match=r"needs a whole checkpoint .*; given: .*damaged"):
        resume_agent(groups, tmp_path, seed=0)


def test_references_that_are_known_are_not_measured_again(moons, monkeypatch):
    env, config = configs()
    groups, references = make_groups([moons], env, config, {})
    monkeypatch.setattr("trainpilot.envs.worker.measure_rows", lambda *_: pytest.fail("swept"))
    again, same = make_groups([moons], env, config, references)
    assert references == same
    assert again.groups[0].references[0] == groups.groups[0].references[0] == references["moons"]


def test_runs_of_several_lengths_are_learned_from_in_the_unit_of_the_first(
    moons, quadratic, tmp_path
):
    env, config = configs(total_decisions=300, horizons=[4, 4, 4, 10, 10])
    family = families.mixtures(n_tasks=2)
    tasks = [moons, quadratic, family]
    groups, references = make_groups(tasks, env, config, {})
    lengths = [group.config.n_micro_batches for group in groups.groups]
    assert lengths == [24, 60, 24, 60, 24, 60]
    assert [group.n_runs for group in groups.groups] == [3, 2, 3, 2, 3, 2]
    base, _ = make_groups([moons], env, replace(config, horizons=[4] * 5), {})
    for group in groups.groups[:2]:
        assert group.references[0] == base.groups[0].references[0] == references["moons"]
    # So are those of a family's tasks, which are measured when they are drawn.
    start = groups.reset(np.arange(15))
    one, other = groups.groups[4:]
    measured = [group.family_references(0) for group in (one, other)]
    assert measured[0] == measured[1]
    assert len(measured[0].curve) == env.decisions
    agent = make_agent(groups, config, seed=0)
    learn(agent, config, tmp_path, resumed=False)
    assert agent.num_timesteps % (15 * 6) == 0
    assert len(start.observation) == 15


def test_workers_hold_the_same_runs_of_several_lengths(moons, quadratic):
    env, config = configs(horizons=[4, 4, 4, 10, 10])
    seeds, actions = np.arange(10), np.ones((10, 2), dtype=int)
    found = []
    for n_workers in (0, 2):
        groups, references = make_groups(
            [moons, quadratic], env, replace(config, n_workers=n_workers), {}
        )
        with closing(groups):
            groups.reset(seeds)
            transitions = [groups.step(actions, seeds) for _ in range(3)]
        found.append((references, [transition.reward for transition in transitions]))
    (one, rewards), (other, same) = found
    assert one == other
    np.testing.assert_array_equal(rewards, same)


def test_a_horizon_of_nothing_is_refused():
    with pytest.raises(TrainpilotError, match=r"horizons must hold at least 1 .*given: \[10, 0\]"):
        AgentConfig(horizons=[10, 0]).validate()


def test_a_new_policy_begins_by_keeping_what_is_set(moons):
    env, agent_config = configs(keep_bias=2.0)
    env.actions = ActionConfig(optimizers=["keep", "sgd"], momentum=[0.5, 2.0])
    groups, _ = make_groups([moons], env, agent_config, {})
    policy = make_agent(groups, agent_config, seed=0).policy
    observation = torch.zeros(1, *policy.observation_space.shape)
    heads = policy.get_distribution(observation).distribution
    found = [head.probs[0].tolist() for head in heads]
    e = np.exp(2.0)
    rate = [1 / (e + 4)] * 2 + [e / (e + 4)] + [1 / (e + 4)] * 2
    # No factor of the momentum is 1: it has none to prefer.
    expected = {
        "learning_rate": rate,
        "momentum": [0.5, 0.5],
        "optimizer": [e / (e + 1), 1 / (e + 1)],
    }
    for head, probabilities in zip(groups.actions.heads, found, strict=True):
        assert probabilities == pytest.approx(expected[head.name], abs=0.01)


def test_a_policy_that_may_keep_its_optimizer_learns_and_decides(moons, tmp_path):
    env, agent_config = configs(keep_bias=1.0)
    env.actions = ActionConfig(optimizers=["keep", "sgd", "rmsprop"])
    groups, agent = train([moons], tmp_path, agent_config, env)
    file = tmp_path / "policy.safetensors"
    save_policy(file, agent.policy, groups.actions, agent_config.hidden, [], {})
    policy = load_policy(str(file), deterministic=False)
    assert policy.warm_optimizers("adam") == ["adam", "rmsprop", "sgd"]
    kept = switched = 0
    for run in roll_out(moons, {"policy": policy}, range(20), env).runs:
        for record in run.decisions:
            choice = ["keep", "sgd", "rmsprop"][record["action"][1]]
            kept += choice == "keep"
            switched += choice not in ("keep", record["optimizer_before"])
            expected = record["optimizer_before"] if choice == "keep" else choice
            assert record["optimizer"] == expected
    assert kept > 0
    assert switched > 0


def test_mini_batches_divide_a_rollout():
    assert _divisor(3600, 720) == 720
    assert _divisor(3600, 700) == 600
    assert _divisor(60, 720) == 60
    with pytest.raises(TrainpilotError, match="rollout of 7 decisions must have a divisor"):
        _divisor(7, 6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"total_decisions": 0}, "agent.total_decisions must be at least 1; given: 0"),
        ({"learning_rate": 0.0}, "agent.learning_rate must be above 0; given: 0.0"),
        ({"learning_rate": float("inf")}, "agent.learning_rate must be finite; given: inf"),
        ({"gamma": 1.5}, r"agent.gamma must lie in \(0, 1\]; given: 1.5"),
        ({"keep_bias": -1.0}, "agent.keep_bias must be at least 0; given: -1.0"),
        ({"n_workers": -1}, "agent.n_workers must be at least 0; given: -1"),
        ({"hidden": [0]}, r"agent.hidden must hold widths of at least 1; given: \[0\]"),
    ],
)
def test_values_out_of_range_are_named(change, message):
    with pytest.raises(TrainpilotError, match=message):
        AgentConfig(**change).validate()
