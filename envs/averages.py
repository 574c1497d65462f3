"""Moving averages of runs' weights, which evaluations see in the place of the weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from trainpilot.envs.hyperparameters import FloatArray
from trainpilot.envs.trainer import RunState


def is_averaged(buffer: str) -> bool:
    """Whether the buffer of that name goes with an average of the weights.

    That is the running statistics of normalisation, which to first order are those of the average;
    all else that is not trained (masks, tables, counts) stays the model's own.
    """
    return buffer.rpartition(".")[2] in ("running_mean", "running_var")


class WeightAverages:
    """`average = decay * average + (1 - decay) * weights` of every run.

    With a decay that stays it is an exponential moving average of the weights as they were at
    every call of `take_in`: an average of the latest of them, as in LAWA (Kaddour, 2022, arXiv
    2209.14981). It begins with the first weights that are taken in with a decay above 0.

    Args:
        state: of the runs.
    """

    def __init__(self, state: RunState) -> None:
        self._averages = {name: values.clone() for name, values in _weights(state).items()}
        self._begins = torch.ones(len(state.parameters), dtype=torch.bool)

    def take_in(self, state: RunState, decay: FloatArray) -> None:
        """Take in the weights.

        Args:
            state: of the runs.
            decay: share of the earlier average in the new one, `(n_rows,)`, in [0, 1); with 0 the
                average is the weights to the last bit.
        """
        earlier = torch.from_numpy(decay).masked_fill(self._begins, 0)
        # Whatever other runs have, and since when.
        self._begins.copy_(torch.from_numpy(decay == 0))
        anew = (earlier == 0).nonzero().squeeze(1)
        for name, values in _weights(state).items():
            average = self._averages[name]
            share = (1 - earlier).to(average).view(-1, *[1] * (average.ndim - 1))
            average.lerp_(values, share)
            # What was not finite would stay.
            average[anew] = values[anew]

    def begin(self, state: RunState, rows: Sequence[int]) -> None:
        """Begin anew in these rows, with their weights as they are now."""
        places = list(rows)
        for name, values in _weights(state).items():
            self._averages[name][places] = values[places]
        self._begins[places] = True

    def of(self, state: RunState) -> RunState:
        """The runs with their averages in the place of their weights."""
        buffers = {name: self._averages.get(name, own) for name, own in state.buffers.items()}
        return state._replace(parameters=self._averages[_PARAMETERS], buffers=buffers)

    @property
    def carried(self) -> list[Tensor]:
        """All that there is of each run, `(n_rows, ...)` each."""
        return [*self._averages.values(), self._begins]


#: No buffer's name.
_PARAMETERS = ""


def _weights(state: RunState) -> dict[str, Tensor]:
    averaged = {name: values for name, values in state.buffers.items() if is_averaged(name)}
    return {_PARAMETERS: state.parameters} | averaged
