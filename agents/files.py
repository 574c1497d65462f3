"""Writing files so that a reader never meets half of one."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trainpilot.inner_tasks.errors import TrainpilotError


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside the target, renamed to it when the block ends without error.

    Args:
        path: the target; its folder is made if it is missing.

    Yields:
        The temporary path, with the target's suffix.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp makes files for their owner alone; what we leave is read by others.
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, data: Any) -> None:
    """Write data as JSON, atomically. Numbers that are not finite become null."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(finite(data), indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON.

    Raises:
        TrainpilotError: if the file is damaged.
    """
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise TrainpilotError(f"a whole JSON file is needed; given: {path}, damaged") from error


def finite(data: Any) -> Any:
    """The same data as JSON can hold them: lists for tuples, None for numbers not finite."""
    if isinstance(data, dict):
        return {key: finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [finite(value) for value in data]
    if isinstance(data, float) and data - data != 0:
        return None
    return data
