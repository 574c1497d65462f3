"""Learning rates of every micro-batch: within bounds, and as the engine takes them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from trainpilot.agents.controller import Decision, join_factors
from trainpilot.envs.bounding import bound
from trainpilot.envs.config import EnvConfig
from trainpilot.envs.engine import Engine
from trainpilot.envs.family_engine import FamilyEngine
from trainpilot.envs.hyperparameters import Hyperparameters
from trainpilot.envs.inner_runs import InnerRuns
from trainpilot.envs.limits import BoundsConfig
from trainpilot.inner_tasks import TrainpilotError, families

SGD = Hyperparameters.full(2, optimizer="sgd", learning_rate=0.1, momentum=0)


def test_gradient_descent_shrinks_by_each_steps_own_rate(quadratic):
    engine = Engine(quadratic, 2, n_micro_batches=3)
    rates = np.array([[0.1, 0.2, 0.5], [0.5, 0.25, 0.0]])
    engine.advance(SGD, 3, rates)
    for row in range(2):
        expected = np.prod(1 - rates[row]) * np.array([3.0, -2.0])
        np.testing.assert_allclose(engine.state_dict(row)["position"], expected, rtol=1e-6)


def test_an_update_takes_the_rate_of_its_last_micro_batch(quadratic):
    engine = Engine(quadratic, 1, n_micro_batches=4, max_batch_size=2)
    settings = Hyperparameters.full(1, optimizer="sgd", momentum=0, batch_size=2)
    engine.advance(settings, 4, np.array([[0.9, 0.1, 0.9, 0.5]]))
    expected = 0.9 * 0.5 * np.array([3.0, -2.0])
    np.testing.assert_allclose(engine.state_dict(0)["position"], expected, rtol=1e-6)


def test_rates_that_do_not_change_are_the_hyperparameters_to_the_last_bit(moons):
    curves = []
    for rates in (None, np.full((2, 20), 0.01)):
        engine = Engine(moons, 2, n_micro_batches=20)
        curves.append(engine.advance(Hyperparameters.full(2, learning_rate=0.01), 20, rates))
    np.testing.assert_array_equal(curves[0].train_loss, curves[1].train_loss)
    np.testing.assert_array_equal(curves[0].update_norm, curves[1].update_norm)


def test_rows_of_a_family_have_rates_of_their_own():
    family = families.mixtures(n_tasks=4)
    engine = FamilyEngine(family, 2, n_micro_batches=3)
    engine.reset(range(2), [5, 6])
    rates = np.array([[1e-3, 1e-2, 1e-1], [1e-2, 1e-2, 1e-3]])
    signals = engine.advance(Hyperparameters.full(2), 3, rates)
    for row, seed in enumerate([5, 6]):
        alone = Engine(family.task(int(engine.numbers[row])), 1, n_micro_batches=3)
        alone.reset([0], [seed])
        own = alone.advance(Hyperparameters.full(1), 3, rates[row : row + 1])
        np.testing.assert_array_equal(signals.update_norm[row], own.update_norm[0])


def test_every_product_is_held_within_the_bounds_of_the_optimizers_unit():
    bounds = BoundsConfig(learning_rate_low=1e-3, learning_rate_high=1e-2)
    asked = Hyperparameters.concatenate([Hyperparameters.full(1, learning_rate=5e-3), SGD])
    factors = np.array([[1, 1.5, 0.5], [1, 0.1, 4], [0, 1, np.inf]])
    used, rates, clamped = bound(asked, factors, 3, bounds)
    expected = [[5e-3, 7.5e-3, 2.5e-3], [0.1, 0.03, 0.3], [0.03, 0.1, 0.3]]
    np.testing.assert_allclose(rates, expected)
    np.testing.assert_array_equal(used.learning_rate, rates[:, 0])
    assert clamped.tolist() == [False, True, True]


def test_a_peak_out_of_bounds_that_no_micro_batch_has_is_not_clamped():
    asked = replace(SGD, learning_rate=np.full(2, 100.0))
    used, rates, clamped = bound(asked, np.full((2, 3), 1e-3), 3, BoundsConfig())
    np.testing.assert_allclose(rates, 0.1)
    np.testing.assert_allclose(used.learning_rate, 0.1)
    assert not clamped.any()


def test_without_factors_there_are_no_rates():
    used, rates, clamped = bound(SGD, None, 3, BoundsConfig())
    assert rates is None
    assert not clamped.any()
    np.testing.assert_array_equal(used.learning_rate, SGD.learning_rate)


def test_a_roll_back_shrinks_from_the_rate_of_the_first_micro_batch(quadratic):
    config = EnvConfig(decisions=3, micro_batches_per_decision=3)
    runs = InnerRuns(quadratic, 2, config)
    runs.reset(range(2), range(2))
    good = runs.step(SGD)
    # At a rate above 2 gradient descent leaves the bowl.
    outcome = runs.step(SGD, np.array([[1.0, 1e2, 1e2], [1.0, 1.0, 1.0]]))
    assert outcome.interventions.rolled_back.tolist() == [True, False]
    np.testing.assert_allclose(outcome.hyperparameters.learning_rate, 0.1)
    np.testing.assert_allclose(runs.hyperparameters.learning_rate, [0.03, 0.1])
    assert outcome.valid.loss[0] == good.valid.loss[0]
    np.testing.assert_allclose(runs.guard_scale, [0.3, 1])


@pytest.mark.parametrize(
    ("factors", "message"),
    [
        (np.ones((2, 2)), r"must have the shape \(2, 3\); given: \(2, 2\)"),
        (np.full((2, 3), np.nan), "learning_rate_factors must be numbers; given: NaN"),
    ],
)
def test_factors_that_are_wrong_are_refused(factors, message):
    with pytest.raises(TrainpilotError, match=message):
        bound(SGD, factors, 3, BoundsConfig())


def test_factors_of_several_controllers_are_joined():
    still, moving = Decision(SGD), Decision(SGD, learning_rate_factors=np.full((2, 3), 0.5))
    assert join_factors([still, still], 3) is None
    joined = join_factors([still, moving], 3)
    np.testing.assert_array_equal(joined, np.repeat([[1.0], [0.5]], [2, 2], axis=0).repeat(3, 1))
    with pytest.raises(TrainpilotError, match=r"must have the shape \(2, 4\); given: \(2, 3\)"):
        join_factors([still, moving], 4)
