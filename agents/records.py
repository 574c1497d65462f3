"""`decisions.parquet`: a row for each decision that a controller made."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

from trainpilot.agents.files import atomic_path
from trainpilot.agents.run import Run
from trainpilot.envs.observation import FEATURE_NAMES, schema_hash

SCHEMA = pa.schema(
    [
        ("task", pa.string()),
        ("controller", pa.string()),
        ("seed", pa.int64()),
        ("decision", pa.int32()),
        ("samples", pa.int64()),
        ("observation", pa.list_(pa.float32())),
        ("action", pa.list_(pa.int32())),
        ("action_probabilities", pa.list_(pa.list_(pa.float64()))),
        ("value", pa.float64()),
        ("learning_rate_before", pa.float64()),
        ("weight_decay_before", pa.float64()),
        ("momentum_before", pa.float64()),
        ("optimizer_before", pa.string()),
        ("learning_rate", pa.float64()),
        ("weight_decay", pa.float64()),
        ("momentum", pa.float64()),
        ("optimizer", pa.string()),
        ("clamped", pa.bool_()),
        ("train_loss", pa.float64()),
        ("valid_loss", pa.float64()),
        ("outer_valid_loss", pa.float64()),
        ("intervention", pa.string()),
        ("guard_scale", pa.float64()),
    ]
)


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
