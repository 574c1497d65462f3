"""The layers of a model, where there is one, in the form that trains many runs at once fast."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TypeGuard, TypeVar

from torch import Tensor, nn

from trainpilot.envs.convolution import (
    LARGEST_WINDOW,
    available,
    convolution,
    covers,
    max_pooling,
)

Pair = tuple[int, int]
Layer = TypeVar("Layer", bound=nn.Module)


def fast_forms(module: nn.Module) -> nn.Module:
    """A copy of a model that computes the same with faster layers.

    `nn.Conv2d` and `nn.MaxPool2d` get a form of our own; in an `nn.Sequential` they are done in
    one with the ReLU between them. Parameters and buffers keep their names and their values, so
    that `torch.func.functional_call` takes the same tensors. Subclasses, layers with hooks,
    groups, dilation and pooling windows that overlap are left as they are, and so is everything
    without a C++ compiler.

    Args:
        module: it is not changed.
    """
    result = copy.deepcopy(module)
    forms = [(layer, _form(layer)) for layer in result.modules()]
    if any(form in (FastConv2d, FastMaxPool2d) for _, form in forms) and available():
        # The class, not the object: a layer that stands at several places stays one layer.
        for layer, form in forms:
            layer.__class__ = form
    return result


class FastConv2d(nn.Conv2d):
    """`nn.Conv2d` for batches of float32 on the CPU; others it leaves to torch."""

    def forward(self, input: Tensor) -> Tensor:
        """`(n_examples, channels, height, width)`, as always."""
        return self.forward_with(input, relu=False, pooling=(1, 1))

    def forward_with(self, images: Tensor, *, relu: bool, pooling: Pair) -> Tensor:
        """With ReLU and max pooling behind it; `(1, 1)` is no pooling."""
        if not covers(images, self.weight, self.bias):
            output = super().forward(images)
            output = output.relu() if relu else output
            return output if pooling == (1, 1) else nn.functional.max_pool2d(output, pooling)
        return convolution(
            images,
            self.weight,
            self.bias,
            self.stride,
            padding_of(self),
            relu=relu,
            pooling=pooling,
        )


class FastMaxPool2d(nn.MaxPool2d):
    """`nn.MaxPool2d` for batches of float32 on the CPU; others it leaves to torch."""

    def forward(self, input: Tensor) -> Tensor:
        """`(n_examples, channels, height, width)`, as always."""
        if not covers(input):
            output: Tensor = super().forward(input)
            return output
        return max_pooling(input, pair(self.kernel_size))


class FastSequential(nn.Sequential):
    """`nn.Sequential` that does a convolution, a ReLU and a max pooling in a row in one."""

    def forward(self, input: Tensor) -> Tensor:
        """Whatever the layers take and give."""
        layers = list(self)
        while layers:
            first, *layers = layers
            if type(first) is not FastConv2d:
                input = first(input)
                continue
            relu = bool(layers) and is_plain(layers[0], nn.ReLU)
            layers = layers[relu:]
            pooling = (1, 1)
            if layers and type(layers[0]) is FastMaxPool2d:
                pooling = pair(layers[0].kernel_size)
                layers = layers[1:]
            input = first.forward_with(input, relu=relu, pooling=pooling)
        return input


def _form(layer: nn.Module) -> type[nn.Module]:
    """The class that computes the same as the layer, its own where there is none faster."""
    if is_plain(layer, nn.Sequential):
        return FastSequential
    if is_plain(layer, nn.Conv2d) and covers_convolution(layer):
        return FastConv2d
    if is_plain(layer, nn.MaxPool2d) and covers_pooling(layer):
        return FastMaxPool2d
    return type(layer)


def is_plain(layer: nn.Module, kind: type[Layer]) -> TypeGuard[Layer]:
    """Exactly of that class, and nobody looks on."""
    return type(layer) is kind and not is_hooked(layer)


def is_hooked(module: nn.Module) -> bool:
    """Whether it has a hook, which may want what is never computed, or a `forward` of its own."""
    hooks = (
        module._forward_hooks,
        module._forward_pre_hooks,
        module._backward_hooks,
        module._backward_pre_hooks,
    )
    return any(hooks) or "forward" in vars(module)


def covers_convolution(layer: nn.Conv2d) -> bool:
    """Whether the kernels know such a convolution."""
    padding = layer.padding
    return (
        layer.groups == 1
        and layer.dilation == (1, 1)
        and layer.padding_mode == "zeros"
        # "same" pads an even kernel by one more on one side.
        and (padding != "same" or all(side % 2 for side in layer.kernel_size))
    )


def covers_pooling(layer: nn.MaxPool2d) -> bool:
    """Whether the kernels know such a pooling."""
    kernel = pair(layer.kernel_size)
    return (
        pair(layer.stride) == kernel
        and pair(layer.padding) == (0, 0)
        and pair(layer.dilation) == (1, 1)
        and not layer.ceil_mode
        and not layer.return_indices
        and kernel[0] * kernel[1] <= LARGEST_WINDOW
    )


def padding_of(layer: nn.Conv2d) -> Pair:
    """Zeros above and below, and on either side."""
    if isinstance(layer.padding, str):
        sides = layer.kernel_size if layer.padding == "same" else (1, 1)
        return sides[0] // 2, sides[1] // 2
    return layer.padding[0], layer.padding[1]


def pair(value: int | Sequence[int]) -> Pair:
    """What torch's layers may be given as one number, as two."""
    return (value, value) if isinstance(value, int) else (value[0], value[1])
