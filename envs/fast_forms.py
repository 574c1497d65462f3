"""The layers of a model, where there is one, in the form that trains many runs at once fast."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TypeGuard, TypeVar, cast

from torch import Tensor, nn

from trainpilot.envs import convolution, linear

Pair = tuple[int, int]
Layer = TypeVar("Layer", bound=nn.Module)


def fast_forms(module: nn.Module) -> nn.Module:
    """A copy of a model that computes the same with faster layers.

    `nn.Linear`, `nn.Conv2d` and `nn.MaxPool2d` get a form of our own; in an `nn.Sequential`
    convolution, ReLU and pooling are done in one, and so are linear layers in a row with the
    ReLUs between them. Parameters and buffers keep their names and their values, so that
    `torch.func.functional_call` takes the same tensors. Subclasses, layers with hooks, large
    linear layers, groups, dilation and pooling windows that overlap are left as they are, and so
    is everything without a C++ compiler.

    Args:
        module: it is not changed.
    """
    result = copy.deepcopy(module)
    for layer in result.modules():
        # The class, not the object: a layer that stands at several places stays one layer.
        layer.__class__ = _form(layer)
    return result


class FastLinear(nn.Linear):
    """`nn.Linear` for batches of float32 on the CPU; others it leaves to torch."""

    def forward(self, input: Tensor) -> Tensor:
        """`(..., in_features)`, as always."""
        return _forward_chain([self], [False], input)


def _forward_chain(layers: list[FastLinear], relu: list[bool], inputs: Tensor) -> Tensor:
    """Linear layers one after the other, each with ReLU behind it or not."""
    parameters = [(layer.weight, layer.bias) for layer in layers]
    if linear.covers(inputs, *(part for pair in parameters for part in pair)):
        return linear.linear_chain(inputs, parameters, relu)
    for (weight, bias), cut in zip(parameters, relu, strict=True):
        inputs = nn.functional.linear(inputs, weight, bias)
        inputs = inputs.relu() if cut else inputs
    return inputs


class FastConv2d(nn.Conv2d):
    """`nn.Conv2d` for batches of float32 on the CPU; others it leaves to torch."""

    def forward(self, input: Tensor) -> Tensor:
        """`(n_examples, channels, height, width)`, as always."""
        return self.forward_with(input, relu=False, pooling=(1, 1))

    def forward_with(self, images: Tensor, *, relu: bool, pooling: Pair) -> Tensor:
        """With ReLU and max pooling behind it; `(1, 1)` is no pooling."""
        if not convolution.covers(images, self.weight, self.bias):
            output = super().forward(images)
            output = output.relu() if relu else output
            return output if pooling == (1, 1) else nn.functional.max_pool2d(output, pooling)
        return convolution.convolution(
            images,
            self.weight,
            self.bias,
            self.stride,
            _padding(self),
            relu=relu,
            pooling=pooling,
        )


class FastMaxPool2d(nn.MaxPool2d):
    """`nn.MaxPool2d` for batches of float32 on the CPU; others it leaves to torch."""

    def forward(self, input: Tensor) -> Tensor:
        """`(n_examples, channels, height, width)`, as always."""
        if not convolution.covers(input):
            output: Tensor = super().forward(input)
            return output
        return convolution.max_pooling(input, _pair(self.kernel_size))


class FastSequential(nn.Sequential):
    """`nn.Sequential` that does in one what is faster so: see `fast_forms`."""

    def forward(self, input: Tensor) -> Tensor:
        """Whatever the layers take and give."""
        layers = list(self)
        while layers:
            if type(layers[0]) is FastConv2d:
                input = _take_convolution(layers, input)
            elif type(layers[0]) is FastLinear:
                input = _take_chain(layers, input)
            else:
                input = layers.pop(0)(input)
        return input


def _take_convolution(layers: list[nn.Module], images: Tensor) -> Tensor:
    """Do the convolution that comes first, and ReLU and pooling behind it; they leave the list."""
    first = cast("FastConv2d", layers.pop(0))
    relu = _take_relu(layers)
    pooling = (1, 1)
    if layers and type(layers[0]) is FastMaxPool2d:
        pooling = _pair(cast("FastMaxPool2d", layers.pop(0)).kernel_size)
    return first.forward_with(images, relu=relu, pooling=pooling)


def _take_chain(layers: list[nn.Module], inputs: Tensor) -> Tensor:
    """Do the linear layers and ReLUs that come first; they leave the list."""
    chain: list[FastLinear] = []
    relu: list[bool] = []
    while layers and type(layers[0]) is FastLinear:
        chain.append(cast("FastLinear", layers.pop(0)))
        relu.append(_take_relu(layers))
    return _forward_chain(chain, relu, inputs)


def _take_relu(layers: list[nn.Module]) -> bool:
    found = bool(layers) and is_plain(layers[0], nn.ReLU)
    if found:
        layers.pop(0)
    return found


def _form(layer: nn.Module) -> type[nn.Module]:
    """The class that computes the same as the layer, its own where there is none faster."""
    if is_plain(layer, nn.Sequential):
        return FastSequential
    if is_plain(layer, nn.Linear) and layer.weight.numel() <= linear.LARGEST_WEIGHT:
        return FastLinear
    if is_plain(layer, nn.Conv2d) and _covers_convolution(layer):
        return FastConv2d
    if is_plain(layer, nn.MaxPool2d) and _covers_pooling(layer):
        return FastMaxPool2d
    return type(layer)


def is_plain(layer: nn.Module, kind: type[Layer]) -> TypeGuard[Layer]:
    """Exactly of that class, and nobody looks on: a hook may want what is never computed."""
    hooks = (
        layer._forward_hooks,
        layer._forward_pre_hooks,
        layer._backward_hooks,
        layer._backward_pre_hooks,
    )
    return type(layer) is kind and not any(hooks)


def _covers_convolution(layer: nn.Conv2d) -> bool:
    padding = layer.padding
    return (
        layer.groups == 1
        and layer.dilation == (1, 1)
        and layer.padding_mode == "zeros"
        # "same" pads an even kernel by one more on one side.
        and (padding != "same" or all(side % 2 for side in layer.kernel_size))
    )


def _covers_pooling(layer: nn.MaxPool2d) -> bool:
    kernel = _pair(layer.kernel_size)
    return (
        _pair(layer.stride) == kernel
        and _pair(layer.padding) == (0, 0)
        and _pair(layer.dilation) == (1, 1)
        and not layer.ceil_mode
        and not layer.return_indices
        and kernel[0] * kernel[1] <= convolution.LARGEST_WINDOW
    )


def _padding(layer: nn.Conv2d) -> Pair:
    if isinstance(layer.padding, str):
        sides = layer.kernel_size if layer.padding == "same" else (1, 1)
        return sides[0] // 2, sides[1] // 2
    return layer.padding[0], layer.padding[1]


def _pair(value: int | Sequence[int]) -> Pair:
    return (value, value) if isinstance(value, int) else (value[0], value[1])
