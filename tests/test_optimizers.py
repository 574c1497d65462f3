"""The menu of optimizers."""

from __future__ import annotations

import pytest
import torch

from trainpilot.envs.optimizers import (
    OPTIMIZER_NAMES,
    UpdateContext,
    moment_names,
    optimizer_index,
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
