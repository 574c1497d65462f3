"""Which update an engine compiles, and the steps that it is judged by."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from trainpilot.envs.compiling import TensorFunction, check_same, cloned
from trainpilot.envs.flat_model import FlatModel
from trainpilot.envs.formula_update import FormulaUpdate, Move, RunState, Update
from trainpilot.envs.native_update import native_update


class Seen:
    """Looks on at an engine's steps and keeps what the last was given.

    Args:
        gradients: the engine's.
        update: likewise.

    Attributes:
        examples: what `gradients` was given.
        state: what runs kept before the update.
        pieces: of the gradient.
        scalars: of the update.
    """

    def __init__(self, gradients: TensorFunction, update: Update) -> None:
        self._gradients = gradients
        self._update = update
        self.examples: list[Tensor] = []
        self.pieces: list[Tensor] = []

    def gradients(self, *tensors: Tensor) -> Sequence[Tensor]:
        """The engine's gradients."""
        self.examples = cloned(tensors)
        return self._gradients(*tensors)

    def on(self, state: RunState) -> Move:
        """The engine's update."""
        inner = self._update.on(state)

        def move(pieces: Sequence[Tensor], scalars: Tensor) -> Tensor:
            self.state = copied(state)
            self.pieces, self.scalars = cloned(pieces), scalars.clone()
            return inner(pieces, scalars)

        return move


def compile_update(
    model: FlatModel, optimizers: Sequence[int], seen: Seen, tolerance: float
) -> Update:
    """The fastest update there is, once it has shown that it does what the formulas say.

    Args:
        model: gives the runs' sizes.
        optimizers: indices of those that runs may use.
        seen: an update to judge it by.
        tolerance: how far the numbers may lie apart, relative to the largest.

    Raises:
        ArithmeticError: if they lie further apart.
        Exception: whatever compiling raises.
    """
    formula = FormulaUpdate(model, optimizers)
    if model.dtype == torch.float32 and seen.scalars.device.type == "cpu":
        native = native_update(optimizers, model.sizes)
        if native is not None:
            check_same(_moved(formula, seen), _moved(native, seen), tolerance)
            return native
    formula.compile(seen.state, seen.pieces, seen.scalars, tolerance)
    return formula


def _moved(update: Update, seen: Seen) -> list[Tensor]:
    """What runs keep after the update, and its sums, each by itself."""
    state = copied(seen.state)
    sums = update.on(state)(seen.pieces, seen.scalars)
    carried = [] if state.accumulated is None else [state.accumulated]
    return [state.parameters, *state.moments, *carried, *sums]


def copied(state: RunState) -> RunState:
    """A copy."""
    return RunState(
        state.parameters.clone(),
        [moment.clone() for moment in state.moments],
        None if state.accumulated is None else state.accumulated.clone(),
    )
