"""What runs show of themselves, decision after decision, and where roll-backs lead it back to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainpilot.envs.observation import (
    Observation,
    ObserverState,
    Reading,
    begin,
    feature_places,
    observe,
    resume,
)
from trainpilot.envs.signals import Signals

BoolArray = NDArray[np.bool_]


class Observer:
    """Makes the observations of runs, in the engine and in real training alike.

    Args:
        hidden: names of features that are always 0.
        remembers: keep what runs may be led back to (default: True).

    Raises:
        TrainpilotError: if there is no feature of a name.
    """

    _now: tuple[ObserverState, Observation]
    _good: tuple[ObserverState, Observation]

    def __init__(self, hidden: Sequence[str] = (), *, remembers: bool = True) -> None:
        self._hidden = feature_places(hidden)
        self._remembers = remembers

    @property
    def observation(self) -> Observation:
        """The latest, `(n_runs, n_features)`."""
        return self._now[1]

    def begin(self, reading: Reading, rows: BoolArray | None = None) -> None:
        """Runs begin.

        Args:
            reading: of all runs.
            rows: which begin, `(n_runs,)`; the others are left as they are (default: all).
        """
        state, observation = begin(reading)
        now = state, self._shown(observation)
        if rows is None:
            self._now = self._good = now
            return
        self._now = _chosen(rows, now, self._now)
        self._good = _chosen(rows, now, self._good)

    def observe(
        self, signals: Signals, reading: Reading, rolled_back: BoolArray, sound: BoolArray
    ) -> None:
        """Take in a decision's inner steps.

        Args:
            signals: of these steps, `(n_runs, n_steps)` each.
            reading: what else is known after them and after roll-backs.
            rolled_back: runs that stand again where they stood when all was well, `(n_runs,)`.
            sound: runs that may be led back to where they stand now, `(n_runs,)`.
        """
        now = observe(self._now[0], signals, reading)
        if rolled_back.any():
            now = _chosen(rolled_back, resume(self._good, now, reading), now)
        self._now = now[0], self._shown(now[1])
        if self._remembers:
            self._good = _chosen(sound, self._now, self._good)

    def state_dict(self) -> dict[str, Any]:
        """All that later observations depend on."""
        return {name: _packed(pair) for name, pair in (("now", self._now), ("good", self._good))}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self._now, self._good = _unpacked(state["now"]), _unpacked(state["good"])

    def _shown(self, observation: Observation) -> Observation:
        """The observation without the features that are hidden."""
        observation[:, self._hidden] = 0
        return observation


def _chosen(
    rows: BoolArray,
    one: tuple[ObserverState, Observation],
    other: tuple[ObserverState, Observation],
) -> tuple[ObserverState, Observation]:
    """The one in the rows that are chosen, the other elsewhere."""
    return one[0].where(rows, other[0]), np.where(rows[:, None], one[1], other[1])


def _packed(pair: tuple[ObserverState, Observation]) -> dict[str, Tensor]:
    arrays = pair[0]._asdict() | {"observation": pair[1]}
    return {name: torch.from_numpy(np.array(values)) for name, values in arrays.items()}


def _unpacked(tensors: dict[str, Tensor]) -> tuple[ObserverState, Observation]:
    arrays = {name: tensor.cpu().numpy().copy() for name, tensor in tensors.items()}
    observation = arrays.pop("observation")
    return ObserverState(**arrays), observation
