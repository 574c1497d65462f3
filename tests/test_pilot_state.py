"""A pilot's state: what it goes on from, and what it does not."""

from __future__ import annotations

import copy
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from pilot_training import Net, batches, train
from torch import nn

from trainpilot import Pilot, TrainpilotError
from trainpilot.agents.controller import Decision
from trainpilot.agents.heuristics import Constant
from trainpilot.agents.schedules import OneCycle
from trainpilot.envs.limits import GuardConfig


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


@pytest.mark.parametrize("split", [[1, 3], [2, 2], [4]])
def test_the_state_of_other_groups_changes_nothing(split):
    def attach():
        parameters = iter(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)).parameters())
        groups = [{"params": [next(parameters) for _ in range(n)]} for n in split_now]
        return Pilot.load().attach(nn.Sequential(), 90, params=groups)

    split_now = [3, 1]
    state = attach().state_dict()
    split_now = split
    again = attach()
    before = copy.deepcopy(again.state_dict())
    with pytest.raises(TrainpilotError, match=r"same groups|as many parameter groups"):
        again.load_state_dict(state)
    assert again.state_dict() == before


def test_buffers_come_and_go():
    """A cache that is emptied, and a module that is taken away, are no reason to fail."""
    net, optimizer, rest = trained()
    net.register_buffer("cache", torch.zeros(2))
    net.extra = nn.BatchNorm1d(2)
    train(net, optimizer, rest[:5])
    state = copy.deepcopy(optimizer.state_dict())
    net.cache = None
    del net.extra
    with torch.no_grad():
        net.last.weight.fill_(torch.nan)
    train(net, optimizer, rest[5:15])
    assert "rolled back" in optimizer.decisions[3]["intervention"]
    assert torch.equal(net.cache, torch.zeros(2))
    net.cache = None
    optimizer.load_state_dict(state)
    train(net, optimizer, rest[5:])


def test_a_state_without_a_snapshot_leads_to_one_of_the_model_as_it_goes_on():
    net, optimizer, rest = trained(snapshot=None)
    twin = Net()
    again = Pilot.load().attach(twin, 90, decisions=9)
    with pytest.warns(UserWarning, match="another guard than it began with"):
        again.load_state_dict(optimizer.state_dict())
    twin.load_state_dict(net.state_dict())
    train(twin, again, rest[:1])
    twin.last.weight.data.fill_(torch.nan)
    train(twin, again, rest[1:5])
    assert "rolled back" in again.decisions[2]["intervention"]
    assert torch.equal(twin.first.weight, net.first.weight)


@pytest.mark.parametrize("fused", [None, True])
def test_it_goes_on_to_the_last_bit_after_roll_backs(fused):
    net, optimizer, rest = trained(fused=fused)
    for bad in (0, 12):
        rest[bad][0][:] = torch.nan
    train(net, optimizer, rest[:9])
    states = copy.deepcopy([net.state_dict(), optimizer.state_dict()])
    torch.manual_seed(1)
    losses = train(net, optimizer, rest[9:])
    twin = Net()
    twin.load_state_dict(states[0])
    again = Pilot.load().attach(twin, 90, decisions=9, fused=fused)
    again.load_state_dict(states[1])
    torch.manual_seed(1)
    assert train(twin, again, rest[9:])[20:] == losses[20:]
    roll_backs = [record["intervention"] is not None for record in again.decisions]
    assert roll_backs == [False, False, True, True, *[False] * 5]


@pytest.mark.parametrize("cut", ["run", "gradients", "steps"])
def test_a_state_that_is_cut_short_changes_nothing(cut):
    net, optimizer, _ = trained()
    state = optimizer.state_dict()
    del state["pilot"][cut]
    again = Pilot.load().attach(net, 90, decisions=9)
    with pytest.raises(TrainpilotError, match=f"must be whole; given: one without {cut}"):
        again.load_state_dict(state)
    with pytest.raises(TrainpilotError, match="must be what state_dict gave; given: None"):
        again.load_state_dict(None)
    assert again.steps == 0


def test_a_checkpoint_holds_plain_values_whatever_it_was_given(tmp_path):
    net = Net()
    guard = GuardConfig(max_train_loss_ratio=np.float64(50))
    optimizer = Pilot.load().attach(net, np.int64(60), decisions=np.int64(6), guard=guard)
    train(net, optimizer, batches(15))
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    optimizer.load_state_dict(torch.load(tmp_path / "state.pt"))


class Failing(OneCycle):
    """Fails once, at a decision of choice; its rate changes at every step."""

    fails_at: int

    def __init__(self, fails_at):
        super().__init__("adam", 1e-2)
        self.fails_at = fails_at

    def decide(self, view):
        if view.decision == self.fails_at:
            self.fails_at = -1
            raise OSError("once")
        return super().decide(view)


def attached(fails_at, net=None):
    torch.manual_seed(0)
    net = Net() if net is None else net
    return net, Pilot(Failing(fails_at)).attach(net, 60, decisions=6)


@pytest.mark.parametrize("fails_at", [0, 2])
@pytest.mark.parametrize("resumed", [False, True])
@pytest.mark.parametrize("bad", [None, 15])
def test_what_a_controller_fails_to_decide_is_decided_in_the_next_step(fails_at, resumed, bad):
    stream = list(batches(61))
    if bad is not None:
        stream[bad][0][:] = torch.nan
    plain, expected = attached(-1)
    torch.manual_seed(5)
    train(plain, expected, stream[:60])
    net, optimizer = attached(fails_at)
    torch.manual_seed(5)
    # The step before is made; only the first decision comes before its step.
    done = 20 if fails_at else 0
    with pytest.raises(OSError, match="once"):
        train(net, optimizer, stream[: done + 1])
    assert optimizer.steps == done
    drawn = torch.get_rng_state()
    if resumed:
        twin, again = attached(-1)
        twin.load_state_dict(net.state_dict())
        again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        net, optimizer = twin, again
    torch.set_rng_state(drawn)
    if not fails_at:
        # The dropout of its first step was drawn already.
        torch.manual_seed(5)
    train(net, optimizer, stream[done:60])
    assert optimizer.steps == 60
    rates = [[one["learning_rate"] for one in own.decisions] for own in (optimizer, expected)]
    assert rates[0] == rates[1]
    for one, other in zip(net.parameters(), plain.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_rate_set_while_a_decision_is_late_is_where_it_starts():
    fails = iter([False, True, *[False] * 10])

    def validate():
        if next(fails):
            raise OSError("once")
        return 1.0

    net = Net()
    optimizer = Pilot(Keeping()).attach(net, 60, decisions=6, validate=validate)
    stream = list(batches(60))
    with pytest.raises(OSError, match="once"):
        train(net, optimizer, stream[:10])
    optimizer.param_groups[0]["lr"] = 1e-4
    optimizer.add_param_group({"params": torch.zeros(2, requires_grad=True)})
    train(net, optimizer, stream[10:20])
    assert optimizer.decisions[1]["learning_rate"] == 1e-4


class Keeping:
    """Leaves everything as it is."""

    def begin(self, n_runs, actions, seed):
        pass

    def decide(self, view):
        return Decision(view.hyperparameters, learning_rate_factors=np.ones((1, 10)))


def test_records_that_nobody_took_are_in_the_state():
    seen, fails = [], iter([False, True, *[False] * 10])

    def on_decision(record):
        if next(fails):
            raise OSError("once")
        seen.append(record["decision"])

    net = Net()
    optimizer = Pilot.load().attach(net, 60, decisions=6, on_decision=on_decision)
    stream = list(batches(60))
    with pytest.raises(OSError, match="once"):
        train(net, optimizer, stream[:20])
    again = Pilot.load().attach(net, 60, decisions=6, on_decision=on_decision)
    again.load_state_dict(optimizer.state_dict())
    train(net, again, stream[20:])
    assert seen == [0, 1, 2, 3, 4, 5]


def test_a_copy_that_fails_is_made_in_the_next_step(monkeypatch):
    net, optimizer, rest = trained()
    snapshot = optimizer._snapshot
    monkeypatch.setattr(snapshot, "keep", Mock(side_effect=MemoryError))
    with pytest.raises(MemoryError):
        train(net, optimizer, rest[:5])
    train(net, optimizer, rest[5:6])
    assert optimizer._snapshot is not snapshot
    good = net.first.weight.clone()
    net.last.weight.data.fill_(torch.nan)
    train(net, optimizer, rest[6:15])
    assert "rolled back" in optimizer.decisions[3]["intervention"]
    assert not torch.equal(net.first.weight, good)  # the copy is of before that step
    assert all(torch.isfinite(parameter).all() for parameter in net.parameters())


def test_the_state_of_another_version_is_refused():
    _, optimizer, _ = trained()
    state = optimizer.state_dict()
    del state["pilot"]["format"]
    with pytest.raises(TrainpilotError, match="states of format 4; given: one of format 1"):
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
