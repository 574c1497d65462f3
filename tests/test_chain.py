"""Which models are chains of known layers."""

from __future__ import annotations

import operator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from trainpilot.envs.chain import chain_of
from trainpilot.envs.native_code import UntranslatableError


class Residual(nn.Module):
    """`add` of what comes in and what two layers make of it."""

    def __init__(self, add, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.add = add

    def forward(self, inputs: Tensor) -> Tensor:
        return self.add(inputs, self.layers(inputs))


class Modal(nn.Module):
    """Something else in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs = self.linear(inputs)
        return outputs.tanh() if self.training else outputs


def hooked() -> nn.Module:
    model = nn.Linear(3, 2)
    model.register_forward_hook(lambda *_: None)
    return model


class Repeating(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.linear(self.linear(inputs).relu())


def tied() -> nn.Module:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    return model


def frozen() -> nn.Module:
    return nn.Linear(3, 2).requires_grad_(False)


def own_instance() -> nn.Module:
    model = nn.Linear(3, 2)
    model.forward = lambda inputs: inputs[:, :2] * model.weight.sum()
    return model


class Reshaping(nn.Module):
    def __init__(self, *sides: int) -> None:
        super().__init__()
        self.sides = sides
        self.linear = nn.Linear(12, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.linear(inputs.view(*self.sides))


class BySize(Reshaping):
    def forward(self, inputs: Tensor) -> Tensor:
        return self.linear(inputs.view(inputs.size(0), -1))


class ByShape(Reshaping):
    def forward(self, inputs: Tensor) -> Tensor:
        return self.linear(inputs.reshape((inputs.shape[0], -1)))


@pytest.mark.parametrize("model", [lambda: Reshaping(-1, 12), BySize, ByShape])
def test_flattening_by_hand_is_understood(model):
    kinds = [layer.kind for layer in chain_of(model(), (3, 4))]
    assert kinds == ["flatten", "linear"]


@pytest.mark.parametrize(
    ("layer", "shape", "groups", "scales"),
    [
        (nn.LayerNorm(6), (6,), 1, 6),
        (nn.LayerNorm(6, elementwise_affine=False), (6,), 1, 6),
        (nn.LayerNorm(6), (5, 6), 5, 6),
        (nn.LayerNorm((5, 6)), (5, 6), 1, 30),
        (nn.GroupNorm(3, 6), (6,), 3, 6),
        (nn.GroupNorm(3, 6), (6, 2, 2), 3, 6),
    ],
)
def test_normalisations_divide_an_example_into_groups(layer, shape, groups, scales):
    (given,) = chain_of(layer, shape)
    assert (given.groups, given.scales, given.constant) == (groups, scales, 1e-5)
    assert (given.weight, given.bias) == ((0, scales) if list(layer.parameters()) else (None, None))


def changed_in_place(inputs: Tensor, outputs: Tensor) -> Tensor:
    return inputs.add_(outputs).relu() + inputs


@pytest.mark.parametrize(
    "add",
    [
        operator.add,
        operator.iadd,
        torch.add,
        lambda x, y: y + x,
        lambda x, y: x.add(y),
        lambda x, y: y.add_(x),
    ],
)
def test_residual_blocks_are_parts_of_chains(add):
    blocks = [Residual(add, nn.Linear(3, 5), nn.ReLU(inplace=True), nn.Linear(5, 3)) for _ in "ab"]
    chain = chain_of(nn.Sequential(*blocks), (3,))
    assert [layer.kind for layer in chain] == ["linear", "relu", "linear", "addition"] * 2
    assert [layer.source for layer in chain if layer.kind == "addition"] == [0, 4]


def test_dropouts_draw_anew_at_each_place_and_call():
    again = nn.Dropout(0.3)
    model = nn.Sequential(nn.Linear(3, 2), again, nn.Dropout(0), nn.Dropout(0.2), again)
    dropouts = [layer for layer in chain_of(model, (3,)) if layer.kind == "dropout"]
    assert [layer.constant for layer in dropouts] == [0.3, 0.2, 0.3]
    assert len({layer.salt for layer in dropouts}) == 3


class Activating(nn.Module):
    """A function between two layers."""

    def __init__(self, function) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 2)
        self.function = function

    def forward(self, inputs: Tensor) -> Tensor:
        return self.second(self.function(self.first(inputs)))


@pytest.mark.parametrize(
    ("function", "kind", "constant"),
    [
        (functional.silu, "silu", 0),
        (nn.SiLU(inplace=True), "silu", 0),
        (torch.sigmoid, "sigmoid", 0),
        (functional.sigmoid, "sigmoid", 0),
        (lambda x: x.sigmoid(), "sigmoid", 0),
        (functional.leaky_relu, "leaky_relu", 0.01),
        (lambda x: functional.leaky_relu(x, 0.3, inplace=True), "leaky_relu", 0.3),
        (nn.LeakyReLU(0.2), "leaky_relu", 0.2),
        (functional.elu, "elu", 1),
        (lambda x: functional.elu(x, alpha=0.5), "elu", 0.5),
        (nn.ELU(), "elu", 1),
    ],
)
def test_activations_are_understood_however_they_are_written(function, kind, constant):
    chain = chain_of(Activating(function), (3,))
    assert [layer.kind for layer in chain] == ["linear", kind, "linear"]
    assert chain[1].constant == constant


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (lambda: Reshaping(12, -1), "reshaping to .* has no kernel"),
        (own_instance, "a forward of its own"),
        (lambda: Residual(torch.add, nn.Linear(3, 2)), "'add' is no link"),
        (lambda: Residual(torch.mul, nn.Linear(3, 3)), "'mul' is no link"),
        (lambda: Residual(lambda x, y: x.add(y, alpha=2), nn.Linear(3, 3)), "'add' is no link"),
        (lambda: Residual(lambda x, y: y + y, nn.Linear(3, 3)), "'add' is no link"),
        (lambda: Residual(lambda x, y: y + 1, nn.Linear(3, 3)), "'add' is no link"),
        (lambda: Residual(operator.add, nn.ReLU(inplace=True), nn.Linear(3, 3)), "'add' is no"),
        (lambda: Residual(changed_in_place, nn.Linear(3, 3)), "'add' is no link"),
        (Modal, "something else in evaluation"),
        (hooked, "has a hook"),
        (Repeating, "used twice"),
        (tied, "stands at two places"),
        (frozen, "is frozen"),
        (lambda: nn.Sequential(nn.Linear(3, 2), nn.Dropout(1)), "Dropout.* has no kernel"),
        (lambda: nn.Sequential(nn.Linear(3, 2), nn.Dropout1d()), "Dropout1d.* has no kernel"),
        (lambda: nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)), "has buffers"),
        (lambda: nn.Sequential(nn.Linear(3, 2), nn.GELU("tanh")), "GELU.* has no kernel"),
        (lambda: nn.LayerNorm(4), "LayerNorm.* has no kernel"),
        (lambda: nn.LayerNorm((2, 3)), "LayerNorm.* has no kernel"),
        (lambda: nn.GroupNorm(2, 4), "GroupNorm.* has no kernel"),
        (lambda: nn.Sequential(nn.Flatten(0), nn.Linear(3, 2)), "Flatten.* has no kernel"),
        (lambda: nn.Linear(4, 2), "Linear.* has no kernel"),
        (lambda: nn.Linear(3, 2**17), "Linear.* has no kernel"),
        (lambda: nn.Linear(3, 2).double(), "not float32"),
    ],
)
def test_other_models_are_left_to_torch(model, reason):
    made = model()
    with pytest.raises(UntranslatableError, match=reason):
        chain_of(made, (3, 4) if isinstance(made, Reshaping) else (3,))
