"""What the arguments of `Pilot.attach` must be."""

from __future__ import annotations

import math
from dataclasses import replace
from numbers import Integral, Real
from typing import Any

import numpy as np

from trainpilot.envs.actions import relative_learning_rate
from trainpilot.envs.hyperparameters import FACTOR_HEADS, Hyperparameters
from trainpilot.envs.limits import BoundsConfig
from trainpilot.inner_tasks.errors import require


def require_counts(**counts: Any) -> None:
    """Each must be None or a whole number of at least 1.

    Raises:
        TrainpilotError: naming the first that is not.
    """
    for name, value in counts.items():
        is_count = isinstance(value, Integral) and int(value) >= 1
        require(
            value is None or is_count, f"{name} must be a whole number of at least 1", repr(value)
        )


def require_seed(seed: Any) -> None:
    """It must be a whole number of at least 0.

    Raises:
        TrainpilotError: if it is not.
    """
    is_seed = isinstance(seed, Integral) and int(seed) >= 0
    require(is_seed, "seed must be a whole number of at least 0", repr(seed))


def require_numbers(**numbers: Any) -> None:
    """Each must be a number.

    Raises:
        TrainpilotError: naming the first that is not.
    """
    for name, value in numbers.items():
        require(isinstance(value, Real), f"{name} must be a number", repr(value))


def require_kind(kind: Any, called: str, **values: Any) -> None:
    """Each must be of a kind.

    Raises:
        TrainpilotError: naming the first that is not.
    """
    for name, value in values.items():
        require(isinstance(value, kind), f"{name} must be {called}", f"a {type(value).__name__}")


def require_functions(**functions: Any) -> None:
    """Each must be None or something to call.

    Raises:
        TrainpilotError: naming the first that is not.
    """
    for name, value in functions.items():
        require(value is None or callable(value), f"{name} must be a function", repr(value))


def require_within(start: Hyperparameters, bounds: BoundsConfig, multiplier: float = 1.0) -> None:
    """A run must begin where the first decision may leave it.

    Args:
        start: of the run, `(1,)` each.
        bounds: of all decisions.
        multiplier: the greatest of the learning rate, of any group (default: 1).

    Raises:
        TrainpilotError: naming the first hyperparameter that is out of its range.
    """
    unit = 1 / float(relative_learning_rate(replace(start, learning_rate=np.ones(1)))[0])
    for field in FACTOR_HEADS:
        name, value = field, start.row(0)[field]
        low, high = getattr(bounds, f"{field}_low"), getattr(bounds, f"{field}_high")
        high = math.inf if high is None else high
        if field == "learning_rate":
            name, low, high = "lr", low * unit, high * unit
            # What a group has beyond the run's; less is its own affair.
            value = value * multiplier if value * multiplier > high else value
        if field == "gradient_clip" and value == math.inf:
            # No clip is none to begin with, whatever comes later.
            continue
        require(
            low <= value <= high,
            f"{name} must lie within the bounds, {low:g} to {high:g} (others: attach's bounds)",
            value,
        )
    decay, high = start.row(0)["ema_decay"], bounds.ema_decay_high
    within = f"ema_decay must lie within the bounds, 0 to {high:g} (others: attach's bounds)"
    require(0 <= decay <= high, within, decay)
