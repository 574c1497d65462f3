"""What the pilot watches, and what it does about it."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from pilot_training import Net, batches, train

from trainpilot import Pilot
from trainpilot.agents.heuristics import Constant
from trainpilot.agents.pilot.deciding import DivergedError
from trainpilot.envs.limits import BoundsConfig, GuardConfig


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net()


def test_a_buffer_that_a_module_replaces_goes_back_too(net):
    net.register_buffer("average", torch.zeros(3))
    optimizer = Pilot(Constant("adam", 1e-3)).attach(net, 90, decisions=9)
    for number, batch in enumerate(batches(20)):
        train(net, optimizer, [batch])
        net.average = 0.9 * net.average + 1
        if number == 12:
            net.average = net.average * torch.nan
            net.last.weight.data.fill_(torch.nan)
    # One more was added after the decision.
    assert torch.isfinite(net.average).all()
    assert "rolled back" in optimizer.decisions[1]["intervention"]


def test_a_validation_loss_that_explodes_is_seen_though_it_came_late(net):
    optimizer = Pilot.load().attach(net, 90, decisions=9)
    stream = list(batches(40))
    train(net, optimizer, stream[:15])
    optimizer.observe(0.5)
    train(net, optimizer, stream[15:25])
    optimizer.observe(1e12)
    train(net, optimizer, stream[25:30])
    assert "valid loss is 2e+12 times its start" in optimizer.decisions[2]["intervention"]


@pytest.mark.parametrize("late", ["required", "given a gradient"])
def test_what_moves_from_the_midst_of_an_interval_on_goes_back_too(late, net):
    net.first.requires_grad_(False)
    optimizer = Pilot(Constant("adam", 1e-2)).attach(net, 90, decisions=9, params=net.parameters())
    stream = list(batches(90))
    train(net, optimizer, stream[:15])
    kept = net.first.weight.clone()
    net.first.requires_grad_(late == "required")
    for inputs, targets in [stream[15], (stream[16][0] * math.nan, stream[16][1]), *stream[17:20]]:
        if late != "required":
            net.first.weight.grad = torch.full_like(kept, math.nan)
            net.last.weight.grad = torch.zeros_like(net.last.weight)
            optimizer.step(loss=1.0)
        else:
            train(net, optimizer, [(inputs, targets)])
    assert "rolled back" in optimizer.decisions[1]["intervention"]
    assert torch.equal(net.first.weight, kept)


def told(net, losses, **options):
    """A training that is told these losses; what the guard did after each decision."""
    optimizer = Pilot(Constant("adam", 1e-3)).attach(net, 3000, **options)
    for loss in losses:
        for parameter in net.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step(loss=loss)
    return [record["intervention"] for record in optimizer.decisions][:-1]


def test_a_long_training_is_compared_with_its_very_first_step(net):
    assert told(net, [50.0] + [1.0] * 99 + [200.0] * 100) == [None, None]
    (_, text) = told(net, [1.0] * 100 + [200.0] * 100)
    assert text.startswith("rolled back: train loss is 200 times its start")


def test_a_loss_that_rises_with_the_data_is_no_divergence(net):
    assert [text is None for text in told(net, [1e-6] * 100 + [1e-2] * 800)] == [
        True,
        False,
        *[True] * 7,
    ]
    guard = GuardConfig(max_train_loss_ratio=None)
    assert told(net, [1e-6] * 100 + [1e-2] * 800, guard=guard) == [None] * 9


def test_what_ends_a_training_names_the_limit(net):
    guard = GuardConfig(max_roll_backs=0, max_train_loss_ratio=50)
    with pytest.raises(DivergedError, match=r"1e.04 times its start; the guard's max_train_"):
        told(net, [1e-6] * 100 + [1e-2] * 100, guard=guard)


@pytest.mark.parametrize("snapshot", ["beside", "cpu"])
def test_what_explodes_goes_back_to_the_last_good_state(snapshot, net):
    optimizer = Pilot(Constant("adam", 1e-3)).attach(net, 90, decisions=9, snapshot=snapshot)
    stream = list(batches(90))
    train(net, optimizer, stream[:30])
    good = copy.deepcopy(net.state_dict())
    with torch.no_grad():
        net.last.weight.fill_(torch.nan)
    train(net, optimizer, stream[30:40])
    for name, value in net.state_dict().items():
        torch.testing.assert_close(value, good[name], rtol=0, atol=0)
    assert "rolled back: train loss is not finite" in optimizer.decisions[3]["intervention"]
    losses = train(net, optimizer, stream[40:])
    assert all(math.isfinite(loss) for loss in losses)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(3e-4)


def test_a_rate_set_below_the_bound_is_not_lifted_to_it_after_a_resume_either(net):
    bounds = BoundsConfig(learning_rate_low=1e-4)
    pilot = Pilot(Constant("adam", 1e-9))
    optimizer = pilot.attach(net, 60, decisions=6, bounds=bounds)
    stream = list(batches(60))
    train(net, optimizer, stream[:15])
    assert optimizer.decisions[-1]["learning_rate"] == 1e-4
    optimizer.param_groups[0]["lr"] = 1e-8
    train(net, optimizer, stream[15:25])
    twin = Net()
    twin.load_state_dict(net.state_dict())
    again = pilot.attach(twin, 60, decisions=6, bounds=bounds)
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(twin, again, stream[25:])
    rates = [record["learning_rate"] for record in again.decisions]
    assert rates == pytest.approx([1e-4] * 2 + [1e-8] * 4)


def test_what_diverges_for_good_ends_with_the_model_as_it_was(net):
    guard = GuardConfig(max_roll_backs=0)
    optimizer = Pilot.load().attach(net, 90, decisions=9, guard=guard)
    stream = list(batches(20))
    train(net, optimizer, stream[:10])
    good = copy.deepcopy(net.state_dict())
    net.last.weight.data.fill_(torch.inf)
    with pytest.raises(DivergedError, match="as it was when all was well"):
        train(net, optimizer, stream[10:])
    for name, value in net.state_dict().items():
        torch.testing.assert_close(value, good[name], rtol=0, atol=0)
    with pytest.raises(DivergedError, match="one that diverged within 20 steps"):
        train(net, optimizer, stream[:1])


def test_without_a_snapshot_what_diverges_ends_at_once(net):
    optimizer = Pilot.load().attach(net, 90, decisions=9, snapshot=None)
    net.last.weight.data.fill_(torch.inf)
    with pytest.raises(DivergedError, match="the model is left as it is"):
        train(net, optimizer, batches(10))


def test_after_its_length_it_holds_what_it_has_and_says_so_once(net):
    optimizer = Pilot.load().attach(net, 30)
    stream = list(batches(40))
    train(net, optimizer, stream[:30])
    assert len(optimizer.decisions) == 30
    rate = optimizer.param_groups[0]["lr"]
    with pytest.warns(UserWarning, match="after the total_steps .* 30: it keeps") as warned:
        train(net, optimizer, stream[30:])
    assert len(warned) == 1
    assert optimizer.param_groups[0]["lr"] == rate
    kept = optimizer.decisions[30:]
    assert [record["step"] for record in kept] == list(range(30, 40))
    assert all(record["action"] is None for record in kept)
    assert all(record["learning_rate"] == rate for record in kept)


@pytest.mark.filterwarnings("ignore:this training goes on after:UserWarning")
def test_after_its_length_the_guard_watches_on(net):
    optimizer = Pilot(Constant("adam", 1e-2)).attach(net, 60, decisions=6)
    stream = list(batches(130))
    train(net, optimizer, stream[:80])
    with torch.no_grad():
        net.last.weight.fill_(math.nan)
    train(net, optimizer, stream[80:90])
    assert "rolled back: train loss is not finite" in optimizer.decisions[8]["intervention"]
    assert optimizer.param_groups[0]["lr"] == pytest.approx(3e-3)
    # From here it goes on to the last bit after save, kill and load.
    state, weights = copy.deepcopy(optimizer.state_dict()), copy.deepcopy(net.state_dict())
    losses = train(net, optimizer, stream[90:])
    assert math.isfinite(losses[-1])
    twin = Net()
    twin.load_state_dict(weights)
    again = Pilot(Constant("adam", 1e-2)).attach(twin, 60, decisions=6)
    again.load_state_dict(state)
    torch.manual_seed(5)
    one = train(twin, again, stream[90:])
    net.load_state_dict(weights)
    optimizer.load_state_dict(state)
    torch.manual_seed(5)
    assert train(net, optimizer, stream[90:]) == one
    assert optimizer.decisions == again.decisions


@pytest.mark.parametrize("bad", [94, 97])
def test_an_update_that_is_no_number_is_seen_where_its_gradient_was_not_measured(bad, net):
    """Batches 92 to 95 make an update, and 96 to 99: the last alone of an interval is measured."""
    bounds = BoundsConfig(batch_size_high=4)
    optimizer = Pilot.load().attach(
        net, 200, decisions=2, measured_steps=1, batch_size=4, bounds=bounds
    )
    stream = list(batches(200))
    stream[bad] = (stream[bad][0] * math.nan, stream[bad][1])
    train(net, optimizer, stream)
    assert "rolled back" in optimizer.decisions[0]["intervention"]
    assert all(torch.isfinite(parameter).all() for parameter in net.parameters())


def test_a_batch_whose_weights_are_rolled_back_late_is_left_out(net):
    """`validate` fails where the divergence is found: the next step has gradients of before."""
    fails = iter([False, False, False, True, *[False] * 10])

    def validate():
        if next(fails):
            raise OSError("once")
        return 1.0

    optimizer = Pilot(Constant("adam", 1e-3)).attach(net, 90, decisions=9, validate=validate)
    stream = list(batches(90))
    train(net, optimizer, stream[:20])
    good = net.first.weight.clone()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(300)
    with pytest.raises(OSError, match="once"):
        train(net, optimizer, stream[20:30])
    train(net, optimizer, stream[30:31])
    assert torch.equal(net.first.weight, good)
    assert optimizer.steps == 30
    train(net, optimizer, stream[31:])
    roll_backs = [record["intervention"] is not None for record in optimizer.decisions]
    assert roll_backs == [False, False, True, *[False] * 5, False]


def test_a_record_that_nobody_took_comes_with_the_next(net):
    seen, fails = [], iter([False, True, *[False] * 10])

    def on_decision(record):
        if next(fails):
            raise OSError("once")
        seen.append(record["decision"])

    optimizer = Pilot.load().attach(net, 60, decisions=6, on_decision=on_decision)
    stream = list(batches(60))
    with pytest.raises(OSError, match="once"):
        train(net, optimizer, stream[:20])
    train(net, optimizer, stream[20:])
    assert seen == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_an_evaluation_before_the_first_step_that_is_no_number_ends_nothing(loss, net):
    optimizer = Pilot.load().attach(net, 90, decisions=9)
    optimizer.observe(valid_loss=loss)
    train(net, optimizer, batches(90))
    assert [record["intervention"] for record in optimizer.decisions] == [None] * 9
