"""References of a family's tasks, measured when a task is first drawn."""

from __future__ import annotations

from trainpilot.envs.config import EnvConfig
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
    """

    def __init__(self, family: TaskFamily, config: EnvConfig) -> None:
        self._family = family
        self._config = config
        used = config.optimizers
        self._configurations = grid([_OPTIMIZER] if _OPTIMIZER in used else used)
        self._found: dict[int, TaskReference] = {}

    def __call__(self, number: int) -> TaskReference:
        """The reference of the task of that number in the family."""
        if number not in self._found:
            configurations = self._configurations
            runs = InnerRuns(self._family.task(number), len(configurations), self._config)
            self._found[number] = measure_reference(runs, 1, configurations)
        return self._found[number]
