"""Chains of layers trained by `chain.cpp`: whole decisions without leaving C++.

Most of the time that an inner step of a small model takes, Python and the start of each operation
take. What is a chain of known layers under a known loss needs none of that.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from trainpilot.envs.chain import chain_of
from trainpilot.envs.chain_program import NativeLayer, native_layers
from trainpilot.envs.convolution import SOURCE as CONVOLUTION_SOURCE
from trainpilot.envs.hyperparameters import FloatArray
from trainpilot.envs.native_code import UntranslatableError, load
from trainpilot.envs.native_update import NativeUpdate
from trainpilot.envs.schedule import STEP_SCALARS
from trainpilot.envs.signals import UPDATE_SUMS, Evaluation
from trainpilot.envs.trainer import Orders, RunState
from trainpilot.inner_tasks.errors import TrainpilotError
from trainpilot.inner_tasks.protocol import InnerTask, Split

_OBJECTIVES = {"cross_entropy": 0, "mse": 1}
#: What the objectives' metrics are called in `trainpilot.inner_tasks.objectives`.
_METRICS = {"cross_entropy": "accuracy", "mse": "mean_absolute_error"}
#: Of `convolution.cpp`, in the order of `struct Program`.
_CONVOLUTIONS = (
    "trainpilot_forward", "trainpilot_backward", "trainpilot_pool", "trainpilot_pool_backward",
)  # fmt: skip
#: Inner steps in one call: Python listens to Ctrl-C in between.
_STEPS_AT_ONCE = 500


class _Program(ctypes.Structure):
    _fields_ = (
        ("n_layers", ctypes.c_int64),
        ("layers", ctypes.POINTER(NativeLayer)),
        ("objective", ctypes.c_int64),
        ("n_params", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("convolve", "convolve_back", "pool", "pool_back")),
    )


class _Data(ctypes.Structure):
    _fields_ = (("inputs", ctypes.c_void_p), ("targets", ctypes.c_void_p))


class _Training(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("n_rows", "n_steps", "n_examples", "width")),
        *((name, ctypes.c_int64) for name in ("n_moments", "n_scalars", "n_sums")),
        ("indices", ctypes.c_void_p),
        ("keys", ctypes.c_void_p),
        ("parameters", ctypes.c_void_p),
        ("moments", ctypes.POINTER(ctypes.c_void_p)),
        ("accumulated", ctypes.c_void_p),
        ("scalars", ctypes.c_void_p),
        ("sums", ctypes.c_void_p),
        ("update", ctypes.c_void_p),
        ("n_parts", ctypes.c_int64),
        ("parts", ctypes.c_void_p),
    )


class ChainTrainer:
    """Trains and evaluates the runs of a task whose model is a chain of layers.

    `trainpilot.envs.chain` says what a chain is; the loss is "cross_entropy" or "mse", and all is
    float32 on the CPU.

    Args:
        task: names its loss (`objective_name`).
        n_params: of a run.
        update: moves the runs.
        observed: examples of `valid` and `outer_valid` that are evaluated.

    Raises:
        UntranslatableError: if the task is of another kind.
    """

    takes_any_rows = True

    def __init__(
        self,
        task: InnerTask,
        n_params: int,
        update: NativeUpdate,
        observed: tuple[Split, Split],
    ) -> None:
        library = load("chain.cpp")
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
        chain = chain_of(model, tuple(task.splits.train.inputs.shape[1:]))
        if sum(parameter.numel() for parameter in model.parameters()) != n_params:
            raise UntranslatableError("its models differ in their number of parameters")
        layers = native_layers(chain)
        if not layers:
            raise UntranslatableError("its model has no layer")
        self._input_shape, self._output_shape = chain[0].inputs, chain[-1].outputs
        # Embeddings read by number: one that does not exist would read someone else's memory.
        self._vocabulary = chain[0].vocabulary if chain[0].kind == "embedding" else None
        self._layers = (NativeLayer * len(layers))(*layers)
        self._program = _Program(
            *(len(layers), self._layers, _OBJECTIVES[objective], n_params),
            *_convolutions(layers),
        )
        self._train_split = self._checked(task.splits.train)
        self._observed = [self._checked(split) for split in observed]

    def _checked(self, split: Split) -> Split:
        """The split in a form that bare pointers may read.

        Raises:
            UntranslatableError: if it has none.
        """
        # On this machine, as they are read; tokens copied, since they say where to write.
        inputs, targets = (part.detach().cpu().resolve_neg() for part in split)
        if self._vocabulary is None:
            of_inputs, inputs = torch.float32, inputs.contiguous()
        else:
            of_inputs = torch.int64
            inputs = inputs.clone(memory_format=torch.contiguous_format)
        if inputs.dtype != of_inputs or tuple(inputs.shape[1:]) != self._input_shape:
            raise UntranslatableError(
                f"inputs must be {of_inputs} of shape {('n', *self._input_shape)}; given: "
                f"{inputs.dtype} {tuple(inputs.shape)}"
            )
        if self._vocabulary is not None and not _within(inputs, self._vocabulary):
            raise UntranslatableError(f"tokens lie outside of 0 to {self._vocabulary - 1}")
        classes = self._objective == "cross_entropy"
        if classes and len(self._output_shape) != 1:
            raise UntranslatableError("its outputs are not one row of logits an example")
        dtype = torch.int64 if classes else torch.float32
        shape = (len(inputs),) if classes else (len(inputs), *self._output_shape)
        if not len(inputs) or targets.dtype != dtype or tuple(targets.shape) != shape:
            raise UntranslatableError(
                f"targets must be {dtype} of shape {shape}, at least one; given: "
                f"{targets.dtype} {tuple(targets.shape)}"
            )
        return Split(inputs, targets.contiguous())

    def train(self, state: RunState, orders: Orders) -> FloatArray:
        """Train runs on their next micro-batches; gives `StepSums`, `(8, n_rows, n_steps)`."""
        n_rows, n_steps, _ = orders.indices.shape
        at_once = max(1, _STEPS_AT_ONCE // n_steps)
        if n_rows <= at_once:
            return self._train_some(state, orders)
        parts = [slice(first, first + at_once) for first in range(0, n_rows, at_once)]
        return np.concatenate(
            [self._train_some(state.rows(part), orders.rows(part)) for part in parts], axis=1
        )

    def _train_some(self, state: RunState, orders: Orders) -> FloatArray:
        indices = orders.indices.contiguous()
        n_rows, n_steps, n_examples = indices.shape
        with np.errstate(over="ignore"):  # a clip too large for a float is none
            scalars = np.ascontiguousarray(orders.scalars, dtype=np.float32)
        keys = np.ascontiguousarray(orders.keys, dtype=np.int64)
        sums = np.empty((n_rows, n_steps, 1 + len(UPDATE_SUMS)))
        moments = [moment.data_ptr() for moment in state.moments]
        training = _Training(
            *(n_rows, n_steps, n_examples, state.parameters.stride(0)),
            *(len(moments), len(STEP_SCALARS), len(UPDATE_SUMS)),
            indices.data_ptr(),
            keys.ctypes.data,
            state.parameters.data_ptr(),
            (ctypes.c_void_p * len(moments))(*moments),
            None if state.accumulated is None else state.accumulated.data_ptr(),
            scalars.ctypes.data,
            sums.ctypes.data,
            self._update.address,
            len(self._update.parts),
            self._update.parts.ctypes.data,
        )
        data = _data(self._train_split)
        self._train(ctypes.byref(self._program), ctypes.byref(data), ctypes.byref(training))
        return sums.transpose(2, 0, 1)

    def evaluate(self, state: RunState, split: Split) -> Evaluation:
        """Evaluate runs on a split.

        Raises:
            TrainpilotError: if the split is not like the task's.
        """
        try:
            checked = self._checked(split)
        except UntranslatableError as error:
            raise TrainpilotError(
                f"a split must be like those of its task; given: {error}"
            ) from error
        return self._evaluation(state, checked)

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


def _convolutions(layers: Iterable[NativeLayer]) -> list[int | None]:
    """Addresses of the kernels for images, if a layer needs them."""
    if not any(layer.shape for layer in layers):
        return [None] * len(_CONVOLUTIONS)
    library = load(CONVOLUTION_SOURCE)
    if library is None:
        raise UntranslatableError("no C++ compiler")
    return [ctypes.cast(getattr(library, name), ctypes.c_void_p).value for name in _CONVOLUTIONS]
