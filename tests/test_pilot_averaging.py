"""The average of the weights in a user's training."""

from __future__ import annotations

import copy
from unittest.mock import Mock

import pytest
import torch
from pilot_training import Net, batches, train
from torch import nn

from trainpilot import Pilot, TrainpilotError
from trainpilot.agents.heuristics import Constant
from trainpilot.agents.pilot.averaging import ModelAverage
from trainpilot.envs.limits import BoundsConfig, GuardConfig

N_STEPS, EACH = 40, 10
DECAY = 0.25


def attached(net, decay=DECAY, **options):
    options = {"decisions": N_STEPS // EACH, **options}
    return Pilot(Constant("adam", 1e-2, ema_decay=decay)).attach(net, N_STEPS, **options)


def values(net):
    return {name: value.clone() for name, value in net.state_dict().items()}


def blend(average, weights):
    return {
        name: DECAY * average[name] + (1 - DECAY) * value if value.is_floating_point() else value
        for name, value in weights.items()
    }


def assert_same(one, other, **tolerance):
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], **tolerance)


EXACT = {"rtol": 0, "atol": 0}
CLOSE = {"rtol": 1e-5, "atol": 1e-6}


def test_the_model_has_the_average_within_and_its_weights_after():
    torch.manual_seed(0)
    net = Net()
    optimizer = attached(net)
    average = None
    for number, batch in enumerate(batches(N_STEPS), 1):
        train(net, optimizer, [batch])
        weights = values(net)
        is_taken = number % EACH == 0
        if is_taken:
            average = weights if average is None else blend(average, weights)
        # Between two decisions the weights of now have the share that they would be taken in with.
        expected = weights if average is None else average if is_taken else blend(average, weights)
        with optimizer.averaged():
            assert_same(values(net), expected, **CLOSE)
            with optimizer.averaged():
                assert_same(values(net), expected, **CLOSE)
            assert_same(values(net), expected, **CLOSE)
        assert_same(values(net), weights, **EXACT)
    optimizer.load_averaged()
    assert_same(values(net), average, **CLOSE)
    with optimizer.averaged():
        assert_same(values(net), average, **CLOSE)


def test_looking_changes_nothing_even_where_it_fails():
    def fail(net):
        net.norm.running_mean += 1
        raise ZeroDivisionError

    def last(look):
        torch.manual_seed(0)
        net = Net()
        optimizer = attached(net)
        for number, batch in enumerate(batches(N_STEPS), 1):
            train(net, optimizer, [batch])
            if look and number >= EACH:
                with pytest.raises(ZeroDivisionError), optimizer.averaged():
                    fail(net)
        return values(net), optimizer.decisions

    (looked, seen), (plain, others) = last(True), last(False)
    assert_same(looked, plain, **EXACT)
    assert seen == others


def test_without_a_decay_there_is_no_average():
    torch.manual_seed(0)
    net = Net()
    optimizer = attached(net, decay=0.0)
    train(net, optimizer, batches(N_STEPS))
    weights = values(net)
    with optimizer.averaged():
        assert_same(values(net), weights, **EXACT)
    optimizer.load_averaged()
    assert_same(values(net), weights, **EXACT)
    assert optimizer.state_dict()["pilot"]["average"] is None


def test_validate_sees_the_average():
    torch.manual_seed(0)
    net = Net()
    seen = []

    def validate():
        seen.append(values(net))
        return 1.0

    optimizer = attached(net, validate=validate)
    weights = []
    for batch in batches(N_STEPS):
        train(net, optimizer, [batch])
        weights.append(values(net))
    average = weights[EACH - 1]
    for number, found in enumerate(seen[1:], 1):
        if number > 1:
            average = blend(average, weights[EACH * number - 1])
        assert_same(found, average, **CLOSE)
    assert len(seen) == 1 + N_STEPS // EACH


def test_a_training_goes_on_with_its_average_to_the_last_bit():
    torch.manual_seed(0)
    net = Net()
    optimizer = attached(net)
    stream = list(batches(N_STEPS))
    train(net, optimizer, stream[:25])
    twin = Net()
    twin.load_state_dict(net.state_dict())
    again = attached(twin)
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for one, own in ((net, optimizer), (twin, again)):
        torch.manual_seed(1)
        train(one, own, stream[25:])
        own.load_averaged()
    assert_same(values(twin), values(net), **EXACT)


def test_after_a_roll_back_the_average_begins_anew():
    torch.manual_seed(0)
    net = Net()
    optimizer = attached(net, guard=GuardConfig(max_loss_ratio=10))
    stream = list(batches(N_STEPS))
    train(net, optimizer, stream[:20])
    good = values(net)
    with torch.no_grad():
        net.last.weight.fill_(torch.nan)
    train(net, optimizer, stream[20:30])
    assert "rolled back" in optimizer.decisions[2]["intervention"]
    with optimizer.averaged():
        assert_same(values(net), good, **EXACT)


@pytest.mark.parametrize(
    "called", ["step", "state_dict", "load_state_dict", "load_averaged", "add_param_group"]
)
def test_what_would_take_the_average_for_the_weights_is_refused(called):
    net = Net()
    optimizer = attached(net)
    train(net, optimizer, batches(12))
    state = optimizer.state_dict()
    does = {
        "step": lambda: train(net, optimizer, batches(1)),
        "state_dict": optimizer.state_dict,
        "load_state_dict": lambda: optimizer.load_state_dict(state),
        "add_param_group": lambda: optimizer.add_param_group({"params": [torch.ones(1)]}),
        "load_averaged": optimizer.load_averaged,
    }[called]
    with (
        pytest.raises(TrainpilotError, match=rf"pilot's {called} comes outside of averaged\(\)"),
        optimizer.averaged(),
    ):
        does()
    train(net, optimizer, batches(1))


def test_what_a_model_is_given_in_mid_training_is_averaged_from_then_on():
    net = nn.Linear(4, 3)
    optimizer = attached(net)
    train(net, optimizer, batches(15))
    more = nn.Parameter(torch.ones(2))
    more.grad = torch.ones(2)
    optimizer.add_param_group({"params": [more]})
    before = net.weight.detach().clone()
    with optimizer.averaged():
        assert torch.equal(more, torch.ones(2))
        assert not torch.equal(net.weight, before)


def test_a_model_that_is_moved_within_has_its_weights_after():
    net = Net()
    optimizer = attached(net)
    train(net, optimizer, batches(15))
    weights = values(net)
    with optimizer.averaged():
        net.half()
        net.float()
    assert_same(values(net), weights, **EXACT)


def test_what_is_no_running_statistic_is_left_as_it_is():
    class Masked(Net):
        def __init__(self):
            super().__init__()
            self.register_buffer("mask", torch.full((3,), -torch.inf))
            self.register_buffer("table", torch.eye(3).to_sparse())

    net = Masked()
    optimizer = attached(net)
    train(net, optimizer, batches(25))
    with optimizer.averaged():
        net.mask[0] = 5
        net(torch.zeros(2, 4))
    assert net.mask.tolist() == [5, -torch.inf, -torch.inf]
    optimizer.load_averaged()
    assert net.mask[1] == -torch.inf
    assert net.table.layout == torch.sparse_coo
    assert all(torch.isfinite(one).all() for one in net.parameters())


def test_sixteen_bits_lose_nothing_in_the_average():
    weights = nn.Linear(1, 1, bias=False).bfloat16()
    average = ModelAverage(weights, list(weights.parameters()))
    exact = None
    for number in range(40):
        value = 1.0 if number == 0 else 1.03125
        with torch.no_grad():
            weights.weight.fill_(value)
        average.take_in(0.9, number)
        exact = value if exact is None else 0.9 * exact + 0.1 * value
    kept = average.state_dict()["parameters"][0]
    assert kept.item() == pytest.approx(exact, rel=1e-6)
    with average.shown(0.9, 39):
        assert weights.weight.dtype == torch.bfloat16
        assert weights.weight.item() == pytest.approx(exact, rel=2**-8)
    assert weights.weight.item() == 1.03125


def test_what_fails_while_it_is_taken_in_is_not_taken_in_twice(monkeypatch):
    net = Net()
    average = ModelAverage(net, list(net.parameters()))
    average.take_in(0.5, 0)
    monkeypatch.setattr(torch.Tensor, "lerp_", Mock(side_effect=[None, MemoryError]))
    with torch.no_grad():
        net.first.weight += 1
    with pytest.raises(MemoryError):
        average.take_in(0.5, 1)
    monkeypatch.undo()
    average.take_in(0.5, 1)
    weights = values(net)
    with average.shown(0.5, 1):
        assert_same(values(net), weights, **EXACT)


@pytest.mark.parametrize("decay", [-0.1, 0.9])
def test_a_decay_out_of_bounds_is_refused_and_one_that_is_decided_on_moved_into_them(decay):
    bounds = BoundsConfig(ema_decay_high=0.5)
    with pytest.raises(TrainpilotError, match=r"ema_decay must lie within the bounds, 0 to 0\.5"):
        Pilot.load().attach(Net(), 40, bounds=bounds, ema_decay=decay)
    net = Net()
    optimizer = attached(net, decay=0.9, bounds=bounds)
    train(net, optimizer, batches(1))
    assert optimizer.decisions[0]["ema_decay"] == 0.5
    assert optimizer.decisions[0]["clamped"]
