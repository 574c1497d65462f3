"""Population-based training: who takes over from whom, and the schedule that comes of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from trainpilot.agents.evaluation.pbt import PopulationBasedTraining
from trainpilot.agents.evaluation.population import FACTORS, Populations
from trainpilot.agents.evaluation.replay import Replay
from trainpilot.agents.evaluation.search_space import SearchSpace
from trainpilot.agents.rollout import roll_out
from trainpilot.envs.config import EnvConfig
from trainpilot.envs.hyperparameters import Hyperparameters
from trainpilot.envs.limits import GuardConfig
from trainpilot.envs.optimizers import LEARNING_RATE_SCALES

CONFIG = EnvConfig(decisions=12, micro_batches_per_decision=2)


def units(hyperparameters):
    """Learning rates in units of Adam's."""
    scales = np.array(LEARNING_RATE_SCALES)[hyperparameters.optimizer]
    return hyperparameters.learning_rate / scales


def test_the_worst_take_over_from_the_best(moons):
    populations = Populations(moons, 10, [0], SearchSpace(), CONFIG)
    populations.step()
    ranked = populations.valid_loss[0].argsort()
    engine = populations._inner.engine
    before = [carried.clone() for carried in engine.carried()]
    history = populations.used[0]
    populations.select()
    for worse in range(10):
        same = [
            other
            for other in range(10)
            if all(
                torch.equal(now[worse], then[other])
                for now, then in zip(engine.carried(), before, strict=True)
            )
        ]
        if worse not in ranked[-2:]:
            assert worse in same
            continue
        (better,) = same
        assert better in ranked[:2]
        assert populations.used[0].row(worse) == history.row(better)
        ratio = units(populations._asked)[worse] / units(populations._asked)[better]
        bounded = units(populations._asked)[worse] in (1e-4, 1e-1)
        assert bounded or np.isclose(ratio, FACTORS).any()


def test_rates_never_leave_their_bounds(moons):
    space = SearchSpace(learning_rate_low=1e-3, learning_rate_high=1.1e-3)
    populations = Populations(moons, 8, [0, 1], space, CONFIG)
    for _ in range(CONFIG.decisions):
        populations.step()
        populations.select()
    rates = np.stack([units(used) for used in populations.used])
    # A factor of 0.8 or 1.25 leads beyond either bound, from wherever it starts.
    assert rates[0].min() > 1e-3
    assert rates[0].max() < 1.1e-3
    assert rates.min() == pytest.approx(1e-3, rel=1e-12)
    assert rates.max() == pytest.approx(1.1e-3, rel=1e-12)


def test_selection_lifts_the_worst_and_the_best(moons):
    def final(selects):
        populations = Populations(moons, 8, [0], SearchSpace(), CONFIG)
        for _ in range(CONFIG.decisions):
            populations.step()
            if selects:
                populations.select()
        return populations.valid_loss[0]

    with_selection, without = final(True), final(False)
    assert with_selection.max() < without.max()
    assert with_selection.min() < without.min()


def test_the_schedule_that_was_found_is_used_again(moons):
    found = PopulationBasedTraining(budgets=(1, 8), interval=2)
    for run in found.train("pbt", moons, [5], CONFIG):
        assert run.configuration is not None
        used = [record["learning_rate"] for record in run.decisions]
        np.testing.assert_allclose(used, run.configuration["learning_rate"])
        assert [record["optimizer"] for record in run.decisions] == run.configuration["optimizer"]
        if run.controller == "pbt_1x":
            assert len(set(used)) == 1
        assert run.search_samples == int(run.controller[4:-1]) * run.budget


@pytest.mark.parametrize("interval", [3, 100])
def test_what_the_guard_lowered_is_lowered_once_when_used_again(interval, quadratic):
    # Gradient descent with momentum diverges above 3.8, here with all members at first: the
    # guard lowers 15 to 1.35, and 30 to 2.7 or, twice as low as that, to 0.8.
    config = EnvConfig(
        decisions=12,
        micro_batches_per_decision=2,
        guard=GuardConfig(on_divergence="roll_back", max_loss_ratio=2),
    )
    space = SearchSpace(["sgd"], 0.5, 1.0)
    method = PopulationBasedTraining(budgets=(1, 8), space=space, interval=interval)
    for run in method.train("pbt", quadratic, [0, 1, 2], config):
        used = [record["learning_rate"] for record in run.decisions]
        np.testing.assert_allclose(used, run.configuration["learning_rate"], rtol=1e-12)
        assert run.roll_backs > 0
        assert not run.diverged


def test_a_member_that_takes_over_takes_the_guards_scale_too(quadratic):
    guard = GuardConfig(on_divergence="roll_back", max_loss_ratio=2)
    config = EnvConfig(decisions=12, micro_batches_per_decision=2, guard=guard)
    populations = Populations(quadratic, 8, [0], SearchSpace(["sgd"], 1e-3, 1.0), config)
    for _ in range(3):
        populations.step()
    scales = np.stack(populations.scales)
    before = [used.learning_rate.copy() for used in populations.used]
    populations.select()
    taken = np.flatnonzero((np.stack(populations.scales) != scales).any(0))
    assert len(taken) > 0
    for row in taken:
        history = [used.learning_rate[row] for used in populations.used]
        (giver,) = [other for other in range(8) if [each[other] for each in before] == history]
        np.testing.assert_array_equal(np.stack(populations.scales)[:, row], scales[:, giver])


def test_a_member_that_diverged_stays_so_though_its_loss_comes_down(quadratic):
    guard = GuardConfig(on_divergence="end", max_loss_ratio=2)
    config = EnvConfig(decisions=12, micro_batches_per_decision=1, guard=guard)
    # A rate of 3 leads far beyond the lowest point, momentum and gradient then back to it.
    populations = Populations(quadratic, 1, [0], SearchSpace(["sgd"], 0.1, 0.1), config)
    losses = []
    for _ in range(6):
        populations.step()
        losses.append(populations._inner.engine.evaluate()[0].loss[0])
    assert max(losses) > 13
    assert losses[-1] < 13
    assert populations.valid_loss[0, 0] == np.inf


def test_a_replay_does_the_same_again(quadratic):
    used = [Hyperparameters.full(1, optimizer="sgd", learning_rate=0.01 * n) for n in range(1, 13)]
    used = [replace(each, momentum=np.zeros(1)) for each in used]
    run = roll_out(quadratic, {"replay": Replay(used)}, [0], CONFIG).runs[0]
    # Plain gradient descent: `(1 - r) ** 2` a decision of two steps.
    left = np.cumprod([(1 - 0.01 * n) ** 2 for n in range(1, 13)])
    np.testing.assert_allclose(run.outer_valid_loss[1:], 6.5 * left**2, rtol=1e-4)
