"""Seeds of the runs to come: a stream for each row, whoever holds the row."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from trainpilot.envs.hyperparameters import IntArray


class RowSeeds:
    """Draws the seed of each row's next run from a generator of the row's own.

    Args:
        n_rows: number of rows; their generators start at random.

    Attributes:
        next: seed of each row's next run, `(n_rows,)`, in [0, 2**31).
    """

    def __init__(self, n_rows: int) -> None:
        self._generators = [np.random.default_rng() for _ in range(n_rows)]
        self.next: IntArray = np.zeros(n_rows, dtype=np.int64)
        self.advance(range(n_rows))

    def seed(self, entropies: Sequence[int | Sequence[int] | None]) -> None:
        """Seed the rows' generators.

        Args:
            entropies: for each row, what `numpy.random.default_rng` takes; None leaves it alone.
        """
        for row, entropy in enumerate(entropies):
            if entropy is not None:
                self._generators[row] = np.random.default_rng(entropy)
                self.advance([row])

    def advance(self, rows: Iterable[int]) -> None:
        """Move on in rows where a run has begun with the seed that was next."""
        for row in rows:
            self.next[row] = self._generators[row].integers(2**31)
