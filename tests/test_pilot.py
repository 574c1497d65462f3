"""The pilot as an optimizer in somebody's training loop."""

from __future__ import annotations

import copy
import io
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis.strategies import data, integers, sampled_from
from pilot_training import Net, batches, switching_policy, train, train_alike
from torch.nn import functional
from torch.optim import lr_scheduler
from torch.utils._python_dispatch import TorchDispatchMode

from trainpilot import Pilot
from trainpilot.agents.controller import Decision
from trainpilot.agents.heuristics import Constant
from trainpilot.agents.pilot.clock import Clock
from trainpilot.agents.schedules import OneCycle
from trainpilot.envs.limits import GuardConfig


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net()


TORCH = {
    "sgd": lambda params: torch.optim.SGD(params, lr=0.02, momentum=0.9),
    "nesterov": lambda params: torch.optim.SGD(params, lr=0.02, momentum=0.9, nesterov=True),
    "adam": lambda params: torch.optim.AdamW(params, lr=0.02, weight_decay=0.1),
    "rmsprop": lambda params: torch.optim.RMSprop(params, lr=0.02),
}


@pytest.mark.parametrize("name", TORCH)
def test_a_constant_pilot_is_the_optimizer_of_torch(name, net):
    twin = copy.deepcopy(net)
    decay = 0.1 if name == "adam" else 0.0
    pilot = Pilot(Constant(name, 0.02, weight_decay=decay))
    ours = pilot.attach(net, 90, optimizer=name, lr=0.02, weight_decay=decay)
    theirs = TORCH[name](twin.parameters())
    train_alike((net, ours), (twin, theirs), 90)


def test_a_run_of_any_length_makes_the_decisions_that_the_policy_learned_with(net):
    optimizer = Pilot.load().attach(net, total_steps=1000)
    train(net, optimizer, batches(1000))
    records = optimizer.decisions
    assert [record["step"] for record in records] == [number * 1000 // 30 for number in range(30)]
    assert all(math.isfinite(record["train_loss"]) for record in records)
    # No validation set was told of: its features are 0, and so is the one that says so.
    assert not any(np.array([record["observation"] for record in records])[:, 16:23].any(1))


@pytest.mark.parametrize("make", [switching_policy, lambda: OneCycle("adam", 0.02)])
@pytest.mark.parametrize("stop", [1, 37, 60])
def test_a_training_goes_on_to_the_last_bit_after_save_kill_and_load(make, stop):
    def begun():
        torch.manual_seed(0)
        model = Net()
        return model, Pilot(make()).attach(
            model, 90, decisions=9, lr=0.1, guard=GuardConfig(max_train_loss_ratio=1.05)
        )

    model, optimizer = begun()
    expected = train(model, optimizer, batches(90))

    model, optimizer = begun()
    stream = list(batches(90))
    before = train(model, optimizer, stream[:stop])
    file = io.BytesIO()
    states = model.state_dict(), optimizer.state_dict(), torch.get_rng_state()
    torch.save(states, file)
    file.seek(0)
    weights, state, random = torch.load(file, weights_only=True)
    model, optimizer = begun()
    model.load_state_dict(weights)
    optimizer.load_state_dict(state)
    torch.set_rng_state(random)
    assert before + train(model, optimizer, stream[stop:]) == expected


def test_what_was_told_before_the_first_step_is_in_the_state(net):
    optimizer = Pilot.load().attach(net, 60, decisions=6)
    optimizer.observe(0.25)
    other = Pilot.load().attach(net, 60, decisions=6)
    other.load_state_dict(optimizer.state_dict())
    train(net, other, batches(10))
    assert other.decisions[0]["valid_loss"] == 0.25


def test_a_learning_rate_set_from_outside_is_where_the_next_decision_starts(net):
    optimizer = Pilot.load().attach(net, 90)
    stream = list(batches(90))
    train(net, optimizer, stream[:31])
    for group in optimizer.param_groups:
        group["lr"] = 5e-5
    train(net, optimizer, stream[31:32])
    assert optimizer.param_groups[0]["lr"] == 5e-5
    train(net, optimizer, stream[32:33])
    assert optimizer.decisions[-1]["learning_rate_before"] == pytest.approx(5e-5)


@pytest.mark.parametrize(
    "make",
    [
        lambda optimizer: lr_scheduler.LambdaLR(optimizer, lambda step: min(step / 30, 1)),
        lambda optimizer: lr_scheduler.OneCycleLR(optimizer, 0.01, 90),
        lambda optimizer: lr_scheduler.LinearLR(optimizer, 1e-8, 1.0, 50),
        lambda optimizer: lr_scheduler.ExponentialLR(optimizer, 0.97),
    ],
)
def test_schedulers_of_torch_work_on_top(make, net):
    def trained(optimizer, step):
        scheduler, rates = make(optimizer), []
        for batch in batches(90):
            step(batch)
            scheduler.step()
            rates.append(optimizer.param_groups[0]["lr"])
        return rates

    class Same(Constant):
        """Leaves everything as it is."""

        def decide(self, view):
            return Decision(view.hyperparameters)

    plain = torch.optim.Adam(net.parameters(), lr=0.01)
    expected = trained(plain, lambda _: plain.step())
    optimizer = Pilot(Same("adam", 0.01)).attach(net, 90, lr=0.01)
    rates = trained(optimizer, lambda batch: train(net, optimizer, [batch]))
    np.testing.assert_allclose(rates, expected, rtol=1e-9, atol=1e-15)
    changes = np.array([record["observation"] for record in optimizer.decisions])[:, 24]
    assert (changes < 2).all()


def test_a_training_under_a_scheduler_goes_on_to_the_last_bit():
    def begun():
        torch.manual_seed(0)
        model = Net()
        optimizer = Pilot.load().attach(model, 90)
        return model, optimizer, lr_scheduler.ExponentialLR(optimizer, 0.97)

    def trained(model, optimizer, scheduler, stream):
        rates = []
        for batch in stream:
            train(model, optimizer, [batch])
            scheduler.step()
            rates.append(optimizer.param_groups[0]["lr"])
        return rates

    torch.manual_seed(9)
    stream = list(batches(90))
    expected = trained(*begun(), stream)
    first = begun()
    before = trained(*first, stream[:16])
    states = copy.deepcopy([one.state_dict() for one in first])
    random = torch.get_rng_state()
    again = begun()
    for one, state in zip(again, states, strict=True):
        one.load_state_dict(state)
    torch.set_rng_state(random)
    rates = before + trained(*again, stream[16:])
    assert rates == expected


@pytest.mark.parametrize("which", ["validate", "on_decision"])
def test_what_fails_in_a_users_function_is_made_up_for_in_the_next_step(which, net):
    calls = []

    def fails_twice(*_):
        calls.append(1)
        if len(calls) in (1, 4):
            raise ZeroDivisionError
        return 1.0

    optimizer = Pilot.load().attach(net, 60, decisions=6, **{which: fails_twice})
    failures = 0
    for batch in batches(70):
        try:
            train(net, optimizer, [batch])
        except ZeroDivisionError:
            failures += 1
        if len(optimizer.decisions) == 6 and optimizer.decisions[-1]["train_loss"] is not None:
            break
    assert failures == 2
    steps = [record["step"] for record in optimizer.decisions]
    assert steps == [0, 10, 20, 30, 40, 50]
    assert all(record["train_loss"] is not None for record in optimizer.decisions)


def test_a_validation_set_may_come_late_and_go_unchecked(net):
    optimizer = Pilot.load().attach(net, 90, decisions=9)
    stream = list(batches(90))
    train(net, optimizer, stream[:35])
    optimizer.observe(valid_loss=torch.tensor(0.7), valid_accuracy=0.5)
    train(net, optimizer, stream[35:])
    observations = np.array([record["observation"] for record in optimizer.decisions])
    assert observations[:, 16].tolist() == [0] * 4 + [1] * 5
    # Nothing can be said of a change before there are two.
    np.testing.assert_allclose(observations[4, 18:21], 0, atol=1e-6)
    assert observations[5, 22] == 0.5
    assert optimizer.decisions[5]["valid_loss"] == pytest.approx(0.7)


def test_validate_is_called_at_every_decision(net):
    calls = []

    def validate():
        calls.append(torch.is_grad_enabled())
        return 1.0 / len(calls)

    optimizer = Pilot.load().attach(net, 60, decisions=6, validate=validate)
    train(net, optimizer, batches(60))
    # Before the first step, and after each decision's.
    assert calls == [False] * 7
    assert [record["valid_loss"] for record in optimizer.decisions] == [
        1 / number for number in range(2, 8)
    ]


def test_without_a_length_it_decides_from_time_to_time(net):
    optimizer = Pilot.load().attach(net, decide_every=20)
    train(net, optimizer, batches(100))
    assert [record["step"] for record in optimizer.decisions] == [0, 20, 40, 60, 80, 100]
    assert all(record["observation"][0] == 0 for record in optimizer.decisions)


@pytest.mark.parametrize(
    "make", [Pilot.load, lambda: Pilot.load(farthest=1e-3), lambda: Pilot(OneCycle("adam", 0.02))]
)
def test_without_a_length_it_goes_on_after_as_many_decisions_as_it_learned_with(make, net):
    optimizer = make().attach(net, decide_every=10)
    assert all(math.isfinite(loss) for loss in train(net, optimizer, batches(360)))
    assert len(optimizer.decisions) == 37
    rates = [record["learning_rate"] for record in optimizer.decisions]
    assert all(0 < rate < 1 for rate in rates)
    if make != Pilot.load:
        # The straight line stays where it is, and a schedule where it ended.
        assert len(set(rates[30:])) == 1


def test_where_the_policy_does_not_know_its_way_a_straight_line_decides(net):
    pilot = Pilot.load(farthest=1e-3)
    optimizer = pilot.attach(net, 60, decisions=6, lr=0.01)
    train(net, optimizer, batches(60))
    assert all(record["overruled"] for record in optimizer.decisions)
    rates = [record["learning_rate"] for record in optimizer.decisions]
    np.testing.assert_allclose(rates, 0.01 * (1 - np.arange(6) / 6))
    # After its length it holds the line's last rate.
    assert optimizer.param_groups[0]["lr"] == pytest.approx(rates[-1])
    never = Pilot.load(farthest=None).attach(net, 60, decisions=6)
    train(net, never, batches(60))
    assert not any(record["overruled"] for record in never.decisions)


def test_closures_scalers_and_autocast(net):
    optimizer = Pilot(Constant("adam", 1e-2)).attach(net, 60, decisions=6)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
    twin = copy.deepcopy(net)
    plain = Pilot(Constant("adam", 1e-2)).attach(twin, 60, decisions=6)
    for number, (inputs, targets) in enumerate(batches(60)):
        torch.manual_seed(number)
        with torch.autocast("cpu", torch.bfloat16):
            loss = functional.cross_entropy(net(inputs), targets)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer, loss=loss)
        scaler.update()

        def closure(number=number, inputs=inputs, targets=targets):
            torch.manual_seed(number)
            plain.zero_grad()
            with torch.autocast("cpu", torch.bfloat16):
                loss = functional.cross_entropy(twin(inputs), targets)
            loss.backward()
            return loss

        assert plain.step(closure).item() == pytest.approx(loss.item(), abs=0.1)
    for one, other in zip(optimizer.decisions, plain.decisions, strict=True):
        assert one["train_loss"] == pytest.approx(other["train_loss"], rel=0.1)


@pytest.mark.parametrize("how", [{"foreach": True}, {"fused": True}])
def test_paths_of_torch_give_the_same(how, net):
    twin = copy.deepcopy(net)
    for model, more in ((net, {}), (twin, how)):
        torch.manual_seed(2)
        optimizer = Pilot(switching_policy()).attach(model, 60, decisions=6, **more)
        train(model, optimizer, batches(60))
    for one, other in zip(net.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_trainings_of_one_pilot_do_not_disturb_each_other(net):
    pilot = Pilot(switching_policy())
    models = [net, copy.deepcopy(net)]
    optimizers = [pilot.attach(model, 60, decisions=6) for model in models]
    for batch in batches(60):
        for model, optimizer in zip(models, optimizers, strict=True):
            torch.manual_seed(0)
            train(model, optimizer, [batch])
    one, other = (optimizer.decisions for optimizer in optimizers)
    assert one == other


def test_the_loop_of_the_readme_trains(net):
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    code = readme.split("<!-- pilot -->\n```python\n")[1].split("```")[0]
    names = {"model": net, "loader": list(batches(40)), "loss_fn": functional.cross_entropy}
    exec(compile(code, "README.md", "exec"), names)
    assert names["optimizer"].decisions[0]["learning_rate"] > 0


@given(total=integers(1, 5000), decisions=integers(1, 60), measured=integers(1, 20), data=data())
def test_a_run_is_cut_into_intervals_without_gaps(total, decisions, measured, data):
    clock = Clock(total, decisions, measured, 100)
    intervals = [clock.interval(number) for number in range(clock.decisions)]
    assert intervals[0].first == 0
    assert intervals[-1].end == total
    for one, other in pairwise(intervals):
        assert one.end == other.first
    lengths = {interval.end - interval.first for interval in intervals}
    assert max(lengths) - min(lengths) <= 1
    some = data.draw(sampled_from(intervals))
    assert len(some.measured) == min(measured, some.end - some.first)
    assert some.measured[-1] == some.end - 1
    assert list(some.measured) == sorted(set(some.measured))
    assert some.measured[0] >= some.first
    assert clock.is_over(clock.decisions)
    assert clock.progress(clock.decisions) == 1


class Waits(TorchDispatchMode):
    """Counts what reads a tensor's value, which waits for a device."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["adam", "lion", "muon"])
def test_nothing_waits_for_the_device_but_a_decision(name, net):
    """Torch's Adam reads the number of its steps, which lies on the CPU."""
    sizes = [parameter.ndim for parameter in net.parameters()]
    own = {"adam": len(sizes), "lion": 0, "muon": sizes.count(1)}[name]
    optimizer = Pilot(Constant(name, 1e-3)).attach(net, 60, decisions=3, optimizer=name)
    waits = []
    for number, (inputs, targets) in enumerate(batches(60)):
        loss = functional.cross_entropy(net(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        with Waits() as seen:
            optimizer.step(loss=loss)
        waits.append(seen.count)
        assert len(optimizer.decisions) == min(1 + (number + 1) // 20, 3)
    assert {count for step, count in enumerate(waits, 1) if step % 20 and step > 1} == {own}
