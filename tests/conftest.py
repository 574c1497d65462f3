"""Shared by all tests: one torch thread, and tasks small enough to know by heart."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import settings
from torch import Tensor, nn

from trainpilot.envs.levels import START_LEVEL
from trainpilot.envs.rewards import REWARDS, Stretch
from trainpilot.envs.task_reference import RowReferences
from trainpilot.inner_tasks import Split, Splits, TensorTask

torch.set_num_threads(1)
# No test fails by the clock: the machine may have other work.
settings.register_profile("trainpilot", deadline=None)
settings.load_profile("trainpilot")


class Point(nn.Module):
    """A model that is its parameter: a point in the plane, whatever the inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.tensor([3.0, -2.0]))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.position.expand(len(inputs), 2)


def quadratic_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Half the squared distance to the targets: gradient `position - target`, curvature 1."""
    return 0.5 * ((outputs - targets) ** 2).sum(1).mean()


@pytest.fixture
def quadratic() -> TensorTask:
    """A quadratic bowl around 0: gradient descent with rate r gives `(1 - r) ** t * start`."""
    split = Split(torch.zeros(20, 1), torch.zeros(20, 2))
    return TensorTask(
        "quadratic",
        model=Point,
        loss=quadratic_loss,
        splits=Splits(split, split, split, split),
        modality="synthetic",
        micro_batch_size=5,
    )


@pytest.fixture
def bowls() -> Callable[..., TensorTask]:
    """Makes the same task with a bowl of its own for each split, given where they are lowest."""

    def task(
        train: tuple[float, float], valid: tuple[float, float], outer_valid: tuple[float, float]
    ) -> TensorTask:
        def split(target: tuple[float, float]) -> Split:
            return Split(torch.zeros(20, 1), torch.tensor(target).expand(20, 2))

        return TensorTask(
            "bowls",
            model=Point,
            loss=quadratic_loss,
            splits=Splits(split(train), split(valid), split(outer_valid), split(outer_valid)),
            modality="synthetic",
            micro_batch_size=5,
        )

    return task


def _moons(name: str, activation: type[nn.Module]) -> TensorTask:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(100, 2, generator=generator)
    targets = (inputs[:, 0] * inputs[:, 1] > 0).long()
    return TensorTask(
        name,
        model=lambda: nn.Sequential(nn.Linear(2, 6), activation(), nn.Linear(6, 2)),
        inputs=inputs,
        targets=targets,
        micro_batch_size=10,
    )


@pytest.fixture
def moons() -> TensorTask:
    """A small real training: two classes, 60 examples, an MLP with 34 parameters."""
    return _moons("moons", nn.Tanh)


@pytest.fixture
def uncommon_moons() -> TensorTask:
    """The same with a layer that kernels of our own do not know: it takes torch.compile."""
    return _moons("uncommon_moons", nn.Mish)


@pytest.fixture(scope="session")
def rewards_of():
    """The rewards of a run with a given curve, by any reward."""

    def rewards(config, curve, reference, switches=0, diverged_at=None, hopeless_at=None):
        rows = RowReferences(1)
        rows.put(reference)
        reward = REWARDS[config.name](config)
        earned = []
        for step, (before, after) in enumerate(zip([START_LEVEL, *curve], curve, strict=False)):
            stretch = Stretch(
                before=np.array([before]),
                after=np.array([after]),
                since=np.array([step / len(curve)]),
                until=np.array([(step + 1) / len(curve)]),
                diverged=np.array([step == diverged_at]),
                hopeless=np.array([step == hopeless_at]),
                switched=np.array([step < switches]),
            )
            earned.append(reward(stretch, rows)[0])
            if stretch.ended[0]:
                break
        return np.array(earned)

    return rewards
