"""Operators of torch that are written in C++ and mapped over runs.

Their tensors have a leading axis of runs. They are opaque to the compiler, and work under `vmap`
and `make_fx`; with a `torch.autograd.Function` around them, under `grad` too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def operator(
    run: Callable[..., Any], fake: Callable[..., Any], shared: int | None = None
) -> Callable[..., Any]:
    """An operator of torch, named as `run` is without its `_run_`.

    Not `torch.library.custom_op`: the autograd rule that it adds refuses `torch.func.grad`.

    Args:
        run: does it. Takes tensors and lists of tensors with a leading axis of runs, then
            settings; returns tensors with that axis.
        fake: allocates what `run` returns; takes the same.
        shared: position of the argument that may be given once for all runs, if any.
    """
    name = run.__name__.removeprefix("_run_")
    qualified = f"trainpilot::{name}"
    torch.library.define(qualified, torch.library.infer_schema(run, mutates_args=()))
    torch.library.impl(qualified, "CPU", run)
    torch.library.register_fake(qualified, fake)
    made: Callable[..., Any] = getattr(torch.ops.trainpilot, name).default
    torch.library.register_vmap(qualified, _vmap_rule(made, shared))
    return made


def _vmap_rule(made: Callable[..., Any], shared: int | None) -> Callable[..., Any]:
    """How to map an operator: what is mapped becomes more runs."""

    def rule(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> tuple[Any, Any]:
        size = info.batch_size

        def merged(argument: Any, axis: Any, may_be_shared: bool) -> Any:
            if isinstance(argument, list | tuple) and isinstance(axis, list | tuple):
                pairs = zip(argument, axis, strict=True)
                return [merged(part, own_axis, may_be_shared) for part, own_axis in pairs]
            if not isinstance(argument, Tensor):
                return argument
            if axis is not None:
                return argument.movedim(axis, 0).flatten(0, 1)
            if may_be_shared and len(argument) == 1:
                return argument
            return argument.expand(size, *argument.shape).flatten(0, 1)

        def split(part: Tensor) -> Tensor:
            return part.view(size, len(part) // size, *part.shape[1:])

        result = made(
            *(
                merged(argument, in_dims[position], position == shared)
                for position, argument in enumerate(arguments)
            )
        )
        if isinstance(result, Tensor):
            return split(result), 0
        return tuple(split(part) for part in result), (0,) * len(result)

    return rule


def row_stride(tensor: Tensor | None) -> int:
    """Numbers from run to run; 0 where the runs share it."""
    return 0 if tensor is None or len(tensor) == 1 else tensor.stride(0)


def dense_rows(tensor: Tensor) -> Tensor:
    """A tensor whose runs are contiguous; how far apart they lie does not matter.

    Weights are, as they come: a part of each row of all the parameters.
    """
    return tensor if tensor[0].is_contiguous() else tensor.contiguous()
