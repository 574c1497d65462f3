"""Chains of linear layers for many runs at once, as an operator of torch.

Batched matrix products of some dozens of rows spend half of their time on getting started. Here
(`linear.cpp`) one run after the other goes through a whole chain of linear layers and ReLUs, forward
or back, while its activations are in the nearest cache.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor

from trainpilot.envs.native_code import load
from trainpilot.envs.operators import dense_rows, operator, row_stride

_SOURCE = "linear.cpp"

#: Numbers in a weight, at most; libraries are as fast where it does not stay in the nearest caches.
LARGEST_WEIGHT = 2**16


def available() -> bool:
    """Whether this machine can compile the operators; the first call does it."""
    return load(_SOURCE) is not None


def covers(inputs: Tensor, *parameters: Tensor | None) -> bool:
    """Whether the operators take such tensors: float32 on the CPU, and a compiler is there."""
    given = [inputs, *(tensor for tensor in parameters if tensor is not None)]
    plain = all(tensor.dtype == torch.float32 and tensor.device.type == "cpu" for tensor in given)
    # What is not a batch, or an empty one, is left to torch and its error messages.
    whole = inputs.ndim >= 2 and inputs.numel() > 0
    return plain and whole and not torch.is_autocast_enabled("cpu") and available()


def linear_chain(
    inputs: Tensor, layers: Sequence[tuple[Tensor, Tensor | None]], relu: Sequence[bool]
) -> Tensor:
    """`relu(linear(... relu(linear(inputs))))`.

    Args:
        inputs: `(n_examples, n_inputs)`, or with more axes in front.
        layers: weight `(n_outputs, n_inputs)` and bias `(n_outputs,)` or None of each layer.
        relu: for each layer, whether negative outputs become 0.
    """
    flat = [None if part is None else part[None] for layer in layers for part in layer]
    examples = inputs.reshape(1, -1, inputs.shape[-1])
    output, _ = _LinearChain.apply(examples, list(relu), *flat)  # type: ignore[no-untyped-call]
    return output.view(*inputs.shape[:-1], -1)  # type: ignore[no-any-return]


class _Chain(ctypes.Structure):
    """What `struct Chain` in the C++ file is."""

    _fields_ = (
        ("n_runs", ctypes.c_int64),
        ("n_layers", ctypes.c_int64),
        ("n_examples", ctypes.c_int64),
        ("input_stride", ctypes.c_int64),
        ("widths", ctypes.POINTER(ctypes.c_int64)),
        ("relu", ctypes.POINTER(ctypes.c_int64)),
        ("weights", ctypes.POINTER(ctypes.c_void_p)),
        ("weight_strides", ctypes.POINTER(ctypes.c_int64)),
        ("biases", ctypes.POINTER(ctypes.c_void_p)),
        ("bias_strides", ctypes.POINTER(ctypes.c_int64)),
    )


def _make_chain(
    inputs: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    relu: Sequence[bool],
) -> _Chain:
    n_layers = len(weights)
    integers, pointers = ctypes.c_int64 * n_layers, ctypes.c_void_p * n_layers
    return _Chain(
        len(weights[0]),
        n_layers,
        inputs.shape[1],
        row_stride(inputs),
        (ctypes.c_int64 * (n_layers + 1))(*_widths(weights)),
        integers(*relu),
        pointers(*(weight.data_ptr() for weight in weights)),
        integers(*map(row_stride, weights)),
        pointers(*(None if bias is None else bias.data_ptr() for bias in biases)),
        integers(*map(row_stride, biases)),
    )


def _widths(weights: Sequence[Tensor]) -> list[int]:
    return [weights[0].shape[2], *(weight.shape[1] for weight in weights)]


def _call(function: str, chain: _Chain, *tensors: Tensor | None) -> None:
    library = load(_SOURCE)
    if library is None:
        raise RuntimeError("no C++ compiler: ask available() first")
    pointers = (ctypes.c_void_p(t.data_ptr() if t is not None else None) for t in tensors)
    getattr(library, function)(*pointers, ctypes.byref(chain))


def _run_linear_chain(
    inputs: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    relu: Sequence[bool],
) -> tuple[Tensor, Tensor]:
    """The output, and what the layers before the last gave.

    Args:
        inputs: `(n_runs or 1, n_examples, n_inputs)`.
        weights: `(n_runs, n_outputs, n_inputs)` of each layer.
        biases: `(n_runs, n_outputs)` of each layer, or None.
        relu: of each layer.
    """
    output, hidden = _new_outputs(inputs, weights, biases, relu)
    inputs, weights = dense_rows(inputs), [dense_rows(weight) for weight in weights]
    biases = [None if bias is None else dense_rows(bias) for bias in biases]
    chain = _make_chain(inputs, weights, biases, relu)
    _call("trainpilot_linear_forward", chain, output, hidden, inputs)
    return output, hidden


def _new_outputs(
    inputs: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    relu: Sequence[bool],
) -> tuple[Tensor, Tensor]:
    # Beyond here are bare pointers: what does not fit would read someone else's memory.
    given = [inputs.shape[2], *(weight.shape[1] for weight in weights)]
    if given[:-1] != [weight.shape[2] for weight in weights]:
        shapes = ", ".join(str(tuple(weight.shape[1:])) for weight in weights)
        raise ValueError(f"inputs of {given[0]} features do not fit layers of weights {shapes}")
    n_runs, n_examples = len(weights[0]), inputs.shape[1]
    return (
        inputs.new_empty(n_runs, n_examples, given[-1]),
        inputs.new_empty(n_runs, n_examples * sum(given[1:-1])),
    )


def _run_linear_chain_backward(
    gradient: Tensor,
    inputs: Tensor,
    output: Tensor,
    hidden: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    relu: Sequence[bool],
    of_inputs: bool,
) -> tuple[Tensor, Tensor]:
    """The gradients by the inputs, and by all weights and biases one after the other.

    The inputs' is empty unless `of_inputs`: a first layer's is not needed.
    """
    by_inputs, by_parameters = _new_gradients(
        gradient, inputs, output, hidden, weights, biases, relu, of_inputs
    )
    inputs, weights = dense_rows(inputs), [dense_rows(weight) for weight in weights]
    chain = _make_chain(inputs, weights, biases, relu)
    given = (gradient.contiguous(), inputs, output.contiguous(), hidden.contiguous())
    _call(
        "trainpilot_linear_backward",
        chain,
        by_inputs if of_inputs else None,
        by_parameters,
        *given,
    )
    return by_inputs, by_parameters


def _new_gradients(
    gradient: Tensor,
    inputs: Tensor,
    output: Tensor,
    hidden: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    relu: Sequence[bool],
    of_inputs: bool,
) -> tuple[Tensor, Tensor]:
    n_runs = len(weights[0])
    sizes = [part[0].numel() for part in (*weights, *biases) if part is not None]
    by_inputs = [n_runs, *inputs.shape[1:]] if of_inputs else [n_runs, 0]
    return inputs.new_empty(by_inputs), inputs.new_empty(n_runs, sum(sizes))


class _LinearChain(torch.autograd.Function):
    """The operator with its gradient; one registered with the operator has no `torch.func`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        inputs: Tensor, relu: list[bool], *parameters: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        output, hidden = _linear_chain(inputs, parameters[::2], parameters[1::2], relu)
        return output, hidden

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        examples, ctx.relu, *parameters = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(examples, *output, *parameters)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Any, ...]:
        inputs, output, hidden, *parameters = ctx.saved_tensors
        of_inputs = ctx.needs_input_grad[0]
        by_inputs, by_parameters = _linear_chain_backward(
            gradient, inputs, output, hidden, parameters[::2], parameters[1::2], ctx.relu, of_inputs
        )
        if of_inputs and len(inputs) < len(by_inputs):
            by_inputs = by_inputs.sum(0, keepdim=True)
        sizes = [0 if part is None else part[0].numel() for part in parameters]
        places = pairwise([0, *accumulate(sizes)])
        by_each = [
            None if part is None else by_parameters[:, start:end].view(part.shape)
            for part, (start, end) in zip(parameters, places, strict=True)
        ]
        return by_inputs if of_inputs else None, None, *by_each


_linear_chain = operator(_run_linear_chain, _new_outputs, shared=0)
_linear_chain_backward = operator(_run_linear_chain_backward, _new_gradients, shared=1)
