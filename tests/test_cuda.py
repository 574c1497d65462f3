"""The engine on a graphics processor, where there is one, against the engine on the CPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch

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


@pytest.mark.parametrize("compiled", [False, True])
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
