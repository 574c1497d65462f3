"""The pilot on a real model and the engine: the same decisions, the same curve."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from trainpilot.agents.controller import Decision
from trainpilot.agents.heuristics import Constant
from trainpilot.agents.pilot.on_task import train_on_task
from trainpilot.agents.policy import PolicyController, make_policy
from trainpilot.agents.policy_file import load_policy
from trainpilot.agents.rollout import roll_out
from trainpilot.agents.schedules import OneCycle
from trainpilot.envs.actions import ActionSpec
from trainpilot.envs.config import ActionConfig, EnvConfig
from trainpilot.envs.limits import BoundsConfig, GuardConfig
from trainpilot.envs.optimizers import LEARNING_RATE_SCALES, OPTIMIZER_NAMES, optimizer_index
from trainpilot.inner_tasks.catalogue import load_task

FACTORS = [0.5, 1.0, 2.0]


def chooses_all(**more):
    """An untrained policy that sets everything there is."""
    torch.manual_seed(1)
    spec = ActionSpec(
        ActionConfig(
            weight_decay=FACTORS, momentum=FACTORS, gradient_clip=FACTORS, batch_size=FACTORS,
            ema_decay=[0.0, 0.5, 0.9], optimizers=OPTIMIZER_NAMES[:], **more,
        )
    )  # fmt: skip
    networks = make_policy(spec, [8])
    # Random weights of this size change their mind with what they see.
    with torch.no_grad():
        for parameter in networks.action_net.parameters():
            parameter.mul_(300)
    return PolicyController(networks, spec)


class ByTurns:
    """Another optimizer and batch size at every decision."""

    def begin(self, n_runs, actions, seed):
        pass

    def decide(self, view):
        turn = view.decision
        now = view.hyperparameters
        return Decision(
            replace(
                now,
                optimizer=np.full(1, [1, 0, 2, 3, 4, 5][turn % 6]),
                learning_rate=np.full(1, [1e-3, 3e-2, 1e-3, 3e-2, 2e-4, 1e-3][turn % 6]),
                batch_size=np.full(1, 1 + turn % 3),
                gradient_clip=np.full(1, [math.inf, 0.5][turn % 2]),
                weight_decay=np.full(1, 0.1 * (turn % 2)),
            )
        )


# With a momentum of 0, torch's SGD leaves its buffer as it was; the engine's goes on.
CONFIG = EnvConfig(decisions=12, bounds=BoundsConfig(batch_size_high=4, momentum_low=0.05))


@pytest.mark.parametrize("name", ["digits_mlp", "digits_cnn", "docstrings_mlp", "surnames_gru"])
@pytest.mark.parametrize("policy", ["default", "rate_only"])
def test_the_policies_that_ship_decide_as_in_the_engine(policy, name):
    agree(load_task(name), load_policy(policy), EnvConfig(compiled=False), rtol=2e-3)


@pytest.mark.parametrize(
    "make", [chooses_all, lambda: OneCycle("adam", 1e-2), lambda: OneCycle("muon", 1e-2)]
)
def test_all_kinds_of_decisions_are_carried_out_as_in_the_engine(make, moons):
    records = agree(moons, make(), CONFIG, rtol=1e-3)
    if make is chooses_all:
        assert len({record["optimizer"] for record in records}) >= 3
        assert len({record["batch_size"] for record in records}) >= 2
        assert len({record["ema_decay"] for record in records}) >= 2


def test_a_schedule_of_the_action_falls_as_in_the_engine(moons):
    controller = chooses_all(learning_rate_schedule="cosine", learning_rate_ceiling=5e-3)
    records = agree(moons, controller, CONFIG, rtol=1e-3)
    # The fall stands beside the factors, whatever those say.
    shares = [(1 + math.cos(math.pi * k / 12)) / 2 for k in range(12)]
    levels = [
        record["learning_rate"] / share / LEARNING_RATE_SCALES[optimizer_index(record["optimizer"])]
        for record, share in zip(records, shares, strict=True)
    ]
    factors = np.array(levels[1:]) / levels[:-1]
    allowed = np.array([0.35, 0.7, 1.0, 1.4, 2.8])
    near = np.isclose(factors[:, None], allowed, rtol=1e-6).any(1)
    assert (near | np.isclose(levels[1:], 5e-3, rtol=1e-6)).all()


def test_an_optimizer_that_was_not_announced_starts_cold(moons):
    # Batch size, clip and decay by turns, with torch's moments only from their first use on.
    run, _ = train_on_task(moons, ByTurns(), 4, CONFIG)
    assert {record["optimizer"] for record in run.decisions} == {*OPTIMIZER_NAMES}
    assert np.isfinite(run.valid_loss).all()


def test_roll_backs_are_those_of_the_engine(quadratic):
    guard = GuardConfig(max_loss_ratio=10)
    config = EnvConfig(decisions=7, micro_batches_per_decision=4, guard=guard)
    records = agree(quadratic, Constant("sgd", 2.2, momentum=0), config, rtol=1e-5)
    assert sum("rolled back" in str(record["intervention"]) for record in records) == 1


def agree(task, controller, config, rtol):
    """Both trainings, held against each other; gives the pilot's records."""
    engine = roll_out(task, {"pilot": controller}, [4], config)
    run, model = train_on_task(task, controller, 4, config)
    other = engine.runs[0]
    assert run.samples == other.samples
    assert run.roll_backs == other.roll_backs
    for own, theirs in zip(run.decisions, other.decisions, strict=True):
        assert own.keys() == theirs.keys()
        for name in ("action", "optimizer", "batch_size", "step", "samples", "clamped"):
            assert own[name] == theirs[name], (own["decision"], name)
        for name in ("learning_rate", "weight_decay", "momentum", "gradient_clip", "ema_decay"):
            assert own[name] == pytest.approx(theirs[name], rel=1e-9)
        # A loss near its floor takes small differences far in its logarithm.
        np.testing.assert_allclose(own["observation"], theirs["observation"], atol=0.05)
    np.testing.assert_allclose(run.valid_loss, other.valid_loss, rtol=rtol, atol=1e-4)
    np.testing.assert_allclose(run.outer_valid_loss, other.outer_valid_loss, rtol=rtol, atol=1e-4)
    for name, value in engine.weights(0).items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=0.05, atol=5e-3)
    return run.decisions


def test_a_start_outside_the_bounds_is_moved_into_them(quadratic):
    config = EnvConfig(
        decisions=3, micro_batches_per_decision=4, bounds=BoundsConfig(learning_rate_high=1e-4)
    )
    run, _ = train_on_task(quadratic, load_policy("rate_only"), 4, config)
    assert all(record["learning_rate"] <= 1e-4 for record in run.decisions)
    assert len(run.decisions) == 3
