"""The worker: holds groups of rows and makes their decisions. Any process can run one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from trainpilot.envs.actions import Action
from trainpilot.envs.family_references import measure_rows
from trainpilot.envs.groups import GroupSpec, OnReady
from trainpilot.envs.hyperparameters import Hyperparameters, IntArray
from trainpilot.envs.inner_runs import InnerRuns
from trainpilot.envs.task_reference import TaskReference
from trainpilot.envs.transition import Start, Transition
from trainpilot.inner_tasks.errors import require


class Worker:
    """Groups of rows in this process (`Groups` has the surface).

    Args:
        specs: of the groups, at least one; all with the same actions.
        on_ready: told of each group that can train.

    Raises:
        TrainpilotError: if a configuration is out of range or a task cannot be trained.

    Attributes:
        groups: the inner runs, one entry for each specification.
    """

    def __init__(self, specs: Sequence[GroupSpec], on_ready: OnReady | None = None) -> None:
        require(len(specs) > 0, "a worker must hold at least one group", "none")
        self.groups: list[InnerRuns] = []
        self.references: dict[str, TaskReference] = {}
        self.reports: dict[str, str] = {}
        for spec in specs:
            self.groups.append(self._make(spec))
            if on_ready is not None:
                on_ready(spec)
        # One group of a task may have measured what is the unit of all.
        self.set_references(self.references)
        self.actions = self.groups[0].actions
        self.config = self.groups[0].config
        self.task_names = [group.task.name for group in self.groups for _ in range(group.n_runs)]

    def _make(self, spec: GroupSpec) -> InnerRuns:
        runs = InnerRuns(spec.task, spec.n_rows, spec.config)
        self.reports[spec.task.name] = runs.engine.report
        known = spec.reference
        if known is not None:
            runs.set_reference(known)
        elif spec.measure:
            known = measure_rows(runs, spec.family_references, spec.reference_config)
        if known is not None:
            self.references[spec.task.name] = known
        return runs

    def set_references(self, references: Mapping[str, TaskReference]) -> None:
        """Change the unit of the reward of the tasks that are named.

        Args:
            references: by task; may name tasks held elsewhere.
        """
        for group in self.groups:
            if group.task.name in references:
                self.references[group.task.name] = references[group.task.name]
                group.set_reference(references[group.task.name])

    def reset(self, seeds: IntArray) -> Start:
        """As `Groups.reset` has it."""
        for group, rows in self._rows():
            group.reset(range(group.n_runs), seeds[rows].tolist())
        return Start(
            np.concatenate([group.observation for group in self.groups]),
            Hyperparameters.concatenate([group.hyperparameters for group in self.groups]),
        )

    def step(self, actions: Action, seeds: IntArray) -> Transition:
        """As `Groups.step` has it."""
        result = Transition.blank(len(self.task_names))
        for group, rows in self._rows():
            result.put(_step(group, actions[rows], seeds[rows]), rows)
        return result

    def close(self) -> None:
        """Nothing is held open."""

    def _rows(self) -> list[tuple[InnerRuns, slice]]:
        """Each group with the rows that it holds."""
        ends = np.cumsum([group.n_runs for group in self.groups]).tolist()
        return [
            (group, slice(end - group.n_runs, end))
            for group, end in zip(self.groups, ends, strict=True)
        ]


def _step(group: InnerRuns, actions: Action, seeds: IntArray) -> Transition:
    """Make the decision in every row of a group and start anew the rows that ended."""
    outcome = group.step(group.chosen(actions))
    ended = np.flatnonzero(outcome.terminated | outcome.truncated)
    if ended.size:
        group.reset(ended.tolist(), seeds[ended].tolist())
    return Transition(
        observation=group.observation,
        reward=outcome.reward,
        terminated=outcome.terminated,
        hopeless=outcome.hopeless,
        truncated=outcome.truncated,
        terminal_observation=outcome.observation,
        train_loss=outcome.train_loss,
        valid_loss=outcome.valid.loss,
        outer_valid_loss=outcome.outer_valid.loss,
        clamped=outcome.clamped,
        interventions=outcome.interventions,
        hyperparameters=outcome.hyperparameters,
        current_hyperparameters=group.hyperparameters,
    )
