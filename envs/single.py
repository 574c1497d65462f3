"""The training of one inner model as a Gymnasium environment."""

from __future__ import annotations

import logging
from typing import Any, cast

import gymnasium
import numpy as np
from gymnasium import spaces

from trainpilot.envs.actions import Action
from trainpilot.envs.config import EnvConfig
from trainpilot.envs.family_references import measure_rows
from trainpilot.envs.inner_runs import InnerRuns, Outcome
from trainpilot.envs.observation import HIGH, LOW, Observation
from trainpilot.envs.rewards import needs_reference
from trainpilot.inner_tasks.catalogue import load_task
from trainpilot.inner_tasks.family import Trainable

_LOG = logging.getLogger(__name__)


def observation_space() -> spaces.Space[Observation]:
    """The space of observations, `(n_features,)`."""
    return cast("spaces.Space[Observation]", spaces.Box(LOW, HIGH, dtype=np.float32))


class InnerTrainingEnv(gymnasium.Env[Observation, Action]):
    """Train an inner model, one decision a step: `trainpilot/InnerTraining-v0`.

    ## Action space
    `MultiDiscrete`, a head for each controlled hyperparameter (`EnvConfig.actions`). By
    default, two: a factor of the learning rate (0.35, 0.7, 1, 1.4 or 2.8) and the
    optimizer (SGD with momentum, Adam, RMSProp). With `actions.continuous` a `Box` in their place
    (`trainpilot.envs.actions.ActionSpec`). What leaves the hard bounds is moved to them,
    and `info["clamped"]` says so.

    ## Observation space
    `Box`, the scale-free features in the table of `trainpilot.envs.observation`.

    ## Reward
    By default, fall of the bounded log `outer_valid` loss, less a share of the area under its
    curve; `EnvConfig.reward` has others (`trainpilot.envs.rewards`). `outer_valid` is never
    observed.

    ## Starting state
    New initial weights and a new data order, fixed by the seed; hyperparameters as
    `EnvConfig.start` has them (by default Adam at 1e-3).

    ## Episode end
    - Termination: the run has diverged (something is not finite, or has become many times its
      start; `GuardConfig`) once more than it may be rolled back, or is hopeless
      (`guard.hopeless_share`). A run that is rolled back goes on; `info["intervention"]` says so.
    - Truncation: the budget is spent, `decisions * micro_batches_per_decision` micro-batches or,
      with `start.shortest_budget` below 1, what was drawn for the run.

    How runs are trained, and why so (`Engine.report`), is logged at level INFO when the
    environment is made.

    ## Arguments
    Args:
        task: an inner task, a family, or the name of one that ships (default: "digits_mlp").
        config: of the environment (default: `EnvConfig()`).
        render_mode: None, or "ansi" for a line of text.

    Raises:
        TrainpilotError: if the task is unknown or cannot be trained, or a value of the
            configuration is out of range.

    ## Version history
    - v0: first version.
    """

    metadata = {"render_modes": ["ansi"], "render_fps": 1}  # noqa: RUF012  # Gymnasium's own declaration

    def __init__(
        self,
        task: Trainable | str = "digits_mlp",
        config: EnvConfig | None = None,
        render_mode: str | None = None,
    ) -> None:
        task = load_task(task) if isinstance(task, str) else task
        self.runs = InnerRuns(task, 1, config or EnvConfig())
        _LOG.info("task '%s': %s", task.name, self.runs.engine.report)
        if needs_reference(self.runs.config):
            measure_rows(self.runs)
        self.render_mode = render_mode
        self.observation_space = observation_space()
        self.action_space = self.runs.actions.space
        self._outcome: Outcome | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start a new inner run.

        Args:
            seed: of the environment's generator, which draws the run's seed.
            options: not used.

        Returns:
            The observation, and `info` with the run's seed and its hyperparameters.
        """
        super().reset(seed=seed, options=options)
        run_seed = int(self.np_random.integers(2**31))
        observation = self.runs.reset([0], [run_seed])[0]
        self._outcome = None
        return observation, {"run_seed": run_seed, **self.runs.hyperparameters.row(0)}

    def step(self, action: Action) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Set hyperparameters and train until the next decision.

        Args:
            action: as `action_space` has it.
        """
        outcome = self._outcome = self.runs.step(self.runs.chosen(np.asarray(action)[None]))
        return (
            outcome.observation[0],
            float(outcome.reward[0]),
            bool(outcome.terminated[0]),
            bool(outcome.truncated[0]),
            outcome_info(outcome, 0),
        )

    def render(self) -> str | None:
        """With `render_mode="ansi"`, a line on the state of the run."""
        if self.render_mode != "ansi":
            return None
        if self._outcome is None:
            return "not trained yet"
        info = outcome_info(self._outcome, 0)
        return (
            f"decision {self.runs.decisions_made[0]}/{self.runs.decisions_in_budget[0]}  "
            f"{info['optimizer']} learning rate {info['learning_rate']:.2g}  "
            f"train loss {info['train_loss']:.4g}  valid loss {info['valid_loss']:.4g}"
        )


def outcome_info(outcome: Outcome, row: int) -> dict[str, Any]:
    """What `info` says of a row's decision: losses, hyperparameters, what was intervened."""
    return {
        "train_loss": float(outcome.train_loss[row]),
        "valid_loss": float(outcome.valid.loss[row]),
        "outer_valid_loss": float(outcome.outer_valid.loss[row]),
        "clamped": bool(outcome.clamped[row]),
        "rolled_back": bool(outcome.interventions.rolled_back[row]),
        "intervention": outcome.interventions.texts(outcome.hyperparameters.learning_rate)[row],
        **outcome.hyperparameters.row(row),
    }
