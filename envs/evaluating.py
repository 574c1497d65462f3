"""Evaluations of many inner runs at once, by `torch.func`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.func import vmap

from trainpilot.envs.compiling import OTHER_NUMBERS, TensorFunction, compile_function
from trainpilot.envs.flat_model import FlatModel
from trainpilot.envs.signals import Evaluation
from trainpilot.envs.trainer import RunState
from trainpilot.inner_tasks.protocol import InnerTask, Split


class Evaluator:
    """Evaluates runs; eagerly, until it is compiled.

    Args:
        task: gives loss and metrics.
        model: of the task.
        buffer_names: of the model.
        observed: the examples of `valid` and of `outer_valid` that are observed.
        row_by_row: go through the runs one after the other.
    """

    def __init__(
        self,
        task: InnerTask,
        model: FlatModel,
        buffer_names: Sequence[str],
        observed: tuple[Split, Split],
        *,
        row_by_row: bool,
    ) -> None:
        self._task = task
        self._model = model
        self._buffer_names = tuple(buffer_names)
        self._observed = observed
        self._metric_names: list[str] = []
        self._evaluate: Callable[..., list[Tensor]] = (
            self._one_by_one if row_by_row else self._mapped
        )
        self._evaluate_observed: TensorFunction = self._both

    def compile(self, tile: RunState, tolerance: float) -> None:
        """Compile the evaluation of the observed parts.

        Args:
            tile: one like those to come.
            tolerance: how far compiled and eager losses may lie apart, relatively.

        Raises:
            ArithmeticError: if they lie further apart.
            Exception: whatever compiling raises.
        """
        expected = self.observed([tile])
        eager = self._evaluate_observed
        self._evaluate_observed = compile_function(self._both, self._arguments(tile))
        for one, other in zip(expected, self.observed([tile]), strict=True):
            # Metrics may count, and jump where a number is rounded otherwise; losses do not.
            if not np.allclose(one.loss, other.loss, rtol=tolerance, equal_nan=True):
                self._evaluate_observed = eager
                raise ArithmeticError(OTHER_NUMBERS)

    def observed(self, tiles: Sequence[RunState]) -> tuple[Evaluation, Evaluation]:
        """Evaluate every run on the observed parts of `valid` and `outer_valid`."""
        with torch.no_grad():
            parts = [_numbers(self._evaluate_observed(*self._arguments(tile))) for tile in tiles]
        values = np.concatenate(parts, axis=1)
        half = len(values) // 2
        return self._evaluation(values[:half]), self._evaluation(values[half:])

    def split(self, tiles: Sequence[RunState], split: Split) -> Evaluation:
        """Evaluate every run on a whole split."""
        with torch.no_grad():
            parts = [
                _numbers(self._evaluate(tile.parameters, list(tile.buffers.values()), split))
                for tile in tiles
            ]
        return self._evaluation(np.concatenate(parts, axis=1))

    def _arguments(self, tile: RunState) -> list[Tensor]:
        return [tile.parameters, *tile.buffers.values(), *self._observed[0], *self._observed[1]]

    def _evaluation(self, values: np.ndarray) -> Evaluation:
        loss, *metrics = values
        return Evaluation(loss, dict(zip(self._metric_names, metrics, strict=True)))

    def _both(self, *tensors: Tensor) -> list[Tensor]:
        """Losses and metrics on both observed parts, `(n_rows,)` each."""
        parameters, *buffers = tensors[:-4]
        valid, outer_valid = Split(*tensors[-4:-2]), Split(*tensors[-2:])
        return [
            *self._evaluate(parameters, buffers, valid),
            *self._evaluate(parameters, buffers, outer_valid),
        ]

    def _mapped(self, parameters: Tensor, buffers: list[Tensor], split: Split) -> list[Tensor]:
        parts = self._model.parts(parameters)
        loss, metrics = vmap(self._one, in_dims=(0, 0, None))(parts, buffers, split)
        return self._flat(loss, metrics)

    def _one_by_one(self, parameters: Tensor, buffers: list[Tensor], split: Split) -> list[Tensor]:
        parts = self._model.parts(parameters)
        rows = [
            self._flat(
                *self._one([part[row] for part in parts], [value[row] for value in buffers], split)
            )
            for row in range(len(parameters))
        ]
        return [torch.stack(column) for column in zip(*rows, strict=True)]

    def _one(
        self, parts: list[Tensor], buffers: list[Tensor], split: Split
    ) -> tuple[Tensor, dict[str, Tensor]]:
        named = dict(zip(self._buffer_names, buffers, strict=True))
        outputs = self._model.eval_outputs(parts, named, split.inputs)
        metrics = self._task.metrics(outputs, split.targets)
        return self._task.loss(outputs, split.targets), metrics

    def _flat(self, loss: Tensor, metrics: dict[str, Tensor]) -> list[Tensor]:
        self._metric_names = list(metrics)
        return [loss, *metrics.values()]


def observed_sample(split: Split, size: int) -> Split:
    """Up to `size` examples of a split, drawn at random but always the same ones.

    Not the first ones: text comes in its order, and a user's examples may be sorted by class.
    """
    n_examples = len(split.inputs)
    chosen = torch.randperm(n_examples, generator=torch.Generator().manual_seed(0))[:size]
    return Split(split.inputs[chosen], split.targets[chosen])


def _numbers(columns: Sequence[Tensor]) -> np.ndarray:
    """`(n_columns, n_rows)`."""
    return torch.stack([column.double() for column in columns]).cpu().numpy()
