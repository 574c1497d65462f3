"""Configuration of the environment: every field with its meaning, range and default."""

from __future__ import annotations

from dataclasses import dataclass, field

from trainpilot.envs.hyperparameters import FACTOR_HEADS
from trainpilot.envs.limits import (
    BoundsConfig,
    GuardConfig,
    check_finite,
    validate_bounds,
    validate_guard,
)
from trainpilot.envs.optimizers import KEEP, OPTIMIZER_NAMES, menu, optimizer_index
from trainpilot.envs.stage import SCHEDULES
from trainpilot.inner_tasks.errors import require, unknown

#: The rewards to choose from (`trainpilot.envs.rewards`).
REWARD_NAMES = ("log_improvement", "area_under_curve", "time_to_target", "over_reference")


@dataclass
class StartConfig:
    """How an inner run starts; drawn anew for each run.

    Attributes:
        optimizers: one of these, at random; at least one.
        learning_rate_low: the learning rate is drawn log-uniformly from here, in units of
            Adam's learning rate (an optimizer's own is this times its scale); > 0.
        learning_rate_high: to here; at least `learning_rate_low`.
        weight_decay: decoupled weight decay, >= 0.
        momentum: SGD's momentum, beta1 of Adam and Lion, in [0, 1).
        gradient_clip: largest norm of the gradient, > 0; null for none.
        batch_size: micro-batches in an update, at least 1.
        ema_decay: share of the earlier average in the moving average of the weights that
            evaluations see, in [0, 1); 0 for the weights themselves.
        shortest_budget: share of the whole budget that a run has at least, in (0, 1]; its
            decisions are drawn uniformly from there.
    """

    optimizers: list[str] = field(default_factory=lambda: ["adam"])
    learning_rate_low: float = 1e-3
    learning_rate_high: float = 1e-3
    weight_decay: float = 0.0
    momentum: float = 0.9
    gradient_clip: float | None = None
    batch_size: int = 1
    ema_decay: float = 0.0
    shortest_budget: float = 1.0


@dataclass
class ObservationConfig:
    """What of a run a policy sees; what is dropped is drawn anew for each run.

    Attributes:
        hidden: names of features that are always 0 (`trainpilot.envs.observation`).
        drop_budget: probability that a run's whole budget is not known, in [0, 1].
        drop_valid: that there is no validation set, and so no accuracy, in [0, 1].
        drop_accuracy: that there is no accuracy, in [0, 1].
    """

    hidden: list[str] = field(default_factory=list)
    drop_budget: float = 0.0
    drop_valid: float = 0.0
    drop_accuracy: float = 0.0


@dataclass
class ActionConfig:
    """Which hyperparameters a learned policy controls; an empty list switches one off.

    Attributes:
        learning_rate: factors of the learning rate, each > 0.
        weight_decay: factors of the weight decay, each > 0.
        momentum: factors of one minus the momentum, each > 0.
        gradient_clip: factors of the largest gradient norm, each > 0.
        batch_size: factors of the batch size, each > 0; needs `BoundsConfig.batch_size_high`
            above `batch_size_low`.
        ema_decay: decays of the average of the weights to choose among, each in [0, 1); one alone
            is what every run has.
        optimizers: names to choose among; "keep" for the one that is in use.
        continuous: actions are numbers (`Box`) between the smallest and the largest factor,
            not choices (`MultiDiscrete`); for algorithms that want them.
        learning_rate_ceiling: to which a factor may raise the learning rate, in units of Adam's,
            > 0; one that is above it already may fall or stay. Unlike a bound it is part of the
            action, and of a policy that has learned with it. Null for none.
        learning_rate_schedule: along which the learning rate falls over a run whose budget is
            observed, unless a factor says otherwise: "cosine" (half of one, to 0), or null for
            none. The ceiling falls with it. Part of the action, as the ceiling is.
        momentum_floor: to which a factor may lower the momentum, in [0, 1); one that is below it
            already may rise or stay. Part of the action, as the ceiling is.
    """

    learning_rate: list[float] = field(default_factory=lambda: [0.35, 0.7, 1.0, 1.4, 2.8])
    weight_decay: list[float] = field(default_factory=list)
    momentum: list[float] = field(default_factory=list)
    gradient_clip: list[float] = field(default_factory=list)
    batch_size: list[float] = field(default_factory=list)
    ema_decay: list[float] = field(default_factory=list)
    optimizers: list[str] = field(default_factory=lambda: ["sgd", "adam", "rmsprop"])
    continuous: bool = False
    learning_rate_ceiling: float | None = None
    learning_rate_schedule: str | None = None
    momentum_floor: float = 0.0


@dataclass
class RewardConfig:
    """The reward of a decision.

    Attributes:
        name: which reward, one of `REWARD_NAMES` (formulas: `trainpilot.envs.rewards`).
        area_weight: weight of the area under the curve beside the improvement, >= 0; of
            "log_improvement" and "over_reference".
        shaping: share of the charge that grows with the distance to the target, in [0, 1]; of
            "time_to_target". 0 for the time alone.
        switch_cost: price of a change of the optimizer, >= 0, where 1 is the whole
            improvement that the task's reference makes ("time_to_target": the whole budget).
    """

    name: str = "log_improvement"
    area_weight: float = 1.0
    shaping: float = 0.5
    switch_cost: float = 0.01


@dataclass
class EnvConfig:
    """The training of an inner model as an environment.

    The budget of an inner run is `decisions * micro_batches_per_decision` micro-batches.

    Attributes:
        decisions: decisions in an inner run, at least 1.
        micro_batches_per_decision: inner steps between two decisions, at least 1.
        evaluation_size: most examples of `valid` and of `outer_valid` used after each
            decision, at least 1.
        compiled: True for the fastest way to train: common layers by C++ of our own, other
            models by torch.compile, which takes some ten seconds at the start of each task.
            None for the same, but torch.compile only in a meta-training that is long enough.
            False for plain operations of torch.
        optimizers: those that runs may use; the moments of each take memory and time.
        mixed_precision: run inner models in bfloat16 where `torch.autocast` holds that safe.
        device: where inner runs live, "cpu" or "cuda".
        start: how a run starts.
        observation: what a learned policy sees.
        actions: what a learned policy controls.
        bounds: hard ranges.
        reward: the reward.
        guard: what is done about a run that has gone wrong.
    """

    decisions: int = 30
    micro_batches_per_decision: int = 10
    evaluation_size: int = 128
    compiled: bool | None = None
    optimizers: list[str] = field(default_factory=lambda: list(OPTIMIZER_NAMES))
    mixed_precision: bool = False
    device: str = "cpu"
    start: StartConfig = field(default_factory=StartConfig)
    observation: ObservationConfig = field(default_factory=ObservationConfig)
    actions: ActionConfig = field(default_factory=ActionConfig)
    bounds: BoundsConfig = field(default_factory=BoundsConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    guard: GuardConfig = field(default_factory=GuardConfig)

    @property
    def n_micro_batches(self) -> int:
        """The inner budget of a run, in micro-batches."""
        return self.decisions * self.micro_batches_per_decision

    def validate(self) -> None:
        """Check every field's range.

        Raises:
            TrainpilotError: naming the first field that is out of range.
        """
        check_finite(self, "env")
        for name in ("decisions", "micro_batches_per_decision", "evaluation_size"):
            require(getattr(self, name) >= 1, f"env.{name} must be at least 1", getattr(self, name))
        _validate_start(self.start)
        _validate_actions(self.actions)
        allowed = menu(self.optimizers)
        named = [name for name in self.actions.optimizers if name != KEEP]
        wanted = [*self.start.optimizers, *named]
        for name in wanted:
            require(
                optimizer_index(name) in allowed,
                "env.start.optimizers and env.actions.optimizers must be among env.optimizers, "
                + ", ".join(self.optimizers),
                name,
            )
        bounds = self.bounds
        validate_bounds(bounds)
        # Or a policy would learn to set what the bounds hold where it is.
        require(
            not self.actions.batch_size or bounds.batch_size_low < bounds.batch_size_high,
            "env.actions.batch_size needs env.bounds.batch_size_high above "
            f"env.bounds.batch_size_low, {bounds.batch_size_low}",
            bounds.batch_size_high,
        )
        require(
            self.start.batch_size <= bounds.batch_size_high,
            f"env.start.batch_size must be at most env.bounds.batch_size_high, "
            f"{bounds.batch_size_high}",
            self.start.batch_size,
        )
        for name in ("drop_budget", "drop_valid", "drop_accuracy"):
            share = getattr(self.observation, name)
            require(0 <= share <= 1, f"env.observation.{name} must lie in [0, 1]", share)
        _validate_reward(self.reward)
        validate_guard(self.guard)


def _validate_start(start: StartConfig) -> None:
    require(len(start.optimizers) > 0, "env.start.optimizers must name an optimizer", "none")
    for name in start.optimizers:
        optimizer_index(name)
    low, high = start.learning_rate_low, start.learning_rate_high
    require(
        0 < low <= high,
        "env.start must hold 0 < learning_rate_low <= learning_rate_high",
        f"{low} and {high}",
    )
    require(
        start.weight_decay >= 0, "env.start.weight_decay must be at least 0", start.weight_decay
    )
    require(0 <= start.momentum < 1, "env.start.momentum must lie in [0, 1)", start.momentum)
    clip = start.gradient_clip
    require(clip is None or clip > 0, "env.start.gradient_clip must be above 0, or null", clip)
    shortest = start.shortest_budget
    require(0 < shortest <= 1, "env.start.shortest_budget must lie in (0, 1]", shortest)
    require(start.batch_size >= 1, "env.start.batch_size must be at least 1", start.batch_size)
    require(0 <= start.ema_decay < 1, "env.start.ema_decay must lie in [0, 1)", start.ema_decay)


def _validate_reward(reward: RewardConfig) -> None:
    if reward.name not in REWARD_NAMES:
        raise unknown("reward", reward.name, REWARD_NAMES)
    for name in ("area_weight", "switch_cost"):
        weight = getattr(reward, name)
        require(weight >= 0, f"env.reward.{name} must be at least 0", weight)
    shaping = reward.shaping
    require(0 <= shaping <= 1, "env.reward.shaping must lie in [0, 1]", shaping)


def _validate_actions(actions: ActionConfig) -> None:
    for name in FACTOR_HEADS:
        factors = list(getattr(actions, name))
        require(
            all(factor > 0 for factor in factors),
            f"env.actions.{name} must hold factors above 0",
            factors,
        )
    require(
        all(0 <= decay < 1 for decay in actions.ema_decay),
        "env.actions.ema_decay must hold decays in [0, 1)",
        list(actions.ema_decay),
    )
    ceiling = actions.learning_rate_ceiling
    require(
        ceiling is None or ceiling > 0,
        "env.actions.learning_rate_ceiling must be a number above 0, or null for none",
        ceiling,
    )
    require(
        ceiling is None or bool(actions.learning_rate),
        "env.actions.learning_rate_ceiling needs factors in env.actions.learning_rate",
        "none",
    )
    schedule = actions.learning_rate_schedule
    require(
        schedule in (None, *SCHEDULES),
        f"env.actions.learning_rate_schedule must be {' or '.join(SCHEDULES)}, or null for none",
        schedule,
    )
    require(
        schedule is None or bool(actions.learning_rate),
        "env.actions.learning_rate_schedule needs factors in env.actions.learning_rate",
        "none",
    )
    floor = actions.momentum_floor
    require(0 <= floor < 1, "env.actions.momentum_floor must lie in [0, 1)", floor)
    require(
        floor == 0 or bool(actions.momentum),
        "env.actions.momentum_floor needs factors in env.actions.momentum",
        "none",
    )
    for name in actions.optimizers:
        if name != KEEP:
            optimizer_index(name)
    require(
        set(actions.optimizers) != {KEEP} and actions.optimizers.count(KEEP) <= 1,
        f"env.actions.optimizers must name '{KEEP}' once at most, and an optimizer beside it",
        actions.optimizers,
    )
    require(
        any(getattr(actions, name) for name in (*FACTOR_HEADS, "ema_decay", "optimizers")),
        "env.actions must leave at least one hyperparameter to control",
        "none",
    )
