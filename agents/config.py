"""Typed configuration of the commands; `conf/` holds what is composed from it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

from trainpilot.envs.config import EnvConfig
from trainpilot.envs.limits import check_finite
from trainpilot.inner_tasks.errors import require


@dataclass
class SuiteConfig:
    """A named list of inner tasks.

    Attributes:
        name: of the suite.
        tasks: configuration of each task, by name.
    """

    name: str = MISSING
    tasks: dict[str, Any] = field(default_factory=dict)


@dataclass
class AgentConfig:
    """Stable-Baselines3 PPO (Schulman et al., arXiv 1707.06347).

    A rollout is as many decisions as the longest inner run has, in every row:
    `rollout = rows of a task * number of tasks * env.decisions` decisions.

    Attributes:
        total_decisions: decisions to learn from, rounded up to whole rollouts; at least 1.
        runs_per_task: rows for each task, at least 1.
        horizons: micro-batches between two decisions in each of a task's rows, each at least 1, so
            that a policy learns from runs of several lengths: with `[10, 10, 33]` a task has three
            rows, one of which trains more than three times as long. References are measured with
            the first. Empty for `runs_per_task` rows with `env.micro_batches_per_decision`.
        batch_size: decisions in a mini-batch of PPO, at least 2.
        n_epochs: passes over a rollout, at least 1.
        learning_rate: of PPO at its start, falling linearly to a tenth; > 0.
        gamma: discount of a decision, in (0, 1].
        gae_lambda: of generalised advantage estimation (arXiv 1506.02438), in [0, 1].
        clip_range: of PPO's ratio, > 0.
        entropy_coefficient: weight of the entropy bonus, >= 0.
        keep_bias: how much more a new policy is inclined to leave a hyperparameter as it is than to
            any other choice, as a difference of logits, >= 0; of choices that contain the factor
            1, or "keep" for the optimizer.
        hidden: widths of the hidden layers of policy and value.
        normalise_observations: give every feature mean 0 and deviation 1 over all decisions so
            far, before it is clipped to 5; if false, features are clipped as they are.
        normalise_by_reference: give each task's reward in units of what the best of a grid of
            fixed configurations reaches; costs a sweep of the grid at the start. Rewards that
            need a reference measure it in any case.
        checkpoint_seconds: least time between two checkpoints (seconds), >= 0.
        n_workers: processes that the inner runs are spread over, as many as cores at best;
            0 for none but this one. The result does not depend on it.
    """

    total_decisions: int = 1_000_000
    runs_per_task: int = 8
    horizons: list[int] = field(default_factory=list)
    batch_size: int = 720
    n_epochs: int = 6
    learning_rate: float = 1e-3
    gamma: float = 0.99
    gae_lambda: float = 0.95
    clip_range: float = 0.2
    entropy_coefficient: float = 0.01
    keep_bias: float = 0.0
    hidden: list[int] = field(default_factory=lambda: [64, 64])
    normalise_observations: bool = True
    normalise_by_reference: bool = True
    checkpoint_seconds: float = 20.0
    n_workers: int = 0

    def validate(self) -> None:
        """Check every field's range.

        Raises:
            TrainpilotError: naming the first field that is out of range.
        """
        check_finite(self, "agent")
        for name, least in (
            ("total_decisions", 1),
            ("runs_per_task", 1),
            ("batch_size", 2),
            ("n_epochs", 1),
            ("entropy_coefficient", 0),
            ("keep_bias", 0),
            ("checkpoint_seconds", 0),
            ("n_workers", 0),
        ):
            value = getattr(self, name)
            require(value >= least, f"agent.{name} must be at least {least}", value)
        require(
            all(interval >= 1 for interval in self.horizons),
            "agent.horizons must hold at least 1 micro-batch for each row",
            list(self.horizons),
        )
        for name in ("learning_rate", "clip_range"):
            value = getattr(self, name)
            require(value > 0, f"agent.{name} must be above 0", value)
        require(0 < self.gamma <= 1, "agent.gamma must lie in (0, 1]", self.gamma)
        require(0 <= self.gae_lambda <= 1, "agent.gae_lambda must lie in [0, 1]", self.gae_lambda)
        require(
            all(width >= 1 for width in self.hidden),
            "agent.hidden must hold widths of at least 1",
            list(self.hidden),
        )

    def rows_by_interval(self, env: EnvConfig) -> dict[int, int]:
        """Rows of each task by the micro-batches between two decisions, the reference's first.

        Args:
            env: has the interval where there are no `horizons`.
        """
        return Counter(self.horizons) or {env.micro_batches_per_decision: self.runs_per_task}


def check_seed(seed: int) -> None:
    """Check that every generator takes the seed.

    Raises:
        TrainpilotError: if it is out of range.
    """
    require(0 <= seed < 2**32, f"seed must lie between 0 and {2**32 - 1}", seed)


@dataclass
class TrainConfig:
    """`trainpilot train`.

    Attributes:
        suite: tasks to learn from.
        env: the environment; `env=meta_training` starts runs at random.
        agent: PPO.
        seed: of everything random.
        resume: go on from the last checkpoint in the run's folder.
        references: a `references.json` that was measured in the same environment: its tasks are
            not measured again; null for none. Families' tasks are measured as they are drawn and
            written by none but `benchmarks/ablations.py`.
    """

    suite: SuiteConfig = field(default_factory=SuiteConfig)
    env: EnvConfig = field(default_factory=EnvConfig)
    agent: AgentConfig = field(default_factory=AgentConfig)
    seed: int = 0
    resume: bool = False
    references: str | None = None


@dataclass
class DeployConfig:
    """`trainpilot deploy`.

    Attributes:
        task: the task to train, as `_target_` and its arguments.
        controller: who decides: one entry, by name.
        policy: "default" or "rate_only", or the path of a `policy.safetensors`.
        env: budget, start, bounds and guard of the training.
        farthest: distance from what the policy was trained on beyond which a straight line to 0
            decides on the learning rate in its place; null for never.
        seed: of initial weights and data order.
    """

    task: Any = MISSING
    controller: dict[str, Any] = field(default_factory=dict)
    policy: str = "default"
    env: EnvConfig = field(default_factory=EnvConfig)
    farthest: float | None = 2.0
    seed: int = 0


#: What speed-ups are against: Adam at its default; the best constant and the best cosine over
#: `meta_train`; the best constant of a grid on the very task, in hindsight.
REFERENCES = ("adam_default", "shared_fixed", "shared_cosine", "oracle_fixed")


@dataclass
class EvaluateConfig:
    """`trainpilot evaluate`.

    Attributes:
        suite: tasks to evaluate on.
        task: one task instead of the suite.
        controller: who is compared, by name.
        method: what is compared that is no controller, by name: other optimizers, searches.
        policy: "default" or "rate_only", or the path of a `policy.safetensors`.
        env: the environment.
        n_seeds: runs for each task and controller, at least 1.
        tasks_of_family: tasks that stand for a family of the suite, at least 1.
        seed: the first of the seeds.
        references: what speed-ups are against, of `REFERENCES`; what they need runs along.
        algoperf_reference: the one of them whose target the AlgoPerf score is for; null for
            shared_fixed, or adam_default where that is not among them.
        ablations: compare the policy with itself without feedback, in another order, by parts.
        energy_watts: power of the machine for each process (W), for an estimate of the energy;
            null for none.
        n_workers: processes; null for as many as cores, 0 for none but this one.
        cache: folder of finished runs, which are not made again; null for none.
    """

    suite: SuiteConfig = field(default_factory=SuiteConfig)
    task: Any = None
    controller: dict[str, Any] = field(default_factory=dict)
    method: dict[str, Any] = field(default_factory=dict)
    policy: str = "default"
    env: EnvConfig = field(default_factory=EnvConfig)
    n_seeds: int = 10
    tasks_of_family: int = 4
    seed: int = 0
    references: list[str] = field(default_factory=lambda: list(REFERENCES))
    algoperf_reference: str | None = None
    ablations: bool = True
    energy_watts: float | None = None
    n_workers: int | None = None
    cache: str | None = "outputs/cache"

    def validate(self) -> None:
        """Check every field's range.

        Raises:
            TrainpilotError: naming the first field that is out of range.
        """
        require(self.n_seeds >= 1, "n_seeds must be at least 1", self.n_seeds)
        check_seed(self.seed)
        last = self.seed + self.n_seeds
        require(last <= 2**32, f"seed + n_seeds must be at most {2**32}", last)
        require(
            self.n_workers is None or self.n_workers >= 0,
            "n_workers must be null or at least 0",
            self.n_workers,
        )
        require(
            self.energy_watts is None or self.energy_watts > 0,
            "energy_watts must be null or above 0",
            self.energy_watts,
        )
        require(
            "adam_default" in self.references,
            "references must hold adam_default",
            ", ".join(self.references) or "none",
        )
        require(
            self.algoperf_reference in (None, *self.references),
            f"algoperf_reference must be one of the references, {', '.join(self.references)}",
            self.algoperf_reference,
        )
        self.env.validate()


@dataclass
class CheckTaskConfig:
    """`trainpilot check-task`.

    Attributes:
        task: the task to check, as `_target_` and its arguments.
        env: the environment; of it, what trains the runs.
    """

    task: Any = MISSING
    env: EnvConfig = field(default_factory=EnvConfig)


def register_configs() -> None:
    """Make the typed configurations known to Hydra under the names used in `conf/`."""
    store = ConfigStore.instance()
    for name, node in (
        ("train_schema", TrainConfig),
        ("deploy_schema", DeployConfig),
        ("evaluate_schema", EvaluateConfig),
        ("check_task_schema", CheckTaskConfig),
    ):
        store.store(name=name, node=node)
