"""The pilot in the libraries' trainings on a graphics processor, against the same on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    # 2026-11-30, lightning 2.6 and transformers 5: what they say of a GPU's settings and of torch.
    pytest.mark.filterwarnings("ignore"),
]


def lightning_losses(folder, on_cuda, precision):
    module = pytest.importorskip("test_lightning")
    pilot = module.PilotCallback(monitor="val_loss")
    how = {"accelerator": "gpu" if on_cuda else "cpu"}
    if precision is not None:
        how["precision"] = {"fp16": "16-mixed", "bf16": "bf16-mixed"}[precision]
    trained = module.Module()
    module.trainer(pilot, folder, **how).fit(trained, module.loader(), module.loader())
    return trained.losses


def transformers_losses(folder, on_cuda, precision):
    module = pytest.importorskip("test_transformers")
    how = {"use_cpu": not on_cuda} | ({} if precision is None else {precision: True})
    with a_device_of_its_own():
        trainer = module.trainer(folder, **how)
        trainer.train()
    return [record["train_loss"] for record in trainer.pilot_optimizer.decisions]


def accelerate_losses(folder, on_cuda, precision):
    module = pytest.importorskip("test_accelerate")
    with a_device_of_its_own():
        accelerator, model, optimizer, loader, pilot = module.begun(
            120, cpu=not on_cuda, precision=precision
        )
        losses = module.train(accelerator, model, optimizer, loader, epochs=3)
    pilot.load_averaged()
    return losses


@contextmanager
def a_device_of_its_own() -> Iterator[None]:
    """Accelerate keeps the first one for the rest of the process."""
    state = pytest.importorskip("accelerate.state").AcceleratorState
    state._reset_state(reset_partial_state=True)
    try:
        yield
    finally:
        state._reset_state(reset_partial_state=True)


LIBRARIES = [lightning_losses, transformers_losses, accelerate_losses]


@pytest.mark.parametrize("losses", LIBRARIES)
def test_a_library_trains_as_on_the_cpu(losses, tmp_path):
    on_cpu, on_cuda = (losses(tmp_path, where, None) for where in (False, True))
    # The kernels of attention differ, and what is rounded away at first grows.
    np.testing.assert_allclose(on_cuda[:10], on_cpu[:10], rtol=1e-2)
    assert len(on_cuda) == len(on_cpu) >= 30


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("losses", LIBRARIES)
def test_a_library_trains_with_half_the_bits(losses, precision, tmp_path):
    curve = losses(tmp_path, True, precision)
    assert np.isfinite(curve).all()
    assert np.mean(curve[-5:]) < 0.5 * np.mean(curve[:2])
