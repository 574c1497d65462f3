"""Averages of the weights in the engine: what evaluations see."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from trainpilot.agents.evaluation.policy_ablations import OpenLoop, average_schedule
from trainpilot.agents.heuristics import Constant
from trainpilot.agents.rollout import roll_out
from trainpilot.envs.config import ActionConfig, EnvConfig, StartConfig
from trainpilot.envs.engine import Engine
from trainpilot.envs.hyperparameters import Hyperparameters
from trainpilot.envs.inner_runs import InnerRuns
from trainpilot.envs.limits import GuardConfig
from trainpilot.envs.single import InnerTrainingEnv
from trainpilot.inner_tasks import TensorTask, families

DECAYS = st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.9]), min_size=5, max_size=5)
N_STEPS = 4
RATE = 0.1


def bowl_runs(engine, decays):
    """Trains on the quadratic bowl; gives what evaluations see of the first row after each."""
    seen = []
    for number in range(decays.shape[1]):
        still = Hyperparameters.full(len(decays), learning_rate=RATE, momentum=0, optimizer="sgd")
        engine.advance(still, N_STEPS)
        engine.average(decays[:, number])
        valid, _ = engine.evaluate()
        seen.append((engine.state_dict(0)["position"].numpy(), valid.loss[0]))
    return seen


def by_hand(decays, start):
    """The same: gradient descent is `(1 - rate) ** t * start`."""
    average = None
    for number, decay in enumerate(decays):
        weights = start * (1 - RATE) ** (N_STEPS * (number + 1))
        old = weights if average is None else average
        average = decay * old + (1 - decay) * weights
        yield average
        if decay == 0:
            average = None


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(own=DECAYS, other=DECAYS)
def test_evaluations_see_the_average_whatever_other_runs_have(quadratic, own, other):
    start = np.array([3.0, -2.0])
    beside = Engine(quadratic, 2, n_micro_batches=20, compiled=False)
    seen = bowl_runs(beside, np.array([own, other]))
    for (position, loss), expected in zip(seen, by_hand(own, start), strict=True):
        np.testing.assert_allclose(position, expected, rtol=1e-5)
        assert loss == pytest.approx(0.5 * (expected**2).sum(), rel=1e-5)
    alone = bowl_runs(Engine(quadratic, 1, n_micro_batches=20, compiled=False), np.array([own]))
    for (position, loss), (same, same_loss) in zip(seen, alone, strict=True):
        np.testing.assert_array_equal(position, same)
        assert loss == same_loss
    # The runs themselves go on as if nobody had looked.
    np.testing.assert_allclose(beside.parameters[0], start * (1 - RATE) ** 20, rtol=1e-5)


def test_a_run_that_starts_anew_has_nothing_of_the_one_before(quadratic):
    engine = Engine(quadratic, 2, n_micro_batches=20, compiled=False)
    decays = np.array([[0.9, 0.9], [0.5, 0.5]])
    first = bowl_runs(engine, decays)
    engine.reset([0], [0])
    assert engine.evaluate([0])[0].loss[0] == 0.5 * (3**2 + 2**2)
    again = bowl_runs(engine, decays)
    for (position, loss), (same, same_loss) in zip(first, again, strict=True):
        np.testing.assert_array_equal(position, same)
        assert loss == same_loss


class Normed(nn.Module):
    """With running statistics, and a count of batches that is no average of anything."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))

    def forward(self, inputs):
        return self.layers(inputs)


@pytest.fixture
def normed(moons):
    return TensorTask(
        "normed_moons", model=Normed, loss="cross_entropy", splits=moons.splits,
        modality="tabular", micro_batch_size=10,
    )  # fmt: skip


def test_buffers_are_averaged_too_and_the_model_of_a_run_is_what_was_evaluated(normed):
    plain, averaged = (Engine(normed, 1, n_micro_batches=12, compiled=False) for _ in range(2))
    used = Hyperparameters.full(1, learning_rate=0.05)
    kept = []
    for _ in range(2):
        for engine, decay in ((plain, 0.0), (averaged, 0.25)):
            engine.advance(used, 6)
            engine.average(np.array([decay]))
        kept.append(plain.state_dict(0))
    state = averaged.state_dict(0)
    for name, value in state.items():
        expected = 0.25 * kept[0][name] + 0.75 * kept[1][name]
        if not value.is_floating_point():
            expected = kept[1][name]
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)
    assert state["layers.1.num_batches_tracked"] == 12
    model = normed.make_model()
    model.load_state_dict(state)
    model.eval()
    test = normed.splits.test
    loss = normed.loss(model(test.inputs), test.targets).item()
    assert averaged.evaluate_split(test).loss[0] == pytest.approx(loss, rel=1e-5)
    assert plain.evaluate_split(test).loss[0] != pytest.approx(loss, rel=1e-3)


def test_after_a_roll_back_the_average_begins_with_what_was_restored(quadratic):
    wild = EnvConfig(
        decisions=4,
        micro_batches_per_decision=N_STEPS,
        start=StartConfig(["sgd"], RATE / 30, RATE / 30, momentum=0.0, ema_decay=0.5),
        guard=GuardConfig(max_loss_ratio=10),
    )
    runs = InnerRuns(quadratic, 1, wild)
    runs.reset([0], [0])
    start = np.array([3.0, -2.0])

    def step(rate):
        runs.step(replace(runs.hyperparameters, learning_rate=np.array([rate])))
        return runs.engine.state_dict(0)["position"].numpy()

    good = start * 0.9**N_STEPS
    np.testing.assert_allclose(step(RATE), good, rtol=1e-5)
    np.testing.assert_allclose(step(5.0), good, rtol=1e-5)
    after = good * 0.9**N_STEPS
    np.testing.assert_allclose(step(RATE), after, rtol=1e-5)
    np.testing.assert_allclose(step(RATE), (after + after * 0.9**N_STEPS) / 2, rtol=1e-5)


def test_a_policy_sets_the_decay_and_every_decision_has_it_on_record(moons):
    actions = ActionConfig(ema_decay=[0.6], optimizers=[])
    env = InnerTrainingEnv(moons, EnvConfig(decisions=2, actions=actions))
    _, info = env.reset(seed=1)
    assert info["ema_decay"] == 0
    *_, info = env.step(np.array([2, 0]))
    assert info["ema_decay"] == 0.6


def test_controllers_side_by_side_have_averages_of_their_own(moons):
    config = EnvConfig(decisions=6, micro_batches_per_decision=4)
    plain = Constant("adam", 0.03)
    alone = roll_out(moons, {"plain": plain}, [4], config).runs[0]
    both = {"plain": plain, "averaged": Constant("adam", 0.03, ema_decay=0.5)}
    first, second = roll_out(moons, both, [4], config).runs
    np.testing.assert_allclose(first.outer_valid_loss, alone.outer_valid_loss, rtol=1e-5)
    assert second.outer_valid_loss[1] == pytest.approx(first.outer_valid_loss[1], rel=1e-5)
    assert second.outer_valid_loss[2] != pytest.approx(first.outer_valid_loss[2], rel=1e-3)
    assert {record["ema_decay"] for record in second.decisions} == {0.5}
    replayed = OpenLoop(average_schedule([second]))
    third = roll_out(moons, {"replayed": replayed}, [4], config).runs[0]
    np.testing.assert_allclose(third.outer_valid_loss, second.outer_valid_loss, rtol=1e-5)


def test_what_early_stopping_keeps_is_the_average(moons):
    # The rate is too high in the end: the lowest valid loss is behind by then.
    config = EnvConfig(decisions=6, micro_batches_per_decision=4)
    rates = [0.03, 0.03, 0.03, 0.3, 0.3, 0.3]
    schedule = OpenLoop([{"learning_rate": rate, "ema_decay": 0.5} for rate in rates])
    run = roll_out(moons, {"late": schedule}, [4], config, held_out=True).runs[0]
    best = int(np.argmin(run.valid_loss))
    assert 0 < best < 6
    short = EnvConfig(decisions=best, micro_batches_per_decision=4)
    until = roll_out(moons, {"late": schedule}, [4], short, held_out=True).runs[0]
    assert run.best_test_loss == pytest.approx(until.test_loss, rel=1e-4)
    assert run.best_test_loss != pytest.approx(run.test_loss, rel=1e-2)


def test_each_run_of_a_family_has_its_own(quadratic):
    family = families.mixtures(n_tasks=2)
    config = EnvConfig(decisions=3, compiled=False)
    rows = []
    for decay in (0.0, 0.5):
        runs = InnerRuns(family, 2, config)
        runs.reset([0, 1], [3, 4])
        settings = Hyperparameters.full(2, learning_rate=0.01)
        settings.ema_decay[1] = decay
        for _ in range(2):
            outcome = runs.step(settings)
        rows.append(outcome.outer_valid.loss)
    assert rows[0][0] == rows[1][0]
    assert rows[0][1] != rows[1][1]


def test_rows_that_fill_up_a_tile_change_nothing(uncommon_moons):
    engine = Engine(uncommon_moons, 3, n_micro_batches=12, compiled=False)
    alone = Engine(uncommon_moons, 1, n_micro_batches=12, compiled=False)
    engine.reset(range(3), [4, 5, 6])
    alone.reset([0], [4])
    for _ in range(3):
        for one, n_runs in ((engine, 3), (alone, 1)):
            one.advance(Hyperparameters.full(n_runs, learning_rate=0.05), 4)
            one.average(np.full(n_runs, 0.5))
    first, second = engine.evaluate()[1].loss, alone.evaluate()[1].loss
    assert first[0] == pytest.approx(second[0], rel=1e-5)
    assert len(engine.seen()[0]) == 3


def test_a_run_that_takes_over_from_another_goes_on_with_its_average(quadratic):
    engine = Engine(quadratic, 2, n_micro_batches=20, compiled=False)
    bowl_runs(engine, np.array([[0.9], [0.0]]))
    bowl_runs(engine, np.array([[0.9], [0.0]]))
    for carried in engine.carried():
        carried[1] = carried[0]
    bowl_runs(engine, np.array([[0.9], [0.9]]))
    one, other = engine.evaluate()[0].loss
    assert one == other


def test_what_is_no_running_statistic_is_not_averaged(moons):
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 2)
            self.register_buffer("mask", torch.tensor([0.0, -torch.inf]))

        def forward(self, inputs):
            return self.layer(inputs) + torch.where(self.mask < 0, 0.1, self.mask)

    task = TensorTask(
        "masked_moons", model=Masked, loss="cross_entropy", splits=moons.splits,
        modality="tabular", micro_batch_size=10,
    )  # fmt: skip
    engine = Engine(task, 1, n_micro_batches=12, compiled=False)
    for _ in range(3):
        engine.advance(Hyperparameters.full(1), 4)
        engine.average(np.full(1, 0.5))
    assert engine.state_dict(0)["mask"].tolist() == [0, -torch.inf]
    assert np.isfinite(engine.evaluate()[0].loss[0])
