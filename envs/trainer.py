"""What trains inner runs: its state, its orders, its interface."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from torch import Tensor

from trainpilot.envs.hyperparameters import FloatArray
from trainpilot.envs.signals import Evaluation
from trainpilot.inner_tasks.protocol import Split

Buffers = dict[str, Tensor]


class RunState(NamedTuple):
    """What runs keep, all of it written to.

    Attributes:
        parameters: `(n_rows, width)`.
        moments: likewise, in the order of `moment_names`.
        accumulated: the sum of gradients since the last update, likewise; None if every
            micro-batch makes one.
        buffers: all that is not trained, `(n_rows, ...)` each.
    """

    parameters: Tensor
    moments: list[Tensor]
    accumulated: Tensor | None
    buffers: Buffers

    def rows(self, rows: slice) -> RunState:
        """Some of the runs, as views."""
        return RunState(
            self.parameters[rows],
            [moment[rows] for moment in self.moments],
            None if self.accumulated is None else self.accumulated[rows],
            {name: value[rows] for name, value in self.buffers.items()},
        )

    def chosen(self, rows: Sequence[int]) -> RunState:
        """What an evaluation needs of any of the runs, copied."""
        places = list(rows)
        return RunState(
            self.parameters[places],
            [],
            None,
            {name: value[places] for name, value in self.buffers.items()},
        )

    def copied(self) -> RunState:
        """A copy."""
        return RunState(
            self.parameters.clone(),
            [moment.clone() for moment in self.moments],
            None if self.accumulated is None else self.accumulated.clone(),
            {name: value.clone() for name, value in self.buffers.items()},
        )


class Orders(NamedTuple):
    """What runs are to do in their next micro-batches.

    Attributes:
        indices: the examples, int32, `(n_rows, n_steps, micro_batch_size)`.
        scalars: `STEP_SCALARS`, `(n_rows, n_steps, 12)`.
        keys: of random numbers, int64, `(n_rows, n_steps)`.
    """

    indices: Tensor
    scalars: FloatArray
    keys: np.ndarray

    def rows(self, rows: slice) -> Orders:
        """Those of some of the runs."""
        return Orders(self.indices[rows], self.scalars[rows], self.keys[rows])


class Trainer(Protocol):
    """Trains and evaluates the runs of a task.

    Attributes:
        takes_any_rows: whether it takes any number of runs, or always as many.
    """

    takes_any_rows: bool

    def train(self, state: RunState, orders: Orders) -> FloatArray:
        """Train runs on their next micro-batches; gives `StepSums`, `(8, n_rows, n_steps)`."""
        ...

    def evaluate(self, state: RunState, split: Split) -> Evaluation:
        """Evaluate runs on a split, in evaluation mode."""
        ...

    def evaluate_observed(self, state: RunState) -> tuple[Evaluation, Evaluation]:
        """Evaluate runs on the observed parts of `valid` and `outer_valid`."""
        ...
