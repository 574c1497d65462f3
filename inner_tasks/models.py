"""Small models that the embedded tasks train."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from trainpilot.inner_tasks.errors import unknown

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU}


def mlp(
    n_inputs: int, hidden: Sequence[int], n_outputs: int, activation: str = "relu"
) -> nn.Module:
    """A multilayer perceptron with torch's own initial weights.

    Args:
        n_inputs: features of an example; further axes are flattened.
        hidden: widths of the hidden layers; empty for a linear model.
        n_outputs: outputs.
        activation: "relu", "tanh" or "gelu".

    Raises:
        TrainpilotError: if the activation is unknown.
    """
    if activation not in ACTIVATIONS:
        raise unknown("activation", activation, ACTIVATIONS)
    layers: list[nn.Module] = [nn.Flatten()]
    widths = [n_inputs, *hidden]
    for width, next_width in pairwise(widths):
        layers += [nn.Linear(width, next_width), ACTIVATIONS[activation]()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], n_outputs))


def cnn(n_channels: int, widths: Sequence[int], image_size: int, n_outputs: int) -> nn.Module:
    """3x3 convolutions, each followed by ReLU and 2x2 max pooling, then a linear layer.

    Args:
        n_channels: channels of the images.
        widths: channels of each convolution.
        image_size: height and width in pixels, divisible by `2 ** len(widths)`.
        n_outputs: outputs.
    """
    layers: list[nn.Module] = []
    channels = n_channels
    for width in widths:
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        channels = width
    side = image_size // 2 ** len(widths)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * side * side, n_outputs))


def signal_cnn(widths: Sequence[int], length: int, n_outputs: int, kernel: int = 5) -> nn.Module:
    """Convolutions over time, each followed by ReLU and pooling by 2, then a linear layer.

    Signals are images of one row, so that the layers are those of images.

    Args:
        widths: channels of each convolution.
        length: of a signal, divisible by `2 ** len(widths)`.
        n_outputs: outputs.
        kernel: width of the convolutions, odd (default: 5).
    """
    layers: list[nn.Module] = []
    channels = 1
    for width in widths:
        convolution = nn.Conv2d(channels, width, (1, kernel), padding=(0, kernel // 2))
        layers += [convolution, nn.ReLU(), nn.MaxPool2d((1, 2))]
        channels = width
    n_features = channels * (length // 2 ** len(widths))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(n_features, n_outputs))


def embedding_mlp(
    n_tokens: int,
    length: int,
    embedding: int,
    hidden: Sequence[int],
    n_outputs: int,
    activation: str = "tanh",
) -> nn.Module:
    """An MLP on the embeddings of a window of tokens, side by side (Bengio et al., 2003).

    Args:
        n_tokens: size of the vocabulary.
        length: tokens in the window.
        embedding: width of a token's embedding.
        hidden: widths of the hidden layers.
        n_outputs: outputs.
        activation: "relu", "tanh" or "gelu" (default: "tanh").
    """
    table = nn.Embedding(n_tokens, embedding)
    return nn.Sequential(table, mlp(length * embedding, hidden, n_outputs, activation))
