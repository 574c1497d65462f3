"""Many inner runs of many tasks behind one Stable-Baselines3 `VecEnv`."""

from __future__ import annotations

from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvStepReturn

from trainpilot.envs.actions import Action
from trainpilot.envs.groups import Groups
from trainpilot.envs.observation import Observation
from trainpilot.envs.row_seeds import RowSeeds
from trainpilot.envs.single import observation_space
from trainpilot.envs.transition import Transition, decision_columns, hyperparameter_columns


class InnerTrainingVecEnv(VecEnv):
    """Groups of rows, one group for each task; a row that ends starts anew in place.

    Args:
        groups: of inner runs, in this process or in workers; all with the same actions.
        seed: fixes the seeds of all runs to come, each row's by its number.

    Attributes:
        groups: as given.
        task_names: name of each row's task, `n_envs` of them.
    """

    def __init__(self, groups: Groups, seed: int) -> None:
        self.groups = groups
        self.task_names = groups.task_names
        self._actions: Action = np.zeros((0, 0))
        # SB3 asks every environment for its render mode while it is set up.
        self.render_mode = None
        super().__init__(
            len(self.task_names),
            observation_space(),
            groups.actions.space,
        )
        self._run_seeds = RowSeeds(self.num_envs)
        self._seed_rows(seed)
        self._returns = np.zeros(self.num_envs)
        self._lengths = np.zeros(self.num_envs, dtype=np.int64)

    def reset(self) -> Observation:
        """Start every row anew.

        Returns:
            Observations, `(n_envs, n_features)`.
        """
        if self._seeds[0] is not None:  # as `seed(...)` left it, for this reset alone
            self._seed_rows(self._seeds[0])
        self._reset_seeds()
        self._reset_options()
        self._returns[:] = 0
        self._lengths[:] = 0
        start = self.groups.reset(self._run_seeds.next)
        self._run_seeds.advance(range(self.num_envs))
        return start.observation

    def step_async(self, actions: Action) -> None:
        """Take the actions, `(n_envs, ...)`."""
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        """Make the decision in every row."""
        transition = self.groups.step(self._actions, self._run_seeds.next)
        self._returns += transition.reward
        self._lengths += 1
        infos = _infos(transition)
        ended = np.flatnonzero(transition.ended).tolist()
        for row in ended:
            self._close_episode(infos[row], row, transition)
        self._run_seeds.advance(ended)
        return (
            transition.observation,
            transition.reward.astype(np.float32),
            transition.ended,
            infos,
        )

    def _close_episode(self, info: dict[str, Any], row: int, transition: Transition) -> None:
        info["terminal_observation"] = transition.terminal_observation[row]
        # The budget is part of the problem and is observed, so that nothing is to be had after
        # it: SB3 must not add the value of a state beyond it, as it would for a time limit.
        info["TimeLimit.truncated"] = False
        info["diverged"] = bool(transition.terminated[row] & ~transition.hopeless[row])
        info["hopeless"] = bool(transition.hopeless[row])
        info["task"] = self.task_names[row]
        info["episode"] = {"r": float(self._returns[row]), "l": int(self._lengths[row])}
        self._returns[row] = 0
        self._lengths[row] = 0

    def _seed_rows(self, seed: int) -> None:
        # By the row and not by the seed plus the row: neighbouring seeds would share runs.
        self._run_seeds.seed([(seed, row) for row in range(self.num_envs)])

    def close(self) -> None:
        """Let go of the groups, and of their workers."""
        self.groups.close()

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """The same attribute for every row asked for."""
        return [getattr(self, attr_name)] * len(list(self._get_indices(indices)))

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Rows hold no attributes of their own.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError("rows of InnerTrainingVecEnv hold no attributes of their own")

    def env_method(
        self, method_name: str, *args: Any, indices: VecEnvIndices = None, **kwargs: Any
    ) -> list[Any]:
        """Rows hold no methods of their own.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError("rows of InnerTrainingVecEnv hold no methods of their own")

    def env_is_wrapped(self, wrapper_class: type[Any], indices: VecEnvIndices = None) -> list[bool]:
        """No row is wrapped."""
        return [False] * len(list(self._get_indices(indices)))


def _infos(transition: Transition) -> list[dict[str, Any]]:
    """What `info` says of each row's decision, the guard's reason as a number among it."""
    columns = {
        **decision_columns(transition),
        **hyperparameter_columns(transition.hyperparameters),
        "reason": transition.interventions.reason,
    }
    rows = zip(*[values.tolist() for values in columns.values()], strict=True)
    return [dict(zip(columns, row, strict=True)) for row in rows]
