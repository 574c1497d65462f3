"""A small model and a plain loop, for the tests of the pilot."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from trainpilot.agents.policy import PolicyController, make_policy
from trainpilot.envs.actions import ActionSpec
from trainpilot.envs.config import ActionConfig


class Net(nn.Module):
    """A small classifier with all that a snapshot must keep."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 8)
        self.norm = nn.BatchNorm1d(8)
        self.drop = nn.Dropout(0.2)
        self.last = nn.Linear(8, 3)

    def forward(self, inputs):
        return self.last(self.drop(torch.relu(self.norm(self.first(inputs)))))


def batches(n_batches, seed=1):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(n_batches):
        inputs = torch.randn(16, 4, generator=generator)
        yield inputs, (inputs[:, 0] > 0).long() + (inputs[:, 1] > 0).long()


def train(model, optimizer, data):
    losses = []
    for inputs, targets in data:
        loss = functional.cross_entropy(model(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step(loss=loss)
        losses.append(loss.item())
    return losses


def train_alike(ours, theirs, n_batches):
    """Train a model under a pilot and its twin under torch; the weights must be the same."""
    (model, pilot), (twin, optimizer) = ours, theirs
    torch.manual_seed(5)
    train(model, pilot, batches(n_batches))
    torch.manual_seed(5)
    for inputs, targets in batches(n_batches):
        optimizer.zero_grad()
        functional.cross_entropy(twin(inputs), targets).backward()
        optimizer.step()
    for one, other in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


def switching_policy():
    """An untrained policy that changes its mind, the optimizer's too."""
    torch.manual_seed(3)
    spec = ActionSpec(ActionConfig(optimizers=["sgd", "adam", "rmsprop", "nesterov"]))
    networks = make_policy(spec, [8])
    with torch.no_grad():
        for parameter in networks.action_net.parameters():
            parameter.mul_(300)
    return PolicyController(networks, spec)
