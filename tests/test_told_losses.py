"""Loops that call `step` without a loss, and tell it before."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from trainpilot import Pilot, TrainpilotError


@pytest.fixture
def data():
    inputs = torch.randn(60, 2, 8, 3, generator=torch.Generator().manual_seed(1))
    return inputs, inputs[..., :1].sin()


def begun():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))
    return model, Pilot.load().attach(model, 60, decisions=6)


def test_losses_told_before_a_step_are_summed_as_gradients_are(data):
    model, optimizer = begun()
    twin, plain = begun()
    for inputs, targets in zip(*data, strict=True):
        for half, target in zip(inputs, targets, strict=True):
            loss = functional.mse_loss(model(half), target) / 2
            loss.backward()
            optimizer.observe(train_loss=loss)
            # What a loop does to its own loss afterwards is not what was told.
            loss.data.zero_()
        optimizer.step()
        optimizer.zero_grad()
        losses = [
            functional.mse_loss(twin(half), target) / 2
            for half, target in zip(inputs, targets, strict=True)
        ]
        plain.zero_grad()
        for loss in losses:
            loss.backward()
        plain.step(loss=sum(losses))
    assert optimizer.decisions == plain.decisions
    assert optimizer.steps == 60


def test_zero_grad_forgets_a_loss_whose_step_was_left_out(data):
    model, optimizer = begun()
    for number in range(10):
        optimizer.observe(train_loss=1e9)
        optimizer.zero_grad()
        loss = model(data[0][number, 0]).square().mean()
        loss.backward()
        optimizer.observe(train_loss=float(loss.detach()))
        optimizer.step()
    assert optimizer.decisions[0]["train_loss"] < 10
    with pytest.raises(TrainpilotError, match=r"optimizer.observe\(train_loss=loss\) before it"):
        optimizer.step()


def test_a_validation_loss_and_one_of_a_batch_do_not_disturb_each_other(data):
    model, optimizer = begun()
    optimizer.observe(0.5, 0.25)
    for number in range(10):
        optimizer.zero_grad()
        model(data[0][number, 0]).mean().backward()
        optimizer.observe(train_loss=torch.tensor([2.0]))
        optimizer.step()
    assert optimizer.decisions[0]["valid_loss"] == 0.5
    assert optimizer.decisions[0]["train_loss"] == 2


def test_a_closure_that_leaves_a_batch_out_makes_no_step(data):
    model, optimizer = begun()
    before = [parameter.clone() for parameter in model.parameters()]
    assert optimizer.step(lambda: None) is None
    assert optimizer.steps == 0
    assert all(map(torch.equal, before, model.parameters()))
    model(data[0][0, 0]).mean().backward()
    with pytest.raises(TrainpilotError, match="closure that returns it; given: none"):
        optimizer.step(lambda: None)
