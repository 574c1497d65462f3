"""The pilot in loops that Hugging Face accelerate prepares."""

from __future__ import annotations

from importlib import import_module

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from trainpilot import Pilot, TrainpilotError

accelerate = pytest.importorskip("accelerate")
attach = import_module("trainpilot.agents.integrations.accelerate").attach


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def batches():
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(640, 4, generator=generator)
    targets = (inputs[:, 0] > 0).long() + (inputs[:, 1] > 0).long()
    return DataLoader(TensorDataset(inputs, targets), 16)


def begun(
    total_steps,
    batches_per_step=1,
    folder=None,
    tracker=None,
    *,
    cpu=True,
    precision=None,
    **options,
):
    """A loop's objects, as `prepare` gives them, and the pilot itself."""
    accelerator = accelerate.Accelerator(
        cpu=cpu,
        mixed_precision=precision,
        gradient_accumulation_steps=batches_per_step,
        project_dir=folder,
        log_with=tracker,
    )
    model = network()
    pilot = attach(accelerator, model, total_steps, **options)
    return accelerator, *accelerator.prepare(model, pilot, batches()), pilot


def train(accelerator, model, optimizer, loader, epochs, factor=1.0, clip=0.5):
    losses = []
    for _ in range(epochs):
        for inputs, targets in loader:
            with accelerator.accumulate(model):
                loss = factor * functional.cross_entropy(model(inputs), targets)
                accelerator.backward(loss)
                if accelerator.sync_gradients and clip:
                    accelerator.clip_grad_norm_(model.parameters(), clip)
                optimizer.step()
                optimizer.zero_grad()
            losses.append(loss.item())
    return losses


def plain_loop(batches_per_step, total_steps):
    """What accelerate is to do, by hand."""
    model, losses = network(), []
    optimizer = Pilot.load().attach(model, total_steps)
    for _ in range(3):
        every = list(batches())
        for first in range(0, len(every), batches_per_step):
            for inputs, targets in every[first : first + batches_per_step]:
                loss = functional.cross_entropy(model(inputs), targets)
                losses.append(loss.item())
                loss = loss / batches_per_step
                loss.backward()
                optimizer.observe(train_loss=loss)
            nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
            optimizer.zero_grad()
    return losses, optimizer


# The last step of an epoch has one batch instead of three.
@pytest.mark.parametrize(("batches_per_step", "total_steps"), [(1, 120), (3, 42)])
def test_a_prepared_loop_trains_as_a_plain_one(batches_per_step, total_steps):
    *prepared, pilot = begun(total_steps, batches_per_step)
    losses = train(*prepared, epochs=3)
    expected, plain = plain_loop(batches_per_step, total_steps)
    assert losses == expected
    assert pilot.decisions == plain.decisions
    assert pilot.steps == total_steps


def test_a_loop_goes_on_from_its_saved_state_to_the_last_bit(tmp_path):
    # The third of seven decisions holds from step 34 to 51, an epoch has 40.
    *whole, expected = begun(120, decisions=7)
    losses = train(*whole, epochs=3)
    *first, _ = begun(120, decisions=7)
    before = train(*first, epochs=1)
    first[0].save_state(str(tmp_path))
    *again, pilot = begun(120, decisions=7)
    again[0].load_state(str(tmp_path))
    assert before + train(*again, epochs=2) == losses
    assert pilot.decisions == expected.decisions


def test_decisions_reach_the_trackers(tmp_path):
    own = []
    *prepared, pilot = begun(
        120, folder=str(tmp_path), tracker="tensorboard", on_decision=own.append
    )
    prepared[0].init_trackers("run")
    train(*prepared, epochs=3)
    prepared[0].end_training()
    assert own == pilot.decisions
    reading = import_module("tensorboard.backend.event_processing.event_accumulator")
    events = reading.EventAccumulator(str(tmp_path / "run")).Reload().Scalars("pilot/decision")
    assert [(event.step, event.value) for event in events] == [
        (4 * number + 4, number) for number in range(30)
    ]


def test_steps_that_a_scaler_skips_are_forgotten_with_their_losses():
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
    # Ten times the loss times this overflows, until it has been halved often enough.
    accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=3e38)
    model = network()
    pilot = attach(accelerator, model, 60)
    prepared = accelerator.prepare(model, pilot, batches())
    train(accelerator, *prepared, epochs=3, factor=10.0, clip=None)
    assert 0 < pilot.steps < 60
    losses = [record["train_loss"] for record in pilot.decisions[:-1]]
    assert max(losses) < 1.5 * losses[1]


def test_a_second_training_has_a_pilot_of_its_own():
    accelerator, *prepared, first = begun(40)
    train(accelerator, *prepared, epochs=1)
    model = network()
    second = attach(accelerator, model, 40)
    train(accelerator, *accelerator.prepare(model, second, batches()), epochs=1)
    assert second.decisions == first.decisions
    # What the accelerator says no longer goes to the first.
    prepared[0](torch.zeros(2, 4)).sum().backward()
    with pytest.raises(TrainpilotError, match="needs the loss of the batch"):
        first.step()


def test_sharded_parameters_are_refused_in_a_sentence(monkeypatch):
    accelerator = accelerate.Accelerator(cpu=True)
    sharded = accelerate.utils.DistributedType.FSDP
    monkeypatch.setattr(type(accelerator), "distributed_type", sharded)
    with pytest.raises(TrainpilotError, match="whole on every device; given: FSDP"):
        attach(accelerator, network())
