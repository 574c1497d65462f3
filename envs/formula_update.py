"""The update of many runs and the sums that signals are made of, as functions of tensors."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from trainpilot.envs.compiling import TensorFunction, compile_checked
from trainpilot.envs.flat_model import FlatModel
from trainpilot.envs.matrix_directions import Changes, MatrixDirections
from trainpilot.envs.optimizers import MEAN_GRADIENT, UpdateContext, moment_names, update
from trainpilot.envs.schedule import STEP_SCALARS
from trainpilot.envs.trainer import RunState

#: Takes the pieces of the micro-batch's gradient, `(n_rows, size)` each, and `STEP_SCALARS`,
#: `(n_rows, 12)`; moves the runs and gives `UPDATE_SUMS`, `(7, n_rows)`.
Move = Callable[[Sequence[Tensor], Tensor], Tensor]

#: As `torch.nn.utils.clip_grad_norm_` has it.
_CLIP_EPSILON = 1e-6


class Update(Protocol):
    """Moves runs, each by its own optimizer."""

    def on(self, state: RunState, used: Container[int] | None = None) -> Move:
        """What moves these rows.

        Args:
            state: of the rows.
            used: indices of the optimizers that they have (default: any).
        """
        ...


class FormulaUpdate:
    """Moves runs with operations of torch, on any device and in any precision.

    Args:
        model: gives the runs' sizes.
        optimizers: indices of those that runs may use.
    """

    def __init__(self, model: FlatModel, optimizers: Sequence[int]) -> None:
        self._model = model
        self._optimizers = tuple(optimizers)
        self._moment_names = moment_names(optimizers)
        self._matrix_directions = MatrixDirections(model, optimizers)
        # Two functions, since the second may write where it reads only once nothing else
        # reads there.
        self._settle: TensorFunction = self._settle_eagerly
        self._move: TensorFunction = self._move_eagerly

    def on(self, state: RunState, used: Container[int] | None = None) -> Move:
        """What moves these rows, as `Update` has it."""

        def move(pieces: Sequence[Tensor], scalars: Tensor) -> Tensor:
            settled = self._settle(*self._to_settle(state, pieces, scalars))
            *moving, square = settled
            (sums,) = self._move(*self._to_move(state, moving, scalars, used))
            by_row = sums.view(len(sums), -1, self._model.n_blocks).double().sum(2)
            return torch.cat([square.double().unsqueeze(0), by_row])

        return move

    def compile(
        self, state: RunState, pieces: Sequence[Tensor], scalars: Tensor, tolerance: float
    ) -> None:
        """Compile, for tensors like these, which are left as they are.

        Args:
            state: as `on` takes it.
            pieces: as a `Move` takes them.
            scalars: likewise.
            tolerance: how far the numbers may lie apart, relative to the largest.

        Raises:
            Exception: whatever compiling raises.
        """
        given = self._to_settle(state, pieces, scalars)
        settle = compile_checked(self._settle_eagerly, given, tolerance)
        *moving, _ = settle(*(tensor.clone() for tensor in given))
        to_move = self._to_move(state, moving, scalars)
        self._move = compile_checked(self._move_eagerly, to_move, tolerance)
        self._settle = settle

    def _to_settle(
        self, state: RunState, pieces: Sequence[Tensor], scalars: Tensor
    ) -> list[Tensor]:
        carried = [] if state.accumulated is None else [state.accumulated] * 2
        return [scalars, *carried, *pieces]

    def _to_move(
        self,
        state: RunState,
        moving: Sequence[Tensor],
        scalars: Tensor,
        used: Container[int] | None = None,
    ) -> list[Tensor]:
        blocks = [self._blocks(part) for part in (state.parameters, *state.moments)]
        of_blocks = scalars.repeat_interleave(self._model.n_blocks, dim=0)
        return [*blocks, *blocks, *moving, of_blocks, *self._changes(state, moving, scalars, used)]

    def _changes(
        self,
        state: RunState,
        moving: Sequence[Tensor],
        scalars: Tensor,
        used: Container[int] | None,
    ) -> list[Tensor]:
        """`Changes` of the directions, by blocks; none where there are none."""
        if not self._matrix_directions:
            return []
        gradient, _, factor = moving
        column = _columns(scalars)
        context = UpdateContext(
            (gradient * factor).view(len(scalars), -1),
            *(column[name] for name in UpdateContext._fields[1:]),
        )
        before = dict(zip(self._moment_names, state.moments, strict=True))
        found = self._matrix_directions.of(
            before, context, column["optimizer"], column["applied"], used
        )
        return [self._blocks(part) for part in found]

    def _settle_eagerly(self, *tensors: Tensor) -> list[Tensor]:
        """Gather and measure the gradient.

        Args:
            tensors: `STEP_SCALARS`; where gradients accumulate, their sum so far and where
                the new one goes; the pieces of this micro-batch's.

        Returns:
            Gradient of the update, mean over what was accumulated but not yet clipped, and
            gradient of this micro-batch, both by blocks, `(n_rows * n_blocks, block_size)`;
            the factor that clips, `(n_rows * n_blocks, 1)`; and the squared norm of the
            micro-batch's gradient, `(n_rows,)`.
        """
        given = iter(tensors)
        column = _columns(next(given))
        # With one micro-batch an update, all that is left are pieces.
        n_pieces = len(self._model.sizes)
        carried = _take(given, len(tensors) - 1 - n_pieces)
        pieces = list(given)
        padding = self._model.width - self._model.n_params
        if padding:
            pieces.append(pieces[0].new_zeros(len(pieces[0]), padding))
        own = torch.cat(pieces, dim=1)
        square = self._sum(own * own)
        gradient, gradient_square = own, square
        if carried:
            total = torch.where(column["carried"] > 0, carried[0], 0) + own
            carried[1].copy_(total)
            gradient = total * column["share"]
            gradient_square = self._sum(gradient * gradient)
        clip = column["gradient_clip"].squeeze(1)
        factor = (clip / (gradient_square.sqrt() + _CLIP_EPSILON)).clamp(max=1)
        return [self._blocks(gradient), self._blocks(own), self._per_block(factor), square]

    def _move_eagerly(self, *tensors: Tensor) -> list[Tensor]:
        """Move every row by its own optimizer.

        Args:
            tensors: parameters, then the moments, by blocks; the same again, to write to;
                what `_settle_eagerly` gives but the last; `STEP_SCALARS` of each block; and where
                an optimizer treats matrices as a whole, `Changes`.

        Returns:
            `UPDATE_SUMS` but the first, summed over each block, `(6, n_rows * n_blocks)`.
        """
        given = iter(tensors)
        parameters, *old = _take(given, 1 + len(self._moment_names))
        targets = _take(given, 1 + len(self._moment_names))
        gradient, own, factor, scalars, *changes = given
        column = _columns(scalars)
        context = UpdateContext(
            gradient * factor,
            *(column[name] for name in UpdateContext._fields[1:]),
        )
        before = dict(zip(self._moment_names, old, strict=True))
        direction, after = update(before, context, column["optimizer"], self._optimizers)
        if changes:
            direction = Changes(*changes).of(direction)
        change = -column["learning_rate"] * (direction + column["weight_decay"] * parameters)
        values = [parameters + change, *(after[name] for name in self._moment_names)]
        applied = column["applied"] > 0
        change = torch.where(applied, change, 0)
        pairs = zip(values, [parameters, *old], strict=True)
        values = [torch.where(applied, new, kept) for new, kept in pairs]
        mean = before[MEAN_GRADIENT]
        new_mean = values[1 + self._moment_names.index(MEAN_GRADIENT)]
        sums = [
            parameters * parameters,
            change * change,
            new_mean * new_mean,
            own * mean,
            own * parameters,
            own * change,
        ]
        reduced = [product.sum(1) for product in sums]
        for target, value in zip(targets, values, strict=True):
            target.copy_(value)
        return [torch.stack(reduced)]

    def _blocks(self, values: Tensor) -> Tensor:
        return values.view(-1, self._model.block_size)

    def _sum(self, values: Tensor) -> Tensor:
        """Sum of each row, by blocks: `(n_rows, width)` gives `(n_rows,)`."""
        return self._blocks(values).sum(1).view(-1, self._model.n_blocks).sum(1)

    def _per_block(self, values: Tensor) -> Tensor:
        """A number of each row, `(n_rows,)`, for each of its blocks, `(n_rows * n_blocks, 1)`."""
        # Contiguous for a single row too, or the compiled update would expect other strides.
        repeated = values.unsqueeze(1).expand(-1, self._model.n_blocks)
        return repeated.clone(memory_format=torch.contiguous_format).view(-1, 1)


def _columns(scalars: Tensor) -> dict[str, Tensor]:
    return {name: scalars[:, i : i + 1] for i, name in enumerate(STEP_SCALARS)}


def _take(given: Iterator[Tensor], n: int) -> list[Tensor]:
    return [next(given) for _ in range(n)]
