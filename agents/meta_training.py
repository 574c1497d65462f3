"""Meta-training: PPO learns across many inner runs side by side."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import configure

from trainpilot.agents.config import AgentConfig
from trainpilot.agents.files import atomic_path, write_json
from trainpilot.agents.policy import ObservationNormaliser, policy_kwargs
from trainpilot.agents.progress import ProgressBar
from trainpilot.envs.config import EnvConfig
from trainpilot.envs.inner_runs import InnerRuns
from trainpilot.envs.observation import Observation, schema_hash
from trainpilot.envs.reference import measure_reference
from trainpilot.envs.rewards import TaskReference
from trainpilot.envs.vector import InnerTrainingVecEnv
from trainpilot.inner_tasks.errors import TrainpilotError
from trainpilot.inner_tasks.protocol import InnerTask

#: Below this many decisions, compiling takes longer than it saves.
_WORTH_COMPILING = 15_000

CHECKPOINT = Path("checkpoints") / "latest.zip"


def make_groups(
    tasks: list[InnerTask], env: EnvConfig, agent: AgentConfig, folder: Path
) -> list[InnerRuns]:
    """Rows of inner runs for each task, each task's reward in its own unit.

    Args:
        tasks: to learn from.
        env: configuration; `compiled` None is decided here.
        agent: rows for each task, and whether rewards are normalised.
        folder: keeps the references in `references.json`, so that a resumed training has the
            same ones without a new sweep.
    """
    if env.compiled is None:
        env.compiled = agent.total_decisions >= _WORTH_COMPILING
    stored = folder / "references.json"
    known: dict[str, float] = json.loads(stored.read_text()) if stored.is_file() else {}
    groups = []
    with ProgressBar("preparing tasks", len(tasks)) as progress:
        for done, task in enumerate(tasks):
            progress.update(done, task.name)
            runs = InnerRuns(task, agent.runs_per_task, env)
            if agent.normalise_by_reference:
                if task.name not in known:
                    known[task.name] = measure_reference(runs).final_level
                    write_json(stored, known)
                runs.set_reference(TaskReference(known[task.name]))
            groups.append(runs)
        progress.update(len(tasks))
    return groups


def make_agent(groups: list[InnerRuns], agent: AgentConfig, seed: int) -> PPO:
    """A new PPO agent on these rows."""
    env = InnerTrainingVecEnv(groups, seed)
    n_steps = groups[0].config.decisions
    rate = agent.learning_rate
    rollout = n_steps * env.num_envs
    return PPO(
        "MlpPolicy",
        env,
        n_steps=n_steps,
        batch_size=_divisor(rollout, agent.batch_size),
        n_epochs=agent.n_epochs,
        learning_rate=lambda remaining: rate * (0.1 + 0.9 * remaining),
        gamma=agent.gamma,
        gae_lambda=agent.gae_lambda,
        clip_range=agent.clip_range,
        ent_coef=agent.entropy_coefficient,
        policy_kwargs=policy_kwargs(agent.hidden),
        seed=seed,
        device="cpu",
    )


def _divisor(rollout: int, batch_size: int) -> int:
    """The largest mini-batch, up to the one asked for, that divides a rollout evenly."""
    return max(size for size in range(1, min(batch_size, rollout) + 1) if rollout % size == 0)


def require_checkpoint(checkpoint: Path) -> None:
    """Check that there is a checkpoint to go on from, before anything slow is done.

    Raises:
        TrainpilotError: if there is none.
    """
    if not checkpoint.is_file():
        raise TrainpilotError(
            f"resume=true needs a checkpoint in the run's folder (hydra.run.dir); given: "
            f"{checkpoint}, where there is no file"
        )


def resume_agent(groups: list[InnerRuns], checkpoint: Path, seed: int) -> PPO:
    """The agent as the last checkpoint left it; its inner runs start anew.

    Checkpoints are Stable-Baselines3's own and are unpickled: resume only what you trained.

    Raises:
        TrainpilotError: if there is no checkpoint, or it was made with another suite, other
            actions, another number of runs or another observation.
    """
    require_checkpoint(checkpoint)
    stored = json.loads(checkpoint.with_suffix(".json").read_text())
    for name, value in fingerprint(groups).items():
        began_with = stored["fingerprint"].get(name)
        if began_with != value:
            raise TrainpilotError(
                f"resume=true needs the {name} that the training began with, {began_with}; "
                f"given: {value}"
            )
    # The runs to come must not repeat the runs that were: the seed moves on with the decisions.
    moved = np.random.SeedSequence([seed, stored["decisions"]]).generate_state(1)[0]
    return PPO.load(checkpoint, env=InnerTrainingVecEnv(groups, int(moved)), device="cpu")


def fingerprint(groups: list[InnerRuns]) -> dict[str, Any]:
    """What must stay the same for a training to go on."""
    return {
        "tasks": [group.task.name for group in groups],
        "runs_per_task": groups[0].n_runs,
        "decisions": groups[0].config.decisions,
        "actions": groups[0].actions.to_json(),
        "observation schema": schema_hash(),
    }


class MetaTraining(BaseCallback):
    """Keeps the normaliser, the progress bar, the logs and the checkpoints.

    Args:
        folder: of the run; checkpoints go to `checkpoints/`.
        groups: as in the agent's environment.
        checkpoint_seconds: least time between two checkpoints (seconds).
        progress: the bar to move, in decisions.
    """

    def __init__(
        self,
        folder: Path,
        groups: list[InnerRuns],
        checkpoint_seconds: float,
        progress: ProgressBar,
    ) -> None:
        super().__init__()
        self._checkpoint = folder / CHECKPOINT
        self._groups = groups
        self._checkpoint_seconds = checkpoint_seconds
        self._progress = progress
        self._seen: Observation | None = None
        self._saved = time.monotonic()
        self._returns: dict[str, list[float]] = defaultdict(list)
        self._diverged: list[bool] = []
        self._note = ""

    def _on_rollout_start(self) -> None:
        if self._seen is not None:
            # Between rollouts, so that the probabilities that PPO compares stay comparable.
            normaliser = self.model.policy.features_extractor
            if not isinstance(normaliser, ObservationNormaliser):
                raise TypeError("the policy must normalise its observations itself")
            normaliser.update(self._seen)
            self._seen = None
        if time.monotonic() - self._saved >= self._checkpoint_seconds and self.num_timesteps:
            self.save()

    def _on_step(self) -> bool:
        for info in self.locals["infos"]:
            if "episode" in info:
                self._returns[info["task"]].append(info["episode"]["r"])
                self._diverged.append(info["diverged"])
        self._progress.update(self.num_timesteps, self._note)
        return True

    def _on_rollout_end(self) -> None:
        buffer = self.model.rollout_buffer  # type: ignore[attr-defined]
        self._seen = buffer.observations.reshape(-1, buffer.observations.shape[-1]).copy()
        for name, returns in self._returns.items():
            self.logger.record(f"return/{name}", float(np.mean(returns)))
        if self._diverged:
            means = [float(np.mean(returns)) for returns in self._returns.values()]
            self.logger.record("return/mean_of_tasks", float(np.mean(means)))
            self.logger.record("guard/divergence_rate", float(np.mean(self._diverged)))
            self._note = f"mean return {np.mean(means):.2f}"
        self._returns.clear()
        self._diverged.clear()

    def save(self) -> None:
        """Write a checkpoint, atomically."""
        with atomic_path(self._checkpoint) as temporary:
            self.model.save(temporary)
        write_json(
            self._checkpoint.with_suffix(".json"),
            {"decisions": self.num_timesteps, "fingerprint": fingerprint(self._groups)},
        )
        self._saved = time.monotonic()


def learn(
    agent: PPO, groups: list[InnerRuns], config: AgentConfig, folder: Path, *, resumed: bool
) -> None:
    """Let the agent learn until its decisions are used up, or it is interrupted.

    Args:
        agent: new or resumed.
        groups: as in its environment.
        config: decisions and checkpoints.
        folder: of the run: `tensorboard/` and `checkpoints/`.
        resumed: whether the agent has learned before.

    Raises:
        KeyboardInterrupt: as the user sent it, after a checkpoint.
    """
    agent.set_logger(configure(str(folder / "tensorboard"), ["tensorboard"]))
    rollout = agent.n_steps * agent.n_envs
    total = -(-config.total_decisions // rollout) * rollout
    remaining = total - agent.num_timesteps
    if remaining <= 0:
        return
    with ProgressBar("meta-training", total, agent.num_timesteps) as progress:
        callback = MetaTraining(folder, groups, config.checkpoint_seconds, progress)
        try:
            agent.learn(remaining, callback=callback, reset_num_timesteps=not resumed)
        finally:
            # Ctrl-C and errors alike: nothing that was learned is lost.
            if agent.num_timesteps:
                callback.save()
