"""Parameter groups keep what sets them apart, and what is set from outside stays."""

from __future__ import annotations

import copy

import pytest
import torch
from pilot_training import Net, batches, switching_policy, train, train_alike
from torch import nn

from trainpilot import Pilot, TrainpilotError
from trainpilot.agents.heuristics import Constant
from trainpilot.envs.limits import BoundsConfig


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net()


def test_groups_keep_what_sets_them_apart(net):
    groups = [
        {"params": net.first.parameters(), "lr": 1e-4},
        {"params": [*net.norm.parameters(), net.last.bias], "weight_decay": 0.0},
        {"params": [net.last.weight]},
    ]
    optimizer = Pilot(switching_policy()).attach(net, 90, params=groups, weight_decay=0.01)
    train(net, optimizer, batches(50))
    slow, undecayed, plain = optimizer.param_groups
    assert plain["lr"] != 1e-3
    assert slow["lr"] == pytest.approx(0.1 * plain["lr"])
    assert undecayed["weight_decay"] == 0 != plain["weight_decay"]


def test_a_group_added_later_is_trained(net):
    optimizer = Pilot.load().attach(net, 90, params=net.first.parameters())
    stream = list(batches(60))
    train(net, optimizer, stream[:30])
    before = net.last.weight.detach().clone()
    rate = optimizer.param_groups[0]["lr"]
    optimizer.add_param_group({"params": net.last.parameters(), "lr": 0.01})
    train(net, optimizer, stream[30:])
    assert not torch.equal(net.last.weight, before)
    ratio = optimizer.param_groups[1]["lr"] / optimizer.param_groups[0]["lr"]
    assert ratio == pytest.approx(0.01 / rate)


def test_a_parameter_is_trained_from_when_it_is_no_longer_frozen(net):
    net.first.requires_grad_(False)
    before = net.first.weight.detach().clone()
    optimizer = Pilot.load().attach(net, 60)
    stream = list(batches(60))
    train(net, optimizer, stream[:30])
    assert torch.equal(net.first.weight, before)
    net.first.requires_grad_(True)
    train(net, optimizer, stream[30:])
    assert not torch.equal(net.first.weight, before)


def test_no_decay_stays_none_where_decay_is_decided_later(net):
    groups = [{"params": [net.last.bias], "weight_decay": 0.0}, {"params": [net.last.weight]}]
    optimizer = Pilot(Constant("adam", 0.01, weight_decay=0.1)).attach(net, 60, params=groups)
    train(net, optimizer, batches(5))
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0, 0.1]


def test_frozen_parameters_stay(net):
    net.first.requires_grad_(False)
    before = copy.deepcopy(net.first.state_dict())
    optimizer = Pilot.load().attach(net, 60, weight_decay=0.1)
    train(net, optimizer, batches(60))
    for name, value in net.first.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


def test_a_momentum_and_a_decay_set_from_outside_stay(net):
    optimizer = Pilot(Constant("adam", 0.01)).attach(net, 90, lr=0.01)
    optimizer.param_groups[0]["momentum"] = 0.5
    optimizer.param_groups[0]["weight_decay"] = 0.3
    train(net, optimizer, batches(2))
    assert optimizer.decisions[0]["momentum_before"] == 0.5
    train(net, optimizer, batches(10))
    assert optimizer.param_groups[0]["weight_decay"] == 0.3


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_a_momentum_of_a_group_s_own_is_torch_s(name, net):
    twin = copy.deepcopy(net)

    def parts(model):
        return list(model.first.parameters()), [*model.norm.parameters(), *model.last.parameters()]

    own, rest = parts(net)
    groups = [{"params": own, "momentum": 0.3}, {"params": rest}]
    ours = Pilot(Constant(name, 0.02)).attach(net, 90, params=groups, optimizer=name, lr=0.02)
    own, rest = parts(twin)
    theirs = (
        torch.optim.SGD([{"params": own, "momentum": 0.3}, {"params": rest}], 0.02, momentum=0.9)
        if name == "sgd"
        else torch.optim.Adam([{"params": own, "betas": (0.3, 0.999)}, {"params": rest}], 0.02)
    )
    train_alike((net, ours), (twin, theirs), 40)


def test_a_momentum_set_for_one_group_is_its_own_and_for_all_the_run_s(net):
    groups = [{"params": net.first.parameters()}, {"params": net.last.parameters()}]
    optimizer = Pilot(Constant("adam", 0.01)).attach(net, 90, decisions=9, params=groups)
    one, other = optimizer.param_groups
    stream = list(batches(90))
    train(net, optimizer, stream[:5])
    one["momentum"] = 0.5
    train(net, optimizer, stream[5:15])
    assert (one["momentum"], other["momentum"]) == (0.5, 0.9)
    assert optimizer.decisions[-1]["momentum_before"] == 0.9
    # The one group that the run leads is the run.
    other["momentum"] = 0.7
    train(net, optimizer, stream[15:21])
    assert optimizer.decisions[-1]["momentum_before"] == 0.7
    one["momentum"] = other["momentum"] = 0.6
    train(net, optimizer, stream[21:31])
    assert optimizer.decisions[-1]["momentum_before"] == 0.6
    assert (one["momentum"], other["momentum"]) == (0.9, 0.9)  # as the controller asks again


def test_a_momentum_that_all_groups_share_is_the_run_s(net):
    groups = [{"params": net.parameters(), "momentum": 0.3}]
    optimizer = Pilot.load().attach(net, 90, params=groups, optimizer="sgd")
    train(net, optimizer, batches(2))
    assert optimizer.decisions[0]["momentum_before"] == 0.3
    optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))], "momentum": 0.5})
    optimizer.param_groups[0]["momentum"] = 0.6
    train(net, optimizer, batches(10))
    assert optimizer.decisions[-1]["momentum_before"] == 0.6
    twin = Net()
    twin.load_state_dict(net.state_dict())
    again = Pilot.load().attach(twin, 90, params=[{"params": twin.parameters()}], optimizer="sgd")
    again.add_param_group({"params": [nn.Parameter(torch.ones(1))]})
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(twin, again, batches(10))
    assert [group["momentum"] for group in again.param_groups] == [0.6, 0.5]


def test_a_momentum_that_passes_another_group_s_own_leaves_it_alone(net):
    groups = [
        {"params": net.first.parameters(), "momentum": 0.9},
        {"params": net.last.parameters()},
    ]
    pilot = Pilot(Constant("sgd", 0.01, momentum=0.7))
    optimizer = pilot.attach(net, 90, decisions=9, params=groups, optimizer="sgd", momentum=0.5)
    own, led = optimizer.param_groups
    stream = list(batches(90))
    for number, momentum in enumerate((0.85, 0.9, 0.95)):
        train(net, optimizer, stream[number : number + 1])
        led["momentum"] = momentum
    train(net, optimizer, stream[3:11])
    assert optimizer.decisions[1]["momentum_before"] == 0.95
    assert (own["momentum"], led["momentum"]) == (0.9, 0.7)


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"betas": (0.8, 0.99)}, r"a momentum of its own.*given: betas \(0.8, 0.99\)"),
        ({"momentum": 1.5}, r"momentum of a group must lie in \[0, 1\); given: 1.5"),
        (
            {"momentum": "high"},
            "momentum of a group must be a number; it failed with: could not convert",
        ),
    ],
)
def test_a_momentum_that_cannot_be_kept_is_refused(own, message, net):
    with pytest.raises(TrainpilotError, match=message):
        Pilot.load().attach(net, 90, params=[{"params": net.parameters(), **own}])


def test_what_all_groups_have_alike_is_what_the_run_begins_with():
    records = []
    for split in (False, True):
        torch.manual_seed(0)
        net = Net()
        groups = [
            {"params": [p for p in net.parameters() if (p.ndim > 1) == is_matrix], "lr": 0.01}
            for is_matrix in (True, False)
        ]
        given = {"params": groups} if split else {"params": net.parameters(), "lr": 0.01}
        optimizer = Pilot.load().attach(net, 60, decisions=6, **given)
        train(net, optimizer, batches(60))
        records.append([record["learning_rate"] for record in optimizer.decisions])
        assert optimizer.decisions[0]["learning_rate_before"] == 0.01
    assert records[0] == records[1]


def test_a_decay_that_all_but_the_undecayed_share_is_the_runs(net):
    groups = [
        {"params": [net.last.weight], "weight_decay": 0.1},
        {"params": [net.first.weight], "weight_decay": 0.1},
        {"params": [net.last.bias], "weight_decay": 0.0},
    ]
    optimizer = Pilot(Constant("adam", 0.01, weight_decay=0.3)).attach(net, 60, params=groups)
    train(net, optimizer, batches(5))
    assert optimizer.decisions[0]["weight_decay_before"] == 0.1
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0.3, 0]


def test_no_group_exceeds_the_bound(net):
    groups = [
        {"params": net.first.parameters(), "lr": 0.01},
        {"params": net.last.parameters(), "lr": 0.002},
    ]
    bounds = BoundsConfig(learning_rate_high=0.02)
    optimizer = Pilot(Constant("adam", 0.02)).attach(net, 60, params=groups, bounds=bounds)
    train(net, optimizer, batches(30))
    # The run's own is 0.02, of which they would have ten times and twice.
    assert [group["lr"] for group in optimizer.param_groups] == [0.02, 0.02]
    optimizer.add_param_group({"params": net.norm.parameters(), "lr": 0.5})
    assert [group["lr"] for group in optimizer.param_groups] == [0.02, 0.02, 0.02]
    with pytest.raises(
        TrainpilotError, match=r"lr must lie within the bounds, .* 0.02 .*; given: 3"
    ):
        Pilot.load().attach(net, 60, bounds=bounds, params=[{"params": [net.last.bias], "lr": 3.0}])


@pytest.mark.parametrize("name", ["maximize", "amsgrad", "nesterov", "centered"])
def test_what_a_group_may_not_have_of_its_own_is_refused(name, net):
    groups = [{"params": net.parameters(), name: True}]
    with pytest.raises(TrainpilotError, match=f"of its own, and no {name}; given: {name} True"):
        Pilot.load().attach(net, 60, params=groups)
