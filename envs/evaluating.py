"""Evaluations of many inner runs at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.func import vmap

from trainpilot.envs.compiling import TensorFunction, compile_function
from trainpilot.envs.flat_model import FlatModel
from trainpilot.envs.signals import Evaluation
from trainpilot.inner_tasks.protocol import InnerTask, Split

#: How many rows of it are runs, parameters `(n_rows, width)`, buffers.
Tile = tuple[int, Tensor, list[Tensor]]


class Evaluator:
    """Evaluates the runs of an engine.

    Args:
        task: gives splits, loss and metrics.
        model: of the task.
        buffer_names: of the model, in the order in which tiles have them.
        size: most examples of `valid` and of `outer_valid` that are observed.
        device: of the runs.
    """

    def __init__(
        self,
        task: InnerTask,
        model: FlatModel,
        buffer_names: Sequence[str],
        size: int,
        device: torch.device,
    ) -> None:
        self._task = task
        self._model = model
        self._buffer_names = tuple(buffer_names)
        self.observed_splits = [
            Split(*(part.to(device) for part in observed_sample(split, size)))
            for split in (task.splits.valid, task.splits.outer_valid)
        ]
        self._metric_names: list[str] = []
        self.map_rows(True)

    def map_rows(self, mapped: bool) -> None:
        """Evaluate rows together, or one after the other; not compiled."""
        self._evaluate: Callable[..., list[Tensor]] = self._mapped if mapped else self._one_by_one
        self._evaluate_observed: TensorFunction = self._both

    def compile(self, tile: Tile) -> None:
        """Compile the evaluation of the observed parts.

        Args:
            tile: one like those to come.

        Raises:
            Exception: whatever compiling raises.
        """
        _, parameters, buffers = tile
        self._evaluate_observed = compile_function(
            self._both, [parameters, *buffers, *self.observed_splits[0], *self.observed_splits[1]]
        )

    def observed(self, tiles: Iterator[Tile]) -> tuple[Evaluation, Evaluation]:
        """Evaluate every run on the observed parts of `valid` and `outer_valid`."""
        data = [*self.observed_splits[0], *self.observed_splits[1]]
        with torch.no_grad():
            parts = [
                _numbers(self._evaluate_observed(parameters, *buffers, *data), n_runs)
                for n_runs, parameters, buffers in tiles
            ]
        values = np.concatenate(parts, axis=1)
        half = len(values) // 2
        return self._evaluation(values[:half]), self._evaluation(values[half:])

    def split(self, tiles: Iterator[Tile], split: Split) -> Evaluation:
        """Evaluate every run on a whole split."""
        with torch.no_grad():
            parts = [
                _numbers(self._evaluate(parameters, buffers, split), n_runs)
                for n_runs, parameters, buffers in tiles
            ]
        return self._evaluation(np.concatenate(parts, axis=1))

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
                *self._one(
                    [part[row] for part in parts], [value[row] for value in buffers], split
                )
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


def _numbers(columns: Sequence[Tensor], n_runs: int) -> np.ndarray:
    """`(n_columns, n_runs)`, without the rows that only fill up a tile."""
    return torch.stack([column[:n_runs].double() for column in columns]).cpu().numpy()
