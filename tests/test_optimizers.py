"""The menu of optimizers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from trainpilot.envs.actions import relative_learning_rate
from trainpilot.envs.engine import Engine
from trainpilot.envs.hyperparameters import Hyperparameters
from trainpilot.envs.optimizers import (
    LEARNING_RATE_SCALES,
    OPTIMIZER_NAMES,
    OPTIMIZERS,
    Direction,
    Optimizer,
    UpdateContext,
    moment_names,
    optimizer_index,
    register_optimizer,
    update,
)
from trainpilot.inner_tasks import TrainpilotError


def test_each_row_follows_its_own_optimizer():
    n_rows = len(OPTIMIZER_NAMES)
    gradient = torch.tensor([[4.0, -0.5]]).repeat(n_rows, 1)
    moments = {name: torch.zeros(n_rows, 2) for name in moment_names(range(n_rows))}
    # Momentum 0.9 and ADAM_BETA2 at the first step: the corrections undo both averages.
    scalars = [torch.full((n_rows, 1), value) for value in (0.9, 0.1, 10.0, 1000.0, 1.0)]
    context = UpdateContext(gradient, *scalars)
    direction, after = update(moments, context, torch.arange(n_rows).unsqueeze(1), range(n_rows))
    # By hand: SGD takes the gradient, Adam its sign, RMSProp ten times its sign, Nesterov 1.9
    # times the gradient, Lion the sign.
    expected = {
        "sgd": [4.0, -0.5],
        "adam": [1.0, -1.0],
        "rmsprop": [10.0, -10.0],
        "nesterov": [7.6, -0.95],
        "lion": [1.0, -1.0],
        # Of what is no matrix.
        "muon": [1.0, -1.0],
    }
    torch.testing.assert_close(direction, torch.tensor([expected[n] for n in OPTIMIZER_NAMES]))
    torch.testing.assert_close(after["exp_avg"], 0.1 * gradient)
    torch.testing.assert_close(after["square_avg"], 0.01 * gradient**2)
    torch.testing.assert_close(after["lion_exp_avg"], 0.01 * gradient)


def test_unknown_optimizer_lists_what_there_is():
    with pytest.raises(TrainpilotError, match="unknown optimizer 'lamb'; allowed: sgd, adam"):
        optimizer_index("lamb")


def test_a_smaller_menu_keeps_fewer_moments():
    names = [moment_names([OPTIMIZER_NAMES.index(name)]) for name in ("adam", "rmsprop")]
    # Adam's first moment is a signal, and so always there.
    assert names == [("exp_avg", "exp_avg_sq"), ("exp_avg", "square_avg")]


@pytest.fixture
def signs():
    """A rule of one's own: a step of one learning rate against each gradient's sign."""
    names, scales = list(OPTIMIZER_NAMES), list(LEARNING_RATE_SCALES)
    rule = Optimizer(
        (), lambda before, context: {}, lambda *given: Direction(given[2].gradient.sign()), 0.5
    )
    register_optimizer("signs", rule)
    yield rule
    # In place, as it was added.
    OPTIMIZERS.pop("signs")
    OPTIMIZER_NAMES[:], LEARNING_RATE_SCALES[:] = names, scales


@pytest.mark.parametrize("compiled", [False, None])
def test_an_optimizer_of_ones_own_follows_its_closed_form(compiled, signs, quadratic):
    engine = Engine(quadratic, 2, n_micro_batches=20, compiled=compiled)
    engine.reset(range(2), range(2))
    settings = Hyperparameters.full(2, learning_rate=0.1, momentum=0.0, optimizer="signs")
    settings.optimizer[1] = optimizer_index("sgd")
    assert relative_learning_rate(settings).tolist() == [0.2, pytest.approx(0.1 / 30)]
    engine.advance(settings, 19)
    positions = [engine.state_dict(row)["position"].numpy() for row in range(2)]
    np.testing.assert_allclose(positions[0], [1.1, -0.1], atol=1e-5)
    np.testing.assert_allclose(positions[1], 0.9**19 * np.array([3.0, -2.0]), rtol=1e-5)
    assert settings.row(0)["optimizer"] == "signs"


def test_a_name_is_one_optimizers(signs):
    register_optimizer("signs", signs)
    assert OPTIMIZER_NAMES.count("signs") == 1
    for name in ("signs", "sgd", "adamw", "keep"):
        with pytest.raises(TrainpilotError, match=f"name of its own, other .* given: {name}"):
            register_optimizer(name, signs._replace(learning_rate_scale=2.0))
