"""What a decision led to in many rows, as arrays alone: what workers send and agents read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trainpilot.envs.hyperparameters import HYPERPARAMETER_NAMES, FloatArray, Hyperparameters
from trainpilot.envs.inner_runs import BoolArray
from trainpilot.envs.interventions import Interventions
from trainpilot.envs.observation import LOW, Observation
from trainpilot.envs.optimizers import OPTIMIZER_NAMES

Array = NDArray[Any]


class Start(NamedTuple):
    """Where runs begin.

    Attributes:
        observation: `(n_rows, n_features)`.
        hyperparameters: `(n_rows,)` each.
    """

    observation: Observation
    hyperparameters: Hyperparameters


class Transition(NamedTuple):
    """What a decision led to; a row whose run ended has started anew.

    Attributes:
        observation: of the runs as they are now, `(n_rows, n_features)`.
        reward: of the decision, `(n_rows,)`.
        terminated: the guard has ended the run, `(n_rows,)`.
        hopeless: it has so for improving too little, and not for diverging, `(n_rows,)`.
        truncated: the run's budget is spent, `(n_rows,)`.
        terminal_observation: what the decision led to, before any new start,
            `(n_rows, n_features)`.
        train_loss: mean over the decision's inner steps, `(n_rows,)`.
        valid_loss: after the decision, `(n_rows,)`.
        outer_valid_loss: likewise; not for controllers.
        clamped: whether the bounds changed what was asked for, `(n_rows,)`.
        interventions: what the guard did, `(n_rows,)` each.
        hyperparameters: in use during the decision, `(n_rows,)` each.
        current_hyperparameters: as they are now: a new run's own where one has started.
    """

    observation: Observation
    reward: FloatArray
    terminated: BoolArray
    hopeless: BoolArray
    truncated: BoolArray
    terminal_observation: Observation
    train_loss: FloatArray
    valid_loss: FloatArray
    outer_valid_loss: FloatArray
    clamped: BoolArray
    interventions: Interventions
    hyperparameters: Hyperparameters
    current_hyperparameters: Hyperparameters

    @property
    def ended(self) -> BoolArray:
        """Rows whose run ended with the decision, `(n_rows,)`."""
        return self.terminated | self.truncated

    @classmethod
    def blank(cls, n_rows: int) -> Transition:
        """Arrays of the right shapes and types, to be filled."""
        observation = np.zeros((n_rows, len(LOW)), dtype=np.float32)
        number, flag = np.zeros(n_rows), np.zeros(n_rows, dtype=bool)
        hyperparameters = Hyperparameters.full(n_rows)
        return cls(
            observation=observation,
            reward=number,
            terminated=flag,
            hopeless=flag,
            truncated=flag,
            terminal_observation=observation,
            train_loss=number,
            valid_loss=number,
            outer_valid_loss=number,
            clamped=flag,
            interventions=Interventions.blank(n_rows),
            hyperparameters=hyperparameters,
            current_hyperparameters=hyperparameters,
        ).map(np.copy)

    def arrays(self) -> Iterator[Array]:
        """Every array, nested ones included, in a fixed order."""
        for value in self:
            if isinstance(value, Hyperparameters):
                yield from (getattr(value, name) for name in HYPERPARAMETER_NAMES)
            elif isinstance(value, Interventions):
                yield from value
            else:
                yield value

    def map(self, change: Callable[[Array], Array]) -> Transition:
        """The same with every array changed, in the order of `arrays`."""

        def changed(value: Any) -> Any:
            if isinstance(value, Hyperparameters):
                return replace(
                    value, **{name: change(getattr(value, name)) for name in HYPERPARAMETER_NAMES}
                )
            if isinstance(value, Interventions):
                return Interventions(*map(change, value))
            return change(value)

        return Transition(*[changed(value) for value in self])

    def put(self, values: Transition, rows: slice = slice(None)) -> None:
        """Write the values into the arrays' rows, in place."""
        for target, source in zip(self.arrays(), values.arrays(), strict=True):
            target[rows] = source

    def put_start(self, start: Start) -> None:
        """Write where runs begin into the arrays, in place."""
        self.observation[:] = start.observation
        for name in HYPERPARAMETER_NAMES:
            getattr(self.current_hyperparameters, name)[:] = getattr(start.hyperparameters, name)

    def start(self) -> Start:
        """Where runs begin, as `put_start` wrote it."""
        return Start(self.observation, self.current_hyperparameters)


def decision_columns(transition: Transition) -> dict[str, Array]:
    """What `info` says of each row's decision, but for its hyperparameters; `(n_rows,)` each."""
    return {
        "train_loss": transition.train_loss,
        "valid_loss": transition.valid_loss,
        "outer_valid_loss": transition.outer_valid_loss,
        "clamped": transition.clamped,
        "rolled_back": transition.interventions.rolled_back,
        "intervention": np.array(
            transition.interventions.texts(transition.hyperparameters.learning_rate), dtype=object
        ),
    }


def hyperparameter_columns(hyperparameters: Hyperparameters) -> dict[str, Array]:
    """Hyperparameters by name, `(n_rows,)` each, the optimizer as its name."""
    columns = {name: getattr(hyperparameters, name) for name in HYPERPARAMETER_NAMES}
    names = np.array(OPTIMIZER_NAMES, dtype=object)
    return columns | {"optimizer": names[hyperparameters.optimizer]}
