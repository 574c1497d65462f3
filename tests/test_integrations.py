"""What the integrations with other libraries have in common."""

from __future__ import annotations

import importlib
import math
import sys

import pytest
import torch
from torch import nn

from trainpilot import Pilot, TrainpilotError
from trainpilot.agents.heuristics import Constant
from trainpilot.agents.integrations.metrics import decision_metrics
from trainpilot.agents.integrations.taking_over import take_over


@pytest.mark.parametrize("name", ["lightning", "transformers", "accelerate"])
def test_a_missing_library_is_named_with_what_installs_it(name, monkeypatch):
    own = f"trainpilot.agents.integrations.{name}"
    for module in [module for module in sys.modules if module.split(".")[0] == name]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.delitem(sys.modules, own, raising=False)
    monkeypatch.setitem(sys.modules, name, None)
    sentence = rf"needs the package {name} \(pip install trainpilot\[{name}\]\); given: an env"
    with pytest.raises(TrainpilotError, match=sentence):
        importlib.import_module(own)


def records(controller, n_steps=20, **options):
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    optimizer = Pilot(controller).attach(model, n_steps, decisions=2, **options)
    for _ in range(n_steps):
        optimizer.zero_grad()
        loss = model(torch.randn(4, 3)).square().mean()
        loss.backward()
        optimizer.step(loss=loss)
    return optimizer.decisions


def test_a_decision_is_numbers_and_no_more():
    _, record = records(Constant("sgd", 0.01, momentum=0.5))
    metrics = decision_metrics(record)
    assert metrics == {
        "pilot/decision": 1, "pilot/step": 10, "pilot/learning_rate": 0.01,
        "pilot/weight_decay": 0, "pilot/momentum": 0.5, "pilot/batch_size": 1,
        "pilot/optimizer": 0, "pilot/ema_decay": 0, "pilot/train_loss": record["train_loss"],
        "pilot/overruled": 0, "pilot/intervention": 0,
    }  # fmt: skip
    assert all(type(value) is float for value in metrics.values())
    known = decision_metrics({**record, "valid_loss": math.inf, "gradient_clip": 2.0})
    assert (known["pilot/valid_loss"], known["pilot/gradient_clip"]) == (math.inf, 2)


def test_an_intervention_shows():
    record, _ = records(Constant("sgd", 0.01), validate=lambda: math.inf)
    assert decision_metrics(record)["pilot/intervention"] == 1


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda own: torch.optim.Adam(own, lr=0.01), ("adam", 0.01, 0.0, 0.9)),
        (lambda own: torch.optim.AdamW(own, betas=(0.8, 0.99)), ("adam", 1e-3, 0.01, 0.8)),
        (lambda own: torch.optim.SGD(own, lr=0.1), ("sgd", 0.1, 0.0, 0.0)),
        (
            lambda own: torch.optim.SGD(own, lr=0.1, momentum=0.7, nesterov=True),
            ("nesterov", 0.1, 0.0, 0.7),
        ),
        (lambda own: torch.optim.RMSprop(own, weight_decay=0.1), ("rmsprop", 0.01, 0.1, 0.9)),
        (lambda own: torch.optim.AdamW(own, lr=torch.tensor(0.25)), ("adam", 0.25, 0.01, 0.9)),
    ],
)
def test_a_pilot_begins_as_the_optimizer_is_set(make, expected):
    model = nn.Linear(3, 1)
    optimizer = Pilot.load().attach(model, 60, **take_over(make(model.parameters()), {}))
    loss = model(torch.ones(1, 3)).sum()
    loss.backward()
    optimizer.step(loss=loss)
    before = optimizer.decisions[0]
    names = ("optimizer", "learning_rate", "weight_decay", "momentum")
    assert tuple(before[f"{name}_before"] for name in names) == pytest.approx(expected)


def test_what_is_given_comes_before_what_is_taken():
    weight, bias = nn.Linear(3, 1).parameters()
    own = {"weight_decay": 0.5, "momentum": 0.8}
    groups = [{"params": [weight], "lr": 0.2}, {"params": [bias], **own}]
    taken = take_over(torch.optim.SGD(groups, lr=0.1), {"lr": 0.01, "optimizer": "adam"})
    assert (taken["lr"], taken["optimizer"]) == (0.01, "adam")
    assert [group["lr"] for group in taken["params"]] == pytest.approx([0.02, 0.01])
    assert [group.get("weight_decay") for group in taken["params"]] == [None, 0.5]
    assert [group.get("momentum") for group in taken["params"]] == [None, 0.8]


@pytest.mark.parametrize(
    ("schedule", "rate"),
    [
        (lambda own: torch.optim.lr_scheduler.OneCycleLR(own, 0.01, total_steps=50), 0.01),
        (lambda own: torch.optim.lr_scheduler.CyclicLR(own, 1e-5, 1e-3), 1e-5),
        (lambda own: torch.optim.lr_scheduler.LinearLR(own, 0.1), 0.01),
    ],
)
def test_what_a_scheduler_has_written_into_all_groups_sets_none_apart(schedule, rate):
    """`OneCycleLR` and `CyclicLR` write rates and momenta of their own where a group's are."""
    model = nn.Linear(2, 2)
    theirs = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    schedule(theirs)
    (group,) = Pilot.load().attach(model, 60, **take_over(theirs, {})).param_groups
    assert group["lr"] == pytest.approx(rate)
    assert group["lr_multiplier"] == 1
    assert group["momentum"] == 0.9
    taken = take_over(theirs, {"lr": 0.5})
    assert [own["lr"] for own in taken["params"]] == [0.5]


def test_the_highest_rates_of_one_cycle_keep_their_ratio():
    one, other = nn.Linear(2, 2), nn.Linear(2, 2)
    groups = [{"params": one.parameters(), "lr": 1e-4}, {"params": other.parameters()}]
    theirs = torch.optim.AdamW(groups, lr=1e-3)
    torch.optim.lr_scheduler.OneCycleLR(theirs, [1e-4, 1e-3], total_steps=50)
    taken = take_over(theirs, {})
    assert [group["lr"] for group in taken["params"]] == pytest.approx([1e-4, 1e-3])


def test_groups_keep_their_ratio_where_the_optimizers_own_rate_is_0():
    one, other = nn.Linear(2, 2), nn.Linear(2, 2)
    groups = [{"params": one.parameters(), "lr": 0.1}, {"params": other.parameters(), "lr": 0.2}]
    taken = take_over(torch.optim.SGD(groups, lr=0.0), {"lr": 0.01})
    assert [group["lr"] for group in taken["params"]] == pytest.approx([0.005, 0.01])
