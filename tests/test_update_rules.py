"""Every update rule against torch.optim, or the reference formula, over whole runs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from update_oracles import ORACLES, RATES

from trainpilot.envs.engine import Engine
from trainpilot.envs.hyperparameters import Hyperparameters
from trainpilot.envs.optimizers import OPTIMIZER_NAMES
from trainpilot.inner_tasks import TensorTask, TrainpilotError

N_STEPS = 200


@pytest.fixture(scope="module")
def task() -> TensorTask:
    """Two classes in double precision, so that 200 steps of rounding stay far below 1e-5."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(120, 5, generator=generator, dtype=torch.float64)
    return TensorTask(
        "double",
        model=lambda: nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 2)).double(),
        inputs=inputs,
        targets=(inputs[:, 0] * inputs[:, 1] > 0).long(),
        micro_batch_size=10,
    )


class Reference:
    """The same run with plain autograd and an optimizer of torch's own."""

    def __init__(self, task: TensorTask, seed: int, order: Tensor) -> None:
        torch.manual_seed(seed)
        self.task, self.order = task, iter(order.long())
        self.model = task.make_model()
        self.parameters = list(self.model.parameters())

    def losses(self, n_micro_batches: int) -> Iterator[float]:
        """Gradients are added up; yields the loss after each micro-batch."""
        train = self.task.splits.train
        for _ in range(n_micro_batches):
            indices = next(self.order)
            loss = self.task.loss(self.model(train.inputs[indices]), train.targets[indices])
            loss.backward()
            yield loss.item()

    def step(self, optimizers: list, used: int, *, rate: float, decay: float, clip: float) -> None:
        """One update by one optimizer; the others only take in the gradient."""
        nn.utils.clip_grad_norm_(self.parameters, clip)
        start = [parameter.detach().clone() for parameter in self.parameters]
        for number, optimizer in enumerate(optimizers):
            before = [parameter.detach().clone() for parameter in self.parameters]
            with torch.no_grad():
                for parameter, value in zip(self.parameters, start, strict=True):
                    parameter.copy_(value * (1 - rate * decay))
            optimizer.step()
            if number != used:
                with torch.no_grad():
                    for parameter, value in zip(self.parameters, before, strict=True):
                        parameter.copy_(value)
        for parameter in self.parameters:
            parameter.grad = None

    def check(self, engine: Engine, row: int) -> None:
        for name, value in engine.state_dict(row).items():
            torch.testing.assert_close(value, self.model.state_dict()[name], rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("clip", [math.inf, 0.2])
@pytest.mark.parametrize("name", OPTIMIZER_NAMES)
def test_a_rule_equals_torch_optim(name, clip, decay, task):
    engine = Engine(task, 2, n_micro_batches=N_STEPS)
    engine.reset([0, 1], [3, 4])
    reference = Reference(task, 3, engine._order[0])
    rate = RATES[name]
    optimizer = ORACLES[name](reference.parameters, rate)
    settings = Hyperparameters.full(
        2, optimizer=name, learning_rate=rate, weight_decay=decay, momentum=0.8, gradient_clip=clip
    )
    signals = engine.advance(settings, N_STEPS)
    losses = []
    for _ in range(N_STEPS):
        losses += reference.losses(1)
        reference.step([optimizer], 0, rate=rate, decay=decay, clip=clip)
    np.testing.assert_allclose(signals.train_loss[0], losses, rtol=1e-5)
    reference.check(engine, 0)
    assert losses[-1] != pytest.approx(losses[0], rel=0.01)


def test_adam_with_decay_equals_torch_optim_adamw(task):
    engine = Engine(task, 1, n_micro_batches=N_STEPS)
    engine.reset([0], [3])
    reference = Reference(task, 3, engine._order[0])
    adamw = torch.optim.AdamW(reference.parameters, lr=0.01, weight_decay=0.1)
    settings = Hyperparameters.full(1, optimizer="adamw", learning_rate=0.01, weight_decay=0.1)
    engine.advance(settings, N_STEPS)
    for _ in range(N_STEPS):
        list(reference.losses(1))
        reference.step([adamw], 0, rate=0.0, decay=0.0, clip=math.inf)
    reference.check(engine, 0)


def test_a_run_that_switches_equals_optimizers_that_all_took_in_every_gradient(task):
    """The reference: every optimizer of torch's sees every gradient, one of them moves."""
    engine = Engine(task, 1, n_micro_batches=N_STEPS)
    engine.reset([0], [3])
    reference = Reference(task, 3, engine._order[0])
    optimizers = [ORACLES[name](reference.parameters, RATES[name]) for name in OPTIMIZER_NAMES]
    for phase in range(N_STEPS // 10):
        used = phase % len(OPTIMIZER_NAMES)
        name = OPTIMIZER_NAMES[used]
        settings = Hyperparameters.full(
            1, optimizer=name, learning_rate=RATES[name], weight_decay=0.1, momentum=0.8,
            gradient_clip=0.5,
        )  # fmt: skip
        engine.advance(settings, 10)
        for _ in range(10):
            list(reference.losses(1))
            reference.step(optimizers, used, rate=RATES[name], decay=0.1, clip=0.5)
    reference.check(engine, 0)


@pytest.mark.parametrize("name", OPTIMIZER_NAMES)
def test_a_larger_batch_is_the_mean_gradient_of_its_micro_batches(name, task):
    engine = Engine(task, 3, n_micro_batches=N_STEPS, max_batch_size=4)
    engine.reset(range(3), [3, 3, 4])
    rate = RATES[name]
    settings = replace(
        Hyperparameters.full(
            3, optimizer=name, learning_rate=rate, momentum=0.8, gradient_clip=0.3
        ),
        batch_size=np.array([4, 1, 2]),
    )
    # Decisions of 5 micro-batches, so that a batch goes on from one to the next.
    parts = [engine.advance(settings, 5) for _ in range(N_STEPS // 5)]
    for row, batch_size in enumerate((4, 1, 2)):
        reference = Reference(task, (3, 3, 4)[row], engine._order[row])
        optimizer = ORACLES[name](reference.parameters, rate)
        losses = []
        for _ in range(N_STEPS // batch_size):
            losses += reference.losses(batch_size)
            for parameter in reference.parameters:
                parameter.grad /= batch_size
            reference.step([optimizer], 0, rate=rate, decay=0.0, clip=0.3)
        given = np.concatenate([part.train_loss[row] for part in parts])
        np.testing.assert_allclose(given, losses, rtol=1e-5)
        reference.check(engine, row)
        updates = np.concatenate([part.update_norm[row] for part in parts])
        assert np.isfinite(updates).sum() == N_STEPS // batch_size


def test_a_batch_that_is_lowered_under_what_was_gathered_is_used_at_once(task):
    engine = Engine(task, 1, n_micro_batches=9, max_batch_size=8)
    engine.reset([0], [0])
    before = engine.advance(Hyperparameters.full(1, batch_size=8), 3)
    assert np.isnan(before.update_norm).all()
    after = engine.advance(Hyperparameters.full(1, batch_size=2), 3)
    assert np.isfinite(after.update_norm[0]).tolist() == [True, False, True]


def test_a_batch_above_the_engine_s_largest_is_refused(task):
    engine = Engine(task, 1, n_micro_batches=9, max_batch_size=2)
    engine.reset([0], [0])
    with pytest.raises(TrainpilotError, match="at most max_batch_size, 2; given: 3"):
        engine.advance(Hyperparameters.full(1, batch_size=3), 3)
