"""The file `references.json`: the references that a meta-training has measured."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from trainpilot.agents.files import read_json, write_json
from trainpilot.envs.task_reference import TaskReference
from trainpilot.inner_tasks.errors import TrainpilotError


def write_references(path: Path, references: Mapping[str, TaskReference]) -> None:
    """Write the curve of each task's reference, by task."""
    write_json(path, {task: list(reference.curve) for task, reference in references.items()})


def read_references(path: Path) -> dict[str, TaskReference]:
    """Read references, by task.

    Raises:
        TrainpilotError: if the file is damaged, or anything but a list of levels stands for a
            task.
    """
    found = read_json(path)
    try:
        if not all(isinstance(curve, list) for curve in found.values()):
            raise TypeError("a curve must be a list")
        return {
            task: TaskReference(tuple(float(value) for value in curve))
            for task, curve in found.items()
        }
    except (AttributeError, TypeError, ValueError) as error:
        raise TrainpilotError(
            f"references must be a list of levels for each task; given: {path}, other content"
        ) from error
