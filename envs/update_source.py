"""The formulas of the optimizer menu as C++, made from their Python."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, Node
from torch.fx.experimental.proxy_tensor import make_fx

from trainpilot.envs.native_code import UntranslatableError
from trainpilot.envs.optimizers import (
    EPSILON,
    MEAN_GRADIENT,
    OPTIMIZER_NAMES,
    OPTIMIZERS,
    Moments,
    Optimizer,
    UpdateContext,
    moment_names,
    moments_after,
)
from trainpilot.envs.orthogonal import (
    N_ITERATIONS,
    POLYNOMIAL,
    ROOT_MEAN_SQUARE,
    SMALLEST_NORM,
)
from trainpilot.envs.schedule import STEP_SCALARS

_INFIX = {"add": "+", "sub": "-", "mul": "*", "div": "/"}
_CALLS = {"sqrt": "root", "sign": "sign"}


def update_source(optimizers: Sequence[int]) -> str:
    """What `update.cpp` expects before its own text.

    Args:
        optimizers: indices of those that runs may use.

    Raises:
        UntranslatableError: if a formula does more than elementwise arithmetic.
    """
    return _source(tuple((index, OPTIMIZERS[OPTIMIZER_NAMES[index]]) for index in optimizers))


@functools.cache
def _source(rules: tuple[tuple[int, Optimizer], ...]) -> str:
    """For rules by their indices. Made once: following the formulas takes half a second."""
    optimizers = [index for index, _ in rules]
    names = moment_names(optimizers)
    context = UpdateContext._fields[1:]
    columns = (f"constexpr int {name.upper()} = {i};" for i, name in enumerate(STEP_SCALARS))
    return "\n".join(
        [
            '#include "vectors.h"',
            "namespace {",
            f"constexpr int N_SCALARS = {len(STEP_SCALARS)};",
            *columns,
            f"constexpr int N_MOMENTS = {len(names)}, MEAN = {names.index(MEAN_GRADIENT)};",
            f"constexpr float POLYNOMIAL[] = {{{', '.join(map(_literal, POLYNOMIAL))}}};",
            f"constexpr float ROOT_MEAN_SQUARE = {_literal(ROOT_MEAN_SQUARE)};",
            f"constexpr float SMALLEST_NORM = {_literal(SMALLEST_NORM)};",
            f"constexpr int N_ITERATIONS = {N_ITERATIONS};",
            "struct Scalars {",
            f"  Vec {', '.join(context)};",
            "  explicit Scalars(const float* from)",
            "      : "
            + ",\n        ".join(f"{n}(splat(from[{n.upper()}]))" for n in context)
            + " {}",
            "};",
            "template <int OPTIMIZER> struct Rule;",
            *(_rule(index, rule, names, optimizers) for index, rule in rules),
            "}  // namespace",
            f"#define FOR_EACH_OPTIMIZER(DO) {' '.join(f'DO({index})' for index in optimizers)}",
            "",
        ]
    )


def _rule(index: int, rule: Optimizer, names: Sequence[str], optimizers: Sequence[int]) -> str:
    """How all moments change, and the direction of the one optimizer."""

    def formulas(before: Moments, context: UpdateContext) -> list[Tensor]:
        after = moments_after(before, context, optimizers)
        direction = rule.direction(before, after, context)
        parts = [direction.numerator, direction.square]
        return [after[name] for name in names] + [part for part in parts if part is not None]

    def momentum(before: Moments, context: UpdateContext) -> list[Tensor]:
        return [] if rule.momentum is None else [rule.momentum(before, context)]

    lines, results = _followed(formulas, names)
    after, (numerator, *square) = results[: len(names)], results[len(names) :]
    lines += [f"after[{i}] = {value};" for i, value in enumerate(after)]
    divisor = f" / (root({square[0]}) + splat({_literal(EPSILON)}))" if square else ""
    lines_of_matrices, of_matrices = _followed(momentum, names)
    given = "const Scalars& s, Vec gradient, const Vec* before"
    return "\n    ".join(
        [
            f"template <> struct Rule<{index}> {{  // {OPTIMIZER_NAMES[index]}",
            f"static constexpr bool ORTHOGONALISES = {'true' if of_matrices else 'false'};",
            f"static constexpr float VECTOR_SCALE = {_literal(rule.vector_scale)};",
            f"static inline Vec direction({given}, Vec* after) {{",
            *lines,
            f"return {numerator}{divisor};\n  }}",
            f"static inline Vec momentum({given}) {{",
            *lines_of_matrices,
            f"return {of_matrices[0] if of_matrices else 'Vec{}'};\n  }}\n}};",
        ]
    )


def _followed(
    formulas: Callable[[Moments, UpdateContext], list[Tensor]], names: Sequence[str]
) -> tuple[list[str], list[str]]:
    """Statements, and the expressions of what the formulas give."""

    def function(gradient: Tensor, *given: Tensor) -> list[Tensor]:
        n_scalars = len(UpdateContext._fields) - 1
        context = UpdateContext(gradient, *given[:n_scalars])
        return formulas(dict(zip(names, given[n_scalars:], strict=True)), context)

    inputs = [
        "gradient",
        *(f"s.{name}" for name in UpdateContext._fields[1:]),
        *(f"before[{i}]" for i in range(len(names))),
    ]
    graphs = [make_fx(function)(*torch.ones(len(inputs), *shape)) for shape in ((2, 3), (4, 5))]
    found, other = (_translate(graph.graph, inputs) for graph in graphs)
    if other != found:
        raise UntranslatableError("an optimizer uses the shape of what runs keep")
    return found


def _translate(graph: Graph, inputs: Sequence[str]) -> tuple[list[str], list[str]]:
    """Statements, and the expressions of the outputs."""
    graph.eliminate_dead_code()
    values: dict[Node, str] = {}
    lines: list[str] = []
    names = iter(inputs)

    def text(argument: Any) -> str:
        if isinstance(argument, Node):
            return values[argument]
        if isinstance(argument, int | float):
            return f"splat({_literal(argument)})"
        raise UntranslatableError(f"an optimizer's argument '{argument}' has no translation")

    for node in graph.nodes:
        if node.op == "placeholder":
            values[node] = next(names)
        elif node.op == "output":
            return lines, [text(argument) for argument in node.args[0]]
        else:
            lines.append(f"const Vec t{len(lines)} = {_expression(node, text)};")
            values[node] = f"t{len(lines) - 1}"
    raise UntranslatableError("an optimizer's formula gives nothing")


def _expression(node: Node, text: Any) -> str:
    name = getattr(node.target, "__name__", str(node.target)).split(".")[0]
    if node.op != "call_function" or node.kwargs:
        raise UntranslatableError(f"an optimizer's operation '{name}' has no translation")
    arguments = [text(argument) for argument in node.args]
    if name in _INFIX and len(arguments) == 2:
        return f"{arguments[0]} {_INFIX[name]} {arguments[1]}"
    if name == "rsub" and len(arguments) == 2:
        return f"{arguments[1]} - {arguments[0]}"
    if name == "neg":
        return f"-{arguments[0]}"
    if name in _CALLS and len(arguments) == 1:
        return f"{_CALLS[name]}({arguments[0]})"
    raise UntranslatableError(f"an optimizer's operation '{name}' has no translation")


def _literal(value: float) -> str:
    return f"{float(value)!r}f"
