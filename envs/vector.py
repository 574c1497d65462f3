"""Many inner runs of many tasks behind one Stable-Baselines3 `VecEnv`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvStepReturn

from trainpilot.envs.hyperparameters import IntArray
from trainpilot.envs.inner_runs import InnerRuns
from trainpilot.envs.observation import Observation
from trainpilot.envs.single import observation_space, outcome_info


class InnerTrainingVecEnv(VecEnv):
    """Groups of rows, one group for each task; a row that ends starts anew in place.

    Args:
        groups: inner runs, one entry for each task; all with the same actions.
        seed: fixes the seeds of all runs to come.

    Attributes:
        groups: as given.
        task_names: name of each row's task, `n_envs` of them.
    """

    def __init__(self, groups: Sequence[InnerRuns], seed: int) -> None:
        self.groups = list(groups)
        self.task_names = [group.task.name for group in groups for _ in range(group.n_runs)]
        self._generator = np.random.default_rng(seed)
        self._actions: IntArray = np.zeros((0, 0), dtype=np.int64)
        # SB3 asks every environment for its render mode while it is set up.
        self.render_mode = None
        super().__init__(
            len(self.task_names),
            observation_space(),
            spaces.MultiDiscrete(groups[0].actions.n_choices),
        )
        self._returns = np.zeros(self.num_envs)
        self._lengths = np.zeros(self.num_envs, dtype=np.int64)

    def reset(self) -> Observation:
        """Start every row anew.

        Returns:
            Observations, `(n_envs, n_features)`.
        """
        if self._seeds[0] is not None:  # as `seed(...)` left it, for this reset alone
            self._generator = np.random.default_rng(self._seeds[0])
        self._reset_seeds()
        self._reset_options()
        self._returns[:] = 0
        self._lengths[:] = 0
        observations = [
            group.reset(range(group.n_runs), self._draw_seeds(group.n_runs))
            for group in self.groups
        ]
        return np.concatenate(observations)

    def step_async(self, actions: IntArray) -> None:
        """Take the actions, `(n_envs, n_heads)`."""
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        """Make the decision in every group."""
        observations, rewards, dones = [], [], []
        infos: list[dict[str, Any]] = []
        first = 0
        for group in self.groups:
            rows = slice(first, first + group.n_runs)
            first += group.n_runs
            asked = group.actions.apply(group.hyperparameters, self._actions[rows])
            outcome = group.step(asked)
            done = outcome.terminated | outcome.truncated
            self._returns[rows] += outcome.reward
            self._lengths[rows] += 1
            infos += [outcome_info(outcome, row) for row in range(group.n_runs)]
            observation = outcome.observation
            ended = np.flatnonzero(done).tolist()
            if ended:
                for row in ended:
                    self._close_episode(
                        infos[rows.start + row],
                        rows.start + row,
                        observation[row],
                        diverged=bool(outcome.terminated[row]),
                    )
                observation = group.reset(ended, self._draw_seeds(len(ended)))
            observations.append(observation)
            rewards.append(outcome.reward)
            dones.append(done)
        return (
            np.concatenate(observations),
            np.concatenate(rewards).astype(np.float32),
            np.concatenate(dones),
            infos,
        )

    def _close_episode(
        self, info: dict[str, Any], env: int, observation: Observation, *, diverged: bool
    ) -> None:
        info["terminal_observation"] = observation
        # The budget is part of the problem and is observed, so that nothing is to be had after
        # it: SB3 must not add the value of a state beyond it, as it would for a time limit.
        info["TimeLimit.truncated"] = False
        info["diverged"] = diverged
        info["task"] = self.task_names[env]
        info["episode"] = {"r": float(self._returns[env]), "l": int(self._lengths[env])}
        self._returns[env] = 0
        self._lengths[env] = 0

    def _draw_seeds(self, n_seeds: int) -> list[int]:
        return [int(seed) for seed in self._generator.integers(2**31, size=n_seeds)]

    def close(self) -> None:
        """Nothing is held open."""

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
