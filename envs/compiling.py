"""Functions of tensors, compiled once and for all.

The function is traced with the very tensors' shapes, and the trace is compiled: it cannot be
compiled again in mid-run, since there is no Python left to look at. Other shapes are an error.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
import torch._inductor
from torch import Tensor
from torch._guards import TracingContext, tracing
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import ShapeEnv

TensorFunction = Callable[..., Sequence[Tensor]]

#: What is said of a compiled function that does not do what it should.
OTHER_NUMBERS = "the compiled step gives other numbers than the step itself"

#: One rounding for `a * b + c`, where C++ would otherwise make two: faster and more exact.
_OPTIONS = {"cpp.enable_floating_point_contract_flag": "fast"}


def missing_compiler(device: torch.device) -> str | None:
    """Why nothing can be compiled for a device, None if nothing is known to stand against it."""
    if device.type == "cpu" and shutil.which("c++") is None and shutil.which("g++") is None:
        return "no C++ compiler was found"
    return None


def compile_function(function: TensorFunction, examples: Sequence[Tensor]) -> TensorFunction:
    """Compile a function of tensors that returns tensors.

    Args:
        function: may write to its arguments. What depends on values rather than on shapes is
            fixed as the examples have it.
        examples: tensors of the shapes, dtypes and device to come; left as they are.

    Returns:
        A function of tensors like the examples. An argument that is written to and never read
        may be given the storage of another that is read at the same places only.

    Raises:
        Exception: whatever tracing or compiling raises.
    """
    with torch.no_grad():
        # One mode for the trace: torch would make one for each operation, with a stack trace.
        with tracing(TracingContext(FakeTensorMode(allow_fallback_kernels=True))):
            graph = make_fx(function)(*(example.clone() for example in examples))
        for node in graph.graph.nodes:
            # The trace's fake tensors belong to a mode that the compiler does not know.
            if node.op == "placeholder":
                node.meta.clear()
        key = _identity(graph, examples)
        if key is not None and key in _COMPILED:
            return _COMPILED[key]
        inputs: list[Any] = [example.clone() for example in examples]
        # Without an environment of shapes, inductor keeps nothing for the next process.
        mode = FakeTensorMode(shape_env=ShapeEnv(), static_shapes=True)
        with tracing(TracingContext(mode)):
            compiled = torch._inductor.compile(graph, inputs, options=_OPTIONS)
        found = cast("TensorFunction", compiled)
        if key is not None:
            _COMPILED[key] = found
        return found


#: What this process has compiled: engines of one task, or of one shape, share it.
_COMPILED: dict[str, TensorFunction] = {}


def _identity(graph: GraphModule, examples: Sequence[Tensor]) -> str | None:
    """What a compiled function depends on: its code and what it is given.

    Returns:
        None for a function that holds something of its own, which others may write to.
    """
    if graph.graph.find_nodes(op="get_attr"):
        return None
    given = [f"{each.shape} {each.stride()} {each.dtype} {each.device}" for each in examples]
    return hashlib.sha256("\n".join([graph.code, *given]).encode()).hexdigest()


def compile_checked(
    function: TensorFunction, examples: list[Tensor], tolerance: float
) -> TensorFunction:
    """The function, compiled, once it has shown that it gives what the function gives.

    Args:
        function: as `compile_function` takes it.
        examples: likewise; those that share their storage share it in the comparison too.
        tolerance: how far the numbers may lie apart, relative to the largest.

    Raises:
        ArithmeticError: if they lie further apart.
        Exception: whatever compiling raises.
    """
    compiled = compile_function(function, examples)
    _check_equal(function, compiled, examples, tolerance)
    return compiled


def _check_equal(
    function: TensorFunction,
    compiled: TensorFunction,
    examples: list[Tensor],
    tolerance: float,
) -> None:
    expected, given = cloned(examples), cloned(examples)
    expected += function(*expected)
    given += compiled(*given)
    check_same(expected, given, tolerance)


def check_same(expected: Sequence[Tensor], given: Sequence[Tensor], tolerance: float) -> None:
    """Hold numbers against those that they should be.

    Args:
        expected: what they should be.
        given: what they are.
        tolerance: how far they may lie apart, relative to the largest of each tensor.

    Raises:
        ArithmeticError: if they lie further apart.
    """
    for value, other in zip(expected, given, strict=True):
        if not value.is_floating_point():
            continue
        size = value.abs().nan_to_num(0, 0).max() if value.numel() else 0
        atol = float(tolerance * size)
        if not torch.allclose(value, other, rtol=tolerance, atol=atol, equal_nan=True):
            raise ArithmeticError(OTHER_NUMBERS)


def cloned(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Copies; those that share their storage share it in the copy too."""
    copies: dict[tuple[int, torch.Size], Tensor] = {}
    for tensor in tensors:
        copies.setdefault((tensor.data_ptr(), tensor.shape), tensor.clone())
    return [copies[tensor.data_ptr(), tensor.shape] for tensor in tensors]
