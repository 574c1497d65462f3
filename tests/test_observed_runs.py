"""What is observed of real runs: the same at every scale, within bounds, and no more than shown."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from trainpilot.envs.config import EnvConfig, ObservationConfig
from trainpilot.envs.hyperparameters import Hyperparameters
from trainpilot.envs.inner_runs import InnerRuns
from trainpilot.envs.observation import FEATURE_NAMES, HIGH, LOW
from trainpilot.envs.optimizers import OPTIMIZER_NAMES
from trainpilot.inner_tasks import TensorTask, TrainpilotError


def task(width: int = 32, input_scale: float = 1.0, loss_scale: float = 1.0) -> TensorTask:
    """The function at the start does not depend on the scale of the inputs."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(1000, 8, generator=generator)
    targets = (inputs @ torch.randn(8, 3, generator=generator)).argmax(1)

    def model() -> nn.Module:
        hidden = nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 3)
        layers = nn.Sequential(nn.Linear(8, width), nn.ReLU(), *hidden)
        with torch.no_grad():
            layers[0].weight /= input_scale
        return layers

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return loss_scale * nn.functional.cross_entropy(outputs, targets)

    return TensorTask(
        "scaled", model=model, inputs=input_scale * inputs, targets=targets,
        loss="cross_entropy" if loss_scale == 1 else loss,
    )  # fmt: skip


def observed(task: TensorTask, learning_rate: float, optimizer: str) -> np.ndarray:
    """Mean of eight runs, `(n_decisions, n_features)`."""
    runs = InnerRuns(task, 8, EnvConfig())
    start = Hyperparameters.full(1, learning_rate=learning_rate, optimizer=optimizer)
    runs.reset(range(8), range(8), [start] * 8)
    return np.array([runs.step(runs.hyperparameters).observation.mean(0) for _ in range(4)])


def shift(other: dict, learning_rate: float, optimizer: str) -> np.ndarray:
    """How far another task moves the features, in shares of their range, as `observed` has them."""
    one, two = (observed(task(**kind), learning_rate, optimizer) for kind in ({}, other))
    return np.abs(two - one) / (HIGH - LOW)


@pytest.mark.parametrize(("optimizer", "learning_rate"), [("adam", 1e-6), ("sgd", 3e-5)])
@pytest.mark.parametrize(
    "other", [{"input_scale": 10.0}, {"input_scale": 0.1}, {"width": 320}], ids=str
)
def test_input_scale_and_width_hardly_move_the_observation(other, optimizer, learning_rate):
    """Of models that stand where they began: no feature by a tenth of its range."""
    moved = shift(other, learning_rate, optimizer)
    assert moved.max() < 0.1, FEATURE_NAMES[moved.max(0).argmax()]
    assert moved.mean() < 0.01


@pytest.mark.parametrize(
    ("optimizer", "learning_rate", "other", "most", "mean", "which"),
    [
        ("adam", 1e-3, {"input_scale": 10.0}, 0.20, 0.009, "valid_accuracy"),
        ("adam", 1e-3, {"input_scale": 0.1}, 0.08, 0.005, "relative_update"),
        ("adam", 1e-3, {"width": 320}, 0.43, 0.034, "valid_accuracy"),
        ("sgd", 3e-2, {"input_scale": 10.0}, 0.31, 0.038, "valid_accuracy"),
        ("sgd", 3e-2, {"input_scale": 0.1}, 0.09, 0.007, "relative_update"),
        ("sgd", 3e-2, {"width": 320}, 0.30, 0.030, "valid_accuracy"),
    ],
)
def test_where_a_model_trains_they_move_it_as_documented(
    optimizer, learning_rate, other, most, mean, which
):
    """The table of docs/environment.md: scale and width change how a model trains."""
    moved = shift(other, learning_rate, optimizer)
    assert moved.max() == pytest.approx(most, rel=0.2)
    assert moved.max(0)[FEATURE_NAMES.index(which)] == pytest.approx(most, rel=0.2)
    assert moved.mean() == pytest.approx(mean, rel=0.2)


def test_the_scale_of_the_loss_does_not_move_the_observation():
    """Under an optimizer that does not see it either; accuracy is what such a loss has not."""
    one, two = (observed(task(loss_scale=scale), 1e-3, "rmsprop") for scale in (1.000001, 100.0))
    np.testing.assert_allclose(two, one, atol=2e-3)


@pytest.mark.parametrize("learning_rate", [0.0, 1e-8, 1.0, 1e6, 1e30])
def test_within_bounds_wherever_a_run_goes(learning_rate):
    config = EnvConfig()
    config.bounds.learning_rate_low, config.bounds.learning_rate_high = 1e-38, 1e38
    runs = InnerRuns(task(), 1, config)
    start = Hyperparameters.full(1, learning_rate=learning_rate, optimizer="sgd")
    runs.reset([0], [0], [start])
    for _ in range(5):
        vector = runs.step(runs.hyperparameters).observation
        assert np.isfinite(vector).all()
        assert (vector >= LOW).all()
        assert (vector <= HIGH).all()


class Constant(nn.Module):
    """The same outputs whatever the inputs: their gradient is that of two numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.outputs = nn.Parameter(torch.zeros(2))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.outputs.expand(len(inputs), 2)


class Detached(nn.Module):
    """Outputs that no parameter has a say in: the gradient is zero."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        return 0 * self.layer(inputs)


def all_zero() -> nn.Module:
    """A model whose parameters have no norm to compare with."""
    layer = nn.Linear(8, 2)
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


@pytest.mark.parametrize("model", [Constant, Detached, all_zero])
def test_within_bounds_where_gradient_or_parameters_vanish_or_outputs_are_constant(model):
    inputs = torch.randn(300, 8, generator=torch.Generator().manual_seed(0))
    flat = TensorTask("flat", model=model, inputs=inputs, targets=(inputs.sum(1) > 0).long())
    n_runs = len(OPTIMIZER_NAMES)
    runs = InnerRuns(flat, n_runs, EnvConfig())
    starts = [Hyperparameters.full(1, optimizer=name) for name in OPTIMIZER_NAMES]
    vectors = [runs.reset(range(n_runs), range(n_runs), starts)]
    vectors += [runs.step(runs.hyperparameters).observation for _ in range(3)]
    for vector in vectors:
        assert np.isfinite(vector).all()
        assert (vector >= LOW).all()
        assert (vector <= HIGH).all()
    gradients = vectors[-1][:, FEATURE_NAMES.index("gradient_norm")]
    assert (gradients == 0).all() == (model is Detached)


def test_hidden_features_are_zero_and_others_as_they_were():
    hidden = ["train_loss", "momentum"]
    config = EnvConfig(observation=ObservationConfig(hidden=hidden))
    vectors = []
    for each in (EnvConfig(), config):
        runs = InnerRuns(task(), 1, each)
        start = runs.reset([0], [3])[0]
        vectors.append(np.stack([start, runs.step(runs.hyperparameters).observation[0]]))
    places = [FEATURE_NAMES.index(name) for name in hidden]
    assert vectors[0][1, places].all()
    vectors[0][:, places] = 0
    np.testing.assert_array_equal(*vectors)
    with pytest.raises(TrainpilotError, match="unknown feature 'loss'"):
        InnerRuns(task(), 1, EnvConfig(observation=ObservationConfig(hidden=["loss"])))


def test_signals_are_dropped_run_by_run_as_the_seed_says():
    config = EnvConfig(
        decisions=2,
        observation=ObservationConfig(drop_budget=0.3, drop_valid=0.3, drop_accuracy=0.3),
    )
    runs = InnerRuns(task(), 400, config)
    seeds = range(400)
    features = ("has_budget", "has_valid", "has_accuracy")
    places = [FEATURE_NAMES.index(name) for name in features]
    first = runs.reset(range(400), seeds)[:, places]
    after = runs.step(runs.hyperparameters).observation[:, places]
    np.testing.assert_array_equal(after, first)  # for the whole run
    np.testing.assert_array_equal(runs.reset(range(400), seeds)[:, places], first)
    # An accuracy is one on the validation set.
    np.testing.assert_allclose(first.mean(0), [0.7, 0.7, 0.49], atol=0.08)
    assert not (first[:, 2] > first[:, 1]).any()


def test_shares_must_be_shares():
    with pytest.raises(TrainpilotError, match=r"env.observation.drop_valid must lie in \[0, 1\]"):
        EnvConfig(observation=ObservationConfig(drop_valid=1.5)).validate()
