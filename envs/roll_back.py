"""The last good state of every run, to which the guard rolls back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainpilot.envs.engine import Engine


class LastGood:
    """A copy of what each run carries (`Engine.carried`), as it was when all was well.

    Args:
        engine: of the runs. Their state takes twice the memory from now on.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._kept = [values.clone() for values in engine.carried()]

    def keep(self, rows: NDArray[np.bool_]) -> None:
        """Keep the present state of these rows, `(n_runs,)`."""
        _copy(self._engine.carried(), self._kept, rows)

    def restore(self, rows: NDArray[np.bool_]) -> None:
        """Give these rows, `(n_runs,)`, the state that was kept; place and budget go on."""
        _copy(self._kept, self._engine.carried(), rows)


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
