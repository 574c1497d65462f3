"""Layers in C++ against torch's: activations, normalisation, residual blocks, dropout."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from chain_checks import OURS, assert_trains_as_torch_does, classification
from torch import Tensor, nn
from torch.nn import functional

from trainpilot.envs.engine import Engine
from trainpilot.envs.native_code import load
from trainpilot.inner_tasks import Split, Splits, TensorTask

pytestmark = pytest.mark.skipif(load("chain.cpp") is None, reason="no C++ compiler")


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
