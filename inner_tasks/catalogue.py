"""The tasks that ship, by name, and tasks made from a configuration.

`conf/task/NAME.yaml` is the only list of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from trainpilot.inner_tasks.errors import TrainpilotError, unknown
from trainpilot.inner_tasks.protocol import InnerTask

#: The option for a user's own task: it has no `_target_` until the user gives one.
CUSTOM = "custom"


def option_names(group: str) -> list[str]:
    """Options of a configuration group that ship, in alphabetical order."""
    names = [entry.name for entry in (files("trainpilot.conf") / group).iterdir()]
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


def task_names() -> list[str]:
    """Names of the tasks that ship, in alphabetical order."""
    return [name for name in option_names("task") if name != CUSTOM]


def load_task(name: str) -> InnerTask:
    """The task of that name, with its defaults.

    Raises:
        TrainpilotError: if there is none.
    """
    if name not in task_names():
        raise unknown("task", name, task_names())
    text = (files("trainpilot.conf") / "task" / f"{name}.yaml").read_text(encoding="utf-8")
    return make_task(OmegaConf.create(text), name)


def make_task(config: Any, name: str = "task") -> InnerTask:
    """The task that a configuration describes: `_target_` and its arguments.

    Args:
        config: a mapping with `_target_`, any callable that gives an inner task.
        name: what errors call it.

    Raises:
        TrainpilotError: if it has no `_target_`, cannot be made, or is not an inner task.
    """
    if not isinstance(config, Mapping) or "_target_" not in config:
        raise TrainpilotError(
            f"task '{name}' must have a _target_, the callable that makes it; given: {config}"
        )
    try:
        task = instantiate(config)
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, TrainpilotError):
            raise cause from error
        reason = " ".join(str(cause or error).split())
        raise TrainpilotError(
            f"task '{name}' could not be made by {config['_target_']}: {reason}"
        ) from error
    except OmegaConfBaseException as error:
        raise TrainpilotError(
            f"task '{name}' has a faulty configuration: {str(error).splitlines()[0]}"
        ) from error
    if not isinstance(task, InnerTask):
        raise TrainpilotError(
            f"{config['_target_']} must give an inner task (trainpilot.InnerTask); "
            f"given: {type(task).__name__}"
        )
    return task
