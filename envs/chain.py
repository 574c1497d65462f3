"""A model as a chain of known layers, if it is one."""

from __future__ import annotations

import math
import operator
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from trainpilot.envs.chain_layers import ChainLayer, Shape, is_layer, layer_of
from trainpilot.envs.fast_forms import is_hooked
from trainpilot.envs.mappable import salt_of
from trainpilot.envs.native_code import UntranslatableError
from trainpilot.inner_tasks.errors import first_line


def chain_of(model: nn.Module, inputs: Shape) -> list[ChainLayer]:
    """The layers that a model's examples go through, one after the other.

    The model may be written as it likes, as long as `torch.fx` can follow it, each layer takes
    what the one before gave, and training and evaluation are the same. An addition may take
    what any layer gave besides, so that residual blocks are parts of a chain.

    Args:
        model: all of its parameters are trained, in float32.
        inputs: shape of an example.

    Raises:
        UntranslatableError: if it is no such chain, or a layer is unknown.
    """
    places = _places(model)
    mode = model.training
    training, evaluation = (_Chain(model.train(m), places, inputs).layers for m in (True, False))
    model.train(mode)
    if training != evaluation:
        raise UntranslatableError("its model does something else in evaluation")
    return training


def _places(model: nn.Module) -> dict[int, int]:
    """Where each parameter begins, by its identity."""
    places: dict[int, int] = {}
    offset = 0
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if id(parameter) in places:
            raise UntranslatableError(f"its parameter '{name}' stands at two places")
        if not parameter.requires_grad or parameter.dtype != torch.float32:
            raise UntranslatableError(f"its parameter '{name}' is frozen or not float32")
        places[id(parameter)] = offset
        offset += parameter.numel()
    if any(True for _ in model.buffers()):
        raise UntranslatableError("its model has buffers")
    return places


class _Chain:
    """Follows a model from its inputs to its outputs."""

    def __init__(self, model: nn.Module, places: dict[int, int], inputs: Shape) -> None:
        self._places = dict(places)
        self._shape = inputs
        self.layers: list[ChainLayer] = []
        # What may be added later: how many layers made it, and its shape.
        self._values: dict[fx.Node, tuple[int, Shape]] = {}
        self._numbers = {id(module): number for number, module in enumerate(model.modules())}
        self._n_calls = Counter[int]()
        for module in model.modules():
            if is_hooked(module):
                raise UntranslatableError(
                    f"its {type(module).__name__} has a hook or a forward of its own"
                )
        # A single layer would be followed into itself.
        whole = nn.Sequential(model) if is_layer(model) else model
        try:
            graph = fx.symbolic_trace(whole)
        except Exception as error:
            raise UntranslatableError(
                f"its model cannot be traced ({first_line(error)})"
            ) from error
        last: fx.Node | None = None
        # Nodes that ask for the number of examples, as in `x.view(x.size(0), -1)`.
        counts: set[fx.Node] = set()
        for node in graph.graph.nodes:
            if last is None:
                last = node
                self._values[node] = 0, inputs
                continue
            if _counts_examples(node, counts):
                counts.add(node)
                continue
            if node.op != "call_module" and node.target in _ADDITIONS:
                self._add(node, last)
            else:
                given = [other for other in node.all_input_nodes if other not in counts]
                if given != [last] or node.args[:1] != (last,):
                    raise UntranslatableError(f"its '{node.name}' is no link of a chain")
                if node.op != "output":
                    try:
                        self._follow(graph, node)
                    except (TypeError, ValueError, IndexError) as error:
                        raise UntranslatableError(f"its '{node.name}' has no kernel") from error
            self._values[node] = len(self.layers), self._shape
            last = node

    def _add(self, node: fx.Node, last: fx.Node) -> None:
        """What the last layer gave and what an earlier one did, of the same shape."""
        others = [part for part in node.args if part is not last]
        known = None
        if len(node.args) == 2 and len(others) == 1 and not node.kwargs:
            known = self._values.get(others[0]) if isinstance(others[0], fx.Node) else None
        if known is None or known[1] != self._shape:
            raise UntranslatableError(f"its '{node.name}' is no link of a chain")
        source = known[0]
        if node.target == "add_":
            self._forget(source if node.args[1] is last else len(self.layers))
        self.layers.append(ChainLayer("addition", self._shape, self._shape, source=source))

    def _forget(self, n_layers: int) -> None:
        """What so many layers made is changed in place, whatever it is called."""
        self._values = {node: made for node, made in self._values.items() if made[0] != n_layers}

    def _follow(self, graph: fx.GraphModule, node: fx.Node) -> None:
        if node.op == "call_module":
            if len(node.args) > 1 or node.kwargs:
                raise UntranslatableError(f"its layer '{node.target}' is given more than inputs")
            self._module(graph.get_submodule(str(node.target)))
            return
        if node.target in ("view", "reshape", torch.reshape):
            self._reshape(node.args[1:])
            return
        call = _CALLS.get(node.target)
        if call is None:
            name = getattr(node.target, "__name__", node.target)
            raise UntranslatableError(f"its operation '{name}' has no kernel")
        name, parameters = call
        settings = dict(zip(parameters, node.args[1:], strict=False)) | dict(node.kwargs)
        module = _MODULES[name](**settings)
        self._module(module)

    def _module(self, module: nn.Module) -> None:
        layer = layer_of(module, self._shape, self._place)
        # Tokens are the inputs only.
        if layer is None or (layer.kind == "embedding" and self.layers):
            text = str(module).splitlines()[0]
            raise UntranslatableError(f"its layer {text} has no kernel")
        if layer.kind == "dropout":
            number = self._numbers[id(module)]
            layer = layer._replace(salt=salt_of(number, self._n_calls[number]))
            self._n_calls[number] += 1
        if getattr(module, "inplace", False):
            self._forget(len(self.layers))
        if layer.outputs != self._shape or layer.kind != "flatten":
            self.layers.append(layer)
        self._shape = layer.outputs

    def _reshape(self, sides: tuple[Any, ...]) -> None:
        """Only to one row an example."""
        if len(sides) == 1 and isinstance(sides[0], tuple | list):
            sides = tuple(sides[0])
        size = math.prod(self._shape)
        by_count = len(sides) == 2 and isinstance(sides[0], fx.Node) and sides[1] in (-1, size)
        if not by_count and sides != (-1, size):
            raise UntranslatableError(f"its reshaping to {sides} has no kernel")
        self._module(nn.Flatten())

    def _place(self, parameter: Tensor | None) -> int | None:
        """Where it begins. Each serves once, as its gradient is written and not added."""
        if parameter is None:
            return None
        place = self._places.pop(id(parameter), None)
        if place is None:
            raise UntranslatableError("one of its layers is used twice")
        return place


def _counts_examples(node: fx.Node, counts: set[fx.Node]) -> bool:
    """Whether it is `x.size(0)`, or part of `x.shape[0]`."""
    if node.op == "call_method" and node.target == "size":
        return node.args[1:] == (0,)
    if node.target is getattr:
        return node.args[1:] == ("shape",) and all(
            user.target is operator.getitem and user.args[1:] == (0,) for user in node.users
        )
    return node.target is operator.getitem and node.args[0] in counts


def _flatten(start_dim: int = 0, end_dim: int = -1) -> nn.Flatten:
    """The method and the function begin at another axis than the layer."""
    return nn.Flatten(start_dim, end_dim)


_MODULES: dict[str, Callable[..., nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "sigmoid": nn.Sigmoid,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "flatten": _flatten,
    "max_pool2d": nn.MaxPool2d,
}
_POOLING = ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")
_FLATTEN = ("start_dim", "end_dim")
#: `torch.fx` follows `+=` as `+`.
_ADDITIONS = (operator.add, torch.add, "add", "add_")
#: Functions and methods that stand for a layer, and the names of what they are given.
_CALLS: dict[Any, tuple[str, tuple[str, ...]]] = {
    functional.relu: ("relu", ("inplace",)),
    torch.relu: ("relu", ()),
    "relu": ("relu", ()),
    torch.tanh: ("tanh", ()),
    functional.tanh: ("tanh", ()),
    "tanh": ("tanh", ()),
    functional.gelu: ("gelu", ("approximate",)),
    functional.silu: ("silu", ("inplace",)),
    torch.sigmoid: ("sigmoid", ()),
    functional.sigmoid: ("sigmoid", ()),
    "sigmoid": ("sigmoid", ()),
    functional.leaky_relu: ("leaky_relu", ("negative_slope", "inplace")),
    functional.elu: ("elu", ("alpha", "inplace")),
    torch.flatten: ("flatten", _FLATTEN),
    "flatten": ("flatten", _FLATTEN),
    functional.max_pool2d: ("max_pool2d", _POOLING),
    torch.max_pool2d: ("max_pool2d", _POOLING),
}
