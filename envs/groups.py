"""Groups of rows, one group for each task: what is wanted, and how it is used."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from trainpilot.envs.actions import Action, ActionSpec
from trainpilot.envs.config import EnvConfig
from trainpilot.envs.hyperparameters import IntArray
from trainpilot.envs.task_reference import TaskReference
from trainpilot.envs.transition import Start, Transition
from trainpilot.inner_tasks.family import Trainable


@dataclass(frozen=True)
class GroupSpec:
    """Rows of inner runs of one task, or each of a task of one family.

    Attributes:
        task: the inner task, or the family.
        n_rows: number of rows, at least 1.
        config: of the environment.
        reference: of the task, the unit of its reward, if it is known; not of a family.
        family_references: of a family's tasks, where they are known, by task.
        measure: measure the reference where it is not known; those of a family's tasks when
            they are first drawn.
        reference_config: of the environment in which a family's references are measured; None for
            `config`. A task's hold for all of its groups.
    """

    task: Trainable
    n_rows: int
    config: EnvConfig
    reference: TaskReference | None = None
    family_references: Mapping[str, TaskReference] = field(default_factory=dict)
    measure: bool = False
    reference_config: EnvConfig | None = None


#: Called with each group's specification as soon as the group can train.
OnReady = Callable[[GroupSpec], None]


class Groups(Protocol):
    """Groups of rows, in this process (`Worker`) or in others (`WorkerPool`).

    Rows are numbered through all groups. The caller gives every run its seed, so that nothing
    depends on who holds a row.

    Attributes:
        actions: what a learned policy controls; the same for all groups.
        config: of the first group.
        task_names: name of each row's task, `n_rows` of them.
        references: of the tasks, where they are known, by task.
        reports: how the runs of each task are trained, and why so, by task.
    """

    actions: ActionSpec
    config: EnvConfig
    task_names: list[str]
    references: dict[str, TaskReference]
    reports: dict[str, str]

    def reset(self, seeds: IntArray) -> Start:
        """Start every row anew.

        Args:
            seeds: of the runs, `(n_rows,)`, each at least 0.
        """
        ...

    def step(self, actions: Action, seeds: IntArray) -> Transition:
        """Make a decision in every row; a row whose run ends starts anew.

        Args:
            actions: of every row, as `actions.space` has them, `(n_rows, ...)`.
            seeds: of the run that follows in each row, should the present one end, `(n_rows,)`.
        """
        ...

    def close(self) -> None:
        """Let go of everything; repeated calls do nothing."""
        ...
