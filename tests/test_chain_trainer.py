"""The trainer in C++ against autograd and torch.optim, and which tasks it takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from trainpilot.envs import optimizers, update_source
from trainpilot.envs.engine import Engine
from trainpilot.envs.hyperparameters import Hyperparameters
from trainpilot.envs.native_code import UntranslatableError, load
from trainpilot.envs.optimizers import LEARNING_RATE_SCALES, OPTIMIZER_NAMES, Direction
from trainpilot.inner_tasks import Split, Splits, TensorTask, TrainpilotError

pytestmark = pytest.mark.skipif(load("chain.cpp") is None, reason="no C++ compiler")

OURS = "inner runs are trained by C++ of our own"
ACTIVATIONS = [
    nn.ReLU, nn.Tanh, nn.GELU, nn.SiLU, nn.Sigmoid, nn.LeakyReLU, lambda: nn.ELU(0.7), nn.Identity,
]  # fmt: skip


def classification(model, inputs: Tensor, n_classes: int, micro_batch_size: int) -> TensorTask:
    generator = torch.Generator().manual_seed(1)
    targets = torch.randint(n_classes, (len(inputs),), generator=generator)
    return TensorTask(
        "chain", model=model, inputs=inputs, targets=targets, micro_batch_size=micro_batch_size
    )


def varied(n_runs: int, **settings) -> Hyperparameters:
    """Every optimizer, with rates that do not amplify rounding."""
    index = np.arange(n_runs) % len(OPTIMIZER_NAMES)
    rates = 3e-3 * np.array(LEARNING_RATE_SCALES)[index]
    full = Hyperparameters.full(n_runs, **settings)
    return replace(full, optimizer=index, learning_rate=rates)


def assert_trains_as_torch_does(task: TensorTask, n_steps: int = 6) -> None:
    """Signals, evaluations and weights of the two trainers."""
    found = []
    for compiled in (False, None):
        engine = Engine(task, 5, n_micro_batches=n_steps, compiled=compiled, max_batch_size=2)
        assert (engine.report == OURS) == (compiled is None), engine.report
        engine.reset(range(5), range(5))
        hyperparameters = replace(
            varied(5, weight_decay=0.1), batch_size=np.array([1, 2, 1, 1, 2]),
            gradient_clip=np.array([0.1, 1e9, 1e9, 0.5, 1e9]),
        )  # fmt: skip
        signals = engine.advance(hyperparameters, n_steps)
        evaluations = [*engine.evaluate(), engine.evaluate_split(task.splits.train)]
        found.append((signals, evaluations, [engine.state_dict(row) for row in range(5)]))
    (signals, evaluations, weights), (others, other_evaluations, other_weights) = found
    for name, one, other in zip(signals._fields, signals, others, strict=True):
        # Where an activation is all but zero, rounding decides whether ReLU lets it pass.
        lengths = name.endswith("norm") or name == "train_loss"
        np.testing.assert_allclose(other, one, rtol=1e-2, atol=1e-6 if lengths else 1e-2)
        known = np.isfinite(one) & (one != 0)
        assert np.median(np.abs(other[known] / one[known] - 1)) < 1e-4
    for one, other in zip(evaluations, other_evaluations, strict=True):
        np.testing.assert_allclose(other.loss, one.loss, rtol=2e-3, atol=1e-6)
        assert one.metrics.keys() == other.metrics.keys()
        for name, values in one.metrics.items():
            np.testing.assert_allclose(other.metrics[name], values, rtol=2e-3, atol=2e-2)
    for one, other in zip(weights, other_weights, strict=True):
        for name, value in one.items():
            # As a whole: where a gradient is all but zero, rounding turns Lion's sign.
            assert (other[name] - value).norm() < 0.01 * value.norm() + 3e-3


@settings(max_examples=25, deadline=None, derandomize=True)
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


def perceptron(width: int, *norms: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(12, width), *norms, nn.SiLU(), nn.Linear(width, 3))


NORMALISED = {
    "narrow": lambda: perceptron(5, nn.LayerNorm(5)),
    "a_vector": lambda: perceptron(16, nn.LayerNorm(16, bias=False)),
    "wide": lambda: perceptron(67, nn.LayerNorm(67, eps=0.1)),
    "alone": lambda: perceptron(32, nn.LayerNorm(32, elementwise_affine=False)),
    "inputs": lambda: nn.Sequential(nn.LayerNorm(12), nn.Linear(12, 3), nn.LayerNorm(3)),
    "groups": lambda: perceptron(40, nn.GroupNorm(2, 40), nn.GroupNorm(8, 40, affine=False)),
}


@pytest.mark.parametrize("micro_batch_size", [3, 32])
@pytest.mark.parametrize("name", NORMALISED)
def test_normalisation_of_flat_layers(name, micro_batch_size):
    inputs = torch.randn(90, 12, generator=torch.Generator().manual_seed(0))
    # Weights that are all 1 would hide some mistakes.
    assert_trains_as_torch_does(
        classification(with_random_scales(NORMALISED[name]), inputs, 3, micro_batch_size)
    )


def with_random_scales(make) -> Callable[[], nn.Module]:
    """The model with normalisations whose parameters are not all 1 or 0."""

    def model() -> nn.Module:
        made = make()
        for layer in made:
            if isinstance(layer, nn.LayerNorm | nn.GroupNorm):
                for parameter in layer.parameters():
                    nn.init.uniform_(parameter, 0.5, 1.5)
        return made

    return model


NORMALISED_CNNS = {
    "groups": lambda: nn.Sequential(
        nn.Conv2d(2, 6, 3), nn.GroupNorm(2, 6), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(54, 3),
    ),
    "one_group": lambda: nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.MaxPool2d(2), nn.GroupNorm(1, 4, affine=False), nn.ELU(),
        nn.Conv2d(4, 5, 2, bias=False), nn.GroupNorm(5, 5, eps=0.1), nn.Flatten(), nn.Linear(20, 3),
    ),
    "all_of_an_image": lambda: nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2), nn.LayerNorm((4, 3, 3)), nn.SiLU(), nn.Flatten(),
        nn.LayerNorm(36, bias=False), nn.Linear(36, 3),
    ),
}  # fmt: skip


@pytest.mark.parametrize("micro_batch_size", [5, 16, 40])
@pytest.mark.parametrize("name", NORMALISED_CNNS)
def test_normalisation_of_images(name, micro_batch_size):
    inputs = torch.randn(120, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    model = with_random_scales(NORMALISED_CNNS[name])
    assert_trains_as_torch_does(classification(model, inputs, 3, micro_batch_size))


def test_normalisation_of_each_position():
    tokens = torch.randint(9, (90, 4), generator=torch.Generator().manual_seed(0))
    model = with_random_scales(
        lambda: nn.Sequential(nn.Embedding(9, 5), nn.LayerNorm(5), nn.Flatten(), nn.Linear(20, 9))
    )
    assert_trains_as_torch_does(classification(model, tokens, 9, 10))


@pytest.mark.parametrize(
    ("layers", "reason"),
    [
        ((nn.Conv2d(2, 4, 3), nn.LayerNorm(6), nn.Flatten(), nn.Linear(144, 3)), "of parts of an"),
        ((nn.GroupNorm(1, 2), nn.Flatten(), nn.Linear(128, 3)), "group_norm follows neither"),
    ],
)
def test_normalisation_without_a_kernel_is_left_to_torch(layers, reason):
    inputs = torch.randn(60, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    task = classification(lambda: nn.Sequential(*layers), inputs, 3, 10)
    assert reason in Engine(task, 1, n_micro_batches=1).report


class Residual(nn.Module):
    """A block; `after` follows the addition."""

    def __init__(self, *layers: nn.Module, after: nn.Module | None = None) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.after = after or nn.Identity()

    def forward(self, inputs: Tensor) -> Tensor:
        return self.after(inputs + self.layers(inputs))


class Branching(nn.Module):
    """What comes before ReLU is needed again, twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(12, 7), nn.Linear(7, 7), nn.Linear(7, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.first(inputs)
        outputs = self.second(hidden.relu()) + hidden
        return self.third(outputs.tanh() + hidden)


RESIDUAL = {
    "of_inputs": lambda: nn.Sequential(Residual(nn.Linear(12, 12), nn.Tanh()), nn.Linear(12, 3)),
    "flattened": lambda: nn.Sequential(
        nn.Flatten(), Residual(nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 12)), nn.Linear(12, 3)
    ),
    "two_blocks": lambda: nn.Sequential(
        nn.Linear(12, 20), nn.ReLU(),
        Residual(nn.LayerNorm(20), nn.Linear(20, 30), nn.GELU(), nn.Linear(30, 20)),
        Residual(nn.Linear(20, 20), nn.SiLU(), after=nn.ReLU()), nn.Linear(20, 3),
    ),
    "nested": lambda: nn.Sequential(
        nn.Linear(12, 8), Residual(Residual(nn.Linear(8, 8), nn.ReLU()), nn.Linear(8, 8)),
        nn.ReLU(), nn.Linear(8, 3),
    ),
    "branching": Branching,
}  # fmt: skip


@pytest.mark.parametrize("name", RESIDUAL)
def test_residual_blocks(name):
    inputs = torch.randn(90, 12, generator=torch.Generator().manual_seed(0))
    assert_trains_as_torch_does(classification(RESIDUAL[name], inputs, 3, 20))


@pytest.mark.parametrize("micro_batch_size", [5, 40])
def test_residual_blocks_of_images(micro_batch_size):
    inputs = torch.randn(120, 2, 8, 8, generator=torch.Generator().manual_seed(0))

    def model() -> nn.Module:
        block = Residual(nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.GroupNorm(2, 4))
        return nn.Sequential(
            nn.Conv2d(2, 4, 3), block, nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 3)
        )

    assert_trains_as_torch_does(classification(model, inputs, 3, micro_batch_size))


def test_a_residual_block_of_a_convolution_s_own_inputs_is_left_to_torch():
    inputs = torch.randn(60, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    task = classification(
        lambda: nn.Sequential(
            Residual(nn.Conv2d(2, 2, 3, padding=1)), nn.Flatten(), nn.Linear(128, 3)
        ),
        inputs, 3, 10,
    )  # fmt: skip
    assert "takes what its convolution takes" in Engine(task, 1, n_micro_batches=1).report


def test_dropout_has_the_masks_that_mapped_models_have():
    inputs = torch.randn(90, 12, generator=torch.Generator().manual_seed(0))

    def model() -> nn.Module:
        again = nn.Dropout(0.5)
        return nn.Sequential(
            nn.Dropout(0.1), nn.Linear(12, 20), again, nn.Tanh(), nn.Linear(20, 21), again,
            nn.Dropout(0), nn.Linear(21, 3),
        )  # fmt: skip

    assert_trains_as_torch_does(classification(model, inputs, 3, 20))


def test_dropout_of_images_is_left_to_torch():
    inputs = torch.randn(60, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    task = classification(
        lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.Dropout(), nn.Flatten(), nn.Linear(144, 3)),
        inputs, 3, 10,
    )  # fmt: skip
    assert "its dropout follows a convolution" in Engine(task, 1, n_micro_batches=1).report


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


def test_a_row_is_the_same_to_the_last_bit_wherever_it_stands(moons):
    curves = []
    for n_runs, row in ((1, 0), (9, 7), (40, 33)):
        engine = Engine(moons, n_runs, n_micro_batches=30)
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


@pytest.mark.parametrize(
    "activation",
    [nn.Tanh, nn.GELU, nn.SiLU, nn.Sigmoid, lambda: nn.LeakyReLU(0.3), lambda: nn.ELU(0.7)],
)
def test_activations_have_the_precision_of_a_float(activation):
    points = torch.cat([torch.linspace(-12, 12, 97), torch.tensor([1e-6, -1e-4, 0.02, 90, -300])])
    split = Split(points[:, None], torch.full((len(points), 1), 3.0))
    task = TensorTask(
        "activation", loss="mse", splits=Splits(split, split, split, split), micro_batch_size=4,
        model=lambda: nn.Sequential(activation(), nn.Linear(1, 1)),
    )  # fmt: skip
    engine = Engine(task, 1, n_micro_batches=1)
    assert engine.report == OURS
    model = task.make_model()
    model.load_state_dict({"1.weight": torch.ones(1, 1), "1.bias": torch.zeros(1)})
    engine._state.parameters[0, :2] = torch.tensor([1.0, 0.0])
    for point in points:
        one = Split(point.view(1, 1), torch.full((1, 1), 3.0))
        expected = functional.mse_loss(model(one.inputs), one.targets).item()
        assert engine.evaluate_split(one).loss[0] == pytest.approx(expected, rel=1e-6, abs=1e-6)


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
