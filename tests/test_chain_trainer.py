"""The trainer in C++ against autograd and torch.optim, and which tasks it takes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from chain_checks import OURS, assert_trains_as_torch_does, classification
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from trainpilot.envs import optimizers, update_source
from trainpilot.envs.engine import Engine
from trainpilot.envs.hyperparameters import Hyperparameters
from trainpilot.envs.native_code import UntranslatableError, load
from trainpilot.envs.optimizers import Direction
from trainpilot.inner_tasks import Split, Splits, TensorTask, TrainpilotError

pytestmark = pytest.mark.skipif(load("chain.cpp") is None, reason="no C++ compiler")

ACTIVATIONS = [
    nn.ReLU, nn.Tanh, nn.GELU, nn.SiLU, nn.Sigmoid, nn.LeakyReLU, lambda: nn.ELU(0.7), nn.Identity,
]  # fmt: skip


@settings(max_examples=25, derandomize=True)
@given(
    widths=st.lists(st.integers(1, 70), min_size=1, max_size=3),
    activations=st.lists(st.sampled_from(ACTIVATIONS), min_size=3, max_size=3),
    bias=st.booleans(),
    micro_batch_size=st.sampled_from([1, 3, 16, 20, 33]),
)
def test_multilayer_perceptrons(widths, activations, bias, micro_batch_size):
    def model() -> nn.Module:
        layers: list[nn.Module] = [nn.Flatten()]
        for number, width in enumerate(widths):
            before = 12 if number == 0 else widths[number - 1]
            layers += [nn.Linear(before, width, bias=bias), activations[number]()]
        return nn.Sequential(*layers, nn.Linear(widths[-1], 3))

    inputs = torch.randn(90, 3, 4, generator=torch.Generator().manual_seed(0))
    assert_trains_as_torch_does(classification(model, inputs, 3, micro_batch_size))


class OwnForward(nn.Module):
    """A CNN as people write it."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 6, 3)
        self.head = nn.Linear(6 * 2 * 2, 3)

    def forward(self, images: Tensor) -> Tensor:
        images = functional.max_pool2d(functional.relu(self.first(images)), 2)
        return self.head(torch.flatten(self.second(images).tanh(), 1))


CNNS = {
    "relu_and_pooling": lambda: nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(27, 3)
    ),
    "pooling_alone": lambda: nn.Sequential(
        nn.Conv2d(2, 3, 3, bias=False), nn.MaxPool2d(2), nn.Conv2d(3, 17, 2), nn.GELU(),
        nn.MaxPool2d((2, 1)), nn.Flatten(), nn.Linear(34, 3),
    ),
    "stride_and_padding": lambda: nn.Sequential(
        nn.Conv2d(2, 5, (3, 2), stride=2, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(100, 3)
    ),
    "own_forward": OwnForward,
}  # fmt: skip


@pytest.mark.parametrize("micro_batch_size", [5, 16, 40])
@pytest.mark.parametrize("name", CNNS)
def test_convolutional_networks(name, micro_batch_size):
    inputs = torch.randn(120, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    assert_trains_as_torch_does(classification(CNNS[name], inputs, 3, micro_batch_size))


def test_embeddings():
    tokens = torch.randint(9, (90, 4), generator=torch.Generator().manual_seed(0))

    def model() -> nn.Module:
        return nn.Sequential(nn.Embedding(9, 3), nn.Flatten(), nn.Linear(12, 9), nn.Tanh())

    assert_trains_as_torch_does(classification(model, tokens, 9, 10))


def test_regression():
    # The train split, 363 examples, is evaluated in three parts.
    inputs = torch.randn(603, 5, generator=torch.Generator().manual_seed(0))
    task = TensorTask(
        "regression", loss="mse", inputs=inputs, targets=inputs[:, :2].sin(), micro_batch_size=10,
        model=lambda: nn.Sequential(nn.Linear(5, 20), nn.ReLU(), nn.Linear(20, 2)),
    )  # fmt: skip
    assert_trains_as_torch_does(task)


def test_it_is_a_plain_training_with_torch_optim(moons):
    engine = Engine(moons, 1, n_micro_batches=60)
    assert engine.report == OURS
    engine.reset([0], [3])
    given = engine.advance(Hyperparameters.full(1, learning_rate=0.01, weight_decay=0.1), 60)
    torch.manual_seed(3)
    model = moons.make_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
    losses = []
    for indices in engine._order[0]:
        train = moons.splits.train
        loss = functional.cross_entropy(model(train.inputs[indices]), train.targets[indices])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    np.testing.assert_allclose(given.train_loss[0], losses, rtol=1e-5)
    torch.testing.assert_close(engine.state_dict(0), dict(model.state_dict()), rtol=1e-4, atol=1e-6)


class EveryKind(nn.Module):
    """Layers that could mix up runs or examples."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(2, 9), nn.Linear(9, 2)
        self.block = nn.Sequential(nn.LayerNorm(9), nn.SiLU(), nn.Dropout(0.2), nn.Linear(9, 9))

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.first(inputs)
        return self.last(hidden + self.block(hidden))


@pytest.mark.parametrize("model", [None, EveryKind])
def test_a_row_is_the_same_to_the_last_bit_wherever_it_stands(model, moons):
    make = model or moons.make_model
    task = TensorTask("rows", model=make, splits=moons.splits, micro_batch_size=10)
    curves = []
    for n_runs, row in ((1, 0), (9, 7), (40, 33), (256, 200)):
        engine = Engine(task, n_runs, n_micro_batches=30)
        assert engine.report == OURS
        seeds = np.arange(n_runs) + 100
        seeds[row] = 7
        engine.reset(range(n_runs), seeds.tolist())
        rates = np.full(n_runs, np.inf)  # neighbours that are not finite from their first step
        rates[row] = 0.01
        signals = engine.advance(replace(Hyperparameters.full(n_runs), learning_rate=rates), 30)
        curves.append([signals.train_loss[row], engine.evaluate()[0].loss[row]])
        assert np.isnan(signals.train_loss[np.arange(n_runs) != row, -1]).all()
    for other in curves[1:]:
        np.testing.assert_array_equal(other[0], curves[0][0])
        assert other[1] == curves[0][1]


def test_large_logits_keep_their_digits():
    logits = torch.tensor([[15.0, 0.0], [3000.0, 2999.5], [-12.5, 12.5]])
    split = Split(logits, torch.tensor([0, 0, 1]))
    task = TensorTask(
        "logits", splits=Splits(split, split, split, split), micro_batch_size=3,
        model=lambda: nn.Sequential(nn.Linear(2, 2)),
    )  # fmt: skip
    engine = Engine(task, 1, n_micro_batches=1)
    assert engine.report == OURS
    engine._state.parameters[0, :6] = torch.tensor([1.0, 0.0, 0.0, 1.0, 0.0, 0.0])
    for example in range(3):
        one = Split(logits[example : example + 1], split.targets[example : example + 1])
        expected = functional.cross_entropy(one.inputs.double(), one.targets).item()
        assert engine.evaluate_split(one).loss[0] == pytest.approx(expected, rel=1e-5, abs=2e-7)


def test_a_class_that_does_not_exist_gives_nan(moons):
    engine = Engine(moons, 1, n_micro_batches=1)
    test = moons.splits.test
    odd = Split(test.inputs, torch.full_like(test.targets, 2))
    assert np.isnan(engine.evaluate_split(odd).loss[0])


def test_a_token_that_does_not_exist_is_refused():
    tokens = torch.randint(9, (90, 4), generator=torch.Generator().manual_seed(0))
    task = classification(
        lambda: nn.Sequential(nn.Embedding(9, 3), nn.Flatten(), nn.Linear(12, 9)), tokens, 9, 10
    )
    engine = Engine(task, 1, n_micro_batches=1)
    with pytest.raises(TrainpilotError, match="tokens lie outside of 0 to 8"):
        engine.evaluate_split(Split(tokens + 1, task.splits.train.targets))


class Nothing(nn.Module):
    """Nothing to its inputs, with a parameter that nobody uses."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.ones(1))

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs


@pytest.mark.parametrize("model", [Nothing, lambda: nn.Sequential(nn.Flatten(), Nothing())])
def test_a_model_without_layers_is_left_to_torch(model):
    inputs = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
    engine = Engine(classification(model, inputs, 3, 10), 1, n_micro_batches=1)
    assert "its model has no layer" in engine.report


class Doubling(nn.Module):
    """An addition before any layer."""

    def __init__(self) -> None:
        super().__init__()
        self.nothing, self.linear = nn.Identity(), nn.Linear(3, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.linear(self.nothing(inputs) + inputs)


def test_an_addition_before_any_layer_is_left_to_torch():
    inputs = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
    engine = Engine(classification(Doubling, inputs, 3, 10), 1, n_micro_batches=1)
    assert engine.report.startswith("inner steps are not compiled: C++ of our own does not cover")


def test_other_losses_are_left_to_torch(moons):
    task = TensorTask(
        "own_loss", model=moons.make_model, splits=moons.splits, micro_batch_size=10,
        loss=functional.cross_entropy,
    )  # fmt: skip
    report = Engine(task, 1, n_micro_batches=1).report
    assert report.startswith("inner steps are not compiled: C++ of our own does not cover the task")
    assert "its loss is a function of its own" in report


class PartlyTrained(nn.Module):
    """What `torch.fx` cannot see: the first layer gets no gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 5), nn.Linear(5, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        with torch.no_grad():
            hidden = self.first(inputs)
        return self.second(hidden.relu())


def test_wrong_numbers_are_found_out():
    inputs = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
    task = classification(PartlyTrained, inputs, 2, 10)
    with pytest.warns(UserWarning, match=r"C\+\+ of our own gives other numbers"):
        engine = Engine(task, 1, n_micro_batches=4)
    assert engine.report.startswith("inner steps are not compiled: C++ of our own gives other")


class OwnLoss(TensorTask):
    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return super().loss(outputs.clamp(-5, 5), targets)


class OwnMetrics(TensorTask):
    def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        return {"accuracy": torch.zeros(())}


@pytest.mark.parametrize("kind", [OwnLoss, OwnMetrics])
def test_a_task_with_a_loss_or_metrics_of_its_own_keeps_them(kind, moons):
    task = kind("own", model=moons.make_model, splits=moons.splits, micro_batch_size=10)
    assert moons.objective_name == "cross_entropy"
    assert task.objective_name is None
    assert Engine(task, 1, n_micro_batches=1).report != OURS


def own_rule(numerator):
    """SGD's entry with another direction."""
    return optimizers.OPTIMIZERS["sgd"]._replace(
        direction=lambda before, after, context: Direction(numerator(context.gradient))
    )


def test_an_optimizer_of_ones_own_is_translated(moons, monkeypatch):
    def halved(gradient: Tensor) -> Tensor:
        return gradient / (2 + (1 - gradient.sign() * gradient))

    monkeypatch.setitem(optimizers.OPTIMIZERS, "sgd", own_rule(halved))
    curves = []
    for compiled in (False, None):
        engine = Engine(moons, 1, n_micro_batches=20, compiled=compiled)
        assert (engine.report == OURS) == (compiled is None)
        engine.reset([0], [0])
        sgd = Hyperparameters.full(1, optimizer="sgd", learning_rate=0.5)
        curves.append(engine.advance(sgd, 20).train_loss)
    np.testing.assert_allclose(curves[1], curves[0], rtol=1e-5)
    assert curves[0][0, -1] < curves[0][0, 0]


def test_an_optimizer_without_translation_is_left_to_torch(moons, monkeypatch):
    monkeypatch.setitem(optimizers.OPTIMIZERS, "sgd", own_rule(lambda gradient: gradient.cumsum(1)))
    with pytest.raises(UntranslatableError, match="cumsum"):
        update_source.update_source([0])
    report = Engine(moons, 1, n_micro_batches=1).report
    assert report.startswith("inner steps are not compiled")
    assert "an optimizer's operation 'cumsum' has no translation" in report


def test_an_optimizer_that_looks_at_shapes_is_left_to_torch(monkeypatch):
    rule = own_rule(lambda gradient: gradient / gradient.shape[1])
    monkeypatch.setitem(optimizers.OPTIMIZERS, "sgd", rule)
    with pytest.raises(UntranslatableError, match="uses the shape"):
        update_source.update_source([0])
