"""The engine and the pilot on a device whose memory is not the CPU's, without having one.

Torch's "meta" device holds no numbers, but refuses as a graphics processor does to mix its
tensors with others. What comes back to the CPU is ones.
"""

from __future__ import annotations

import pytest
import torch
from pilot_training import Net, batches
from torch import nn
from torch.nn import functional

from trainpilot import Pilot
from trainpilot.envs.config import EnvConfig
from trainpilot.envs.engine import Engine
from trainpilot.envs.family_engine import FamilyEngine
from trainpilot.envs.hyperparameters import Hyperparameters
from trainpilot.envs.inner_runs import InnerRuns
from trainpilot.envs.limits import GuardConfig
from trainpilot.inner_tasks import TensorTask
from trainpilot.inner_tasks.catalogue import load_task
from trainpilot.inner_tasks.family import TaskFamily

TASKS = ["digits_cnn", "docstrings_mlp", "surnames_gru", "code_transformer", "patterns"]


@pytest.fixture
def elsewhere(monkeypatch):
    """The name of a device; every copy from there to the CPU is full of ones."""
    real = torch.Tensor.cpu

    def cpu(self):
        return torch.ones(self.shape, dtype=self.dtype) if self.is_meta else real(self)

    monkeypatch.setattr(torch.Tensor, "cpu", cpu)
    return "meta"


@pytest.mark.parametrize("name", TASKS)
def test_the_engine_mixes_no_devices(name, elsewhere):
    task = load_task(name)
    check_mixes_no_devices(task.task(0) if isinstance(task, TaskFamily) else task, elsewhere)


def test_buffers_and_dropout_mix_no_devices_either(elsewhere, moons):
    def model() -> nn.Module:
        return nn.Sequential(
            nn.Linear(2, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 2)
        )

    task = TensorTask("buffers", model=model, splits=moons.splits, micro_batch_size=10)
    check_mixes_no_devices(task, elsewhere)


def test_a_family_mixes_no_devices_and_is_not_compiled_anew_for_every_task(elsewhere):
    settings = {"n_micro_batches": 10, "compiled": True, "device": elsewhere}
    engine = FamilyEngine(load_task("patterns"), 2, **settings)
    engine.reset([0, 1], [5, 6])
    assert engine.advance(Hyperparameters.full(2), 5).train_loss.shape == (2, 5)
    assert "torch.compile was not asked for" in engine.report


def check_mixes_no_devices(task, elsewhere):
    engine = Engine(task, 4, n_micro_batches=20, max_batch_size=2, compiled=False, device=elsewhere)
    engine.reset(range(4), range(4))
    settings = Hyperparameters.full(4, batch_size=2, gradient_clip=1.0, weight_decay=0.1)
    signals = engine.advance(settings, 10)
    assert signals.train_loss.shape == (4, 10)
    engine.reset([1], [7])
    assert engine.evaluate()[0].loss.shape == (4,)
    assert engine.evaluate_split(task.splits.test, [0, 2]).loss.shape == (2,)
    assert {value.device.type for value in engine.state_dict(1).values()} == {"cpu"}
    assert engine.carried()[0].device.type == elsewhere


def test_runs_roll_back_where_they_are(elsewhere, monkeypatch):
    guard = GuardConfig(on_divergence="roll_back")
    config = EnvConfig(guard=guard, device=elsewhere, compiled=False)
    runs = InnerRuns(load_task("digits_mlp"), 2, config)
    runs.reset(range(2), range(2))
    assert not runs.step(Hyperparameters.full(2)).interventions.rolled_back.any()
    monkeypatch.setattr(torch.Tensor, "cpu", lambda self: torch.full(self.shape, torch.nan))
    assert runs.step(Hyperparameters.full(2)).interventions.rolled_back.all()


@pytest.mark.parametrize("policy", ["default", "rate_only"])
@pytest.mark.parametrize("options", [{}, {"foreach": True}, {"ema_decay": 0.5}, {"snapshot": None}])
def test_a_pilot_mixes_no_devices(policy, options, elsewhere):
    model = Net().to(elsewhere)
    optimizer = Pilot.load(policy).attach(model, 60, decisions=6, **options)
    for inputs, targets in batches(60):
        loss = functional.cross_entropy(model(inputs.to(elsewhere)), targets.to(elsewhere))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step(loss=loss)
    assert len(optimizer.decisions) == 6
    kept = [
        value
        for state in optimizer.state_dict()["state"].values()
        for values in state.values()
        for key, value in values.items()
        if isinstance(value, torch.Tensor) and key != "step"
    ]
    assert kept
    assert {value.device.type for value in kept} == {elsewhere}
