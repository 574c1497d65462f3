"""The menu of optimizers."""

from __future__ import annotations

import pytest
import torch

from trainpilot.envs.optimizers import (
    MOMENT_NAMES,
    OPTIMIZER_NAMES,
    UpdateContext,
    optimizer_index,
    update,
)
from trainpilot.inner_tasks import TrainpilotError


def test_each_row_follows_its_own_optimizer():
    gradient = torch.tensor([[4.0, -0.5]]).repeat(3, 1)
    moments = {name: torch.zeros(3, 2) for name in MOMENT_NAMES}
    context = UpdateContext(gradient, torch.full((3, 1), 0.9), torch.ones(3, 1))
    direction, after = update(moments, context, torch.tensor([[0], [1], [2]]))
    # First step by hand: SGD takes the gradient, Adam its sign, RMSProp ten times its sign.
    expected = torch.tensor([[4.0, -0.5], [1.0, -1.0], [10.0, -10.0]])
    torch.testing.assert_close(direction, expected)
    assert OPTIMIZER_NAMES == ("sgd", "adam", "rmsprop")
    torch.testing.assert_close(after["exp_avg"], 0.1 * gradient)
    torch.testing.assert_close(after["square_avg"], 0.01 * gradient**2)


def test_unknown_optimizer_lists_what_there_is():
    with pytest.raises(TrainpilotError, match="unknown optimizer 'lamb'; allowed: sgd, adam"):
        optimizer_index("lamb")
