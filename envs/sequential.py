"""Sequential models trained by `sequential.cpp`: whole decisions without leaving C++.

Most of the time that an inner step of a small model takes, Python and the start of each operation
take. What is a chain of known layers under a known loss needs none of that.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from trainpilot.envs.fast_forms import is_plain
from trainpilot.envs.hyperparameters import FloatArray
from trainpilot.envs.native_code import load
from trainpilot.envs.native_update import NativeUpdate
from trainpilot.envs.schedule import STEP_SCALARS
from trainpilot.envs.signals import UPDATE_SUMS, Evaluation
from trainpilot.envs.trainer import Orders, RunState
from trainpilot.inner_tasks.protocol import InnerTask, Split

_LINEAR, _RELU, _TANH, _GELU, _EMBEDDING = range(5)
_OBJECTIVES = {"cross_entropy": 0, "mse": 1}
#: What the objectives' metrics are called in `trainpilot.inner_tasks.objectives`.
_METRICS = {"cross_entropy": "accuracy", "mse": "mean_absolute_error"}
_Shape = tuple[int, ...]


class UntranslatableError(Exception):
    """The model, its data or its loss is not of the kind that this module knows."""


class _Layer(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_int64)
        for name in ("kind", "inputs", "outputs", "weight", "bias", "relu", "vocabulary")
    )


class _Program(ctypes.Structure):
    _fields_ = (
        ("n_layers", ctypes.c_int64),
        ("layers", ctypes.POINTER(_Layer)),
        ("objective", ctypes.c_int64),
        ("n_params", ctypes.c_int64),
    )


class _Data(ctypes.Structure):
    _fields_ = (("inputs", ctypes.c_void_p), ("targets", ctypes.c_void_p))


class _Training(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("n_rows", "n_steps", "n_examples", "width")),
        *((name, ctypes.c_int64) for name in ("n_moments", "n_scalars", "n_sums")),
        ("indices", ctypes.c_void_p),
        ("parameters", ctypes.c_void_p),
        ("moments", ctypes.POINTER(ctypes.c_void_p)),
        ("accumulated", ctypes.c_void_p),
        ("scalars", ctypes.c_void_p),
        ("sums", ctypes.c_void_p),
        ("update", ctypes.c_void_p),
    )


class _Step(NamedTuple):
    """A layer, and the shape of an example behind it."""

    layer: _Layer
    shape: _Shape


class SequentialTrainer:
    """Trains and evaluates the runs of a task whose model is sequential.

    Takes chains (`nn.Sequential`, nested or not) of `nn.Linear`, `nn.ReLU`, `nn.Tanh`,
    `nn.GELU`, `nn.Flatten` and `nn.Identity`, with or without an `nn.Embedding` at the
    beginning, all of whose parameters are trained, in float32 on the CPU, under the losses
    "cross_entropy" and "mse".

    Args:
        task: names its loss (`objective_name`).
        update: moves the runs.
        observed: examples of `valid` and `outer_valid` that are evaluated.

    Raises:
        UntranslatableError: if the task is of another kind.
    """

    def __init__(
        self, task: InnerTask, update: NativeUpdate, observed: tuple[Split, Split]
    ) -> None:
        library = load("sequential.cpp")
        if library is None:
            raise UntranslatableError("no C++ compiler")
        self._train, self._evaluate = library.trainpilot_train, library.trainpilot_evaluate
        self._update = update
        objective = getattr(task, "objective_name", None)
        if objective not in _OBJECTIVES:
            raise UntranslatableError("its loss is a function of its own")
        self._objective: str = objective
        with torch.random.fork_rng(devices=[]):
            model = task.make_model()
        first = task.splits.train.inputs
        steps = _steps(model, tuple(first.shape[1:]))
        if not steps:
            raise UntranslatableError("its model has no layer")
        self._input_shape, self._output_shape = tuple(first.shape[1:]), steps[-1].shape
        layers = _fused([step.layer for step in steps])
        # Embeddings read by number: one that does not exist would read someone else's memory.
        self._vocabulary = layers[0].vocabulary if layers[0].kind == _EMBEDDING else None
        self._layers = (_Layer * len(layers))(*layers)
        n_params = sum(parameter.numel() for parameter in model.parameters())
        self._program = _Program(len(layers), self._layers, _OBJECTIVES[objective], n_params)
        self._train_split = self._checked(task.splits.train)
        self._observed = [self._checked(split) for split in observed]

    def _checked(self, split: Split) -> Split:
        """The split in a form that bare pointers may read.

        Raises:
            UntranslatableError: if it has none.
        """
        inputs, targets = split.inputs, split.targets
        of_inputs = torch.int64 if self._vocabulary is not None else torch.float32
        if inputs.dtype != of_inputs or tuple(inputs.shape[1:]) != self._input_shape:
            raise UntranslatableError(f"inputs are {inputs.dtype} {tuple(inputs.shape)}")
        if self._vocabulary is not None and not _within(inputs, self._vocabulary):
            raise UntranslatableError(f"tokens lie outside of 0 to {self._vocabulary - 1}")
        if self._objective == "cross_entropy":
            fits = len(self._output_shape) == 1 and targets.ndim == 1
            fits = fits and targets.dtype == torch.int64
        else:
            fits = tuple(targets.shape[1:]) == self._output_shape
            fits = fits and targets.dtype == torch.float32
        if not fits or len(targets) != len(inputs) or not len(inputs):
            raise UntranslatableError(f"targets are {targets.dtype} {tuple(targets.shape)}")
        return Split(inputs.contiguous(), targets.contiguous())

    def train(self, state: RunState, orders: Orders) -> FloatArray:
        """Train runs on their next micro-batches; gives `StepSums`, `(8, n_rows, n_steps)`."""
        indices = orders.indices.contiguous()
        n_rows, n_steps, n_examples = indices.shape
        scalars = np.ascontiguousarray(orders.scalars, dtype=np.float32)
        sums = np.empty((n_rows, n_steps, 1 + len(UPDATE_SUMS)))
        moments = [moment.data_ptr() for moment in state.moments]
        training = _Training(
            *(n_rows, n_steps, n_examples, state.parameters.stride(0)),
            *(len(moments), len(STEP_SCALARS), len(UPDATE_SUMS)),
            indices.data_ptr(),
            state.parameters.data_ptr(),
            (ctypes.c_void_p * len(moments))(*moments),
            None if state.accumulated is None else state.accumulated.data_ptr(),
            scalars.ctypes.data,
            sums.ctypes.data,
            self._update.address,
        )
        data = _data(self._train_split)
        self._train(ctypes.byref(self._program), ctypes.byref(data), ctypes.byref(training))
        return sums.transpose(2, 0, 1)

    def evaluate(self, state: RunState, split: Split) -> Evaluation:
        """Evaluate runs on a split.

        Raises:
            UntranslatableError: if the split is not like the task's.
        """
        return self._evaluation(state, self._checked(split))

    def evaluate_observed(self, state: RunState) -> tuple[Evaluation, Evaluation]:
        """Evaluate runs on the observed parts of `valid` and `outer_valid`."""
        valid, outer_valid = (self._evaluation(state, split) for split in self._observed)
        return valid, outer_valid

    def _evaluation(self, state: RunState, split: Split) -> Evaluation:
        parameters = state.parameters
        results = np.empty((len(parameters), 2))
        data = _data(split)
        self._evaluate(
            ctypes.byref(self._program),
            ctypes.byref(data),
            ctypes.c_int64(len(split.inputs)),
            ctypes.c_void_p(parameters.data_ptr()),
            ctypes.c_int64(len(parameters)),
            ctypes.c_int64(parameters.stride(0)),
            ctypes.c_void_p(results.ctypes.data),
        )
        return Evaluation(results[:, 0], {_METRICS[self._objective]: results[:, 1]})


def _data(split: Split) -> _Data:
    return _Data(split.inputs.data_ptr(), split.targets.data_ptr())


def _within(tokens: Tensor, vocabulary: int) -> bool:
    return bool((tokens >= 0).all()) and bool((tokens < vocabulary).all())


def _steps(model: nn.Module, shape: _Shape) -> list[_Step]:
    """The layers in their order, with where their parameters lie."""
    places: dict[int, int] = {}
    offset = 0
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if id(parameter) in places:
            raise UntranslatableError(f"its parameter '{name}' stands at two places")
        if not parameter.requires_grad or parameter.dtype != torch.float32:
            raise UntranslatableError(f"its parameter '{name}' is frozen or not float32")
        places[id(parameter)] = offset
        offset += parameter.numel()
    steps: list[_Step] = []
    for module in _leaves(model):
        step = _step(module, shape, places, is_first=not steps)
        if step is not None:
            steps.append(step)
            shape = step.shape
        elif type(module) is nn.Flatten:
            shape = (math.prod(shape),)
    return steps


def _leaves(module: nn.Module) -> Iterator[nn.Module]:
    if is_plain(module, nn.Sequential):
        for child in module:
            yield from _leaves(child)
    else:
        yield module


def _step(
    module: nn.Module, shape: _Shape, places: dict[int, int], *, is_first: bool
) -> _Step | None:
    """The layer for a module; None if examples pass it as they are."""
    size = math.prod(shape)
    if is_plain(module, nn.Identity):
        return None
    if is_plain(module, nn.Flatten) and (module.start_dim, module.end_dim) == (1, -1):
        return None
    if is_plain(module, nn.Linear) and shape == (module.in_features,):
        bias = -1 if module.bias is None else places[id(module.bias)]
        layer = _Layer(
            _LINEAR, module.in_features, module.out_features, places[id(module.weight)], bias
        )
        return _Step(layer, (module.out_features,))
    for kind, activation in ((_RELU, nn.ReLU), (_TANH, nn.Tanh), (_GELU, nn.GELU)):
        exact = getattr(module, "approximate", "none") == "none"
        if is_plain(module, activation) and exact and not is_first:
            return _Step(_Layer(kind, size, size, -1, -1), shape)
    if is_plain(module, nn.Embedding) and is_first and _is_simple(module):
        vocabulary, width = module.weight.shape
        layer = _Layer(_EMBEDDING, size, size * width, places[id(module.weight)], -1, 0, vocabulary)
        return _Step(layer, (*shape, width))
    raise UntranslatableError(f"its layer {type(module).__name__} has no kernel")


def _is_simple(table: nn.Embedding) -> bool:
    given: Sequence[Any] = (table.padding_idx, table.max_norm)
    return all(value is None for value in given) and not table.scale_grad_by_freq


def _fused(layers: list[_Layer]) -> list[_Layer]:
    """Linear layers with the ReLU behind them in one."""
    result: list[_Layer] = []
    for layer in layers:
        if layer.kind == _RELU and result and result[-1].kind == _LINEAR and not result[-1].relu:
            result[-1].relu = 1
        else:
            result.append(layer)
    return result
