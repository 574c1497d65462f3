"""A pilot's state: what it goes on from, and what it does not."""

from __future__ import annotations

import copy

import pytest
import torch
from pilot_training import Net, batches, train
from torch import nn

from trainpilot import Pilot, TrainpilotError
from trainpilot.agents.heuristics import Constant
from trainpilot.envs.config import GuardConfig


def trained(wrap=lambda net: net, **options):
    """A model, its optimizer after 25 of 90 steps, and the batches of the rest."""
    torch.manual_seed(0)
    net = Net()
    optimizer = Pilot.load().attach(wrap(net), 90, decisions=9, **options)
    stream = list(batches(90))
    train(net, optimizer, stream[:25])
    return net, optimizer, stream[25:]


def compiled(net):
    return torch.compile(net, backend="eager")


def in_part(net):
    net.norm = torch.compile(net.norm, backend="eager")
    return net


# Compiling looks at all that a tensor has.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize(
    ("one", "other"),
    [(nn.DataParallel, compiled), (compiled, lambda net: net), (lambda net: net, in_part)],
)
def test_a_checkpoint_fits_however_the_model_is_wrapped(one, other):
    net, optimizer, rest = trained(one)
    twin = Net()
    twin.load_state_dict(net.state_dict())
    again = Pilot.load().attach(other(twin), 90, decisions=9)
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    # In this interval both go back to what the checkpoint says was good.
    with torch.no_grad():
        for model in (net, twin):
            model.norm.running_mean.fill_(torch.nan)
            model.last.weight.fill_(torch.nan)
    torch.manual_seed(1)
    train(net, optimizer, rest[:5])
    losses = train(net, optimizer, rest[5:])
    torch.manual_seed(1)
    train(twin, again, rest[:5])
    assert train(twin, again, rest[5:]) == losses
    assert "rolled back" in again.decisions[2]["intervention"]
    assert again.decisions[3:] == optimizer.decisions[3:]
    assert torch.equal(twin.norm.running_mean, net.norm.running_mean)


def test_the_state_of_another_model_changes_nothing():
    _, optimizer, _ = trained()
    other = Net()
    other.norm.register_buffer("more", torch.zeros(1))
    again = Pilot.load().attach(other, 90, decisions=9)
    before = copy.deepcopy(again.state_dict())
    with pytest.raises(TrainpilotError, match=r"the same buffers; given: others: norm.more"):
        again.load_state_dict(optimizer.state_dict())
    assert again.state_dict() == before


def test_the_state_of_another_version_is_refused():
    _, optimizer, _ = trained()
    state = optimizer.state_dict()
    del state["pilot"]["format"]
    with pytest.raises(TrainpilotError, match="states of format 2; given: one of format 1"):
        optimizer.load_state_dict(state)


def test_who_goes_on_with_another_policy_or_guard_is_told():
    net, optimizer, _ = trained()
    state = optimizer.state_dict()
    guard = GuardConfig(max_train_loss_ratio=None)
    with pytest.warns(UserWarning, match="another guard than it began with"):
        Pilot.load().attach(net, 90, decisions=9, guard=guard).load_state_dict(state)
    with pytest.warns(UserWarning, match="another controller than it began with"):
        Pilot(Constant("adam", 1e-3)).attach(net, 90, decisions=9).load_state_dict(state)
    with pytest.warns(UserWarning, match="another controller than"):
        Pilot.load(farthest=None).attach(net, 90, decisions=9).load_state_dict(state)


def test_hooks_on_the_state_are_called_as_torchs_optimizers_call_them():
    _, optimizer, _ = trained()
    seen = []
    optimizer.register_state_dict_pre_hook(lambda own: seen.append("before"))
    optimizer.register_state_dict_post_hook(lambda own, state: {**state, "mine": 5})
    state = optimizer.state_dict()
    assert state["mine"] == 5
    optimizer.register_load_state_dict_pre_hook(lambda own, given: seen.append(given["mine"]))
    optimizer.register_load_state_dict_post_hook(lambda own: seen.append("after"))
    optimizer.load_state_dict(state)
    assert seen == ["before", 5, "after"]
