"""Heuristics against torch.optim.lr_scheduler, decision by decision."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.optim import SGD
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    LinearLR,
    MultiStepLR,
    ReduceLROnPlateau,
    SequentialLR,
)

from trainpilot.agents.controller import Controller, View
from trainpilot.agents.heuristics import (
    Constant,
    CosineWithWarmup,
    RandomPolicy,
    ReduceOnPlateau,
    StepDecay,
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


def optimizer(rate=0.01):
    return SGD([torch.zeros(1, requires_grad=True)], lr=rate)


def scheduled(scheduler, optimizer, losses=None):
    """The learning rates of a torch scheduler, one step for each decision."""
    found = []
    for decision in range(DECISIONS):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if losses is None:
            scheduler.step()
        elif decision + 1 < len(losses):
            scheduler.step(losses[decision + 1])
    return found


def test_constant_is_constant_and_uses_its_own_optimizer():
    controller = Constant("sgd", 0.05, weight_decay=0.1, momentum=0.8)
    controller.begin(3, ACTIONS, 0)
    start = Hyperparameters.full(3)
    view = View(np.zeros((3, len(FEATURES)), dtype=np.float32), start, np.ones(3), 0, DECISIONS)
    expected = {"learning_rate": 0.05, "weight_decay": 0.1, "momentum": 0.8, "optimizer": "sgd"}
    assert controller.decide(view).hyperparameters.row(2).items() >= expected.items()


def test_cosine_equals_torch():
    torch_optimizer = optimizer()
    schedule = CosineAnnealingLR(torch_optimizer, T_max=DECISIONS)
    expected = scheduled(schedule, torch_optimizer)
    np.testing.assert_allclose(rates(CosineWithWarmup("sgd", 0.01, warmup=0))[:, 0], expected)


def test_cosine_with_warmup_equals_torch():
    torch_optimizer = optimizer()
    schedule = SequentialLR(
        torch_optimizer,
        [
            LinearLR(torch_optimizer, start_factor=0.25, total_iters=3),
            CosineAnnealingLR(torch_optimizer, T_max=DECISIONS - 4),
        ],
        milestones=[4],
    )
    expected = scheduled(schedule, torch_optimizer)
    found = rates(CosineWithWarmup("sgd", 0.01, warmup=0.2))[:, 0]
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_step_decay_equals_torch():
    torch_optimizer = optimizer()
    schedule = MultiStepLR(torch_optimizer, milestones=[10, 15], gamma=0.1)
    expected = scheduled(schedule, torch_optimizer)
    np.testing.assert_allclose(rates(StepDecay("sgd", 0.01))[:, 0], expected)


@pytest.mark.parametrize("seed", range(5))
def test_reduce_on_plateau_equals_torch(seed):
    losses = 1 + np.random.default_rng(seed).uniform(size=(DECISIONS, 2))
    found = rates(ReduceOnPlateau("sgd", 0.01, factor=0.5, patience=2), losses)
    assert len(np.unique(found)) > 2  # it does reduce
    for run in range(2):
        torch_optimizer = optimizer()
        schedule = ReduceLROnPlateau(torch_optimizer, factor=0.5, patience=2)
        expected = scheduled(schedule, torch_optimizer, losses[:, run])
        np.testing.assert_allclose(found[:, run], expected)


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
        (lambda: CosineWithWarmup("sgd", 0.1, warmup=1), r"warmup must lie in \[0, 1\)"),
        (lambda: StepDecay("sgd", 0.1, milestones=[2]), r"milestones must lie in \(0, 1\)"),
        (lambda: ReduceOnPlateau("sgd", 0.1, factor=2), r"factor must lie in \(0, 1\); given: 2"),
    ],
)
def test_values_out_of_range_are_named(make, message):
    with pytest.raises(TrainpilotError, match=message):
        make()


def test_all_are_controllers():
    for controller in (Constant("sgd", 0.1), RandomPolicy(), ReduceOnPlateau("sgd", 0.1)):
        assert isinstance(controller, Controller)
