"""Models drawn at random: widths, depths, activations, normalisation, residual blocks."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import cast

import numpy as np
from torch import Tensor, nn

from trainpilot.inner_tasks.models import mlp


def log_uniform(generator: np.random.Generator, low: float, high: float) -> float:
    """A number whose logarithm is uniform between those of `low` and `high`, both > 0."""
    return float(np.exp(generator.uniform(np.log(low), np.log(high))))


def log_uniform_int(generator: np.random.Generator, low: int, high: int) -> int:
    """A whole number from `low` to `high`, small ones as likely as large ones by the octave."""
    return min(int(log_uniform(generator, low, high + 1)), high)


def drawn_micro_batch_size(generator: np.random.Generator) -> int:
    """8, 16, 32 or 64."""
    return int(2 ** generator.integers(3, 7))


#: Activations of models that are drawn.
_ACTIVATIONS: tuple[type[nn.Module], ...] = (nn.ReLU, nn.Tanh, nn.GELU, nn.SiLU, nn.ELU)


class Residual(nn.Module):
    """What a layer adds to its inputs."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs and what the layer makes of them, of the same shape."""
        return inputs + cast("Tensor", self.layer(inputs))


def drawn_mlp(
    generator: np.random.Generator, n_inputs: int, n_outputs: int
) -> Callable[[], nn.Module]:
    """A factory of multilayer perceptrons with one to four hidden layers of 8 to 96 units.

    Any activation; a third of them normalise their layers, a fifth have dropout, and half of those
    whose hidden layers are equally wide are residual.
    """
    n_hidden = int(generator.integers(1, 5))
    hidden = [log_uniform_int(generator, 8, 96) for _ in range(n_hidden)]
    if generator.uniform() < 0.5:
        hidden = hidden[:1] * n_hidden
    activation = _ACTIVATIONS[generator.integers(len(_ACTIVATIONS))]
    normalised, residual = generator.uniform() < 0.3, generator.uniform() < 0.5
    dropout = float(generator.uniform(0.05, 0.3)) if generator.uniform() < 0.2 else 0.0

    def model() -> nn.Module:
        layers: list[nn.Module] = [nn.Flatten()]
        for width, next_width in pairwise([n_inputs, *hidden]):
            parts: list[nn.Module] = [nn.Linear(width, next_width)]
            parts += [nn.LayerNorm(next_width)] if normalised else []
            parts += [activation()]
            parts += [nn.Dropout(dropout)] if dropout else []
            block = nn.Sequential(*parts)
            layers.append(Residual(block) if residual and width == next_width else block)
        return nn.Sequential(*layers, nn.Linear(hidden[-1], n_outputs))

    return model


def drawn_tower(
    generator: np.random.Generator, n_inputs: int, n_outputs: int, *first: Callable[[], nn.Module]
) -> Callable[[], nn.Module]:
    """A factory of deep and narrow networks, which get stuck where the learning rate is too high.

    Three to ten layers of 16 to 48 units: a third each of residual blocks that are normalised after
    they are added, as in the first transformers (Vaswani et al., 2017), of residual blocks without
    normalisation, and of plain layers.

    Args:
        generator: of the draws.
        n_inputs: of an example, flattened.
        n_outputs: outputs.
        *first: make the layers before the first of these.
    """
    width, n_layers = log_uniform_int(generator, 16, 48), int(generator.integers(3, 11))
    activation = _ACTIVATIONS[generator.integers(len(_ACTIVATIONS))]
    kind = int(generator.integers(3))

    def model() -> nn.Module:
        layers = [*(make() for make in first), nn.Flatten(), nn.Linear(n_inputs, width)]
        for _ in range(n_layers):
            if kind == 2:
                layers += [activation(), nn.Linear(width, width)]
                continue
            block = [nn.Linear(width, 2 * width), activation(), nn.Linear(2 * width, width)]
            layers += [Residual(nn.Sequential(*block))]
            layers += [nn.LayerNorm(width)] if kind == 0 else []
        return nn.Sequential(*layers, activation(), nn.Linear(width, n_outputs))

    return model


def drawn_cnn(
    generator: np.random.Generator, n_channels: int, side: int, n_outputs: int
) -> Callable[[], nn.Module]:
    """A factory of small convolutional networks.

    One or two 3x3 convolutions of 4 to 16 channels, for a third of them with normalised groups,
    each with an activation and 2x2 max pooling, then perhaps a hidden layer.

    Args:
        generator: of the draws.
        n_channels: of the images.
        side: height and width in pixels, divisible by 4.
        n_outputs: outputs.
    """
    # Even numbers, for two groups.
    widths = [2 * log_uniform_int(generator, 2, 8) for _ in range(int(generator.integers(1, 3)))]
    activation = _ACTIVATIONS[generator.integers(len(_ACTIVATIONS))]
    hidden = [32] if generator.uniform() < 0.5 else []
    normalised = generator.uniform() < 0.3

    def model() -> nn.Module:
        layers: list[nn.Module] = []
        for channels, width in pairwise([n_channels, *widths]):
            layers += [nn.Conv2d(channels, width, 3, padding=1)]
            layers += [nn.GroupNorm(2, width)] if normalised else []
            layers += [activation(), nn.MaxPool2d(2)]
        n_features = widths[-1] * (side // 2 ** len(widths)) ** 2
        return nn.Sequential(*layers, mlp(n_features, hidden, n_outputs))

    return model
