"""Every feature of the observation against a value that was worked out by hand."""

from __future__ import annotations

from math import log, log10, nan, sqrt

import numpy as np
import pytest

from trainpilot.envs.hyperparameters import Hyperparameters
from trainpilot.envs.observation import (
    FEATURE_NAMES,
    OBSERVED_OPTIMIZERS,
    Reading,
    begin,
    observe,
)
from trainpilot.envs.signals import Signals


def reading(age, valid, accuracy, **settings):
    """One run with a budget of 10 micro-batches."""
    given = (np.array([float(value)]) for value in (age, age / 10, valid, accuracy))
    return Reading(Hyperparameters.full(1, **settings), *given)


START = reading(0, valid=2, accuracy=0.4)
#: Twice Adam's rate at the start.
FIRST = reading(
    3, valid=3, accuracy=0.7,
    learning_rate=2e-3, weight_decay=1e-3, momentum=0.99, gradient_clip=3, batch_size=2,
)  # fmt: skip
#: SGD's 0.015 is 5e-4 in Adam's units.
SECOND = reading(
    6, valid=1.5, accuracy=0.75,
    optimizer="sgd", learning_rate=0.015, weight_decay=0.1, momentum=0.9, batch_size=8,
)  # fmt: skip

FIRST_SIGNALS = Signals(
    train_loss=np.array([[4, 2, 1]]),
    gradient_norm=np.array([[2, 1, 4]]),
    parameter_norm=np.array([[10, 10, 20]]),
    update_norm=np.array([[1, nan, 0.02]]),
    momentum_norm=np.array([[0, 0.5, 1]]),
    gradient_momentum_cosine=np.array([[0, 0.5, 0.1]]),
    gradient_parameter_cosine=np.array([[-0.2, -0.1, 0.6]]),
    gradient_update_cosine=np.array([[-0.9, nan, -0.5]]),
)
SECOND_SIGNALS = Signals(
    train_loss=np.array([[2, 8, 4]]),
    gradient_norm=np.array([[1, 2, 1]]),
    parameter_norm=np.array([[20, 20, 20]]),
    update_norm=np.array([[nan, nan, 0.2]]),
    momentum_norm=np.array([[0.5, 0.5, 2]]),
    gradient_momentum_cosine=np.array([[-0.5, -0.1, 0.3]]),
    gradient_parameter_cosine=np.array([[0.1, 0.2, -0.9]]),
    gradient_update_cosine=np.array([[nan, nan, 0.4]]),
)


def relative(share):
    """The log of a share of the start, with the floor of a thousandth."""
    return log(share + 1e-3) - log(1 + 1e-3)


#: Train losses are 1, 1/2, 1/4 and then 1/2, 2, 1 of the first, 4; their logs 0, A, B and A, C, 0.
A, B, C = relative(1 / 2), relative(1 / 4), relative(2)
MEAN_1, MEAN_2 = (0 + A + B) / 3, (A + C + 0) / 3
#: Moving averages by shares 0.3 and 0.05; they begin at the first loss, 0.
FAST_1, SLOW_1 = 0.7 * 0.3 * A + 0.3 * B, 0.95 * 0.05 * A + 0.05 * B
FAST_2 = 0.7**3 * FAST_1 + 0.7**2 * 0.3 * A + 0.7 * 0.3 * C
SLOW_2 = 0.95**3 * SLOW_1 + 0.95**2 * 0.05 * A + 0.95 * 0.05 * C
#: Gradient norms are 1, 1/2, 2 and then 1/2, 1, 1/2 of the first, 2: logs 0, A, C and A, 0, A.
GRADIENT_1, GRADIENT_2 = (0 + A + C) / 3, (A + 0 + A) / 3

# At the start, after the first decision and after the second.
EXPECTED = {
    "has_budget": (1, 1, 1),
    "progress": (0, 3 / 10, 6 / 10),
    "age": (0, log10(1 + 3), log10(1 + 6)),
    "train_loss": (0, MEAN_1, MEAN_2),
    "train_loss_trend": (0, FAST_1 - SLOW_1, FAST_2 - SLOW_2),
    "train_loss_noise": (
        0,
        sqrt(((0 - MEAN_1) ** 2 + (A - MEAN_1) ** 2 + (B - MEAN_1) ** 2) / 3),
        sqrt(((A - MEAN_2) ** 2 + (C - MEAN_2) ** 2 + (0 - MEAN_2) ** 2) / 3),
    ),
    # Of three steps the slope is half of last minus first; a decision has three.
    "train_loss_slope": (0, 3 * (B - 0) / 2, 3 * (0 - A) / 2),
    "train_improvement": (0, 0, MEAN_1 - MEAN_2),
    "train_regret": (0, 0, MEAN_2 - MEAN_1),
    "gradient_norm": (0, GRADIENT_1, GRADIENT_2),
    "gradient_noise": (
        0,
        sqrt(((0 - GRADIENT_1) ** 2 + (A - GRADIENT_1) ** 2 + (C - GRADIENT_1) ** 2) / 3),
        sqrt(((A - GRADIENT_2) ** 2 + (0 - GRADIENT_2) ** 2 + (A - GRADIENT_2) ** 2) / 3),
    ),
    "gradient_momentum_cosine": (0, (0 + 0.5 + 0.1) / 3, (-0.5 - 0.1 + 0.3) / 3),
    "gradient_parameter_cosine": (0, (-0.2 - 0.1 + 0.6) / 3, (0.1 + 0.2 - 0.9) / 3),
    # The steps that made an update.
    "gradient_update_cosine": (0, (-0.9 - 0.5) / 2, 0.4),
    # Without the first step, which had no mean gradient yet.
    "gradient_signal": (
        0,
        (log(0.5 / 1) + log(1 / 4)) / 2,
        (log(0.5 / 1) + log(0.5 / 2) + log(2 / 1)) / 3,
    ),
    "relative_update": (0, (log10(1 / 10) + log10(0.02 / 20)) / 2 + 3, log10(0.2 / 20) + 3),
    "has_valid": (1, 1, 1),
    # The floor is a thousandth of the first train loss, 4.
    "generalisation_gap": (
        0,
        log(3 + 0.004) - log((4 + 2 + 1) / 3 + 0.004),
        log(1.5 + 0.004) - log((2 + 8 + 4) / 3 + 0.004),
    ),
    # Of the 2 at the start; the best is that, until the second decision.
    "valid_loss": (0, relative(3 / 2), relative(1.5 / 2)),
    "valid_improvement": (0, 0 - relative(3 / 2), relative(3 / 2) - relative(1.5 / 2)),
    "valid_regret": (0, relative(3 / 2) - 0, 0),
    "has_accuracy": (1, 1, 1),
    "valid_accuracy": (0.4, 0.7, 0.75),
    "learning_rate": (log10(1e-3) + 3, log10(2e-3) + 3, log10(5e-4) + 3),
    "learning_rate_change": (0, log10(2e-3 / 1e-3), log10(5e-4 / 1e-3)),
    "learning_rate_step": (0, log10(2e-3 / 1e-3), log10(5e-4 / 2e-3)),
    "weight_decay": (
        (log10(0 + 1e-6) + 6) / 6,
        (log10(1e-3 + 1e-6) + 6) / 6,
        (log10(0.1 + 1e-6) + 6) / 6,
    ),
    "momentum": (-log10(1 - 0.9), -log10(1 - 0.99), -log10(1 - 0.9)),
    "has_clip": (0, 1, 0),
    # A clip of 3 beside the decision's mean norm, of whose three gradients one is longer.
    "gradient_clip": (0, log(3 / ((2 + 1 + 4) / 3)), 0),
    "clipped": (0, 1 / 3, 0),
    "batch_size": (0, 1, 3),
    # The switch to SGD was at the third micro-batch.
    "since_switch": (0, log10(1 + 3), log10(1 + 6 - 3)),
    "optimizer_sgd": (0, 0, 1),
    "optimizer_adam": (1, 1, 0),
    "optimizer_rmsprop": (0, 0, 0),
    "optimizer_nesterov": (0, 0, 0),
    "optimizer_lion": (0, 0, 0),
}


def test_every_feature_of_two_decisions_is_what_was_worked_out_by_hand():
    state, start = begin(START)
    state, first = observe(state, FIRST_SIGNALS, FIRST)
    _, second = observe(state, SECOND_SIGNALS, SECOND)
    assert tuple(EXPECTED) == FEATURE_NAMES
    for name, *values in zip(FEATURE_NAMES, start[0], first[0], second[0], strict=True):
        assert values == pytest.approx(EXPECTED[name], rel=1e-5, abs=1e-6), name


@pytest.mark.parametrize("optimizer", OBSERVED_OPTIMIZERS)
def test_the_optimizer_in_use_is_1_and_the_others_are_0(optimizer):
    vector = begin(reading(0, valid=2, accuracy=0.4, optimizer=optimizer))[1][0]
    shown = dict(zip(FEATURE_NAMES, vector, strict=True))
    assert [name for name in OBSERVED_OPTIMIZERS if shown[f"optimizer_{name}"]] == [optimizer]
    assert shown[f"optimizer_{optimizer}"] == 1
