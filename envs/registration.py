"""Registers the environment with Gymnasium; imports nothing heavy."""

from __future__ import annotations

import gymnasium

ENV_ID = "trainpilot/InnerTraining-v0"


def register_envs() -> None:
    """Make `gymnasium.make` and `make_vec` know the environment; repeated calls do nothing."""
    if ENV_ID not in gymnasium.registry:
        gymnasium.register(
            id=ENV_ID,
            entry_point="trainpilot.envs.single:InnerTrainingEnv",
            vector_entry_point="trainpilot.envs.gymnasium_vector:InnerTrainingVectorEnv",
        )
