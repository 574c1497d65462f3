"""Convolution and max pooling for many runs at once, as operators of torch.

`vmap` over `conv2d` with weights of each run's own becomes a grouped convolution, which no library
makes fast for small images. Here the examples of the batch are the lanes of the vectors
(`convolution.cpp`), and ReLU and max pooling are done while the convolution's output is still in
the cache. The operators are opaque to the compiler, and work under `vmap`, `grad` and `make_fx`.

Tensors of the operators have a leading axis of runs and the examples last:
`(n_runs, channels, height, width, n_examples)`. The functions of this module take and give what
`torch.nn.functional` does, as permuted views, so that a chain of layers is never transposed.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from trainpilot.envs.native_code import load

SOURCE = "convolution.cpp"
_Pair = Sequence[int]
_NO_POOLING = (1, 1)

# Pixels of a pooling window: where its maximum was is kept in a byte, whose last value is taken.
LARGEST_WINDOW = 255


def available() -> bool:
    """Whether this machine can compile the operators; the first call does it."""
    return load(SOURCE) is not None


def covers(*tensors: Tensor | None) -> bool:
    """Whether the operators take such tensors: float32 on the CPU, and a compiler is there."""
    given = [tensor for tensor in tensors if tensor is not None]
    plain = all(tensor.dtype == torch.float32 and tensor.device.type == "cpu" for tensor in given)
    # What is not a batch of images, or an empty one, is left to torch and its error messages.
    return plain and given[0].ndim == 4 and given[0].numel() > 0 and available()


def convolution(
    images: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: _Pair = (1, 1),
    padding: _Pair = (0, 0),
    *,
    relu: bool = False,
    pooling: _Pair = _NO_POOLING,
) -> Tensor:
    """`max_pool2d(relu(conv2d(images, weight, bias, stride, padding)), pooling)` in one.

    Args:
        images: `(n_examples, in_channels, height, width)`.
        weight: `(out_channels, in_channels, kernel_height, kernel_width)`.
        bias: `(out_channels,)` or None.
        stride: of the convolution.
        padding: zeros on either side.
        relu: whether negative outputs become 0 (default: False).
        pooling: the pooling's kernel and stride (default: no pooling).
    """
    given = _examples_last(images), weight[None], None if bias is None else bias[None]
    settings = list(stride), list(padding), relu, list(pooling)
    output, _ = _Convolution.apply(*given, *settings)  # type: ignore[no-untyped-call]
    return _examples_first(output)


def max_pooling(images: Tensor, pooling: _Pair) -> Tensor:
    """`max_pool2d(images, pooling)` of images `(n_examples, channels, height, width)`."""
    output, _ = _MaxPooling.apply(  # type: ignore[no-untyped-call]
        _examples_last(images), list(pooling)
    )
    return _examples_first(output)


def _examples_last(images: Tensor) -> Tensor:
    return images.permute(1, 2, 3, 0)[None]


def _examples_first(output: Tensor) -> Tensor:
    return output[0].permute(3, 0, 1, 2)


#: How the kernels' inputs may lie in memory: `enum Order` in the C++ files.
EXAMPLES_LAST, EXAMPLES_FIRST, PACKED = range(3)


class KernelShape(ctypes.Structure):
    """What `struct Shape` in the C++ file is."""

    _fields_ = tuple(
        (name, ctypes.c_int64)
        for name in (
            *("n_rows", "input_stride", "weight_stride", "bias_stride"),
            *("n_examples", "in_channels", "in_height", "in_width"),
            *("out_channels", "kernel_height", "kernel_width"),
            *("stride_height", "stride_width", "padding_height", "padding_width"),
            *("pool_height", "pool_width", "relu", "pooled_height", "pooled_width"),
            "order",
        )
    )


def _row_stride(tensor: Tensor | None) -> int:
    """From run to run; 0 where the runs share it."""
    return 0 if tensor is None or len(tensor) == 1 else tensor.stride(0)


def _dense_rows(tensor: Tensor) -> Tensor:
    """A tensor whose runs are contiguous; how far apart they lie does not matter.

    Weights are, as they come: a part of each row of all the parameters.
    """
    return tensor if tensor[0].is_contiguous() else tensor.contiguous()


def _are_examples_first(inputs: Tensor) -> bool:
    """Whether the examples, the last axis, come first in memory, as in data that nobody moved."""
    return not inputs[0].is_contiguous() and inputs[0].permute(3, 0, 1, 2).is_contiguous()


def _readable(inputs: Tensor) -> Tensor:
    """Inputs in one of the two orders that the kernels read."""
    return inputs if _are_examples_first(inputs) else _dense_rows(inputs)


def _output_shape(
    inputs: Tensor, weight: Tensor, stride: _Pair, padding: _Pair, pooling: _Pair
) -> list[int]:
    """Of a convolution's output after pooling."""
    sides = [
        ((inputs.shape[2 + axis] + 2 * padding[axis] - weight.shape[3 + axis]) // stride[axis] + 1)
        // pooling[axis]
        for axis in range(2)
    ]
    return [len(weight), weight.shape[1], *sides, inputs.shape[4]]


def _make_shape(
    inputs: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: _Pair,
    padding: _Pair,
    relu: bool,
    pooling: _Pair,
) -> KernelShape:
    _, channels, *sides, n_examples = inputs.shape
    return KernelShape(
        *(len(weight), _row_stride(inputs), _row_stride(weight), _row_stride(bias)),
        *(n_examples, channels, *sides),
        *(weight.shape[1], *weight.shape[3:]),
        *(*stride, *padding, *pooling, relu),
        *_output_shape(inputs, weight, stride, padding, pooling)[2:4],
        EXAMPLES_FIRST if _are_examples_first(inputs) else EXAMPLES_LAST,
    )


def _call(function: str, shape: KernelShape, *tensors: Tensor | None) -> None:
    library = load(SOURCE)
    if library is None:
        raise RuntimeError("no C++ compiler: ask available() first")
    pointers = (ctypes.c_void_p(t.data_ptr() if t is not None else None) for t in tensors)
    getattr(library, function)(*pointers, ctypes.byref(shape))


def _run_convolution(
    inputs: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    relu: bool,
    pooling: Sequence[int],
) -> tuple[Tensor, Tensor]:
    """The output, and for the backward pass where each pooling window's maximum was.

    The arguments are those of `convolution`, with a leading axis of runs; `inputs` are
    `(n_runs or 1, in_channels, height, width, n_examples)`.
    """
    inputs = _readable(inputs)
    weight = _dense_rows(weight)
    bias = None if bias is None else _dense_rows(bias)
    output, index = _new_outputs(inputs, weight, bias, stride, padding, relu, pooling)
    shape = _make_shape(inputs, weight, bias, stride, padding, relu, pooling)
    _call("trainpilot_forward", shape, output, index, inputs, weight, bias)
    return output, index


def _new_outputs(
    inputs: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: _Pair,
    padding: _Pair,
    relu: bool,
    pooling: _Pair,
) -> tuple[Tensor, Tensor]:
    shape = _output_shape(inputs, weight, stride, padding, pooling)
    # Beyond here are bare pointers: what does not fit would read someone else's memory.
    if inputs.shape[1] != weight.shape[2] or min(shape) < 1:
        raise ValueError(
            f"images {tuple(inputs.shape[1:4])} do not fit a convolution of weight "
            f"{tuple(weight.shape[1:])} and pooling {tuple(pooling)}"
        )
    plain = not relu and tuple(pooling) == _NO_POOLING
    index = inputs.new_empty([len(weight), 0] if plain else shape, dtype=torch.uint8)
    return inputs.new_empty(shape), index


def _run_convolution_backward(
    gradient: Tensor,
    index: Tensor,
    inputs: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    relu: bool,
    pooling: Sequence[int],
    of_inputs: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients by the inputs, the weight and the bias, each with the axis of runs.

    The inputs' is empty unless `of_inputs`: a first layer's is not needed.
    """
    gradient, index = gradient.contiguous(), index.contiguous()
    inputs = _readable(inputs)
    weight = _dense_rows(weight)
    result = _new_gradients(
        gradient, index, inputs, weight, stride, padding, relu, pooling, of_inputs
    )
    shape = _make_shape(inputs, weight, None, stride, padding, relu, pooling)
    by_inputs, *others = result
    given = (by_inputs if of_inputs else None, *others, gradient, index, inputs, weight)
    _call("trainpilot_backward", shape, *given)
    return result


def _new_gradients(
    gradient: Tensor,
    index: Tensor,
    inputs: Tensor,
    weight: Tensor,
    stride: _Pair,
    padding: _Pair,
    relu: bool,
    pooling: _Pair,
    of_inputs: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    by_inputs = [len(weight), *inputs.shape[1:]] if of_inputs else [len(weight), 0]
    return (
        inputs.new_empty(by_inputs),
        inputs.new_empty(weight.shape),
        inputs.new_empty(weight.shape[:2]),
    )


def _run_max_pooling(inputs: Tensor, pooling: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Maxima, and where they were, of inputs `(n_runs, channels, height, width, n_examples)`."""
    inputs = inputs.contiguous()
    output, index = _new_maxima(inputs, pooling)
    shape = _pooling_shape(inputs.shape, output.shape, pooling)
    _call("trainpilot_pool", shape, output, index, inputs)
    return output, index


def _new_maxima(inputs: Tensor, pooling: _Pair) -> tuple[Tensor, Tensor]:
    *leading, height, width, n_examples = inputs.shape
    shape = [*leading, height // pooling[0], width // pooling[1], n_examples]
    if min(shape) < 1:
        raise ValueError(f"images {height} x {width} are smaller than a pooling window {pooling}")
    return inputs.new_empty(shape), inputs.new_empty(shape, dtype=torch.uint8)


def _run_max_pooling_backward(
    gradient: Tensor, index: Tensor, height: int, width: int, pooling: Sequence[int]
) -> Tensor:
    gradient, index = gradient.contiguous(), index.contiguous()
    by_inputs = _new_input_gradient(gradient, index, height, width, pooling)
    shape = _pooling_shape(by_inputs.shape, gradient.shape, pooling)
    _call("trainpilot_pool_backward", shape, by_inputs, gradient, index)
    return by_inputs


def _new_input_gradient(
    gradient: Tensor, index: Tensor, height: int, width: int, pooling: _Pair
) -> Tensor:
    n_runs, channels, _, _, n_examples = gradient.shape
    return gradient.new_empty(n_runs, channels, height, width, n_examples)


def _pooling_shape(inputs: torch.Size, output: torch.Size, pooling: _Pair) -> KernelShape:
    n_runs, channels, height, width, n_examples = inputs
    return KernelShape(
        n_rows=n_runs,
        input_stride=channels * height * width * n_examples,
        n_examples=n_examples,
        in_height=height,
        in_width=width,
        out_channels=channels,
        pool_height=pooling[0],
        pool_width=pooling[1],
        pooled_height=output[2],
        pooled_width=output[3],
    )


class _Convolution(torch.autograd.Function):
    """The operator with its gradient; one registered with the operator has no `torch.func`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(*arguments: Any) -> tuple[Tensor, Tensor]:
        output, index = _convolution(*arguments)
        return output, index

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        images, weight, bias, *ctx.settings = inputs
        ctx.has_bias = bias is not None
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(images, weight, output[1])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Any, ...]:
        inputs, weight, index = ctx.saved_tensors
        of_inputs = ctx.needs_input_grad[0]
        by_inputs, by_weight, by_bias = _convolution_backward(
            gradient, index, inputs, weight, *ctx.settings, of_inputs
        )
        if of_inputs and len(inputs) < len(by_inputs):
            by_inputs = by_inputs.sum(0, keepdim=True)
        return (
            by_inputs if of_inputs else None,
            by_weight,
            by_bias if ctx.has_bias else None,
            *(None for _ in ctx.settings),
        )


class _MaxPooling(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(inputs: Tensor, pooling: _Pair) -> tuple[Tensor, Tensor]:
        output, index = _max_pooling(inputs, pooling)
        return output, index

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        images, ctx.pooling = inputs
        ctx.sides = images.shape[2:4]
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(output[1])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        return _max_pooling_backward(gradient, index, *ctx.sides, ctx.pooling), None


def _vmap_rule(operator: Callable[..., Any], shared: int | None) -> Callable[..., Any]:
    """How to map an operator: what is mapped becomes more runs.

    Args:
        operator: takes tensors with a leading axis of runs, then settings.
        shared: which argument may be given once for all runs, if any.
    """

    def rule(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[Any, Any]:
        size = info.batch_size

        def merged(position: int, argument: Any) -> Any:
            if not isinstance(argument, Tensor):
                return argument
            axis = in_dims[position]
            if axis is not None:
                return argument.movedim(axis, 0).flatten(0, 1)
            if position == shared and len(argument) == 1:
                return argument
            return argument.expand(size, *argument.shape).flatten(0, 1)

        def split(part: Tensor) -> Tensor:
            return part.view(size, len(part) // size, *part.shape[1:])

        result = operator(*(merged(i, argument) for i, argument in enumerate(arguments)))
        if isinstance(result, Tensor):
            return split(result), 0
        return tuple(split(part) for part in result), (0,) * len(result)

    return rule


def _operator(
    run: Callable[..., Any], fake: Callable[..., Any], shared: int | None = None
) -> Callable[..., Any]:
    """An operator of torch from what it does and what it allocates.

    Not `torch.library.custom_op`: the autograd rule that it adds refuses `torch.func.grad`.
    """
    name = run.__name__.removeprefix("_run_")
    qualified = f"trainpilot::{name}"
    torch.library.define(qualified, torch.library.infer_schema(run, mutates_args=()))
    torch.library.impl(qualified, "CPU", run)
    torch.library.register_fake(qualified, fake)
    operator: Callable[..., Any] = getattr(torch.ops.trainpilot, name).default
    torch.library.register_vmap(qualified, _vmap_rule(operator, shared))
    return operator


_convolution = _operator(_run_convolution, _new_outputs, shared=0)
_convolution_backward = _operator(_run_convolution_backward, _new_gradients, shared=2)
_max_pooling = _operator(_run_max_pooling, _new_maxima)
_max_pooling_backward = _operator(_run_max_pooling_backward, _new_input_gradient)
