"""Models drawn at random: widths, depths, activations."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from torch import nn

from trainpilot.inner_tasks.models import ACTIVATIONS, mlp


def log_uniform(generator: np.random.Generator, low: float, high: float) -> float:
    """A number whose logarithm is uniform between those of `low` and `high`, both > 0."""
    return float(np.exp(generator.uniform(np.log(low), np.log(high))))


def log_uniform_int(generator: np.random.Generator, low: int, high: int) -> int:
    """A whole number from `low` to `high`, small ones as likely as large ones by the octave."""
    return min(int(log_uniform(generator, low, high + 1)), high)


def drawn_micro_batch_size(generator: np.random.Generator) -> int:
    """8, 16, 32 or 64."""
    return int(2 ** generator.integers(3, 7))


def drawn_mlp(
    generator: np.random.Generator, n_inputs: int, n_outputs: int
) -> Callable[[], nn.Module]:
    """A factory of multilayer perceptrons with one to four hidden layers of 8 to 96 units."""
    hidden = [log_uniform_int(generator, 8, 96) for _ in range(int(generator.integers(1, 5)))]
    activation = str(generator.choice(sorted(ACTIVATIONS)))
    return lambda: mlp(n_inputs, hidden, n_outputs, activation)


def drawn_cnn(
    generator: np.random.Generator, n_channels: int, side: int, n_outputs: int
) -> Callable[[], nn.Module]:
    """A factory of small convolutional networks.

    One or two 3x3 convolutions of 4 to 16 channels, each with an activation and 2x2 max pooling,
    then perhaps a hidden layer.

    Args:
        generator: of the draws.
        n_channels: of the images.
        side: height and width in pixels, divisible by 4.
        n_outputs: outputs.
    """
    widths = [log_uniform_int(generator, 4, 16) for _ in range(int(generator.integers(1, 3)))]
    activation = ACTIVATIONS[str(generator.choice(sorted(ACTIVATIONS)))]
    hidden = [32] if generator.uniform() < 0.5 else []
    return lambda: _cnn(n_channels, side, widths, activation, hidden, n_outputs)


def _cnn(
    n_channels: int,
    side: int,
    widths: Sequence[int],
    activation: Callable[[], nn.Module],
    hidden: Sequence[int],
    n_outputs: int,
) -> nn.Module:
    layers: list[nn.Module] = []
    channels = n_channels
    for width in widths:
        layers += [nn.Conv2d(channels, width, 3, padding=1), activation(), nn.MaxPool2d(2)]
        channels = width
    n_features = channels * (side // 2 ** len(widths)) ** 2
    return nn.Sequential(*layers, mlp(n_features, hidden, n_outputs))
