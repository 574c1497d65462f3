"""What holds whoever controls a run: hard bounds and the guard, with every field's range."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from trainpilot.envs.hyperparameters import FACTOR_HEADS
from trainpilot.inner_tasks.errors import require


@dataclass
class BoundsConfig:
    """Hard range of each hyperparameter, whoever sets it.

    Attributes:
        learning_rate_low: in units of Adam's learning rate, > 0.
        learning_rate_high: likewise, at least `learning_rate_low`.
        weight_decay_low: >= 0.
        weight_decay_high: at least `weight_decay_low`.
        momentum_low: >= 0.
        momentum_high: at least `momentum_low`, < 1.
        gradient_clip_low: > 0.
        gradient_clip_high: at least `gradient_clip_low`, and then gradients are always
            clipped; null for no bound, so that clipping can be off.
        batch_size_low: in micro-batches, at least 1.
        batch_size_high: likewise, at least `batch_size_low`. Above 1, each inner step costs a
            little more.
        ema_decay_high: >= 0, < 1; the lowest is 0.
    """

    learning_rate_low: float = 1e-7
    learning_rate_high: float = 1.0
    weight_decay_low: float = 0.0
    weight_decay_high: float = 1.0
    momentum_low: float = 0.0
    momentum_high: float = 0.999
    gradient_clip_low: float = 1e-4
    gradient_clip_high: float | None = None
    batch_size_low: int = 1
    batch_size_high: int = 1
    ema_decay_high: float = 0.99


@dataclass
class GuardConfig:
    """When an inner run has gone wrong, and what is done about it.

    It has diverged when anything is not finite, or exceeds its start as many times as said
    here; null for no such limit. The last three count only where they do so in every micro-batch
    of a decision: a run may come back from a peak by itself. After a roll-back the start of these
    three is the larger of what it was and what the restored weights give: where good weights give
    a high loss, it is the data that has changed.

    Attributes:
        on_divergence: "roll_back" to the end of the last decision in which nothing exceeded
            its limit even for once, or "end".
        shrink: factor of the learning rate from the next decision on, at a roll-back, in
            (0, 1).
        max_roll_backs: in a run, at least 0; then it is ended.
        penalty: of reward for each roll-back, >= 0, where 1 is the whole improvement that the
            task's reference makes.
        max_loss_ratio: of the `valid` loss to that of the initial weights, > 1.
        max_train_loss_ratio: of the train loss to that of the first micro-batch, > 1.
        max_gradient_ratio: of the gradient norm to that of the first micro-batch, > 1.
        max_parameter_ratio: of the parameter norm to that of the initial weights, > 1.
        hopeless_share: it is hopeless when, after `hopeless_after` of its budget, it has made
            less than this share of the improvement that the task's reference had made by then,
            in [0, 1); 0 for never. Only where a reference is known.
        hopeless_after: share of the budget, in (0, 1]; it may be small, since a run is held to
            what the reference reached in the same time.
    """

    on_divergence: str = "roll_back"
    shrink: float = 0.3
    max_roll_backs: int = 3
    penalty: float = 0.2
    max_loss_ratio: float | None = 100.0
    max_train_loss_ratio: float | None = 100.0
    max_gradient_ratio: float | None = 1e3
    max_parameter_ratio: float | None = 1e4
    hopeless_share: float = 0.0
    hopeless_after: float = 0.5


def check_finite(config: Any, name: str) -> None:
    """Check that every number of a configuration is finite, nested ones included.

    Args:
        config: a dataclass.
        name: what errors call it.

    Raises:
        TrainpilotError: naming the first number that is not.
    """
    for each in fields(config):
        value = getattr(config, each.name)
        if is_dataclass(value):
            check_finite(value, f"{name}.{each.name}")
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, float):
                require(math.isfinite(number), f"{name}.{each.name} must be finite", number)


def validate_bounds(bounds: BoundsConfig, called: str = "env.bounds") -> None:
    """Check every range.

    Args:
        bounds: to check.
        called: what errors call them.

    Raises:
        TrainpilotError: naming the first that is none.
    """
    check_finite(bounds, called)
    smallest = {"weight_decay": 0.0, "momentum": 0.0, "batch_size": 1}
    for name in FACTOR_HEADS:
        low, high = getattr(bounds, f"{name}_low"), getattr(bounds, f"{name}_high")
        if name in smallest:
            least = smallest[name]
            require(low >= least, f"{called}.{name}_low must be at least {least:g}", low)
        else:
            require(low > 0, f"{called}.{name}_low must be above 0", low)
        require(
            high is None or low <= high,
            f"{called} must hold {name}_low <= {name}_high",
            f"{low} and {high}",
        )
    momentum = bounds.momentum_high
    require(momentum < 1, f"{called}.momentum_high must be below 1", momentum)
    decay = bounds.ema_decay_high
    require(0 <= decay < 1, f"{called}.ema_decay_high must lie in [0, 1)", decay)


def validate_guard(guard: GuardConfig, called: str = "env.guard") -> None:
    """Check every field's range.

    Args:
        guard: to check.
        called: what errors call it.

    Raises:
        TrainpilotError: naming the first field that is out of range.
    """
    check_finite(guard, called)
    require(
        guard.on_divergence in ("end", "roll_back"),
        f"{called}.on_divergence must be 'end' or 'roll_back'",
        guard.on_divergence,
    )
    require(0 < guard.shrink < 1, f"{called}.shrink must lie in (0, 1)", guard.shrink)
    for name in ("max_roll_backs", "penalty"):
        value = getattr(guard, name)
        require(value >= 0, f"{called}.{name} must be at least 0", value)
    for name in ("loss", "train_loss", "gradient", "parameter"):
        ratio = getattr(guard, f"max_{name}_ratio")
        require(
            ratio is None or ratio > 1, f"{called}.max_{name}_ratio must be above 1, or null", ratio
        )
    share, after = guard.hopeless_share, guard.hopeless_after
    require(0 <= share < 1, f"{called}.hopeless_share must lie in [0, 1)", share)
    require(0 < after <= 1, f"{called}.hopeless_after must lie in (0, 1]", after)
