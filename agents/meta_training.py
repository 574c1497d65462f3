"""Meta-training: PPO learns across many inner runs side by side."""

from __future__ import annotations

import math
import time
from collections import Counter, defaultdict, deque
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import configure

from trainpilot.agents.config import AgentConfig
from trainpilot.agents.files import atomic_path, read_json
from trainpilot.agents.policy import ObservationNormaliser, policy_kwargs, prefer_keeping
from trainpilot.agents.progress import ProgressBar
from trainpilot.envs.config import EnvConfig
from trainpilot.envs.groups import Groups, GroupSpec
from trainpilot.envs.interventions import Reason
from trainpilot.envs.observation import Observation
from trainpilot.envs.rewards import needs_reference
from trainpilot.envs.task_reference import TaskReference
from trainpilot.envs.vector import InnerTrainingVecEnv
from trainpilot.envs.worker_pool import start_groups
from trainpilot.inner_tasks.errors import TrainpilotError, require
from trainpilot.inner_tasks.family import TaskFamily, Trainable

#: Below this many decisions, torch.compile takes longer than it saves.
_WORTH_COMPILING = 15_000

#: Rollouts that the return of a whole training is the mean of: one alone is noise.
LAST_ROLLOUTS = 10

CHECKPOINT = Path("checkpoints") / "latest.zip"
IDENTITY = Path("checkpoints") / "identity.json"


def make_groups(
    tasks: list[Trainable], env: EnvConfig, agent: AgentConfig, known: dict[str, TaskReference]
) -> tuple[Groups, dict[str, TaskReference]]:
    """Rows of inner runs for each task, each task's reward in its own unit.

    Args:
        tasks: to learn from.
        env: configuration; `compiled` None is decided here.
        agent: rows for each task and their lengths, workers, and whether rewards are normalised.
        known: references by task, where they have been measured before.

    Returns:
        The groups, which must be closed in the end, and the references by task.
    """
    if env.compiled is None and agent.total_decisions >= _WORTH_COMPILING:
        env.compiled = True
    measure = agent.normalise_by_reference or needs_reference(env)
    rows = agent.rows_by_interval(env)
    envs = [replace(env, micro_batches_per_decision=interval) for interval in rows]
    specs = [
        GroupSpec(
            task,
            n_rows,
            own,
            reference=_of_task(task, known) if measure else None,
            family_references=_of_family(task, known) if measure else {},
            measure=measure and (own is envs[0] or isinstance(task, TaskFamily)),
            reference_config=envs[0],
        )
        for task in tasks
        for own, n_rows in zip(envs, rows.values(), strict=True)
    ]
    with ProgressBar("preparing tasks", sum(spec.n_rows for spec in specs)) as progress:
        ready = 0

        def on_ready(spec: GroupSpec) -> None:
            nonlocal ready
            ready += spec.n_rows
            progress.update(ready, spec.task.name)

        groups = start_groups(specs, agent.n_workers, on_ready)
    return groups, known | groups.references


def _of_task(task: Trainable, known: dict[str, TaskReference]) -> TaskReference | None:
    """The reference of a task; a family has none of its own."""
    return None if isinstance(task, TaskFamily) else known.get(task.name)


def _of_family(task: Trainable, known: dict[str, TaskReference]) -> dict[str, TaskReference]:
    """The references of the family's own tasks, which travel to its workers."""
    if not isinstance(task, TaskFamily):
        return {}
    names = [task.task_name(number) for number in range(task.n_tasks)]
    return {name: known[name] for name in names if name in known}


def make_agent(groups: Groups, agent: AgentConfig, seed: int) -> PPO:
    """A new PPO agent on these rows."""
    env = InnerTrainingVecEnv(groups, seed)
    n_steps = groups.config.decisions
    rate = agent.learning_rate
    rollout = n_steps * env.num_envs
    ppo = PPO(
        "MlpPolicy",
        env,
        n_steps=n_steps,
        batch_size=_divisor(rollout, agent.batch_size),
        n_epochs=agent.n_epochs,
        learning_rate=lambda remaining: rate * (0.1 + 0.9 * max(remaining, 0.0)),
        gamma=agent.gamma,
        gae_lambda=agent.gae_lambda,
        clip_range=agent.clip_range,
        ent_coef=agent.entropy_coefficient,
        policy_kwargs=policy_kwargs(agent.hidden, agent.normalise_observations),
        seed=seed,
        device="cpu",
    )
    if not groups.actions.continuous:
        prefer_keeping(ppo.policy, groups.actions, agent.keep_bias)
    return ppo


def _divisor(rollout: int, batch_size: int) -> int:
    """The largest mini-batch, up to the one asked for, that divides a rollout evenly."""
    sizes = [size for size in range(2, min(batch_size, rollout) + 1) if rollout % size == 0]
    require(
        bool(sizes),
        f"a rollout of {rollout} decisions must have a divisor from 2 to agent.batch_size; change "
        "agent.batch_size, agent.runs_per_task or env.decisions",
        batch_size,
    )
    return max(sizes)


def check_resumable(folder: Path, identity: dict[str, Any]) -> None:
    """Check that a training can go on, before anything slow is done.

    Args:
        folder: of the run.
        identity: the settings that must be those that the training began with, by name.

    Raises:
        TrainpilotError: if there is no checkpoint, or a setting has changed.
    """
    if not (folder / CHECKPOINT).is_file() or not (folder / IDENTITY).is_file():
        raise TrainpilotError(
            "resume=true needs a checkpoint in the run's folder (hydra.run.dir); given: "
            f"{folder / CHECKPOINT}, where there is none"
        )
    began_with = read_json(folder / IDENTITY)
    for name in sorted(began_with.keys() | identity.keys()):
        before, now = began_with.get(name), identity.get(name)
        if before != now:
            raise TrainpilotError(
                f"resume=true needs the settings that the training began with, {name}={before}; "
                f"given: {name}={now}"
            )


def resume_agent(groups: Groups, folder: Path, seed: int) -> PPO:
    """The agent as the last checkpoint left it; its inner runs start anew.

    Checkpoints are Stable-Baselines3's own and are unpickled: resume only what you trained.

    Raises:
        TrainpilotError: if the checkpoint is damaged.
    """
    try:
        agent = PPO.load(folder / CHECKPOINT, device="cpu")
    except Exception as error:  # whatever unpickling a faulty file raises
        raise TrainpilotError(
            "resume=true needs a whole checkpoint of the same versions; given: "
            f"{folder / CHECKPOINT}, which is damaged or of others"
        ) from error
    # The runs to come must not repeat the runs that were: the seed moves on with the decisions.
    moved = np.random.SeedSequence([seed, agent.num_timesteps]).generate_state(1)[0]
    agent.set_env(InnerTrainingVecEnv(groups, int(moved)))
    return agent


class MetaTraining(BaseCallback):
    """Keeps the normaliser, the progress bar, the logs and the checkpoints.

    Args:
        folder: of the run; checkpoints go to `checkpoints/`.
        checkpoint_seconds: least time between two checkpoints (seconds).
        progress: the bar to move, in decisions.
    """

    def __init__(self, folder: Path, checkpoint_seconds: float, progress: ProgressBar) -> None:
        super().__init__()
        self._checkpoint = folder / CHECKPOINT
        self._checkpoint_seconds = checkpoint_seconds
        self._progress = progress
        self._seen: Observation | None = None
        self._saved = time.monotonic()
        self._returns: dict[str, list[float]] = defaultdict(list)
        self._diverged: list[bool] = []
        self._hopeless: list[bool] = []
        self._lengths: list[int] = []
        self._rolled_back: list[bool] = []
        self._reasons: Counter[int] = Counter()
        self._note = ""
        self._last_means: deque[float] = deque(maxlen=LAST_ROLLOUTS)

    @property
    def mean_return(self) -> float:
        """Mean over tasks of the return in the latest rollouts; not a number before the first."""
        return float(np.mean(self._last_means)) if self._last_means else math.nan

    def _on_rollout_start(self) -> None:
        # Between rollouts, so that the probabilities that PPO compares stay comparable.
        self._update_normaliser()
        if time.monotonic() - self._saved >= self._checkpoint_seconds and self.num_timesteps:
            self._save()

    def _update_normaliser(self) -> None:
        if self._seen is None:
            return
        normaliser = self.model.policy.features_extractor
        if not isinstance(normaliser, ObservationNormaliser):
            raise TypeError("the policy must normalise its observations itself")
        normaliser.update(self._seen)
        self._seen = None

    def _on_step(self) -> bool:
        for info in self.locals["infos"]:
            self._rolled_back.append(info["rolled_back"])
            self._reasons[info["reason"]] += 1
            if "episode" in info:
                self._returns[info["task"]].append(info["episode"]["r"])
                self._diverged.append(info["diverged"])
                self._hopeless.append(info["hopeless"])
                self._lengths.append(info["episode"]["l"])
        self._progress.update(self.num_timesteps, self._note)
        return True

    def _on_rollout_end(self) -> None:
        buffer = self.model.rollout_buffer  # type: ignore[attr-defined]
        self._seen = buffer.observations.reshape(-1, buffer.observations.shape[-1]).copy()
        for name, returns in self._returns.items():
            self.logger.record(f"return/{name}", float(np.mean(returns)))
        self.logger.record("guard/roll_back_rate", float(np.mean(self._rolled_back)))
        # Of none too, so that the curves have no gaps.
        for reason in set(Reason) - {Reason.NONE}:
            self.logger.record(f"guard/reason/{reason.name.lower()}", self._reasons[reason])
        if self._diverged:
            mean = float(np.mean([np.mean(returns) for returns in self._returns.values()]))
            self._last_means.append(mean)
            self.logger.record("return/mean_of_tasks", mean)
            self.logger.record("guard/divergence_rate", float(np.mean(self._diverged)))
            self.logger.record("guard/hopeless_rate", float(np.mean(self._hopeless)))
            self.logger.record("guard/decisions_in_run", float(np.mean(self._lengths)))
            self._note = f"mean return {mean:.2f}"
        self._returns.clear()
        self._diverged.clear()
        self._hopeless.clear()
        self._lengths.clear()
        self._rolled_back.clear()
        self._reasons.clear()

    def close(self) -> None:
        """Write the last checkpoint; a rollout that was not collected whole is not counted."""
        self._update_normaliser()
        model = self.model
        if isinstance(model, PPO):
            model.num_timesteps -= model.num_timesteps % (model.n_steps * model.n_envs)
        if model.num_timesteps:
            self._save()

    def _save(self) -> None:
        with atomic_path(self._checkpoint) as temporary:
            self.model.save(temporary)
        self._saved = time.monotonic()


def learn(agent: PPO, config: AgentConfig, folder: Path, *, resumed: bool) -> float:
    """Let the agent learn until its decisions are used up, or it is interrupted.

    Args:
        agent: new or resumed.
        config: decisions and checkpoints.
        folder: of the run: `tensorboard/` and `checkpoints/`.
        resumed: whether the agent has learned before.

    Returns:
        What the policy reaches in the end: the mean over tasks of its runs' returns in the last
        ten rollouts; not a number where nothing was left to learn.

    Raises:
        KeyboardInterrupt: as the user sent it, after a checkpoint.
    """
    agent.set_logger(configure(str(folder / "tensorboard"), ["tensorboard"]))
    rollout = agent.n_steps * agent.n_envs
    total = -(-config.total_decisions // rollout) * rollout
    remaining = total - agent.num_timesteps
    if remaining <= 0:
        return math.nan
    with ProgressBar("meta-training", total, agent.num_timesteps) as progress:
        callback = MetaTraining(folder, config.checkpoint_seconds, progress)
        callback.init_callback(agent)
        try:
            agent.learn(remaining, callback=callback, reset_num_timesteps=not resumed)
        finally:
            # Ctrl-C and errors alike: nothing that was learned is lost.
            callback.close()
    return callback.mean_return
