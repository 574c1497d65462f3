"""The hyperparameters of many inner runs, as one value of arrays."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from trainpilot.envs.optimizers import OPTIMIZER_NAMES, optimizer_index

#: Hyperparameters that a policy changes by factors.
FACTOR_HEADS = ("learning_rate", "weight_decay", "momentum", "gradient_clip", "batch_size")

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Hyperparameters:
    """What a controller sets, one entry for each run; every array is `(n_runs,)`.

    Attributes:
        learning_rate: as `torch.optim` would be given it for the run's optimizer; > 0.
        weight_decay: decoupled, as in AdamW: `p *= 1 - learning_rate * weight_decay`; >= 0.
        momentum: SGD's momentum, beta1 of Adam and Lion; in [0, 1).
        gradient_clip: largest norm of the gradient, as `clip_grad_norm_` has it; > 0,
            infinite for no clipping.
        batch_size: micro-batches that an update's gradient is the mean of; at least 1.
        ema_decay: share of the earlier average in the moving average of the weights that
            evaluations see, which each decision ends with; in [0, 1), 0 for the weights themselves.
        optimizer: index into `OPTIMIZER_NAMES`.
    """

    learning_rate: FloatArray
    weight_decay: FloatArray
    momentum: FloatArray
    gradient_clip: FloatArray
    batch_size: IntArray
    ema_decay: FloatArray
    optimizer: IntArray

    @classmethod
    def full(
        cls,
        n_runs: int,
        *,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.0,
        momentum: float = 0.9,
        gradient_clip: float = math.inf,
        batch_size: int = 1,
        ema_decay: float = 0.0,
        optimizer: str = "adam",
    ) -> Self:
        """The same hyperparameters for every run.

        Args:
            n_runs: number of runs.
            learning_rate: default 1e-3.
            weight_decay: default 0.
            momentum: default 0.9.
            gradient_clip: default infinite, none.
            batch_size: in micro-batches (default 1).
            ema_decay: default 0, no averages.
            optimizer: name of the optimizer (default: "adam").

        Raises:
            TrainpilotError: if the optimizer is unknown.
        """
        return cls(
            learning_rate=np.full(n_runs, learning_rate),
            weight_decay=np.full(n_runs, weight_decay),
            momentum=np.full(n_runs, momentum),
            gradient_clip=np.full(n_runs, gradient_clip, dtype=np.float64),
            batch_size=np.full(n_runs, batch_size, dtype=np.int64),
            ema_decay=np.full(n_runs, ema_decay, dtype=np.float64),
            optimizer=np.full(n_runs, optimizer_index(optimizer), dtype=np.int64),
        )

    @property
    def n_runs(self) -> int:
        """Number of runs."""
        return len(self.learning_rate)

    def rows(self, rows: slice) -> Hyperparameters:
        """Those of some of the runs."""
        return replace(
            self, **{field.name: getattr(self, field.name)[rows] for field in fields(self)}
        )

    def where(self, chosen: NDArray[np.bool_], other: Hyperparameters) -> Hyperparameters:
        """These in the runs that are chosen, `(n_runs,)`, the others' elsewhere."""
        return replace(
            self,
            **{
                field.name: np.where(chosen, getattr(self, field.name), getattr(other, field.name))
                for field in fields(self)
            },
        )

    @classmethod
    def concatenate(cls, parts: Sequence[Hyperparameters]) -> Hyperparameters:
        """Those of several groups of runs, one after the other."""
        return cls(
            **{
                field.name: np.concatenate([getattr(part, field.name) for part in parts])
                for field in fields(cls)
            }
        )

    def row(self, run: int) -> dict[str, Any]:
        """One run's hyperparameters by name, the optimizer as its name."""
        return {
            "learning_rate": float(self.learning_rate[run]),
            "weight_decay": float(self.weight_decay[run]),
            "momentum": float(self.momentum[run]),
            "gradient_clip": float(self.gradient_clip[run]),
            "batch_size": int(self.batch_size[run]),
            "ema_decay": float(self.ema_decay[run]),
            "optimizer": OPTIMIZER_NAMES[self.optimizer[run]],
        }


#: Names of the hyperparameters, in the order in which records and actions have them.
HYPERPARAMETER_NAMES = tuple(field.name for field in fields(Hyperparameters))
