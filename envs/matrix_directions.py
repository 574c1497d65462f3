"""Directions of parameters that are matrices or vectors, for optimizers that treat those apart."""

from __future__ import annotations

from collections.abc import Container, Sequence

import torch
from torch import Tensor

from trainpilot.envs.flat_model import FlatModel
from trainpilot.envs.optimizers import (
    OPTIMIZER_NAMES,
    OPTIMIZERS,
    Moments,
    UpdateContext,
    update,
)
from trainpilot.envs.orthogonal import orthogonalised


class MatrixDirections:
    """Orthogonalises the momentum of runs that are moved so, and scales what they do to vectors.

    Args:
        model: says where matrices and vectors stand.
        optimizers: indices of those that runs may use.
    """

    def __init__(self, model: FlatModel, optimizers: Sequence[int]) -> None:
        self._matrices = [part for part in model.matrices_and_vectors if part.rows > 1]
        vectors = [part for part in model.matrices_and_vectors if part.rows == 1]
        places = [torch.arange(part.offset, part.offset + part.columns) for part in vectors]
        self._vectors = torch.cat(places) if places else torch.arange(0)
        self._is_part = torch.zeros(model.width, dtype=torch.bool)
        for offset, n_rows, n_columns in model.matrices_and_vectors:
            self._is_part[offset : offset + n_rows * n_columns] = True
        self._momenta = {
            index: momentum
            for index in optimizers
            if (momentum := OPTIMIZERS[OPTIMIZER_NAMES[index]].momentum) is not None
        }

    def __bool__(self) -> bool:
        """Whether there may be any."""
        return bool(self._momenta) and (bool(self._matrices) or len(self._vectors) > 0)

    def of(
        self,
        before: Moments,
        context: UpdateContext,
        optimizer: Tensor,
        applied: Tensor,
        used: Container[int] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The directions of all runs.

        Args:
            before: moments, by name, each `(n_rows, width)`.
            context: gradient and scalars.
            optimizer: index of each row's, `(n_rows, 1)`, of any dtype.
            applied: above 0 where the row moves, `(n_rows, 1)`.
            used: indices that `optimizer` may have (default: any).

        Returns:
            The directions, and where they are those of a matrix or vector that moves so:
            `(n_rows, width)` each.
        """
        directions = torch.zeros_like(context.gradient)
        given = torch.zeros_like(directions, dtype=torch.bool)
        # But for the first time they are where the runs are.
        self._vectors = self._vectors.to(directions.device)
        self._is_part = self._is_part.to(directions.device)
        for index, momentum in self._momenta.items():
            if used is not None and index not in used:
                continue
            moved = (optimizer == index) & (applied > 0)
            # Elsewhere than on the CPU, to look which rows these are would be to wait for them.
            on_cpu = moved.device.type == "cpu"
            rows = moved.squeeze(1).nonzero().squeeze(1) if on_cpu else slice(None)
            own = UpdateContext(*(part[rows] for part in context))
            moments = {name: moment[rows] for name, moment in before.items()}
            found = self._of_rows(index, momentum(moments, own), moments, own)
            directions[rows] = torch.where(moved[rows], found, directions[rows])
            given |= moved & self._is_part
        return directions, given

    def _of_rows(
        self, index: int, momentum: Tensor, before: Moments, context: UpdateContext
    ) -> Tensor:
        """What one optimizer gives matrices and vectors; 0 elsewhere."""
        found = torch.zeros_like(context.gradient)
        for offset, n_rows, n_columns in self._matrices:
            part = slice(offset, offset + n_rows * n_columns)
            matrix = momentum[:, part].view(-1, n_rows, n_columns)
            found[:, part] = orthogonalised(matrix).flatten(1)
        own = {name: moment[:, self._vectors] for name, moment in before.items()}
        of_vectors = context._replace(gradient=context.gradient[:, self._vectors])
        rows = torch.full_like(context.momentum, index)
        direction, _ = update(own, of_vectors, rows, [index])
        scale = OPTIMIZERS[OPTIMIZER_NAMES[index]].vector_scale
        found[:, self._vectors] = scale * direction
        return found
