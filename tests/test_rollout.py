"""Rollouts: the same runs for every controller, and every decision on record."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from pyarrow import parquet

from trainpilot.agents.heuristics import Constant, RandomPolicy
from trainpilot.agents.policy import PolicyController, make_policy
from trainpilot.agents.records import write_decisions
from trainpilot.agents.rollout import roll_out
from trainpilot.envs.actions import ActionSpec
from trainpilot.envs.config import ActionConfig, EnvConfig
from trainpilot.envs.limits import GuardConfig
from trainpilot.envs.observation import FEATURE_NAMES, schema_hash

CONFIG = EnvConfig(decisions=5, micro_batches_per_decision=4)


def policy():
    torch.manual_seed(0)
    actions = ActionSpec(ActionConfig())
    return PolicyController(make_policy(actions, [8]), actions)


def test_controllers_start_from_the_same_weights_and_data(moons):
    controllers = {"a": Constant("adam", 1e-3), "b": Constant("adam", 1e-3), "c": RandomPolicy()}
    runs = roll_out(moons, controllers, [4, 9], CONFIG).runs
    by_name = {(run.controller, run.seed): run for run in runs}
    assert len(runs) == 6
    for seed in (4, 9):
        a, b, c = (by_name[name, seed] for name in "abc")
        np.testing.assert_allclose(a.outer_valid_loss, b.outer_valid_loss, rtol=1e-5)
        assert a.outer_valid_loss[0] == pytest.approx(c.outer_valid_loss[0], rel=1e-5)
        assert a.outer_valid_loss[-1] != pytest.approx(c.outer_valid_loss[-1], rel=1e-3)
        assert a.samples == [0, 40, 80, 120, 160, 200]
        assert a.test_loss == pytest.approx(b.test_loss, rel=1e-5)


def test_the_same_seed_draws_otherwise_on_another_task(moons, uncommon_moons):
    def taken(task):
        run = roll_out(task, {"chance": RandomPolicy()}, [4], CONFIG).runs[0]
        return [(record["optimizer"], record["learning_rate"]) for record in run.decisions]

    assert taken(moons) == taken(moons)
    assert taken(moons) != taken(uncommon_moons)


def test_the_result_is_that_of_a_plain_torch_loop(moons):
    rollout = roll_out(moons, {"adam": Constant("adam", 0.01)}, [4], CONFIG)
    torch.manual_seed(4)
    model = moons.make_model()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    from trainpilot.envs.data_order import data_order

    train, test = moons.splits.train, moons.splits.test
    for indices in data_order(4, len(train.inputs), 20, 10):
        optimizer.zero_grad()
        moons.loss(model(train.inputs[indices]), train.targets[indices]).backward()
        optimizer.step()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(rollout.weights(0)[name], value, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        outputs = model(test.inputs)
    run = rollout.runs[0]
    assert run.test_loss == pytest.approx(moons.loss(outputs, test.targets).item(), rel=1e-4)
    accuracy = (outputs.argmax(1) == test.targets).float().mean().item()
    assert run.test_metrics["accuracy"] == pytest.approx(accuracy)


def test_a_diverged_run_stops_in_the_record_and_has_no_result(quadratic):
    config = EnvConfig(
        decisions=5,
        micro_batches_per_decision=4,
        guard=GuardConfig(on_divergence="end", max_loss_ratio=10),
    )
    controllers = {"wild": Constant("sgd", 3.0, momentum=0), "calm": Constant("sgd", 0.1)}
    wild, calm = roll_out(quadratic, controllers, [0], config).runs
    assert wild.diverged
    assert len(wild.decisions) == 1
    assert wild.decisions[0]["intervention"] == "ended: valid loss is 256 times its start"
    assert wild.test_loss == float("inf")
    assert not calm.diverged
    assert len(calm.decisions) == 5


def test_every_decision_is_on_record_and_explains_the_run(moons, tmp_path):
    controllers = {"policy": policy(), "adam": Constant("adam", 1e-3)}
    runs = roll_out(moons, controllers, [4, 9], CONFIG).runs
    path = tmp_path / "decisions.parquet"
    write_decisions(path, runs)
    table = parquet.read_table(path)
    rows = table.to_pylist()
    assert len(rows) == 2 * 2 * 5
    assert json.loads(table.schema.metadata[b"features"]) == list(FEATURE_NAMES)
    assert table.schema.metadata[b"observation_schema"].decode() == schema_hash()
    own = [row for row in rows if row["controller"] == "policy" and row["seed"] == 9]
    assert [row["decision"] for row in own] == list(range(5))
    assert [row["samples"] for row in own] == [40, 80, 120, 160, 200]
    factors = ActionConfig().learning_rate
    scales = {"sgd": 30, "adam": 1, "rmsprop": 1}
    for before, row in zip([None, *own], own, strict=False):
        assert len(row["observation"]) == len(FEATURE_NAMES)
        assert [len(head) for head in row["action_probabilities"]] == [5, 3]
        scale = scales[row["optimizer"]] / scales[row["optimizer_before"]]
        asked = row["learning_rate_before"] * factors[row["action"][0]] * scale
        assert row["learning_rate"] == pytest.approx(asked)
        if before is not None:
            assert row["learning_rate_before"] == before["learning_rate"]
            assert row["optimizer_before"] == before["optimizer"]
    heuristic = next(row for row in rows if row["controller"] == "adam")
    assert heuristic["action"] is None
    assert heuristic["value"] is None


def test_decisions_can_be_replayed(moons):
    one, two = (roll_out(moons, {"policy": policy()}, [4], CONFIG).runs[0] for _ in range(2))
    assert one.decisions == two.decisions
    assert one.outer_valid_loss == two.outer_valid_loss


def test_held_out_curves_and_early_stopping_do_not_touch_the_runs(moons):
    controllers = {"adam": Constant("adam", 0.1), "calm": Constant("adam", 1e-3)}
    plain = roll_out(moons, controllers, [4, 9], CONFIG)
    watched = roll_out(moons, controllers, [4, 9], CONFIG, held_out=True)
    for number, (one, other) in enumerate(zip(plain.runs, watched.runs, strict=True)):
        assert one.outer_valid_loss == other.outer_valid_loss
        assert one.test_loss == pytest.approx(other.test_loss, rel=1e-5)
        assert one.test_curve == []
        assert len(other.test_curve) == len(other.accuracy_curve) == 6
        # All of so small a test split is in the sample: its curve has the final loss too.
        assert other.test_curve[-1] == pytest.approx(other.test_loss, rel=1e-5)
        stopped = int(np.argmin(other.valid_loss))
        assert other.best_test_loss == pytest.approx(other.test_curve[stopped], rel=1e-5)
        assert other.best_test_accuracy == pytest.approx(other.accuracy_curve[stopped])
        for name, value in plain.weights(number).items():
            torch.testing.assert_close(watched.weights(number)[name], value, rtol=0, atol=0)


def test_the_time_of_a_run_is_its_share(moons):
    runs = roll_out(moons, {"a": Constant("adam", 1e-3), "b": RandomPolicy()}, [4, 9], CONFIG).runs
    assert all(run.seconds > 0 for run in runs)
    assert runs[0].seconds == pytest.approx(runs[1].seconds)
