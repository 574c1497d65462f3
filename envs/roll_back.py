"""The last good state of every run, to which the guard rolls back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class LastGood:
    """A copy of what each run carries (`Engine.carried`), as it was when all was well.

    Args:
        carried: of all runs, `(n_runs, ...)` each.
    """

    def __init__(self, carried: Sequence[Tensor]) -> None:
        self._kept = [values.clone() for values in carried]

    def keep(self, carried: Sequence[Tensor], rows: NDArray[np.bool_]) -> None:
        """Keep these rows, `(n_runs,)`, as they are now."""
        _copy(carried, self._kept, rows)

    def restore(self, carried: Sequence[Tensor], rows: NDArray[np.bool_]) -> None:
        """Write what was kept of these rows, `(n_runs,)`, in place."""
        _copy(self._kept, carried, rows)


def _copy(sources: Sequence[Tensor], targets: Sequence[Tensor], rows: NDArray[np.bool_]) -> None:
    """Copy rows of each tensor, all at once."""
    if rows.all():
        for source, target in zip(sources, targets, strict=True):
            target.copy_(source)
    elif rows.any():
        chosen = torch.from_numpy(np.flatnonzero(rows))
        for source, target in zip(sources, targets, strict=True):
            places = chosen.to(target.device)
            target.index_copy_(0, places, source.index_select(0, places))
