"""Hooks around a pilot's step, and torch's profiler, which sees it."""

from __future__ import annotations

import pytest
import torch
from pilot_training import Net, batches, train
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)
from torch.profiler import ProfilerActivity, profile

from trainpilot import Pilot
from trainpilot.agents.heuristics import Constant


@pytest.fixture
def attached():
    torch.manual_seed(0)
    net = Net()
    return net, Pilot(Constant("adam", 1e-3)).attach(net, 9)


def test_the_profiler_sees_the_steps_while_it_looks(attached):
    train(*attached, batches(1))
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        train(*attached, batches(1))
    train(*attached, batches(1))
    marks = [event.name for event in seen.events() if event.name.startswith("Optimizer.step")]
    assert marks == ["Optimizer.step#PilotOptimizer.step"]


def test_hooks_are_called_and_may_change_what_a_step_is_given(attached):
    net, optimizer = attached
    seen = []

    def before(own, arguments, named):
        seen.append((own is optimizer, len(arguments), named["loss"].item()))
        return arguments, {"loss": torch.tensor(5.0)}

    handle = optimizer.register_step_pre_hook(before)
    optimizer.register_step_post_hook(lambda own, arguments, named: seen.append(named["loss"]))
    (loss,) = train(net, optimizer, batches(1))
    assert seen == [(True, 1, loss), torch.tensor(5.0)]
    handle.remove()
    second, third = train(net, optimizer, batches(2))
    assert [value.item() for value in seen[2:]] == [second, third]
    # The loss of the first step was what the hook made of it.
    assert optimizer.decisions[0]["train_loss"] == 5.0


@pytest.mark.parametrize(
    ("register", "moment"),
    [(register_optimizer_step_pre_hook, 0), (register_optimizer_step_post_hook, 1)],
)
def test_hooks_on_all_optimizers_are_called_on_this_one_alone(register, moment, attached):
    net, optimizer = attached
    seen = []
    handle = register(lambda own, arguments, named: seen.append((own, optimizer.steps)))
    try:
        train(net, optimizer, batches(1))
    finally:
        handle.remove()
    train(net, optimizer, batches(1))
    # Not on the optimizer of torch within.
    assert seen == [(optimizer, moment)]
