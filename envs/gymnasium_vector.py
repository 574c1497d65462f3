"""Many inner runs of one or more tasks behind one Gymnasium `VectorEnv`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from trainpilot.envs.actions import Action
from trainpilot.envs.config import EnvConfig
from trainpilot.envs.groups import GroupSpec
from trainpilot.envs.hyperparameters import FloatArray, IntArray
from trainpilot.envs.inner_runs import BoolArray
from trainpilot.envs.observation import Observation
from trainpilot.envs.rewards import needs_reference
from trainpilot.envs.row_seeds import RowSeeds
from trainpilot.envs.single import observation_space
from trainpilot.envs.transition import (
    Array,
    Transition,
    decision_columns,
    hyperparameter_columns,
)
from trainpilot.envs.worker_pool import start_groups
from trainpilot.inner_tasks.catalogue import load_task
from trainpilot.inner_tasks.errors import require
from trainpilot.inner_tasks.family import Trainable

_LOG = logging.getLogger(__name__)

StepResult = tuple[Observation, FloatArray, BoolArray, BoolArray, dict[str, Any]]


class InnerTrainingVectorEnv(VectorEnv[Observation, Action, Array]):
    """Rows of `trainpilot.envs.single.InnerTrainingEnv`, trained side by side.

    With `reset(seed=s)`, row `i` is the single environment with `reset(seed=s + i)`, up to
    rounding. A row that ends starts anew in the same step (`AutoresetMode.SAME_STEP`): `final_obs`
    and `final_info` hold what the decision led to. How each task is trained, and why so, is logged
    at level INFO.

    Args:
        num_envs: number of rows, at least as many as tasks (default: 1).
        task: an inner task, a family, the name of one that ships, or several of these, which
            share the rows evenly and in order (default: "digits_mlp").
        config: of the environment (default: `EnvConfig()`).
        n_workers: processes to spread the rows over; 0 for none but this one (default).

    Raises:
        TrainpilotError: if a task is unknown or cannot be trained, or a value is out of range.

    Attributes:
        task_names: name of each row's task, `num_envs` of them.
    """

    def __init__(
        self,
        num_envs: int = 1,
        task: Trainable | str | Sequence[Trainable | str] = "digits_mlp",
        config: EnvConfig | None = None,
        n_workers: int = 0,
    ) -> None:
        given = list(task) if isinstance(task, Sequence) and not isinstance(task, str) else [task]
        require(len(given) > 0, "task must name at least one task", "none")
        require(
            num_envs >= len(given),
            f"num_envs must be at least the number of tasks, {len(given)}",
            num_envs,
        )
        tasks = [load_task(each) if isinstance(each, str) else each for each in given]
        sizes = np.diff(np.arange(len(tasks) + 1) * num_envs // len(tasks)).tolist()
        config = config or EnvConfig()
        config.validate()
        measure = needs_reference(config)
        self._groups = start_groups(
            [
                GroupSpec(each, size, config, measure=measure)
                for each, size in zip(tasks, sizes, strict=True)
            ],
            n_workers,
        )
        for name, report in self._groups.reports.items():
            _LOG.info("task '%s': %s", name, report)
        self.task_names = self._groups.task_names
        self.num_envs = num_envs
        self.metadata = {"render_modes": [], "autoreset_mode": AutoresetMode.SAME_STEP}
        self.render_mode = None
        self.single_observation_space = observation_space()
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.single_action_space = self._groups.actions.space
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._run_seeds = RowSeeds(num_envs)

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Observation, dict[str, Any]]:
        """Start a new inner run in every row.

        Args:
            seed: of each row's generator, which draws the seeds of its runs; a number `s` is
                `s + i` for row `i`, None goes on with the generators as they are.
            options: not used.

        Returns:
            Observations `(num_envs, n_features)`, and `info` with the runs' seeds and
            hyperparameters.
        """
        if isinstance(seed, int | np.integer):
            seed = [int(seed) + row for row in range(self.num_envs)]
        if seed is not None:
            require(
                len(seed) == self.num_envs, f"seeds must be {self.num_envs}, one a row", len(seed)
            )
            self._run_seeds.seed(seed)
        run_seeds = self._run_seeds.next.copy()
        observation, hyperparameters = self._groups.reset(run_seeds)
        everywhere = np.ones(self.num_envs, dtype=bool)
        self._run_seeds.advance(range(self.num_envs))
        columns = {"run_seed": run_seeds, **hyperparameter_columns(hyperparameters)}
        return observation, _masked(columns, everywhere)

    def step(self, actions: Action) -> StepResult:
        """Make a decision in every row.

        Args:
            actions: of every row, as `single_action_space` has them, `(num_envs, ...)`.
        """
        run_seeds = self._run_seeds.next.copy()
        transition = self._groups.step(np.asarray(actions), run_seeds)
        self._run_seeds.advance(np.flatnonzero(transition.ended).tolist())
        return (
            transition.observation,
            transition.reward,
            transition.terminated,
            transition.truncated,
            _step_info(transition, run_seeds),
        )

    def close_extras(self, **kwargs: Any) -> None:
        """Let go of the groups, and of their workers; `close()` calls it."""
        self._groups.close()


def _step_info(transition: Transition, run_seeds: IntArray) -> dict[str, Any]:
    """`info` of a step, as Gymnasium's own vector environments put it together.

    Args:
        transition: what came of the decision.
        run_seeds: of the runs that began, in rows where one ended.
    """
    ended = transition.ended
    decision = decision_columns(transition)
    info = {
        **_masked(decision, ~ended),
        **_masked(_hyperparameters_now(transition), np.ones_like(ended)),
        **_masked({"run_seed": run_seeds}, ended),
    }
    if ended.any():
        final_obs = np.full(len(ended), None, dtype=object)
        for row in np.flatnonzero(ended):
            final_obs[row] = transition.terminal_observation[row]
        final = decision | hyperparameter_columns(transition.hyperparameters)
        info |= {"final_obs": final_obs, "_final_obs": ended.copy()}
        info |= {"final_info": _masked(final, ended), "_final_info": ended.copy()}
    return info


def _hyperparameters_now(transition: Transition) -> dict[str, Array]:
    """Those of the decision, or of the run that has begun in rows where one ended."""
    begun = hyperparameter_columns(transition.current_hyperparameters)
    used = hyperparameter_columns(transition.hyperparameters)
    return {name: np.where(transition.ended, begun[name], used[name]) for name in used}


def _masked(columns: dict[str, Array], rows: BoolArray) -> dict[str, Any]:
    """Each column with a mask of the rows that it speaks of; nothing where there are none."""
    info: dict[str, Any] = {}
    if rows.any():
        for name, values in columns.items():
            blank = np.full_like(values, None if values.dtype == object else 0)
            info[name] = np.where(rows, values, blank)
            info[f"_{name}"] = rows.copy()
    return info
