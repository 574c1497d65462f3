"""Chains as `chain.cpp` has them: layers in the order of memory, some of them fused."""

from __future__ import annotations

import ctypes
import math

from trainpilot.envs.chain_layers import ChainLayer
from trainpilot.envs.convolution import EXAMPLES_LAST, PACKED, KernelShape
from trainpilot.envs.native_code import UntranslatableError

#: In the order of `enum Kind` in `layers.h`.
_KINDS = (
    "linear", "relu", "tanh", "gelu", "silu", "sigmoid", "leaky_relu", "elu", "embedding",
    "convolution", "pooling", "turn", "normalisation", "image_normalisation",
    "addition", "dropout",
)  # fmt: skip


class NativeLayer(ctypes.Structure):
    """`struct Layer` in `layers.h`, which says what its fields are."""

    _fields_ = (
        *(
            (name, ctypes.c_int64)
            for name in (
                "kind",
                "inputs",
                "outputs",
                "weight",
                "bias",
                "relu",
                "vocabulary",
                "groups",
                "scales",
                "source",
                "salt",
            )
        ),
        ("constant", ctypes.c_double),
        ("shape", ctypes.POINTER(KernelShape)),
    )


def native_layers(chain: list[ChainLayer]) -> list[NativeLayer]:
    """The layers of a chain in C++.

    Raises:
        UntranslatableError: if C++ has no kernel for one of them where it stands.
    """
    return _fused(_with_orders(chain))


def _with_orders(chain: list[ChainLayer]) -> list[ChainLayer]:
    """The chain without its flattening, but with a layer where the order in memory changes.

    Convolutions have examples last, all others first.
    """
    result: list[ChainLayer] = []
    # How many layers of the result make what the chain's first, second and so on make.
    made_by = [0]
    examples_last = False

    def put_first(shape: tuple[int, ...]) -> None:
        nonlocal examples_last
        if examples_last:
            result.append(ChainLayer("turn", shape, shape))
        examples_last = False

    for layer in chain:
        if layer.kind == "flatten":
            put_first(layer.inputs)
            made_by.append(len(result))
            continue
        if layer.kind in ("convolution", "pooling"):
            if not examples_last and (result or layer.kind == "pooling"):
                raise UntranslatableError(f"its {layer.kind} does not follow a convolution")
            examples_last = True
        if layer.kind in ("layer_norm", "group_norm"):
            layer = _normalisation(layer, examples_last=examples_last)
        if layer.kind == "dropout" and examples_last:
            raise UntranslatableError("its dropout follows a convolution")
        if layer.kind == "addition":
            layer = layer._replace(source=made_by[layer.source])
            first = result[0].kind if result else "addition"
            if not layer.source and first in ("convolution", "embedding", "addition"):
                raise UntranslatableError(f"its addition takes what its {first} takes")
        result.append(layer)
        made_by.append(len(result))
    if chain:
        put_first(chain[-1].outputs)
    return result


def _normalisation(layer: ChainLayer, *, examples_last: bool) -> ChainLayer:
    """The kind that is for the order in memory, if there is one."""
    if examples_last:
        if layer.kind == "layer_norm" and layer.groups > 1:
            raise UntranslatableError("its layer_norm is of parts of an image")
        return layer._replace(kind="image_normalisation")
    if layer.kind == "group_norm" and len(layer.inputs) > 1:
        raise UntranslatableError("its group_norm follows neither a convolution nor a flat layer")
    return layer._replace(kind="normalisation")


def _fused(chain: list[ChainLayer]) -> list[NativeLayer]:
    """The layers as C++ has them: those that are done in one are one."""
    result: list[NativeLayer] = []
    # What an addition takes must be left as it is.
    sources = {layer.source for layer in chain if layer.kind == "addition"}
    made_by = [0]
    for place, layer in enumerate(chain):
        before = result[-1] if result and place not in sources else None
        if before is not None and _joins(before, layer):
            made_by.append(len(result))
            continue
        made = NativeLayer(
            _KINDS.index(layer.kind),
            math.prod(layer.inputs),
            math.prod(layer.outputs),
            -1 if layer.weight is None else layer.weight,
            -1 if layer.bias is None else layer.bias,
            0,
            layer.vocabulary,
            layer.groups,
            layer.scales,
            made_by[layer.source] - 1,
            layer.salt,
            layer.constant,
        )
        if layer.kind in ("convolution", "pooling"):
            made.shape = ctypes.pointer(
                _kernel_shape(layer, PACKED if place == 0 else EXAMPLES_LAST)
            )
        result.append(made)
        made_by.append(len(result))
    return result


def _joins(before: NativeLayer, layer: ChainLayer) -> bool:
    """Make a layer part of the one before it, if there is a kernel for both in one."""
    kind = _KINDS[before.kind]
    if kind == "linear" and layer.kind == "relu" and not before.relu:
        before.relu = 1
        return True
    if kind != "convolution":
        return False
    shape = before.shape.contents
    unpooled = (shape.pool_height, shape.pool_width) == (1, 1)
    if layer.kind == "relu" and unpooled and not shape.relu:
        shape.relu = 1
        return True
    if layer.kind == "pooling" and unpooled and layer.kernel != (1, 1):
        shape.pool_height, shape.pool_width = layer.kernel
        shape.pooled_height, shape.pooled_width = layer.outputs[1:]
        before.outputs = math.prod(layer.outputs)
        return True
    return False


def _kernel_shape(layer: ChainLayer, order: int) -> KernelShape:
    shape = KernelShape(
        n_rows=1,
        in_channels=layer.inputs[0],
        in_height=layer.inputs[1],
        in_width=layer.inputs[2],
        out_channels=layer.outputs[0],
        kernel_height=layer.kernel[0],
        kernel_width=layer.kernel[1],
        stride_height=layer.stride[0],
        stride_width=layer.stride[1],
        padding_height=layer.padding[0],
        padding_width=layer.padding[1],
        pool_height=1,
        pool_width=1,
        pooled_height=layer.outputs[1],
        pooled_width=layer.outputs[2],
        order=order,
    )
    if layer.kind == "pooling":
        shape.pool_height, shape.pool_width = layer.kernel
    return shape
