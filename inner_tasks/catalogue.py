"""The tasks that ship, by name, and tasks made from a configuration.

`conf/task/NAME.yaml` is the only list of them.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from importlib.resources import files
from typing import Any

from omegaconf import OmegaConf

from trainpilot.inner_tasks.building import build
from trainpilot.inner_tasks.errors import TrainpilotError, explaining, require, unknown
from trainpilot.inner_tasks.family import TaskFamily, Trainable
from trainpilot.inner_tasks.protocol import InnerTask, check_kind_of_splits

#: What a policy learns from, is chosen by and is reported on. No data set stands in two.
SUITES = ("meta_train", "meta_valid", "meta_test")

#: The option for a user's own task: it has no `_target_` until the user gives one.
CUSTOM = "custom"


def option_names(group: str) -> list[str]:
    """Options of a configuration group that ship, in alphabetical order."""
    folder = files("trainpilot.conf") / group
    names = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


def task_names() -> list[str]:
    """Names of the tasks that ship, in alphabetical order."""
    return [name for name in option_names("task") if name != CUSTOM]


def suite_of_tasks() -> dict[str, str]:
    """The suite, one of `SUITES`, of each task that is in one."""
    suites = {}
    for name in SUITES:
        for default in option("suite", name).defaults:
            suites[str(next(iter(default.values())))] = name
    return suites


def load_task(name: str, *, download: bool = True) -> Trainable:
    """The task or family of that name, with its defaults.

    Args:
        name: one of `task_names()`.
        download: let a task whose data are downloaded do so.

    Raises:
        TrainpilotError: if there is none, or its data cannot be had.
    """
    if name not in task_names():
        raise unknown("task", name, task_names())
    config = option("task", name)
    if not download and "download" in config:
        config.download = False
    return make_trainable(config, name)


def option(group: str, name: str) -> Any:
    """An option of a configuration group, as it stands in its file."""
    text = (files("trainpilot.conf") / group / f"{name}.yaml").read_text(encoding="utf-8")
    return OmegaConf.create(text)


def make_tasks(configs: Mapping[str, Any]) -> list[Trainable]:
    """The tasks and families of a suite, each under the name that the suite gives it.

    Args:
        configs: of each task, by name.

    Raises:
        TrainpilotError: if there is none, or one cannot be made.
    """
    require(len(configs) > 0, "a suite must hold at least one task", "none")
    tasks: list[Trainable] = []
    for name, config in configs.items():
        # A copy, should the callable give the same object twice.
        task = copy.copy(make_trainable(config, name))
        if task.name != name:
            # Two variants of a task differ by the suite's name for them.
            try:
                task.name = name
            except AttributeError as error:
                raise TrainpilotError(
                    f"the name of task '{name}' must be one that can be set, or be that which "
                    f"the suite gives it; given: '{task.name}'"
                ) from error
        tasks.append(task)
    return tasks


def make_task(config: Any, name: str = "task") -> InnerTask:
    """The one task that a configuration describes.

    Args:
        config: as `make_trainable` has it.
        name: what errors call it.

    Raises:
        TrainpilotError: as `make_trainable`, or if it describes a family.
    """
    made = make_trainable(config, name)
    if isinstance(made, TaskFamily):
        raise TrainpilotError(
            f"'{made.name}' is a family of tasks, and one is needed: task.number must lie between "
            f"0 and {made.n_tasks - 1}; given: none"
        )
    return made


def make_trainable(config: Any, name: str = "task") -> Trainable:
    """The task or family that a configuration describes: `_target_` and its arguments.

    Args:
        config: a mapping with `_target_`, any callable that gives an inner task or a family.
        name: what errors call it.

    Raises:
        TrainpilotError: if it has no `_target_`, cannot be made, or is not an inner task.
    """
    made: Trainable = build(config, (InnerTask, TaskFamily), "task", name)
    if not isinstance(made, TaskFamily):
        with explaining(f"task '{name}' cannot be read"):
            check_kind_of_splits(made.name, made.splits)
    return made


def one_by_one(tasks: Iterable[Trainable], of_family: int) -> list[InnerTask]:
    """The tasks, and the first ones of each family among them.

    Args:
        tasks: tasks and families.
        of_family: tasks that stand for a family, at least 1.
    """
    require(of_family >= 1, "tasks_of_family must be at least 1", of_family)
    result: list[InnerTask] = []
    for task in tasks:
        if isinstance(task, TaskFamily):
            result += [task.task(number) for number in range(min(of_family, task.n_tasks))]
        else:
            result.append(task)
    return result
