"""References of a family's tasks, measured when a task is first drawn."""

from __future__ import annotations

from collections.abc import Mapping

from trainpilot.envs.config import EnvConfig
from trainpilot.envs.family_engine import is_trusted
from trainpilot.envs.inner_runs import InnerRuns
from trainpilot.envs.reference import grid, measure_reference
from trainpilot.envs.task_reference import TaskReference
from trainpilot.inner_tasks.family import TaskFamily

#: Of the grid, where runs may use it: with other optimizers the hundreds of tasks would take long.
_OPTIMIZER = "adam"


class FamilyReferences:
    """Gives the reference of a task by its number: the best rate of one optimizer, one seed.

    Args:
        family: of the tasks.
        config: of the environment.
        known: references by task, where they have been measured before.
    """

    def __init__(
        self, family: TaskFamily, config: EnvConfig, known: Mapping[str, TaskReference]
    ) -> None:
        self._family = family
        self._config = config
        used = config.optimizers
        self._configurations = grid([_OPTIMIZER] if _OPTIMIZER in used else used)
        numbers = range(family.n_tasks)
        self._found = {n: known[name] for n in numbers if (name := family.task_name(n)) in known}

    def __call__(self, number: int) -> TaskReference:
        """The reference of the task of that number in the family."""
        if number not in self._found:
            configurations = self._configurations
            task = self._family.task(number)
            runs = InnerRuns(task, len(configurations), self._config, trusted=is_trusted(number))
            self._found[number] = measure_reference(runs, 1, configurations)
        return self._found[number]


def measure_rows(
    runs: InnerRuns,
    known: Mapping[str, TaskReference] | None = None,
    config: EnvConfig | None = None,
) -> TaskReference | None:
    """Give rows the reference of their task; those of a family when a run begins.

    Args:
        runs: the rows; they must be reset afterwards.
        known: references of a family's tasks that have been measured before, by task.
        config: of the environment in which those of a family's tasks are measured (default: that
            of the rows).

    Returns:
        What was measured; None for a family.
    """
    if isinstance(runs.task, TaskFamily):
        runs.family_references = FamilyReferences(runs.task, config or runs.config, known or {})
        return None
    reference = measure_reference(runs)
    runs.set_reference(reference)
    return reference
