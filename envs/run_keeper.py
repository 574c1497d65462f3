"""What an engine keeps of its runs beside training them: averages and the last good state."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainpilot.envs.averages import WeightAverages
from trainpilot.envs.hyperparameters import FloatArray
from trainpilot.envs.roll_back import LastGood
from trainpilot.envs.schedule import Schedule
from trainpilot.envs.trainer import RunState
from trainpilot.inner_tasks.errors import TrainpilotError


class RunKeeper:
    """Runs whose weights can be averaged, and which can be led back to where all was well.

    Args:
        state: of the runs, and of the rows that fill up the last tile.
        n_runs: how many runs.
    """

    def __init__(self, state: RunState, n_runs: int) -> None:
        self.n_runs = n_runs
        self._state = state
        self._n_rows = len(state.parameters)
        self._schedule = Schedule(n_runs)
        self._mean_square = np.zeros(n_runs)
        self._averages: WeightAverages | None = None
        self._last_good: LastGood | None = None

    def carried(self) -> list[Tensor]:
        """What runs carry from one inner step to the next, `(n_runs, ...)` each.

        Weights, moments, accumulated gradients, buffers, counts of updates, the mean gradient's
        norm and the averages of the weights; not the place in the data and in the budget. Writing
        to these tensors changes the runs; the next step may replace them.
        """
        averages = [] if self._averages is None else self._averages.carried
        return [*self._trained(), *(values[: self.n_runs] for values in averages)]

    def _trained(self) -> list[Tensor]:
        """The same without the averages, which no step depends on."""
        state = self._state.rows(slice(self.n_runs))
        return [
            state.parameters,
            *state.moments,
            *([] if state.accumulated is None else [state.accumulated]),
            *state.buffers.values(),
            *(torch.from_numpy(counts) for counts in (*self._schedule.counts, self._mean_square)),
        ]

    def average(self, decay: FloatArray) -> None:
        """Take the weights into the averages that evaluations see.

        From the first decay above 0 on, the weights of all runs take twice the memory.

        Args:
            decay: share of the earlier average in each run's new one, `(n_runs,)`, in [0, 1); 0
                for the weights themselves.
        """
        if self._averages is None:
            if not decay.any():
                return
            self._averages = WeightAverages(self._state)
        self._averages.take_in(self._state, np.pad(decay, (0, self._n_rows - self.n_runs)))

    @property
    def _seen(self) -> RunState:
        """What evaluations see, of all rows."""
        return self._state if self._averages is None else self._averages.of(self._state)

    def seen(self) -> list[Tensor]:
        """Parameters and buffers that evaluations see, `(n_runs, ...)` each.

        Writing to them changes what is seen, and the runs where there is no average; the next step
        may replace them.
        """
        state = self._seen.rows(slice(self.n_runs))
        return [state.parameters, *state.buffers.values()]

    def keep(self, rows: NDArray[np.bool_]) -> None:
        """Keep what the runs of these rows, `(n_runs,)`, carry now, for `restore`.

        From the first time on, the state of all runs takes twice the memory.
        """
        if self._last_good is None:
            self._last_good = LastGood(self._trained())
        self._last_good.keep(self._trained(), rows)

    def restore(self, rows: NDArray[np.bool_]) -> None:
        """Give these rows, `(n_runs,)`, what was kept; place and budget go on, averages begin anew.

        Raises:
            TrainpilotError: if nothing was kept yet.
        """
        if self._last_good is None:
            raise TrainpilotError("restore needs a state that keep() has kept; given: none")
        self._last_good.restore(self._trained(), rows)
        self._begin_averages(np.flatnonzero(rows).tolist())

    def _begin_averages(self, rows: Sequence[int]) -> None:
        if self._averages is not None:
            self._averages.begin(self._state, rows)
