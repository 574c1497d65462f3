"""A policy taken apart."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from trainpilot.agents.evaluation.policy_ablations import (
    OpenLoop,
    average_schedule,
    parts_of,
    without_feedback,
)
from trainpilot.agents.policy import PolicyController, make_policy
from trainpilot.agents.rollout import roll_out
from trainpilot.envs.actions import ActionSpec
from trainpilot.envs.config import ActionConfig, EnvConfig
from trainpilot.envs.limits import GuardConfig

CONFIG = EnvConfig(decisions=6, micro_batches_per_decision=3)
SEEDS = [4, 9]


def policy(**actions):
    torch.manual_seed(0)
    spec = ActionSpec(ActionConfig(**actions))
    return PolicyController(make_policy(spec, [8]), spec, deterministic=False)


def runs_of(task, controller, name="policy", seeds=SEEDS):
    return roll_out(task, {name: controller}, seeds, CONFIG).runs


def rates(run):
    return [record["learning_rate"] for record in run.decisions]


def test_the_average_schedule_of_one_run_is_that_run(moons):
    run = runs_of(moons, policy(), seeds=[4])[0]
    replayed = runs_of(moons, OpenLoop(average_schedule([run])), seeds=[4])[0]
    np.testing.assert_allclose(replayed.outer_valid_loss, run.outer_valid_loss, rtol=1e-5)
    np.testing.assert_allclose(rates(replayed), rates(run), rtol=1e-9)


def test_the_average_rate_is_geometric_and_the_optimizer_the_most_frequent(moons):
    run = runs_of(moons, policy(), seeds=[4])[0]
    record = {"weight_decay": 0.0, "momentum": 0.9, "gradient_clip": np.inf, "batch_size": 1}
    record |= {"guard_scale": 1.0, "ema_decay": 0.5}
    for place, (optimizer, rate) in enumerate([("adam", 1e-2), ("adam", 1e-4), ("sgd", 0.03)]):
        run.decisions[place : place + 1] = [
            record | {"optimizer": optimizer, "learning_rate": rate}
        ]
    first = [type(run)("t", "policy", 0, 1, decisions=[each]) for each in run.decisions[:3]]
    entry = average_schedule(first)[0]
    assert entry["optimizer"] == "adam"
    # SGD's 0.03 is 1e-3 in Adam's units.
    assert entry["learning_rate"] == pytest.approx(1e-3)
    assert entry["gradient_clip"] == np.inf
    assert entry["ema_decay"] == 0.5


def test_what_the_guard_did_is_not_replayed_twice(moons):
    config = EnvConfig(
        decisions=6, micro_batches_per_decision=3, guard=GuardConfig(max_loss_ratio=1.5)
    )
    wild = [{"optimizer": "sgd", "learning_rate": 30.0}] * 6
    run = roll_out(moons, {"wild": OpenLoop(wild)}, [4], config).runs[0]
    assert run.roll_backs > 0
    again = roll_out(moons, {"again": OpenLoop(average_schedule([run]))}, [4], config).runs[0]
    np.testing.assert_allclose(rates(again), rates(run), rtol=1e-9)


def test_shuffled_actions_are_the_same_ones_in_another_order(moons):
    whole = policy(optimizers=[])
    own = runs_of(moons, whole)
    replayed = {each.name: each for each in without_feedback("policy", whole, own, 6)["moons"]}
    assert list(replayed) == ["policy_open_loop", "policy_task_schedule", "policy_shuffled"]
    shuffled = runs_of(moons, replayed["policy_shuffled"].made)
    for one, other in zip(own, shuffled, strict=True):
        steps = [np.diff(np.log([1e-3, *rates(run)])) for run in (one, other)]
        assert not np.allclose(*steps)
        np.testing.assert_allclose(*[np.sort(step) for step in steps], atol=1e-9)


def test_actions_are_shuffled_otherwise_on_another_task(moons):
    whole = policy(optimizers=[])
    own = runs_of(moons, whole)
    elsewhere = [replace(run, task="elsewhere") for run in own]
    shuffled = [
        without_feedback("policy", whole, runs, 6)[runs[0].task][-1].made.actions
        for runs in (own, own, elsewhere)
    ]
    assert shuffled[0] == shuffled[1]
    assert shuffled[0] != shuffled[2]


def test_parts_heed_only_what_they_say(moons):
    assert parts_of("policy", policy(optimizers=[])) == []
    parts = {each.name: each.made for each in parts_of("policy", policy())}
    assert list(parts) == ["policy_optimizer_only", "policy_no_switching", "policy_no_optimizer"]
    scales = {"adam": 1, "sgd": 30, "rmsprop": 1}
    chosen = set()
    for run in runs_of(moons, parts["policy_optimizer_only"]):
        assert [r["learning_rate"] / scales[r["optimizer"]] for r in run.decisions] == (
            pytest.approx([1e-3] * 6)
        )
        chosen |= {r["optimizer"] for r in run.decisions}
    assert chosen == set(scales)
    for run in runs_of(moons, parts["policy_no_optimizer"]):
        assert {r["optimizer"] for r in run.decisions} == {"adam"}
        assert len(set(rates(run))) > 1
    first = set()
    for run in runs_of(moons, parts["policy_no_switching"], seeds=range(8)):
        used = [r["optimizer"] for r in run.decisions]
        assert all(a == b for a, b in pairwise(used))
        first.add(used[0])
    assert len(first) > 1


@pytest.mark.parametrize(
    ("actions", "parts"),
    [
        ({"optimizers": []}, []),
        ({"optimizers": [], "momentum": [0.5, 1.0, 2.0]}, ["rate_only"]),
        ({"learning_rate": [], "optimizers": [], "momentum": [0.5, 1.0, 2.0]}, []),
        ({}, ["optimizer_only", "no_switching", "no_optimizer"]),
        (
            {"momentum": [0.5, 1.0, 2.0]},
            ["optimizer_only", "no_switching", "no_optimizer", "rate_only"],
        ),
    ],
)
def test_whoever_decides_on_more_than_the_rate_is_taken_apart(actions, parts):
    assert [each.name for each in parts_of("p", policy(**actions))] == [
        f"p_{part}" for part in parts
    ]


def test_with_its_rate_alone_a_policy_leaves_the_rest(moons):
    (rate_only,) = parts_of("p", policy(optimizers=[], momentum=[0.5, 1.0, 2.0]))
    for run in runs_of(moons, rate_only.made):
        assert {record["momentum"] for record in run.decisions} == {0.9}
        assert len(set(rates(run))) > 1


def test_a_policy_is_known_by_its_weights_and_settings():
    known = policy().fingerprint()
    assert known == policy().fingerprint()
    assert known != policy(optimizers=[]).fingerprint()
    other = policy()
    other._deterministic = True
    assert known != other.fingerprint()
    with torch.no_grad():
        changed = policy()
        changed._policy.action_net.bias[0] += 1e-3
    assert known != changed.fingerprint()


def test_what_a_policy_has_one_choice_of_is_left_as_well(moons):
    whole = policy(optimizers=["muon"], ema_decay=[0.3])
    assert {record["optimizer"] for record in runs_of(moons, whole)[0].decisions} == {"muon"}
    parts = {each.name: each.made for each in parts_of("p", whole)}
    for name, decay in (("p_rate_only", 0.0), ("p_no_optimizer", 0.3)):
        for run in runs_of(moons, parts[name]):
            assert {record["optimizer"] for record in run.decisions} == {"adam"}
            assert {record["ema_decay"] for record in run.decisions} == {decay}
