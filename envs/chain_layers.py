"""The layers that a chain may have, and how `torch.nn`'s become them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor, nn

from trainpilot.envs.fast_forms import (
    covers_convolution,
    covers_pooling,
    padding_of,
    pair,
)

Shape = tuple[int, ...]
#: Where a parameter's first number stands among all parameters; None for no parameter.
Places = Callable[[Tensor | None], int | None]

#: Numbers in a linear layer's weight, at most; libraries are faster at larger ones (measured:
#: at 512 x 512 as fast, at 1024 x 1024 twice).
LARGEST_WEIGHT = 2**18


class ChainLayer(NamedTuple):
    """A layer of a chain.

    Attributes:
        kind: "linear", "embedding", "convolution", "pooling", "flatten", "layer_norm",
            "group_norm", "addition", "dropout", or an activation: "relu", "tanh", "gelu", "silu",
            "sigmoid", "leaky_relu" or "elu".
        inputs: shape of an example that comes in.
        outputs: shape of an example that goes out.
        weight: place of the weight's first number among all parameters, None for none.
        bias: likewise.
        kernel: of a convolution or pooling.
        stride: of a convolution.
        padding: of a convolution.
        vocabulary: of an embedding.
        groups: of a normalisation, equal groups of an example's numbers; each becomes of mean 0
            and variance 1.
        scales: of a normalisation, numbers of its weight and bias, if it has them.
        constant: of a leaky ReLU the slope below zero, of an ELU its alpha, of a normalisation
            its epsilon, of a dropout the probability of a zero, in (0, 1).
        source: of an addition, how many layers of the chain have made what is added to what comes
            in; 0 for the model's inputs.
        salt: of a dropout, what is added to the key of a run's step (`mappable.salt_of`).
    """

    kind: str
    inputs: Shape
    outputs: Shape
    weight: int | None = None
    bias: int | None = None
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    vocabulary: int = 0
    groups: int = 0
    scales: int = 0
    constant: float = 0.0
    source: int = 0
    salt: int = 0


def layer_of(module: nn.Module, shape: Shape, places: Places) -> ChainLayer | None:
    """The layer that a module is for examples of a shape, None if it is none that is known.

    Args:
        module: exactly of a known class: what a subclass does instead, nobody knows.
        shape: of an example that comes in.
        places: of parameters.
    """
    known = _LAYERS.get(type(module))
    return None if known is None else known(module, shape, places)


def is_layer(module: nn.Module) -> bool:
    """Whether it is of a known class."""
    return type(module) in _LAYERS


def _linear(module: nn.Linear, shape: Shape, places: Places) -> ChainLayer | None:
    if shape != (module.in_features,) or module.weight.numel() > LARGEST_WEIGHT:
        return None
    own = places(module.weight), places(module.bias)
    return ChainLayer("linear", shape, (module.out_features,), *own)


def _embedding(module: nn.Embedding, shape: Shape, places: Places) -> ChainLayer | None:
    plain = module.padding_idx is None and module.max_norm is None
    if module.scale_grad_by_freq or module.sparse or not plain:
        return None
    vocabulary, width = module.weight.shape
    place = places(module.weight)
    return ChainLayer("embedding", shape, (*shape, width), place, vocabulary=vocabulary)


def _convolution(module: nn.Conv2d, shape: Shape, places: Places) -> ChainLayer | None:
    if len(shape) != 3 or not covers_convolution(module) or shape[0] != module.in_channels:
        return None
    kernel, stride, padding = pair(module.kernel_size), pair(module.stride), padding_of(module)
    sides = [
        (shape[1 + axis] + 2 * padding[axis] - kernel[axis]) // stride[axis] + 1
        for axis in range(2)
    ]
    if min(sides) < 1:
        return None
    own = places(module.weight), places(module.bias)
    outputs = (module.out_channels, *sides)
    return ChainLayer("convolution", shape, outputs, *own, kernel, stride, padding)


def _pooling(module: nn.MaxPool2d, shape: Shape, places: Places) -> ChainLayer | None:
    if len(shape) != 3 or not covers_pooling(module):
        return None
    kernel = pair(module.kernel_size)
    outputs = (shape[0], shape[1] // kernel[0], shape[2] // kernel[1])
    return ChainLayer("pooling", shape, outputs, kernel=kernel) if min(outputs) > 0 else None


def _flatten(module: nn.Flatten, shape: Shape, places: Places) -> ChainLayer | None:
    n_axes = 1 + len(shape)
    start, end = module.start_dim % n_axes, module.end_dim % n_axes
    if n_axes == 1 or (start, end) != (1, n_axes - 1):
        return None
    return ChainLayer("flatten", shape, (math.prod(shape),))


def _layer_norm(module: nn.LayerNorm, shape: Shape, places: Places) -> ChainLayer | None:
    n_axes = len(module.normalized_shape)
    if shape[-n_axes:] != tuple(module.normalized_shape):
        return None
    return ChainLayer(
        "layer_norm", shape, shape, places(module.weight), places(module.bias),
        groups=math.prod(shape[:-n_axes]), scales=math.prod(shape[-n_axes:]), constant=module.eps,
    )  # fmt: skip


def _group_norm(module: nn.GroupNorm, shape: Shape, places: Places) -> ChainLayer | None:
    if not shape or shape[0] != module.num_channels:
        return None
    return ChainLayer(
        "group_norm", shape, shape, places(module.weight), places(module.bias),
        groups=module.num_groups, scales=module.num_channels, constant=module.eps,
    )  # fmt: skip


def _gelu(module: nn.GELU, shape: Shape, places: Places) -> ChainLayer | None:
    return ChainLayer("gelu", shape, shape) if module.approximate == "none" else None


def _dropout(module: nn.Dropout, shape: Shape, places: Places) -> ChainLayer | None:
    if module.p == 0:
        return ChainLayer("flatten", shape, shape)
    return ChainLayer("dropout", shape, shape, constant=module.p) if module.p < 1 else None


_Known = Callable[[Any, Shape, Places], ChainLayer | None]


def _alike(kind: str, constant: str | None = None) -> _Known:
    """A layer whose outputs have the inputs' shape, with the name of its constant."""

    def layer(module: nn.Module, shape: Shape, places: Places) -> ChainLayer:
        value = 0.0 if constant is None else float(getattr(module, constant))
        return ChainLayer(kind, shape, shape, constant=value)

    return layer


_LAYERS: dict[type[nn.Module], _Known] = {
    nn.Linear: _linear,
    nn.Embedding: _embedding,
    nn.Conv2d: _convolution,
    nn.MaxPool2d: _pooling,
    nn.Flatten: _flatten,
    nn.LayerNorm: _layer_norm,
    nn.GroupNorm: _group_norm,
    nn.Dropout: _dropout,
    nn.Identity: _alike("flatten"),
    nn.ReLU: _alike("relu"),
    nn.Tanh: _alike("tanh"),
    nn.GELU: _gelu,
    nn.SiLU: _alike("silu"),
    nn.Sigmoid: _alike("sigmoid"),
    nn.LeakyReLU: _alike("leaky_relu", "negative_slope"),
    nn.ELU: _alike("elu", "alpha"),
}
