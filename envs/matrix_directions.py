"""What optimizers that treat matrices as a whole do to matrices, and to vectors beside them."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import NamedTuple

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


class Changes(NamedTuple):
    """What becomes of the directions that optimizers give, `(n_rows, width)` each.

    Attributes:
        directions: those of matrices that are moved as a whole.
        given: where they are.
        scale: what all other directions are multiplied by.
    """

    directions: Tensor
    given: Tensor
    scale: Tensor

    def of(self, direction: Tensor) -> Tensor:
        """The directions that the optimizers gave, changed."""
        return torch.where(self.given, self.directions, self.scale * direction)


class MatrixDirections:
    """Orthogonalises the momentum of runs that are moved so, and scales what they do to vectors.

    Args:
        model: says where matrices and vectors stand.
        optimizers: indices of those that runs may use.
    """

    def __init__(self, model: FlatModel, optimizers: Sequence[int]) -> None:
        self._matrices = [part for part in model.matrices_and_vectors if part.rows > 1]
        self._has_parts = bool(model.matrices_and_vectors)
        self._is_vector = torch.zeros(model.width, dtype=torch.bool)
        for offset, n_rows, n_columns in model.matrices_and_vectors:
            self._is_vector[offset : offset + n_columns] |= n_rows == 1
        rules = {index: OPTIMIZERS[OPTIMIZER_NAMES[index]] for index in optimizers}
        self._rules = {index: rule for index, rule in rules.items() if rule.momentum is not None}

    def __bool__(self) -> bool:
        """Whether there may be anything to change."""
        return self._has_parts and bool(self._rules)

    def of(
        self,
        before: Moments,
        context: UpdateContext,
        optimizer: Tensor,
        applied: Tensor,
        used: Container[int] | None = None,
    ) -> Changes:
        """What becomes of the directions of all runs.

        Args:
            before: moments, by name, each `(n_rows, width)`.
            context: gradient and scalars.
            optimizer: index of each row's, `(n_rows, 1)`, of any dtype.
            applied: above 0 where the row moves, `(n_rows, 1)`.
            used: indices that `optimizer` may have (default: any).
        """
        directions = torch.zeros_like(context.gradient)
        given = torch.zeros_like(directions, dtype=torch.bool)
        scale = torch.ones_like(directions)
        # But for the first time it is where the runs are.
        self._is_vector = self._is_vector.to(directions.device)
        for index, rule in self._rules.items():
            if rule.momentum is None or (used is not None and index not in used):
                continue
            moved = (optimizer == index) & (applied > 0)
            # Elsewhere than on the CPU, to look which rows these are would be to wait for them.
            on_cpu = moved.device.type == "cpu"
            rows = moved.squeeze(1).nonzero().squeeze(1) if on_cpu else slice(None)
            own = UpdateContext(*(part[rows] for part in context))
            values = rule.momentum({name: moment[rows] for name, moment in before.items()}, own)
            for offset, n_rows, n_columns in self._matrices:
                part = slice(offset, offset + n_rows * n_columns)
                matrix = values[:, part].view(-1, n_rows, n_columns)
                found = orthogonalised(matrix).flatten(1)
                directions[rows, part] = torch.where(moved[rows], found, directions[rows, part])
                given[:, part] |= moved
            scale = torch.where(moved & self._is_vector, rule.vector_scale, scale)
        return Changes(directions, given, scale)
