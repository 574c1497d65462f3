"""Functions of tensors, compiled once and for all.

The function is traced with the very tensors' shapes, and the trace is compiled: it cannot be
compiled again in mid-run, since there is no Python left to look at. Other shapes are an error.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
import torch._inductor
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

TensorFunction = Callable[..., Sequence[Tensor]]

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
        graph = make_fx(function)(*(example.clone() for example in examples))
        for node in graph.graph.nodes:
            # The trace's fake tensors belong to a mode that the compiler does not know.
            if node.op == "placeholder":
                node.meta.clear()
        inputs: list[Any] = [example.clone() for example in examples]
        return cast("TensorFunction", torch._inductor.compile(graph, inputs, options=_OPTIONS))
