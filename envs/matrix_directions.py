"""Directions of the parameters that are matrices, for optimizers that treat them as a whole."""

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
)
from trainpilot.envs.orthogonal import orthogonalised


class MatrixDirections:
    """Orthogonalises the momentum of the runs that are moved so.

    Args:
        model: says where the matrices stand.
        optimizers: indices of those that runs may use.
    """

    def __init__(self, model: FlatModel, optimizers: Sequence[int]) -> None:
        self._matrices = model.matrices
        self._momenta = {
            index: momentum
            for index in optimizers
            if (momentum := OPTIMIZERS[OPTIMIZER_NAMES[index]].momentum) is not None
        }

    def __bool__(self) -> bool:
        """Whether there may be any."""
        return bool(self._matrices and self._momenta)

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
            The directions, and where they are those of a matrix that moves so: `(n_rows, width)`
            each.
        """
        directions = torch.zeros_like(context.gradient)
        given = torch.zeros_like(directions, dtype=torch.bool)
        for index, momentum in self._momenta.items():
            if used is not None and index not in used:
                continue
            moved = (optimizer == index) & (applied > 0)
            # Elsewhere than on the CPU, to look which rows these are would be to wait for them.
            on_cpu = moved.device.type == "cpu"
            rows = moved.squeeze(1).nonzero().squeeze(1) if on_cpu else slice(None)
            own = UpdateContext(*(part[rows] for part in context))
            values = momentum({name: moment[rows] for name, moment in before.items()}, own)
            for offset, n_rows, n_columns in self._matrices:
                part = slice(offset, offset + n_rows * n_columns)
                matrix = values[:, part].view(-1, n_rows, n_columns)
                found = orthogonalised(matrix).flatten(1)
                directions[rows, part] = torch.where(moved[rows], found, directions[rows, part])
                given[:, part] |= moved
        return directions, given
