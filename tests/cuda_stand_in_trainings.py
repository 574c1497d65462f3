"""Trainings on the CPU and on the device that cuda_stand_in.py stands in with for CUDA."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import torch
from pilot_training import Net, batches
from torch.nn import functional

from trainpilot import Pilot
from trainpilot.envs.engine import Engine
from trainpilot.envs.hyperparameters import Hyperparameters
from trainpilot.envs.limits import BoundsConfig
from trainpilot.envs.optimizers import optimizer_index
from trainpilot.inner_tasks.catalogue import load_task

NAME = "cuda"
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "one by one": {"foreach": False},
    "fused": {"fused": True},
    "average": {"ema_decay": 0.5},
    "snapshot": {"snapshot": "cpu"},
    "accumulation": {"batch_size": 2, "bounds": BoundsConfig(batch_size_high=4)},
}
POLICIES = ("default", "rate_only")
N_STEPS, N_DECISIONS = 60, 6
ENGINE_TASKS = ("digits_mlp", "digits_cnn", "docstrings_mlp", "surnames_gru")


def n_waits() -> int:
    """How often this process has waited for the device."""
    return int(torch.ops.cuda_stand_in.n_waits())


class Training:
    """A model under a pilot, on a device."""

    def __init__(self, device: str, policy: str, **options: Any) -> None:
        torch.manual_seed(0)
        self.device, self.waits = device, []
        self.model = Net().to(device)
        self.model.drop.p = 0.0
        self.optimizer = Pilot.load(policy).attach(
            self.model, N_STEPS, decisions=N_DECISIONS, **options
        )

    def train(self, stream: list) -> None:
        """Steps, and how often each of them waits."""
        for inputs, targets in stream:
            here, there = inputs.to(self.device), targets.to(self.device)
            loss = functional.cross_entropy(self.model(here), there)
            self.optimizer.zero_grad()
            loss.backward()
            before = n_waits()
            self.optimizer.step(loss=loss)
            self.waits.append(n_waits() - before)

    def outcome(self) -> dict[str, Any]:
        """What two devices are compared by."""
        names = ("learning_rate", "train_loss", "intervention")
        return {
            "decisions": [[record[name] for name in names] for record in self.optimizer.decisions],
            "weights": [value.cpu().tolist() for value in self.model.state_dict().values()],
        }


def main() -> None:
    """Train on both devices and print."""
    stream = list(batches(N_STEPS))
    found: dict[str, Any] = {}
    for policy in POLICIES:
        for name, options in OPTIONS.items():
            found[f"{policy} {name}"] = both(policy, stream, options)
        broken = [*stream[:15], (stream[15][0] * math.nan, stream[15][1]), *stream[16:]]
        found[f"{policy} rolled back"] = both(policy, broken, {})
        found[f"{policy} resumed"] = resumed(policy, stream)
    for name in ENGINE_TASKS:
        found[f"engine {name}"] = {device: engine_losses(name, device) for device in ("cpu", NAME)}
    found["mixing is refused"] = mixing()
    found["waits are counted"] = [waited(each) for each in WAITS]
    print(json.dumps(found))


def both(policy: str, stream: list, options: dict[str, Any]) -> dict[str, Any]:
    """The same training on both devices."""
    found: dict[str, Any] = {}
    for device in ("cpu", NAME):
        training = Training(device, policy, **options)
        training.train(stream)
        found[device] = training.outcome()
    found["waits"] = training.waits
    return found


def resumed(policy: str, stream: list) -> dict[str, Any]:
    """A training on the device, and one that was saved after 25 steps and went on elsewhere."""
    whole = Training(NAME, policy)
    whole.train(stream[:25])
    weights = {name: value.clone() for name, value in whole.model.state_dict().items()}
    state = whole.optimizer.state_dict()
    other = Training(NAME, policy)
    other.model.load_state_dict(weights)
    other.optimizer.load_state_dict(state)
    for training in (whole, other):
        training.train(stream[25:])
    return {"cpu": whole.outcome(), NAME: other.outcome(), "waits": whole.waits}


def engine_losses(name: str, device: str) -> list[list[float]]:
    """Train losses of three runs by plain operations of torch, by Muon, Adam and Muon."""
    engine = Engine(load_task(name), 3, n_micro_batches=10, compiled=False, device=device)
    engine.reset(range(3), range(3))
    settings = Hyperparameters.full(3, optimizer="muon", gradient_clip=1.0, weight_decay=0.1)
    settings.optimizer[1] = optimizer_index("adam")
    losses: list[list[float]] = engine.advance(settings, 10).train_loss.tolist()
    return losses


#: What waits for a graphics processor, and how often.
WAITS = {
    lambda x: x.cpu(): 1,
    lambda x: x[0].item(): 1,
    lambda x: x.nonzero(): 1,
    lambda x: x[x > 2]: 1,
    lambda x: torch.equal(x, x): 1,
    lambda x: x + 1: 0,
    lambda x: x[torch.tensor([0, 1])]: 1,
    lambda x: x.copy_(torch.zeros(4)): 1,
    lambda x: x.copy_(torch.zeros(4), non_blocking=True): 0,
    lambda x: torch.as_tensor(0.5, device=x.device): 1,
    lambda x: x.fill_(0.5): 0,
}


def waited(what: Callable[[torch.Tensor], Any]) -> int:
    """How often it waits."""
    numbers = torch.arange(4.0).to(NAME)
    before = n_waits()
    what(numbers)
    return n_waits() - before


def mixing() -> bool:
    """Whether the device refuses what a graphics processor refuses."""
    there, index = torch.ones(3, device=NAME), torch.tensor([1])
    refused = 0
    for mix in (
        lambda: there + torch.ones(3),
        lambda: there.index_put_((index,), torch.ones(1)),
        lambda: there.index_select(0, index),
    ):
        try:
            mix()
        except RuntimeError as error:
            refused += "two devices" in str(error)
    return refused == 3 and (there[index] + torch.tensor(1.0)).cpu().tolist() == [2.0]
