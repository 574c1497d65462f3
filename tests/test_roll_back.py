"""Roll-backs: the state is that of before, time goes on, and it costs reward."""

from __future__ import annotations

from dataclasses import replace
from importlib.resources import files

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from trainpilot.agents.heuristics import Constant
from trainpilot.agents.rollout import roll_out
from trainpilot.envs.config import REWARD_NAMES, ActionConfig, EnvConfig, RewardConfig, StartConfig
from trainpilot.envs.groups import GroupSpec
from trainpilot.envs.inner_runs import InnerRuns
from trainpilot.envs.interventions import Reason
from trainpilot.envs.levels import level
from trainpilot.envs.limits import BoundsConfig, GuardConfig
from trainpilot.envs.observation import FEATURE_NAMES
from trainpilot.envs.reference import measure_reference
from trainpilot.envs.task_reference import TaskReference
from trainpilot.envs.worker import Worker
from trainpilot.inner_tasks import TensorTask, TrainpilotError, families

#: On a bowl of curvature 1, SGD with rate 5 moves the point four times as far at every step.
WILD, CALM, STILL = 5.0, 0.1, 1e-5


def config(decisions=8, **guard):
    return EnvConfig(
        decisions=decisions,
        micro_batches_per_decision=4,
        start=StartConfig(["sgd"], CALM / 30, CALM / 30, momentum=0.0),
        guard=GuardConfig(**guard),
    )


def started(task, n_runs=1, settings=None):
    runs = InnerRuns(task, n_runs, settings or config())
    runs.reset(range(n_runs), range(n_runs))
    return runs


def step(runs, *rates):
    return runs.step(replace(runs.hyperparameters, learning_rate=np.array(rates)))


def feature(outcome, name, row=0):
    return outcome.observation[row, FEATURE_NAMES.index(name)]


def weights(runs, row=0):
    return torch.cat([value.flatten() for value in runs.engine.state_dict(row).values()])


def test_the_weights_are_those_of_the_last_good_decision_and_the_rate_shrinks(quadratic):
    runs = started(quadratic)
    good = step(runs, CALM)
    before = weights(runs)
    torch.testing.assert_close(before, torch.tensor([3.0, -2.0]) * 0.9**4)
    outcome = step(runs, WILD)
    torch.testing.assert_close(weights(runs), before, rtol=0, atol=0)
    assert not outcome.terminated[0]
    assert outcome.interventions.rolled_back[0]
    assert outcome.interventions.reason[0] == Reason.VALID_LOSS_EXPLODED
    assert outcome.hyperparameters.learning_rate[0] == WILD
    assert runs.hyperparameters.learning_rate[0] == pytest.approx(0.3 * WILD)
    # The train loss is what was seen, the others are of the weights as they are.
    assert outcome.train_loss[0] > 500 * good.train_loss[0]
    assert outcome.valid.loss[0] == good.valid.loss[0]
    assert outcome.outer_valid.loss[0] == good.outer_valid.loss[0]
    torch.testing.assert_close(
        (step(runs, CALM), weights(runs))[1], before * 0.9**4, rtol=1e-6, atol=0
    )


def test_the_observation_is_of_the_restored_state_and_of_now(quadratic):
    runs = started(quadratic)
    before = step(runs, CALM)
    after = step(runs, WILD)
    moved = {
        name
        for name in FEATURE_NAMES
        if feature(after, name) != pytest.approx(feature(before, name), abs=1e-6)
    }
    assert moved == {
        "progress",
        "age",
        "since_switch",
        "learning_rate",
        "learning_rate_change",
        "learning_rate_step",
    }
    assert feature(after, "progress") == pytest.approx(2 / 8)
    assert feature(after, "learning_rate_step") == pytest.approx(np.log10(0.3 * WILD / CALM))
    # What the wild decision showed is forgotten: the best is not compared with it.
    assert feature(step(runs, CALM), "train_improvement") > 0


def test_after_the_last_roll_back_the_run_is_ended(quadratic):
    runs = started(quadratic, settings=config(max_roll_backs=2))
    outcomes = [step(runs, WILD) for _ in range(3)]
    assert [o.interventions.rolled_back[0] for o in outcomes] == [True, True, False]
    assert [o.terminated[0] for o in outcomes] == [False, False, True]
    assert runs.guard_scale[0] == pytest.approx(0.09)
    runs.reset([0], [0])
    assert runs.guard_scale[0] == 1
    assert step(runs, WILD).interventions.rolled_back[0]


def test_a_roll_back_at_the_end_of_the_budget_truncates(quadratic):
    runs = started(quadratic, settings=config(decisions=2))
    step(runs, CALM)
    outcome = step(runs, WILD)
    assert (outcome.terminated[0], outcome.truncated[0]) == (False, True)


def test_the_shrunk_rate_stays_within_its_bounds(quadratic):
    settings = config()
    settings.bounds = BoundsConfig(learning_rate_low=4.0 / 30)
    runs = started(quadratic, settings=settings)
    step(runs, WILD)
    assert runs.hyperparameters.learning_rate[0] == pytest.approx(4.0)


def test_other_runs_do_not_notice(quadratic):
    pair, alone = started(quadratic, 2), started(quadratic)
    for wild in (CALM, WILD, CALM, WILD):
        both = step(pair, CALM, wild)
        one = step(alone, CALM)
        np.testing.assert_array_equal(both.observation[0], one.observation[0])
        assert both.reward[0] == one.reward[0]
        assert both.valid.loss[0] == one.valid.loss[0]


@pytest.mark.parametrize("n_provocations", [1, 2, 3])
@pytest.mark.parametrize("name", REWARD_NAMES)
def test_provoking_the_guard_costs_its_penalty_beside_the_time(quadratic, n_provocations, name):
    settings = config(penalty=0.2)
    settings.reward = RewardConfig(name=name)
    provoked, idle = started(quadratic, settings=settings), started(quadratic, settings=settings)
    for runs in (provoked, idle):
        runs.set_reference(TaskReference((-0.5, -1.0, -1.5)))
    rates = [CALM] * 3 + [WILD] * n_provocations + [CALM] * (5 - n_provocations)
    returns = np.zeros(2)
    for rate in rates:
        returns[0] += step(provoked, rate).reward[0]
        # To stand still is what the samples of a roll-back come to.
        returns[1] += step(idle, STILL if rate == WILD else rate).reward[0]
    assert returns[1] - returns[0] == pytest.approx(0.2 * n_provocations, abs=1e-3)


def test_provoking_the_guard_from_a_bad_state_never_leads_to_a_better_one(quadratic):
    # Just below the limit the guard is content, and it is there that a provocation leads back.
    runs = started(quadratic, settings=config(max_loss_ratio=100.0))
    bad = step(runs, 2.6)  # 1.6 ** 4 times as far: the loss is 43 times its start
    assert bad.interventions.reason[0] == Reason.NONE
    outcome = step(runs, WILD)
    assert outcome.interventions.rolled_back[0]
    assert outcome.valid.loss[0] == bad.valid.loss[0]
    assert bad.reward[0] + outcome.reward[0] < bad.reward[0] - 0.2


def test_a_state_that_had_passed_a_limit_for_a_moment_is_not_rolled_back_to(quadratic):
    settings = config(max_train_loss_ratio=2.0)
    runs, idle = started(quadratic, settings=settings), started(quadratic, settings=settings)
    for each in (runs, idle):
        good = step(each, CALM)
    before = weights(runs)
    creeping = step(runs, 2.6)  # the train loss ends at 17 times, but began at 1
    assert creeping.interventions.reason[0] == Reason.NONE
    assert weights(runs).norm() > 6 * before.norm()
    outcome = step(runs, WILD)
    torch.testing.assert_close(weights(runs), before, rtol=0, atol=0)
    assert outcome.valid.loss[0] == good.valid.loss[0]
    assert feature(outcome, "valid_regret") == feature(good, "valid_regret")
    assert feature(outcome, "learning_rate_step") == pytest.approx(np.log10(0.3 * WILD / 2.6))
    # To undo that decision earns what it had cost, but never more.
    still = sum(step(idle, STILL).reward[0] for _ in range(2))
    assert creeping.reward[0] + outcome.reward[0] < still - 0.2


@pytest.mark.parametrize("seed", range(5))
def test_the_return_is_the_improvement_less_the_penalties_whatever_was_done(quadratic, seed):
    settings = config(decisions=12, penalty=0.2, max_roll_backs=12, max_train_loss_ratio=3.0)
    settings.reward = RewardConfig(area_weight=0.0)
    runs = started(quadratic, settings=settings)
    start = runs.engine.evaluate()[1].loss
    generator = np.random.default_rng(seed)
    outcomes = [step(runs, generator.choice([0.03, CALM, 1.9, 2.3, WILD])) for _ in range(12)]
    n_roll_backs = sum(outcome.interventions.rolled_back[0] for outcome in outcomes)
    assert n_roll_backs > 0
    improvement = level(start, start) - level(outcomes[-1].outer_valid.loss, start)
    expected = improvement[0] / TaskReference().span - 0.2 * n_roll_backs
    assert sum(outcome.reward[0] for outcome in outcomes) == pytest.approx(expected, abs=1e-6)


def test_runs_are_rolled_back_unless_a_policy_is_to_learn_from_them():
    assert EnvConfig().guard.on_divergence == "roll_back"
    for name, expected in (("default", None), ("meta_training", "end")):
        given = OmegaConf.load(str(files("trainpilot.conf") / "env" / f"{name}.yaml"))
        assert OmegaConf.select(given, "guard.on_divergence") == expected


def test_with_ends_instead_nothing_is_kept(quadratic):
    runs = started(quadratic, settings=config(on_divergence="end"))
    step(runs, CALM)
    outcome = step(runs, WILD)
    assert outcome.terminated[0]
    assert outcome.interventions.texts(outcome.hyperparameters.learning_rate)[0].startswith(
        "ended: valid loss is "
    )
    with pytest.raises(TrainpilotError, match="needs a state that keep"):
        runs.engine.restore(np.ones(1, dtype=bool))


def batchnorm_task():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(100, 3, generator=generator)
    return TensorTask(
        "normed",
        inputs=inputs,
        targets=(inputs[:, 0] > 0).long(),
        model=lambda: nn.Sequential(
            nn.Linear(3, 4), nn.BatchNorm1d(4), nn.SiLU(), nn.Dropout(0.5), nn.Linear(4, 2)
        ),
        micro_batch_size=10,
    )


def test_all_that_a_run_carries_comes_back():
    settings = EnvConfig(
        decisions=6,
        micro_batches_per_decision=3,
        compiled=False,
        start=StartConfig(batch_size=2),
        bounds=BoundsConfig(batch_size_high=2),
    )
    runs = InnerRuns(batchnorm_task(), 3, settings)
    runs.reset(range(3), range(3))
    runs.step(runs.hyperparameters)  # three micro-batches: one is accumulated
    every = np.ones(3, dtype=bool)
    runs.engine.keep(every)
    kept = [values.clone() for values in runs.engine.carried()]
    # Weights, 3 buffers of BatchNorm, accumulated gradients, two counts, the mean's norm.
    assert len(kept) >= 1 + 1 + 3 + 1 + 2 + 1
    runs.engine.advance(runs.hyperparameters, 3)
    moved = [values.clone() for values in runs.engine.carried()]
    runs.engine.restore(np.array([True, False, True]))
    changed = 0
    for before, between, now in zip(kept, moved, runs.engine.carried(), strict=True):
        torch.testing.assert_close(now[[0, 2]], before[[0, 2]], rtol=0, atol=0)
        torch.testing.assert_close(now[1], between[1], rtol=0, atol=0)
        changed += bool((before != between).any())
    assert changed == len(kept)  # each of them was put back, none was merely still
    assert runs.engine.position.tolist() == [6, 6, 6]
    runs.engine.keep(np.array([False, True, False]))
    runs.engine.advance(runs.hyperparameters, 3)
    runs.engine.restore(every)
    for before, between, now in zip(kept, moved, runs.engine.carried(), strict=True):
        torch.testing.assert_close(now[[0, 2]], before[[0, 2]], rtol=0, atol=0)
        torch.testing.assert_close(now[1], between[1], rtol=0, atol=0)


def test_rows_of_a_family_are_rolled_back_each_on_its_own_task():
    settings = EnvConfig(decisions=4, micro_batches_per_decision=4, optimizers=["sgd"])
    settings.start, settings.actions = StartConfig(["sgd"]), ActionConfig(optimizers=["sgd"])
    runs = InnerRuns(families.teachers(), 3, settings)
    runs.reset(range(3), range(3))
    good = step(runs, 1e-3, 1e-3, 1e-3)
    outcome = step(runs, 1e-3, 1e9, 1e-3)
    assert outcome.interventions.rolled_back.tolist() == [False, True, False]
    changed = outcome.outer_valid.loss != good.outer_valid.loss
    assert changed.tolist() == [True, False, True]
    # A row that begins on another task forgets what was kept of the one before.
    runs.reset([1], [77])
    start = runs.engine.evaluate()[1].loss[1]
    assert step(runs, 1e-3, 1e9, 1e-3).outer_valid.loss[1] == start


def test_a_reference_is_what_no_roll_back_has_mended(quadratic):
    levels = [
        measure_reference(
            InnerRuns(quadratic, 21, config(decisions=2, on_divergence=what))
        ).final_level
        for what in ("end", "roll_back")
    ]
    assert levels[0] == pytest.approx(levels[1], abs=1e-6)


def test_a_constant_that_the_guard_shrinks_stays_shrunk_and_the_run_goes_on(quadratic):
    controllers = {"wild": Constant("sgd", WILD, momentum=0.0)}
    (run,) = roll_out(quadratic, controllers, [0], config()).runs
    rates = [record["learning_rate"] for record in run.decisions]
    assert rates[:3] == pytest.approx([WILD, 0.3 * WILD, 0.3 * WILD])
    assert run.decisions[0]["intervention"] == (
        f"rolled back: valid loss is 6.55e+04 times its start; learning rate {WILD:.3g} to 1.5"
    )
    assert [record["intervention"] for record in run.decisions[1:]] == [None] * 7
    assert run.roll_backs == 1
    assert not run.diverged
    assert np.isfinite(run.test_loss)
    assert run.outer_valid_loss[1] == run.outer_valid_loss[0]
    assert run.outer_valid_loss[-1] < run.outer_valid_loss[0]


def test_a_worker_tells_of_interventions_in_all_its_groups(quadratic):
    worker = Worker([GroupSpec(quadratic, 2, config()), GroupSpec(quadratic, 1, config())])
    worker.reset(np.arange(3))
    for group in worker.groups:
        group.hyperparameters = replace(
            group.hyperparameters, learning_rate=np.full(group.n_runs, WILD)
        )
    transition = worker.step(np.tile([2, 0], (3, 1)), np.arange(3))
    assert transition.interventions.rolled_back.tolist() == [True] * 3
    assert transition.interventions.reason.tolist() == [Reason.VALID_LOSS_EXPLODED] * 3
    np.testing.assert_allclose(transition.current_hyperparameters.learning_rate, 0.3 * WILD)
    assert not transition.ended.any()
