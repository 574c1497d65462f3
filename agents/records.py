"""`decisions.parquet`: a row for each decision that a controller made."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import parquet

from trainpilot.agents.controller import Explanation
from trainpilot.agents.files import atomic_path
from trainpilot.agents.run import Run
from trainpilot.envs.hyperparameters import FloatArray, Hyperparameters
from trainpilot.envs.observation import FEATURE_NAMES, Observation, schema_hash

SCHEMA = pa.schema(
    [
        ("task", pa.string()),
        ("controller", pa.string()),
        ("seed", pa.int64()),
        ("decision", pa.int32()),
        ("step", pa.int64()),
        ("samples", pa.int64()),
        ("observation", pa.list_(pa.float32())),
        ("action", pa.list_(pa.int32())),
        ("action_probabilities", pa.list_(pa.list_(pa.float64()))),
        ("value", pa.float64()),
        ("distance", pa.float64()),
        ("overruled", pa.bool_()),
        ("learning_rate_before", pa.float64()),
        ("weight_decay_before", pa.float64()),
        ("momentum_before", pa.float64()),
        ("gradient_clip_before", pa.float64()),
        ("batch_size_before", pa.int64()),
        ("ema_decay_before", pa.float64()),
        ("optimizer_before", pa.string()),
        ("learning_rate", pa.float64()),
        ("weight_decay", pa.float64()),
        ("momentum", pa.float64()),
        ("gradient_clip", pa.float64()),
        ("batch_size", pa.int64()),
        ("ema_decay", pa.float64()),
        ("optimizer", pa.string()),
        ("clamped", pa.bool_()),
        ("train_loss", pa.float64()),
        ("valid_loss", pa.float64()),
        ("outer_valid_loss", pa.float64()),
        ("intervention", pa.string()),
        ("guard_scale", pa.float64()),
    ]
)


class Made(NamedTuple):
    """A decision for runs side by side, as it was made.

    Attributes:
        step: micro-batches that each run has behind it.
        observation: that it was made on, `(n_runs, n_features)`.
        explanation: a learned policy's, else None.
        before: hyperparameters before it, `(n_runs,)` each.
        hyperparameters: since then, within bounds.
        clamped: whether the bounds changed what was asked for, `(n_runs,)`.
        guard_scale: what the guard had multiplied the learning rate by, `(n_runs,)`.
    """

    step: int
    observation: Observation
    explanation: Explanation | None
    before: Hyperparameters
    hyperparameters: Hyperparameters
    clamped: NDArray[np.bool_]
    guard_scale: FloatArray

    def record(self, row: int) -> dict[str, Any]:
        """What is on record of one of the runs."""
        why = self.explanation
        return {
            "step": self.step,
            "observation": self.observation[row].tolist(),
            "action": None if why is None else why.action[row].tolist(),
            "action_probabilities": None
            if why is None
            else [head[row].tolist() for head in why.probabilities],
            "value": None if why is None else float(why.value[row]),
            "distance": None if why is None else float(why.distance[row]),
            "overruled": None
            if why is None
            else bool(np.broadcast_to(why.overruled, why.value.shape)[row]),
            **{f"{name}_before": value for name, value in self.before.row(row).items()},
            **self.hyperparameters.row(row),
            "clamped": bool(self.clamped[row]),
            "guard_scale": float(self.guard_scale[row]),
        }


def write_decisions(path: Path, runs: Iterable[Run]) -> None:
    """Write every decision of the runs, atomically.

    `observation` is what the controller saw; action, probabilities and value are null for a
    heuristic. The file's metadata names the features and their schema's hash.
    """
    rows = [record for run in runs for record in run.decisions]
    schema = SCHEMA.with_metadata(
        {"features": json.dumps(FEATURE_NAMES), "observation_schema": schema_hash()}
    )
    with atomic_path(path) as temporary:
        parquet.write_table(pa.Table.from_pylist(rows, schema=schema), temporary)
