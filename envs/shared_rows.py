"""Memory that the parent and its workers share: actions and seeds in, transitions out."""

from __future__ import annotations

import multiprocessing
from typing import NamedTuple

import numpy as np
from gymnasium import spaces

from trainpilot.envs.actions import Action
from trainpilot.envs.hyperparameters import IntArray
from trainpilot.envs.transition import Array, Transition

#: Arrays begin at multiples of a cache line (bytes).
_ALIGNMENT = 64


class RowViews(NamedTuple):
    """Arrays that stand in the shared memory.

    Attributes:
        actions: `(n_rows, ...)`.
        seeds: of the runs that begin, `(n_rows,)`.
        transition: what came of the actions, `(n_rows, ...)` each.
    """

    actions: Action
    seeds: IntArray
    transition: Transition


class SharedRows:
    """One block of memory for all rows; travels to a process as it is started.

    The block has no name: nothing is left of it when the last process that uses it has ended,
    whichever way it ended.

    Args:
        n_rows: number of rows of all workers.
        action_space: of one row.
    """

    def __init__(self, n_rows: int, action_space: spaces.Space[Action]) -> None:
        self._n_rows, self._action_space = n_rows, action_space
        blank = self._blank()
        arrays = [blank.actions, blank.seeds, *blank.transition.arrays()]
        self._memory = multiprocessing.get_context("spawn").RawArray(
            "b", sum(_space(array) for array in arrays)
        )

    def views(self, rows: slice = slice(None)) -> RowViews:
        """Arrays of some of the rows; what one process writes, the others read."""
        offset = 0

        def view(like: Array) -> Array:
            nonlocal offset
            array = np.frombuffer(self._memory, like.dtype, like.size, offset).reshape(like.shape)
            offset += _space(like)
            return array[rows]

        blank = self._blank()
        return RowViews(view(blank.actions), view(blank.seeds), blank.transition.map(view))

    def _blank(self) -> RowViews:
        shape = self._action_space.shape or ()
        return RowViews(
            np.zeros((self._n_rows, *shape), dtype=self._action_space.dtype),
            np.zeros(self._n_rows, dtype=np.int64),
            Transition.blank(self._n_rows),
        )


def _space(array: Array) -> int:
    return -(-array.nbytes // _ALIGNMENT) * _ALIGNMENT
