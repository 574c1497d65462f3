"""`results.json` as the report reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trainpilot.agents.files import read_json
from trainpilot.inner_tasks.errors import TrainpilotError, require

#: The version of `docs/evaluation.md`.
READ_VERSION = 2

_PARTS = {
    "settings": dict,
    "controllers": dict,
    "references": dict,
    "tasks": list,
    "runs": list,
    "summary": dict,
}

Results = dict[str, Any]


def read_results(path: Path) -> Results:
    """Read and check a `results.json`.

    Args:
        path: of the file.

    Returns:
        Its content, schema version 2.

    Raises:
        TrainpilotError: if there is no such file, if it is damaged, of another version, or lacks a
            part.
    """
    require(path.is_file(), "the path of a results.json is needed", f"{path}, where there is none")
    results = read_json(path)
    version = results.get("schema_version") if isinstance(results, dict) else None
    require(
        version == READ_VERSION,
        f"a results.json of schema version {READ_VERSION} is needed",
        f"{path}, of version {version}" if version is not None else f"{path}, without a version",
    )
    for part, kind in _PARTS.items():
        require(
            isinstance(results.get(part), kind),
            f"results.json must hold '{part}', a {kind.__name__}",
            f"{path}, without",
        )
    for part in ("tasks", "summary"):
        if not results[part]:
            raise TrainpilotError(f"results.json needs at least one of '{part}'; given: {path}")
    return dict(results)
