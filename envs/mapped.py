"""Any model's runs, mapped by `torch.func` and worked off tile by tile.

A tile's rows make all steps of a decision before the next tile's turn, so that what they need
stays near.
"""

from __future__ import annotations

import contextlib
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from trainpilot.envs.compiling import TensorFunction, check_same, cloned, compile_checked
from trainpilot.envs.evaluating import Evaluator
from trainpilot.envs.flat_model import FlatModel
from trainpilot.envs.formula_update import FormulaUpdate, Move, Update
from trainpilot.envs.hyperparameters import FloatArray
from trainpilot.envs.inner_step import InnerStep
from trainpilot.envs.native_code import UntranslatableError
from trainpilot.envs.native_update import native_update
from trainpilot.envs.schedule import STEP_SCALARS
from trainpilot.envs.signals import Evaluation
from trainpilot.envs.trainer import Orders, RunState
from trainpilot.inner_tasks.protocol import InnerTask, Split

_OPTIMIZER = STEP_SCALARS.index("optimizer")


class MappedTrainer:
    """Trains and evaluates the runs of a task; eagerly, until it is compiled.

    Args:
        task: gives data and loss.
        model: of the task.
        buffer_names: of the model.
        optimizers: indices of those that runs may use.
        tile: rows that are worked on together; the runs are a multiple of it.
        observed: examples of `valid` and `outer_valid` that are evaluated.
        device: where runs live.
        row_by_row: go through a tile's rows one after the other, for models that cannot be
            mapped.
    """

    takes_any_rows = False

    def __init__(
        self,
        task: InnerTask,
        model: FlatModel,
        buffer_names: Sequence[str],
        optimizers: Sequence[int],
        tile: int,
        observed: tuple[Split, Split],
        device: torch.device,
        *,
        row_by_row: bool,
    ) -> None:
        self._model = model
        self._optimizers = optimizers
        self._tile = tile
        self._device = device
        self._train = Split(*(part.to(device) for part in task.splits.train))
        step = InnerStep(task, model, buffer_names, row_by_row=row_by_row)
        self._gradients: TensorFunction = step.gradients
        self._update: Update = FormulaUpdate(model, optimizers)
        self._evaluator = Evaluator(
            task,
            model,
            buffer_names,
            tuple(Split(*(part.to(device) for part in split)) for split in observed),  # type: ignore[arg-type]
            row_by_row=row_by_row,
        )

    def train(self, state: RunState, orders: Orders) -> FloatArray:
        """Train runs on their next micro-batches; gives `StepSums`, `(8, n_rows, n_steps)`."""
        with torch.no_grad(), _denormals_as_zeros():
            parts = [
                self._train_tile(state.rows(rows), orders.rows(rows)) for rows in self._tiles(state)
            ]
        return np.concatenate(parts, axis=1)

    def _tiles(self, state: RunState) -> Iterator[slice]:
        for first in range(0, len(state.parameters), self._tile):
            yield slice(first, first + self._tile)

    def _train_tile(self, state: RunState, orders: Orders) -> FloatArray:
        used = {int(index) for index in np.unique(orders.scalars[:, :, _OPTIMIZER])}
        move = self._update.on(state, used)
        indices = self._steps_first(orders.indices.long())
        scalars = self._steps_first(torch.from_numpy(orders.scalars).to(self._model.dtype))
        keys = self._steps_first(torch.from_numpy(orders.keys))
        losses, sums = [], []
        for step in range(len(indices)):
            # Not inside the compiled step: there, examples are gathered number by number.
            inputs, targets = (_gather(part, indices[step]) for part in self._train)
            loss, *pieces = self._gradients(
                state.parameters, inputs, targets, keys[step], *state.buffers.values()
            )
            sums.append(move(pieces, scalars[step]))
            losses.append(loss)
        both = torch.cat([torch.stack(losses)[:, None].double(), torch.stack(sums)], dim=1)
        return both.permute(1, 2, 0).cpu().numpy()

    def _steps_first(self, values: Tensor) -> Tensor:
        """Of `(n_rows, n_steps, ...)`, a contiguous tensor for each step, on the device."""
        return values.transpose(0, 1).contiguous().to(self._device)

    def evaluate(self, state: RunState, split: Split) -> Evaluation:
        """Evaluate runs on a split, in evaluation mode."""
        moved = Split(*(part.to(self._device) for part in split))
        return self._evaluator.split([state.rows(rows) for rows in self._tiles(state)], moved)

    def evaluate_observed(self, state: RunState) -> tuple[Evaluation, Evaluation]:
        """Evaluate runs on the observed parts of `valid` and `outer_valid`."""
        return self._evaluator.observed([state.rows(rows) for rows in self._tiles(state)])

    def compile(self, state: RunState, orders: Orders, tolerance: float) -> None:
        """Compile all functions, once they have shown that they give what they should.

        Args:
            state: of one tile, to be judged by; left as it is.
            orders: likewise.
            tolerance: how far compiled and eager numbers may lie apart, relative to the
                largest.

        Raises:
            ArithmeticError: if they lie further apart.
            Exception: whatever compiling raises. Nothing is compiled then.
        """
        eager = self._gradients, self._update
        seen = _Seen(*eager)
        try:
            self._gradients, self._update = seen.gradients, seen
            after = state.copied()
            self.train(after, orders)
            self._gradients = compile_checked(eager[0], seen.examples, tolerance)
            self._update = self._compiled_update(seen, tolerance)
            self._evaluator.compile(after, tolerance)
        except Exception:
            self._gradients, self._update = eager
            raise

    def _compiled_update(self, seen: _Seen, tolerance: float) -> Update:
        """The fastest update there is, once it has shown that it does what the formulas say."""
        call = seen.call
        native = self._native_update(call, tolerance)
        if native is not None:
            return native
        formula = FormulaUpdate(self._model, self._optimizers)
        formula.compile(call.state, call.pieces, call.scalars, tolerance)
        return formula

    def take_native_update(self, state: RunState, orders: Orders, tolerance: float) -> None:
        """Update by C++ of our own from now on, where there is one.

        Args:
            state: of one tile, to be judged by; left as it is.
            orders: likewise.
            tolerance: how far its numbers may lie apart from those of torch, relative to the
                largest.
        """
        formula = self._update
        seen = _Seen(self._gradients, formula)
        self._update = seen
        self.train(state.copied(), orders)
        self._update = formula
        with contextlib.suppress(ArithmeticError):
            self._update = self._native_update(seen.call, tolerance) or formula

    def _native_update(self, call: _UpdateCall, tolerance: float) -> Update | None:
        """The update in C++, once it has shown that it does what the formulas say.

        Raises:
            ArithmeticError: if it does not.
        """
        try:
            native = native_update(self._optimizers, self._model, self._device)
        except UntranslatableError:
            return None
        formula = FormulaUpdate(self._model, self._optimizers)
        check_same(call.result(formula), call.result(native), tolerance)
        return native


@dataclass
class _UpdateCall:
    """An update that was made: the state before it, and what it was given."""

    state: RunState
    pieces: list[Tensor]
    scalars: Tensor

    def result(self, update: Update) -> list[Tensor]:
        """What runs keep after this update by another, and its sums, each by itself."""
        state = self.state.copied()
        sums = update.on(state)(self.pieces, self.scalars)
        carried = [] if state.accumulated is None else [state.accumulated]
        return [state.parameters, *state.moments, *carried, *sums]


class _Seen:
    """Looks on at steps and keeps what the last one was given."""

    def __init__(self, gradients: TensorFunction, update: Update) -> None:
        self._gradients = gradients
        self._update = update
        self.examples: list[Tensor] = []

    def gradients(self, *tensors: Tensor) -> Sequence[Tensor]:
        self.examples = cloned(tensors)
        return self._gradients(*tensors)

    def on(self, state: RunState, used: Container[int] | None = None) -> Move:
        inner = self._update.on(state, used)

        def move(pieces: Sequence[Tensor], scalars: Tensor) -> Tensor:
            self.call = _UpdateCall(state.copied(), cloned(pieces), scalars.clone())
            return inner(pieces, scalars)

        return move


@contextlib.contextmanager
def _denormals_as_zeros() -> Iterator[None]:
    """Moments that fade end as numbers that arithmetic is many times slower with."""
    before = (torch.tensor(4e-39) * 0.5).item() == 0
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


def _gather(examples: Tensor, indices: Tensor) -> Tensor:
    """`examples[indices]`, in a fraction of the time."""
    chosen = examples.index_select(0, indices.view(-1))
    return chosen.view(*indices.shape, *examples.shape[1:])
