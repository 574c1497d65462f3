"""Moving averages of runs' weights, which evaluations see in the place of the weights."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from trainpilot.envs.hyperparameters import FloatArray
from trainpilot.envs.trainer import RunState


class WeightAverages:
    """`average = decay * average + (1 - decay) * weights` of every run, buffers included.

    With a decay that stays it is an exponential moving average of the weights as they were at
    every call of `take_in`: an average of the latest of them, as in LAWA (Kaddour, 2022, arXiv
    2209.14981). It begins with the first weights that are taken in with a decay above 0. Buffers
    that are no floating-point numbers are those of the weights.

    Args:
        state: of the runs.
    """

    def __init__(self, state: RunState) -> None:
        self._averages = [values.clone() for values in _weights(state)]
        self._begins = np.ones(len(state.parameters), dtype=bool)

    def take_in(self, state: RunState, decay: FloatArray) -> None:
        """Take in the weights.

        Args:
            state: of the runs.
            decay: share of the earlier average in the new one, `(n_rows,)`, in [0, 1); with 0 the
                average is the weights to the last bit.
        """
        share = torch.from_numpy(np.where(self._begins, 1.0, 1.0 - decay))
        # Whatever other runs have, and since when.
        self._begins = decay == 0
        for average, values in zip(self._averages, _weights(state), strict=True):
            if not average.is_floating_point():
                average.copy_(values)
                continue
            own = share.to(average).view(-1, *[1] * (average.ndim - 1))
            moved = torch.lerp(average, values, own)
            # What is not finite would stay in the sum.
            average.copy_(torch.where(own == 1, values, moved))

    def begin(self, state: RunState, rows: Sequence[int]) -> None:
        """Begin anew in these rows, with their weights as they are now."""
        places = list(rows)
        for average, values in zip(self._averages, _weights(state), strict=True):
            average[places] = values[places]
        self._begins[places] = True

    def of(self, state: RunState) -> RunState:
        """The runs with their averages in the place of their weights."""
        parameters, *buffers = self._averages
        return state._replace(
            parameters=parameters, buffers=dict(zip(state.buffers, buffers, strict=True))
        )


def _weights(state: RunState) -> list[torch.Tensor]:
    return [state.parameters, *state.buffers.values()]
