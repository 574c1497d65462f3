"""What the pilot is given and told, and what it refuses."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from pilot_training import Net, batches, switching_policy, train
from torch import nn
from torch.nn import functional

from trainpilot import Pilot, TrainpilotError
from trainpilot.agents.heuristics import Constant
from trainpilot.agents.policy import PolicyController, make_policy
from trainpilot.envs.actions import ActionSpec
from trainpilot.envs.config import ActionConfig
from trainpilot.envs.limits import BoundsConfig, GuardConfig


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net()


def test_bad_input_is_refused_in_a_sentence(net):
    pilot = Pilot.load()
    with pytest.raises(TrainpilotError, match="parameters that require gradients; given: ReLU"):
        pilot.attach(nn.ReLU())
    with pytest.raises(TrainpilotError, match="model must be a model; given: a generator"):
        pilot.attach(net.parameters(), 100)
    with pytest.raises(TrainpilotError, match=r"needs a controller .*; given: 'default'"):
        Pilot("default")
    optimizer = pilot.attach(net, 60)
    with pytest.raises(TrainpilotError, match="needs the loss of the batch"):
        optimizer.step()
    with pytest.raises(TrainpilotError, match=r"loss.backward\(\) comes before it"):
        optimizer.step(loss=1.0)
    functional.cross_entropy(net(torch.zeros(2, 4)), torch.tensor([0, 1])).backward()
    with pytest.raises(TrainpilotError, match="one number; given: 3 of them"):
        optimizer.step(loss=torch.ones(3))
    with pytest.raises(TrainpilotError, match="state of a pilot's optimizer; given"):
        optimizer.load_state_dict(torch.optim.Adam(net.parameters()).state_dict())
    with pytest.raises(
        TrainpilotError, match="total_steps must be a whole number of at least 1; given: 0"
    ):
        pilot.attach(net, 0)
    with pytest.raises(TrainpilotError, match="snapshot must be 'beside', 'cpu' or None; given"):
        pilot.attach(net, 60, snapshot="disk")
    with pytest.raises(TrainpilotError, match="trains real parameters; given: complex ones"):
        pilot.attach(nn.Linear(2, 2, dtype=torch.complex64))
    with pytest.raises(TrainpilotError, match="not copied or pickled"):
        copy.deepcopy(optimizer)
    state = pilot.attach(net, 60).state_dict()
    with pytest.raises(TrainpilotError, match="same shapes in the same groups; given"):
        pilot.attach(nn.Linear(4, 3), 60).load_state_dict(state)
    with pytest.raises(TrainpilotError, match=r"total_steps, .* that it began with, \[60, 30, 10"):
        pilot.attach(net, 90).load_state_dict(state)
    with pytest.raises(TrainpilotError, match="farthest must be above 0"):
        Pilot.load(farthest=0)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"total_steps": 100.0}, "total_steps must be a whole number of at least 1; given: 100.0"),
        ({"total_steps": "100"}, "total_steps must be a whole number of at least 1; given: '100'"),
        ({"batch_size": 2.5}, "batch_size must be a whole number of at least 1; given: 2.5"),
        ({"lr": "0.1"}, "lr must be a number; given: '0.1'"),
        ({"lr": 0.0}, "lr must be above 0; given: 0.0"),
        ({"lr": 30.0}, "lr must lie within the bounds, 1e-07 to 1 .*; given: 30.0"),
        ({"lr": 31.0, "optimizer": "sgd"}, "within the bounds, 3e-06 to 30 .*; given: 31.0"),
        ({"lr": math.inf}, "lr must lie within the bounds, .*; given: inf"),
        ({"lr": math.nan}, "lr must be above 0; given: nan"),
        ({"weight_decay": math.inf}, "weight_decay must lie within the bounds, 0 to 1 .*: inf"),
        ({"momentum": 0.9995}, "momentum must lie within the bounds, 0 to 0.999 .*; given: 0.9995"),
        ({"gradient_clip": 0}, "gradient_clip must lie within the bounds, 0.0001 to inf .*: 0"),
        (
            {"batch_size": 4, "bounds": BoundsConfig(batch_size_high=2)},
            "batch_size must lie within the bounds, 1 to 2 .*; given: 4",
        ),
        ({"bounds": BoundsConfig(momentum_high=2)}, "bounds.momentum_high must be below 1"),
        ({"guard": {}}, "guard must be a GuardConfig; given: a dict"),
        ({"validate": 0.5}, "validate must be a function; given: 0.5"),
        ({"seed": "x"}, "seed must be a whole number of at least 0; given: 'x'"),
        ({"params": nn.Linear(2, 2)}, "params must be parameters in .*not iterable"),
        ({"params": [1, 2]}, "params must be parameters in .*; given: 1"),
        ({"params": 5}, "params must be parameters in .*not iterable"),
        ({"params": set(nn.Linear(2, 2).parameters())}, "params must be .*; given: a set"),
        ({"params": [{"lr": 1}]}, "with their 'params'; given: {'lr': 1}"),
        ({"params": [{"params": nn.Linear(2, 2).parameters(), "lr": -1}]}, "the lr of a group"),
        ({"params": [{"params": nn.Linear(2, 2).parameters(), "lr": "a"}]}, "the lr of a group"),
        ({"guard": GuardConfig(shrink=2)}, r"^guard.shrink must lie in \(0, 1\); given: 2"),
    ],
)
def test_an_argument_out_of_range_is_refused_in_a_sentence(given, message, net):
    with pytest.raises(TrainpilotError, match=message):
        Pilot(Constant("adam", 1e-3)).attach(net, **given)


def test_no_clip_at_the_start_may_become_one(net):
    optimizer = Pilot.load().attach(net, 60, bounds=BoundsConfig(gradient_clip_high=0.5))
    train(net, optimizer, batches(3))
    assert optimizer.decisions[0]["gradient_clip"] == 0.5


def test_a_batch_size_needs_no_bounds_beside_it(net):
    optimizer = Pilot.load().attach(net, 40, batch_size=4)
    before = net.first.weight.clone()
    stream = list(batches(4))
    train(net, optimizer, stream[:3])
    assert torch.equal(net.first.weight, before)
    train(net, optimizer, stream[3:])
    assert not torch.equal(net.first.weight, before)


def test_a_loss_given_by_its_place_is_refused_in_a_sentence(net):
    optimizer = Pilot.load().attach(net, 60)
    loss = functional.cross_entropy(net(torch.zeros(2, 4)), torch.tensor([0, 1]))
    loss.backward()
    with pytest.raises(TrainpilotError, match=r"or the loss by its name.*given: a Tensor"):
        optimizer.step(loss)


def test_every_step_looks_at_its_loss_and_its_gradients_not_the_measured_alone(net):
    optimizer = Pilot.load().attach(net, 6000)
    for wrong in ("abc", [1.0], np.ones(1), torch.ones(1) * 1j):
        with pytest.raises(TrainpilotError, match="a pilot's loss must be a"):
            optimizer.observe(train_loss=wrong)
    with pytest.raises(TrainpilotError, match="a validation loss and an accuracy must be numbers"):
        optimizer.observe(torch.ones(2))
    stream = list(batches(3))
    train(net, optimizer, stream)
    functional.cross_entropy(net(stream[0][0]), stream[0][1]).backward()
    with pytest.raises(TrainpilotError, match="one number; given: 3 of them"):
        optimizer.step(loss=torch.ones(3))
    net.last.weight.grad = net.last.weight.grad.to_sparse()
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(TrainpilotError, match=r"that are dense; given: one of layout torch.sparse"):
        optimizer.step(loss=1.0)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_a_step_without_gradients_is_none_once_the_training_has_begun(net):
    optimizer = Pilot.load().attach(net, 60)
    train(net, optimizer, batches(5))
    optimizer.zero_grad()
    before = copy.deepcopy(net.state_dict())
    assert optimizer.step() is None
    assert optimizer.step(loss=1.0) is None
    assert optimizer.step(lambda: torch.tensor(3.0)) == 3
    assert optimizer.steps == 5
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    train(net, optimizer, batches(55))
    assert len(optimizer.decisions) == 30


@pytest.mark.parametrize("found", [None, [0.5, 0.9], (0.5, 0.9, 1), {"loss": 1}, "low"])
def test_what_validate_gives_must_be_a_loss(found, net):
    optimizer = Pilot.load().attach(net, 60, validate=lambda: found)
    with pytest.raises(
        TrainpilotError, match=r"must give a loss, or a|validation loss and an accu"
    ):
        train(net, optimizer, batches(1))


def test_an_accuracy_is_a_share_and_goes_with_a_loss(net):
    optimizer = Pilot.load().attach(net, 60, validate=lambda: (0.5, 93.0))
    with pytest.raises(TrainpilotError, match=r"accuracy must lie in \[0, 1\]; given: 93.0"):
        train(net, optimizer, batches(1))
    with pytest.raises(TrainpilotError, match=r"valid_loss beside it; given: valid_accuracy=0.5"):
        optimizer.observe(valid_accuracy=0.5)


def test_loading_a_policy_leaves_everybodys_draws_alone():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    Pilot.load()
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("policy", [None, 3])
def test_a_policy_is_a_name_or_a_path(policy):
    with pytest.raises(TrainpilotError, match="policy must be 'default', 'rate_only' or the path"):
        Pilot.load(policy)


def test_new_tensors_may_go_to_another_device(net):
    """As with `torch.set_default_device("cuda")`; what is on "meta" has no values."""
    twin = copy.deepcopy(net)
    plain = Pilot.load().attach(twin, 60)
    torch.manual_seed(5)
    expected = train(twin, plain, batches(60))
    stream = list(batches(60))
    torch.manual_seed(5)
    with torch.device("meta"):
        optimizer = Pilot.load().attach(net, 60)
        state = optimizer.state_dict()
        losses = train(net, optimizer, stream[:30])
        state = copy.deepcopy(optimizer.state_dict())
        optimizer.load_state_dict(state)
        losses += train(net, optimizer, stream[30:])
    assert losses == expected
    assert optimizer.decisions == plain.decisions


def test_precision_around_it_is_none_of_the_policys(net):
    plain, before = Pilot.load(), torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.bfloat16)
        pilot = Pilot.load()
    finally:
        torch.set_default_dtype(before)
    twin = copy.deepcopy(net)
    expected, optimizer = plain.attach(twin, 60), pilot.attach(net, 60)
    torch.manual_seed(5)
    train(twin, expected, batches(60))
    torch.manual_seed(5)
    for inputs, targets in batches(60):
        loss = functional.cross_entropy(net(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        with torch.autocast("cpu", torch.bfloat16):
            optimizer.step(loss=loss)
    assert optimizer.decisions == expected.decisions
    assert (
        optimizer.state_dict()["pilot"]["attached"] == (expected.state_dict()["pilot"]["attached"])
    )


def test_an_alias_is_an_optimizer_that_a_policy_may_come_back_to(net):
    optimizer = Pilot(switching_policy()).attach(net, 30, optimizer="adamw")
    train(net, optimizer, batches(30))
    assert len({record["optimizer"] for record in optimizer.decisions}) > 1


def test_settings_of_a_group_are_plain_numbers(net, tmp_path):
    """A scheduler changes a tensor in place, and a checkpoint may hold no numbers of numpy."""
    groups = [
        {"params": net.first.parameters(), "lr": torch.tensor(1e-2)},
        {"params": net.last.parameters(), "lr": np.float32(1e-2), "weight_decay": np.float64(0.1)},
    ]
    optimizer = Pilot(Constant("adam", 1e-3)).attach(net, 60, params=groups)
    assert {type(group["lr"]) for group in optimizer.param_groups} == {float}
    train(net, optimizer, batches(3))
    for group in optimizer.param_groups:
        group["lr"] = group["lr"] * np.cos(0.1)
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    torch.load(tmp_path / "state.pt")
    with pytest.raises(TrainpilotError, match=r"the lr of a group must be a number; given: '1e-2'"):
        optimizer.add_param_group({"params": nn.Linear(2, 2).parameters(), "lr": "1e-2"})
    with pytest.raises(TrainpilotError, match=r"groups of them with their 'params'; given: {'lr'"):
        optimizer.add_param_group({"lr": 1.0})
    optimizer.add_param_group({"params": nn.Linear(2, 2).named_parameters()})
    optimizer.param_groups[0]["lr"] = -1.0
    with pytest.raises(TrainpilotError, match=r"the lr of a group must be at least 0; given: -1"):
        train(net, optimizer, batches(1))


def test_nesterov_leaves_gradients_alone(net):
    optimizer = Pilot(Constant("nesterov", 0.01)).attach(
        net, 60, optimizer="nesterov", lr=0.01, fused=False, foreach=True
    )
    for inputs, targets in batches(2):
        optimizer.zero_grad()
        functional.cross_entropy(net(inputs), targets).backward()
        before = net.first.weight.grad.clone()
        optimizer.step(loss=1.0)
        assert torch.equal(net.first.weight.grad, before)


def test_a_momentum_that_cannot_be_is_refused_before_anything_moves(net):
    optimizer = Pilot.load().attach(net, 60)
    train(net, optimizer, batches(2))
    before = net.first.weight.clone()
    optimizer.param_groups[0]["momentum"] = 1.0
    with pytest.raises(TrainpilotError, match=r"of a group must lie in \[0, 1\); given: 1.0"):
        train(net, optimizer, batches(1))
    assert torch.equal(net.first.weight, before)


@pytest.mark.parametrize("has_hook", [False, True])
def test_what_is_said_once_names_the_line_that_steps(has_hook, net):
    optimizer = Pilot(Constant("adam", 1e-3)).attach(net, 3)
    if has_hook:
        optimizer.register_step_pre_hook(lambda own, arguments, named: None)
    with pytest.warns(UserWarning, match="goes on after the total_steps") as said:
        train(net, optimizer, batches(5))
    assert said[0].filename.endswith("pilot_training.py")


@pytest.mark.parametrize(
    ("choices", "warm"), [(["muon"], {"muon"}), (["muon", "keep"], {"muon", "adam"})]
)
def test_what_a_policy_never_comes_back_to_keeps_nothing(choices, warm, net):
    spec = ActionSpec(ActionConfig(optimizers=choices))
    optimizer = Pilot(PolicyController(make_policy(spec, [8]), spec)).attach(net, 30)
    train(net, optimizer, batches(30))
    assert optimizer.decisions[0]["optimizer_before"] == "adam"
    assert {*optimizer.state_dict()["state"]} - {"mean"} == warm
