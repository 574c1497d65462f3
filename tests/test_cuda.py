"""The engine and the pilot on a graphics processor, where there is one, against the CPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pilot_training import Net, batches, train
from torch.nn import functional

from trainpilot import Pilot
from trainpilot.envs.config import EnvConfig
from trainpilot.envs.engine import Engine
from trainpilot.envs.hyperparameters import Hyperparameters
from trainpilot.envs.inner_runs import InnerRuns
from trainpilot.inner_tasks.vision import digits_cnn, digits_mlp

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.fixture(autouse=True)
def full_precision():
    """Convolutions and products are rounded to fewer bits on many a processor otherwise."""
    with torch.backends.cudnn.flags(allow_tf32=False):
        yield


@pytest.mark.parametrize("compiled", [False, True], ids=["plain", "compiled"])
@pytest.mark.parametrize("make_task", [digits_mlp, digits_cnn])
def test_runs_are_those_of_the_cpu(make_task, compiled):
    curves, losses = [], []
    for device in ("cpu", "cuda"):
        engine = Engine(
            make_task(), 4, n_micro_batches=20, max_batch_size=2, compiled=compiled, device=device
        )
        if compiled and device == "cuda":
            assert engine.report.startswith("inner steps are compiled by torch.compile")
        engine.reset(range(4), range(4))
        settings = Hyperparameters.full(4, batch_size=2, gradient_clip=1.0, weight_decay=0.1)
        curves.append(engine.advance(settings, 20).train_loss)
        losses.append(engine.evaluate()[0].loss)
    np.testing.assert_allclose(curves[1], curves[0], rtol=1e-3)
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-3)


def test_thousands_of_rows():
    runs = InnerRuns(digits_mlp(), 2048, EnvConfig(device="cuda", compiled=True))
    runs.reset(range(2048), range(2048))
    outcome = runs.step(Hyperparameters.full(2048))
    assert np.isfinite(outcome.valid.loss).all()
    assert not outcome.terminated.any()


def pilot_run(device, **options):
    torch.manual_seed(0)
    model = Net().to(device)
    optimizer = Pilot.load().attach(model, 60, decisions=6, **options)
    model.drop.p = 0.0
    train(model, optimizer, [(x.to(device), y.to(device)) for x, y in batches(60)])
    return optimizer.decisions


@pytest.mark.parametrize(
    "options", [{}, {"foreach": True}, {"fused": True}, {"snapshot": "cpu"}, {"ema_decay": 0.5}]
)
def test_a_pilot_decides_as_on_the_cpu(options):
    one, other = pilot_run("cpu"), pilot_run("cuda", **options)
    assert [record["learning_rate"] for record in one] == pytest.approx(
        [record["learning_rate"] for record in other]
    )
    losses = [[record["train_loss"] for record in records] for records in (one, other)]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-3)


def test_a_pilot_waits_for_the_device_only_when_it_decides():
    torch.manual_seed(0)
    model = Net().cuda()
    optimizer = Pilot.load().attach(model, 60, decisions=3)
    stream = [(x.cuda(), y.cuda()) for x, y in batches(60)]
    for number, (inputs, targets) in enumerate(stream, 1):
        loss = functional.cross_entropy(model(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        # The first step makes the snapshot, every twentieth a decision.
        torch.cuda.set_sync_debug_mode("default" if number == 1 or number % 20 == 0 else "error")
        try:
            optimizer.step(loss=loss)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert len(optimizer.decisions) == 3


def test_a_pilot_under_a_gradient_scaler():
    torch.manual_seed(0)
    model, scaler = Net().cuda(), torch.amp.GradScaler("cuda")
    optimizer = Pilot.load().attach(model, 60, decisions=6)
    losses = []
    for inputs, targets in batches(60):
        with torch.autocast("cuda", torch.float16):
            loss = functional.cross_entropy(model(inputs.cuda()), targets.cuda())
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer, loss=loss)
        scaler.update()
        losses.append(loss.item())
    assert np.mean(losses[-10:]) < np.mean(losses[:10])
