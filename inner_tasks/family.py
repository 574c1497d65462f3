"""Families: tasks that are drawn at random, as many as are wanted."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from trainpilot.inner_tasks.errors import require
from trainpilot.inner_tasks.protocol import InnerTask, is_whole
from trainpilot.inner_tasks.sources import DRAWN
from trainpilot.inner_tasks.tensor_task import TensorTask

#: Draws a task, given its name and all the randomness that there is.
Draw = Callable[[str, np.random.Generator], TensorTask]


class TaskFamily:
    """Tasks that differ in data, model and size; the same number is always the same task.

    Args:
        name: how records and tables call it; its tasks are `NAME_0`, `NAME_1`, ...
        draw: gives a task of a name, drawn from a generator.
        n_tasks: how many there are, at least 1.
        modality: "vision", "text", "tabular" or "synthetic" (default).
        dataset: the data's name; no family stands in two suites (default: the name).
        licence: of the data (default: that of what is drawn).
        model: what its models are, in words.

    Raises:
        TrainpilotError: if `n_tasks` is out of range.
    """

    def __init__(
        self,
        name: str,
        draw: Draw,
        n_tasks: int,
        *,
        modality: str = "synthetic",
        dataset: str | None = None,
        licence: str = DRAWN,
        model: str = "drawn at random",
    ) -> None:
        require(n_tasks >= 1, f"n_tasks of family '{name}' must be at least 1", n_tasks)
        self.name = name
        self.n_tasks = n_tasks
        self.modality = modality
        self.dataset = dataset or name
        self.licence = licence
        self.model = model
        self._draw = draw

    def task_name(self, number: int) -> str:
        """The name of the task of a number."""
        return f"{self.name}_{number}"

    def task(self, number: int) -> TensorTask:
        """The task of a number.

        Args:
            number: from 0 to `n_tasks - 1`.

        Raises:
            TrainpilotError: if there is none of that number.
        """
        require(
            is_whole(number) and 0 <= number < self.n_tasks,
            f"tasks of family '{self.name}' have whole numbers from 0 to {self.n_tasks - 1}",
            number,
        )
        task = self._draw(self.task_name(number), np.random.default_rng([_STREAM, number]))
        task.dataset, task.modality, task.licence = self.dataset, self.modality, self.licence
        return task


#: Apart from the seeds of inner runs.
_STREAM = 20_260

#: What inner runs may train.
Trainable = InnerTask | TaskFamily
