"""Heuristics against torch.optim.lr_scheduler, decision by decision."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.optim import SGD
from torch.optim.lr_scheduler import ReduceLROnPlateau

from trainpilot.agents.controller import Controller, View
from trainpilot.agents.heuristics import (
    Constant,
    RandomPolicy,
    ReduceOnPlateau,
)
from trainpilot.envs.actions import ActionSpec
from trainpilot.envs.config import ActionConfig
from trainpilot.envs.hyperparameters import Hyperparameters
from trainpilot.envs.observation import FEATURES
from trainpilot.inner_tasks import TrainpilotError

ACTIONS = ActionSpec(ActionConfig())
DECISIONS = 20


def rates(controller, losses=None, n_runs=2):
    """The learning rates of the first run, one for each decision."""
    losses = np.ones((DECISIONS, n_runs)) if losses is None else losses
    controller.begin(n_runs, ACTIONS, seed=0)
    chosen = []
    hyperparameters = Hyperparameters.full(n_runs)
    for decision in range(DECISIONS):
        view = View(
            np.zeros((n_runs, len(FEATURES)), dtype=np.float32),
            hyperparameters,
            losses[decision],
            decision,
            DECISIONS,
        )
        hyperparameters = controller.decide(view).hyperparameters
        chosen.append(hyperparameters.learning_rate)
    return np.array(chosen)


def on_plateau(losses, **settings):
    """The rates of torch's scheduler, stepped by the losses after each decision but the last."""
    torch_optimizer = SGD([torch.zeros(1, requires_grad=True)], lr=0.01)
    scheduler = ReduceLROnPlateau(torch_optimizer, **settings)
    found = [0.01]
    for loss in losses[1:]:
        torch_optimizer.step()
        scheduler.step(loss)
        found.append(torch_optimizer.param_groups[0]["lr"])
    return found


def test_constant_is_constant_and_uses_its_own_optimizer():
    controller = Constant("sgd", 0.05, weight_decay=0.1, momentum=0.8)
    controller.begin(3, ACTIONS, 0)
    start = Hyperparameters.full(3)
    view = View(np.zeros((3, len(FEATURES)), dtype=np.float32), start, np.ones(3), 0, DECISIONS)
    expected = {"learning_rate": 0.05, "weight_decay": 0.1, "momentum": 0.8, "optimizer": "sgd"}
    assert controller.decide(view).hyperparameters.row(2).items() >= expected.items()


@pytest.mark.parametrize("seed", range(5))
def test_reduce_on_plateau_equals_torch(seed):
    losses = 1 + np.random.default_rng(seed).uniform(size=(DECISIONS, 2))
    found = rates(ReduceOnPlateau("sgd", 0.01, factor=0.5, patience=2), losses)
    assert len(np.unique(found)) > 2  # it does reduce
    for run in range(2):
        expected = on_plateau(losses[:, run], factor=0.5, patience=2)
        np.testing.assert_allclose(found[:, run], expected, rtol=1e-9)


def test_a_rate_that_is_nearly_0_is_reduced_no_further_as_in_torch():
    losses = np.ones((DECISIONS, 2))
    found = rates(ReduceOnPlateau("sgd", 0.01, patience=0), losses)[:, 0]
    expected = on_plateau(losses[:, 0], patience=0)
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    assert expected[-1] == pytest.approx(1e-8)


def test_random_policy_is_seeded_and_takes_every_choice():
    def actions(seed):
        controller = RandomPolicy()
        controller.begin(500, ACTIONS, seed)
        start = Hyperparameters.full(500)
        view = View(np.zeros((500, 1), dtype=np.float32), start, np.ones(500), 0, DECISIONS)
        return controller.decide(view).hyperparameters

    one, two, other = actions(0), actions(0), actions(1)
    np.testing.assert_array_equal(one.learning_rate, two.learning_rate)
    assert (one.learning_rate != other.learning_rate).any()
    assert np.bincount(one.optimizer).min() > 120
    assert len(np.unique(np.round(one.learning_rate, 9))) == 10  # 5 factors, 2 scales


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Constant("lamb", 0.1), "unknown optimizer 'lamb'"),
        (lambda: Constant("sgd", 0), "learning_rate must be above 0; given: 0"),
        (lambda: Constant("sgd", 0.1, momentum=1), r"momentum must lie in \[0, 1\); given: 1"),
        (lambda: ReduceOnPlateau("sgd", 0.1, factor=2), r"factor must lie in \(0, 1\); given: 2"),
    ],
)
def test_values_out_of_range_are_named(make, message):
    with pytest.raises(TrainpilotError, match=message):
        make()


def test_all_are_controllers():
    for controller in (Constant("sgd", 0.1), RandomPolicy(), ReduceOnPlateau("sgd", 0.1)):
        assert isinstance(controller, Controller)
