"""Actions: relative and bounded changes of hyperparameters."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple, cast

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from trainpilot.envs.config import ActionConfig
from trainpilot.envs.hyperparameters import (
    FACTOR_HEADS,
    HYPERPARAMETER_NAMES,
    FloatArray,
    Hyperparameters,
    IntArray,
)
from trainpilot.envs.limits import BoundsConfig
from trainpilot.envs.optimizers import KEEP, LEARNING_RATE_SCALES, optimizer_index
from trainpilot.envs.stage import NOTHING_FALLS, SCHEDULES, Stage
from trainpilot.inner_tasks.errors import TrainpilotError, require

#: What a weight decay of 0 becomes when it is raised.
SMALLEST_WEIGHT_DECAY = 1e-4
#: What no gradient clip becomes when it is lowered.
LARGEST_GRADIENT_CLIP = 10.0

#: Indices or numbers, as `ActionSpec.space` has them, `(n_runs, ...)`.
Action = NDArray[Any]


def relative_learning_rate(hyperparameters: Hyperparameters) -> FloatArray:
    """The learning rate in units of Adam's, comparable among optimizers, `(n_runs,)`."""
    return np.asarray(hyperparameters.learning_rate / _scale(hyperparameters.optimizer))


def _scale(optimizer: IntArray) -> FloatArray:
    """Learning rates that are Adam's 1, of optimizers by their indices."""
    return np.array(LEARNING_RATE_SCALES)[optimizer]


class Head(NamedTuple):
    """One categorical choice of an action.

    Attributes:
        name: the hyperparameter.
        choices: factors of it (of one minus it, for the momentum), decays of the average of the
            weights, or optimizer names, of which one may be `KEEP`.
        ceiling: to which a factor may raise the learning rate, in units of Adam's; infinite for
            none.
        schedule: of `SCHEDULES`, along which the learning rate falls unless a factor says
            otherwise; None for none.
        floor: to which a factor may lower the momentum; 0 for none.
    """

    name: str
    choices: tuple[float, ...] | tuple[str, ...]
    ceiling: float = np.inf
    schedule: str | None = None
    floor: float = 0.0

    @property
    def keep_place(self) -> int | None:
        """The place of the choice that changes nothing, `KEEP` or the factor 1; None without it."""
        if self.name == "ema_decay":
            return None
        same: float | str = KEEP if self.name == "optimizer" else 1.0
        return list(self.choices).index(same) if same in self.choices else None

    def least_change(self, current: Hyperparameters) -> IntArray:
        """The place of the choice of each run that changes least, `(n_runs,)`.

        Args:
            current: of each run.
        """
        if self.keep_place is not None:
            return np.full(current.n_runs, self.keep_place)
        if self.name == "optimizer":
            return np.asarray((self.optimizers == current.optimizer[:, None]).argmax(1))
        numbers = np.array(self.choices, dtype=np.float64)
        if self.name == "ema_decay":
            return np.asarray(np.abs(numbers - current.ema_decay[:, None]).argmin(1))
        return np.full(current.n_runs, np.abs(np.log(numbers)).argmin())

    @property
    def optimizers(self) -> IntArray:
        """Indices of the optimizers that are the choices, -1 for `KEEP`."""
        names = [str(choice) for choice in self.choices]
        return np.array([-1 if name == KEEP else optimizer_index(name) for name in names])


class ActionSpec:
    """Turns actions into hyperparameters.

    Args:
        config: which hyperparameters are controlled, by which factors, and whether by choices
            or by continuous numbers.

    Attributes:
        heads: one for each controlled hyperparameter.
        space: of the actions of one run. `MultiDiscrete`: the index of each head's choice.
            `Box` where they are continuous: a number in [-1, 1] for each factor, which is its
            place between the smallest one (-1), no change (0) and the largest one (1) by the
            logarithm, one for the average's decay, its place between the smallest (-1) and the
            largest (1), and one for each optimizer, of which the largest wins.
    """

    def __init__(self, config: ActionConfig) -> None:
        offered: dict[str, list[Any]] = {name: getattr(config, name) for name in FACTOR_HEADS}
        offered |= {"ema_decay": config.ema_decay, "optimizer": config.optimizers}
        ceiling = config.learning_rate_ceiling
        limits: dict[str, dict[str, Any]] = {
            "learning_rate": {
                "ceiling": np.inf if ceiling is None else float(ceiling),
                "schedule": config.learning_rate_schedule,
            },
            "momentum": {"floor": float(config.momentum_floor)},
        }
        self.heads = tuple(
            Head(name, tuple(offered[name]), **limits.get(name, {}))
            for name in HYPERPARAMETER_NAMES
            if offered[name]
        )
        self.continuous = config.continuous
        self.space: spaces.Space[Action] = self._space()

    def _space(self) -> spaces.Space[Action]:
        if not self.continuous:
            return cast("spaces.Space[Action]", spaces.MultiDiscrete(self.n_choices))
        n_numbers = sum(self._widths())
        return cast("spaces.Space[Action]", spaces.Box(-1, 1, (n_numbers,), np.float32))

    def _widths(self) -> list[int]:
        """Numbers of a continuous action that each head takes."""
        return [len(head.choices) if head.name == "optimizer" else 1 for head in self.heads]

    @property
    def n_choices(self) -> list[int]:
        """Number of choices of each head."""
        return [len(head.choices) for head in self.heads]

    def draw(self, generator: np.random.Generator, n_runs: int) -> Action:
        """Actions at random, each as likely, `(n_runs, ...)`."""
        if self.continuous:
            numbers = generator.uniform(-1, 1, size=(n_runs, sum(self._widths())))
            return numbers.astype(np.float32)
        return generator.integers(self.n_choices, size=(n_runs, len(self.heads)))

    def apply(
        self, current: Hyperparameters, action: Action, stage: Stage = NOTHING_FALLS
    ) -> Hyperparameters:
        """The hyperparameters that an action asks for, before bounds.

        A switch of the optimizer rescales learning rate and weight decay, so that neither the
        size of the update nor the decay of the weights jumps.

        Args:
            current: of each run.
            action: of each run, as `space` has it, `(n_runs, ...)`.
            stage: of each run on the schedule, where there is one (default: where nothing falls).
        """
        after = current
        for head, wanted in zip(
            self.heads, self._wanted(action.astype(self.space.dtype)), strict=True
        ):
            if head.schedule is not None:
                # Factors and ceiling are of the rate that it would have without the schedule.
                after = _scaled(after, 1 / np.asarray(stage.before))
            before, after = after, _CHANGES[head.name](after, wanted)
            if head.name == "learning_rate":
                after = _not_raised_above(head.ceiling, before, after)
            if head.floor > 0:
                least = np.minimum(before.momentum, head.floor)
                after = replace(after, momentum=np.maximum(after.momentum, least))
            if head.schedule is not None:
                after = _scaled(after, stage.now)
        return after

    def _wanted(self, action: Action) -> Iterator[NDArray[Any]]:
        """For each head, the factor, decay or index of the optimizer that each run asks for."""
        if self.continuous:
            parts = np.split(action, np.cumsum(self._widths())[:-1], axis=1)
        else:
            parts = np.split(action, action.shape[1], axis=1)
        for head, part in zip(self.heads, parts, strict=True):
            if head.name == "optimizer":
                yield head.optimizers[part.argmax(1) if self.continuous else part[:, 0]]
            else:
                numbers = np.array(head.choices, dtype=np.float64)
                between = _decay_between if head.name == "ema_decay" else _between
                yield between(numbers, part[:, 0]) if self.continuous else numbers[part[:, 0]]

    def to_json(self) -> list[dict[str, Any]]:
        """The heads as plain data, for the metadata of a policy that chooses."""
        return [
            {"name": head.name, "choices": list(head.choices)}
            | ({} if np.isinf(head.ceiling) else {"ceiling": head.ceiling})
            | ({} if head.schedule is None else {"schedule": head.schedule})
            | ({} if head.floor == 0 else {"floor": head.floor})
            for head in self.heads
        ]

    @classmethod
    def from_json(cls, heads: list[dict[str, Any]]) -> ActionSpec:
        """The spec that `to_json` gave.

        Raises:
            TrainpilotError: if a head is unknown, in another order, or has a ceiling, a schedule
                or a floor that is none.
        """
        given = {str(head["name"]): list(head["choices"]) for head in heads}
        for name in given:
            if name not in HYPERPARAMETER_NAMES:
                raise TrainpilotError(
                    f"an action may control {', '.join(HYPERPARAMETER_NAMES)}; given: {name}"
                )
        config = ActionConfig(
            ema_decay=given.get("ema_decay", []), optimizers=given.get("optimizer", [])
        )
        for name in FACTOR_HEADS:
            setattr(config, name, given.get(name, []))
        for head in heads:
            if "ceiling" in head:
                ceiling = head["ceiling"]
                require(
                    head["name"] == "learning_rate"
                    and type(ceiling) in (int, float)
                    and 0 < ceiling <= sys.float_info.max,
                    "an action's ceiling must be a number above 0, of the learning_rate",
                    f"{ceiling!r}, of {head['name']}",
                )
                config.learning_rate_ceiling = ceiling
            if "schedule" in head:
                require(
                    head["name"] == "learning_rate" and head["schedule"] in SCHEDULES,
                    f"an action's schedule must be {' or '.join(SCHEDULES)}, of the learning_rate",
                    f"{head['schedule']!r}, of {head['name']}",
                )
                config.learning_rate_schedule = head["schedule"]
            if "floor" in head:
                floor = head["floor"]
                require(
                    head["name"] == "momentum" and type(floor) in (int, float) and 0 < floor < 1,
                    "an action's floor must be a number between 0 and 1, of the momentum",
                    f"{floor!r}, of {head['name']}",
                )
                config.momentum_floor = floor
        require(
            all(type(decay) in (int, float) and 0 <= decay < 1 for decay in config.ema_decay),
            "an action's ema_decay must hold decays in [0, 1)",
            config.ema_decay,
        )
        spec = cls(config)
        if spec.to_json() != heads:
            # The order of the heads is that of the policy's outputs.
            raise TrainpilotError(
                f"an action's heads must stand in the order {', '.join(HYPERPARAMETER_NAMES)}; "
                f"given: {', '.join(given)}"
            )
        return spec


def _place(numbers: FloatArray) -> FloatArray:
    """What a continuous action says, in [-1, 1]."""
    return np.clip(np.nan_to_num(numbers.astype(np.float64)), -1, 1)


def _decay_between(decays: FloatArray, place: FloatArray) -> FloatArray:
    """The decay at a place from -1 (the smallest) to 1 (the largest)."""
    return np.asarray(np.interp(_place(place), (-1, 1), (decays.min(), decays.max())))


def _between(factors: FloatArray, place: FloatArray) -> FloatArray:
    """The factor at a place from -1 (the smallest) over 0 (none) to 1 (the largest)."""
    place = _place(place)
    lowest, highest = np.log(min(factors.min(), 1.0)), np.log(max(factors.max(), 1.0))
    return np.asarray(np.exp(np.where(place < 0, -place * lowest, place * highest)))


def _scaled(current: Hyperparameters, factor: FloatArray | float) -> Hyperparameters:
    return replace(current, learning_rate=current.learning_rate * factor)


def _not_raised_above(
    ceiling: float, before: Hyperparameters, after: Hyperparameters
) -> Hyperparameters:
    most = np.maximum(before.learning_rate, ceiling * _scale(before.optimizer))
    return replace(after, learning_rate=np.minimum(after.learning_rate, most))


def _switched(current: Hyperparameters, wanted: IntArray) -> Hyperparameters:
    optimizer = np.where(wanted < 0, current.optimizer, wanted)
    # Rate times decay is what shrinks the weights: the decay goes the other way.
    scale = _scale(optimizer) / _scale(current.optimizer)
    return replace(
        current,
        learning_rate=current.learning_rate * scale,
        weight_decay=current.weight_decay / scale,
        optimizer=optimizer,
    )


def _decayed(current: Hyperparameters, factor: FloatArray) -> Hyperparameters:
    raised = np.where(current.weight_decay == 0, SMALLEST_WEIGHT_DECAY, factor)
    decay = np.where(current.weight_decay == 0, 1.0, current.weight_decay) * raised
    untouched = (current.weight_decay == 0) & (factor <= 1)
    return replace(current, weight_decay=np.where(untouched, 0.0, decay))


def _clipped(current: Hyperparameters, factor: FloatArray) -> Hyperparameters:
    lowered = np.isinf(current.gradient_clip) & (factor < 1)
    clip = np.where(lowered, LARGEST_GRADIENT_CLIP, current.gradient_clip * factor)
    return replace(current, gradient_clip=clip)


def _batched(current: Hyperparameters, factor: FloatArray) -> Hyperparameters:
    size = np.maximum(np.rint(current.batch_size * factor), 1)
    return replace(current, batch_size=size.astype(np.int64))


#: What a factor, a decay or the index of an optimizer does to the hyperparameters.
_CHANGES: dict[str, Callable[[Hyperparameters, NDArray[Any]], Hyperparameters]] = {
    "learning_rate": _scaled,
    "weight_decay": _decayed,
    "momentum": lambda now, factor: replace(now, momentum=1 - (1 - now.momentum) * factor),
    "gradient_clip": _clipped,
    "batch_size": _batched,
    "ema_decay": lambda now, decay: replace(now, ema_decay=decay),
    "optimizer": _switched,
}


def clamp_rates(rates: FloatArray, optimizer: IntArray, bounds: BoundsConfig) -> FloatArray:
    """Learning rates moved into their hard range, which is in Adam's units.

    Args:
        rates: one or more for each run, `(n_runs, ...)`.
        optimizer: index of each run's, `(n_runs,)`.
        bounds: the ranges.
    """
    scale = _scale(optimizer).reshape(-1, *[1] * (rates.ndim - 1))
    return np.clip(rates, bounds.learning_rate_low * scale, bounds.learning_rate_high * scale)


def clamp(hyperparameters: Hyperparameters, bounds: BoundsConfig) -> Hyperparameters:
    """Hyperparameters moved into their hard ranges; the learning rate in Adam's units."""
    clip_high = np.inf if bounds.gradient_clip_high is None else bounds.gradient_clip_high
    return replace(
        hyperparameters,
        learning_rate=clamp_rates(hyperparameters.learning_rate, hyperparameters.optimizer, bounds),
        weight_decay=np.clip(
            hyperparameters.weight_decay, bounds.weight_decay_low, bounds.weight_decay_high
        ),
        momentum=np.clip(hyperparameters.momentum, bounds.momentum_low, bounds.momentum_high),
        gradient_clip=np.clip(hyperparameters.gradient_clip, bounds.gradient_clip_low, clip_high),
        batch_size=np.clip(
            hyperparameters.batch_size, bounds.batch_size_low, bounds.batch_size_high
        ),
        ema_decay=np.clip(hyperparameters.ema_decay, 0, bounds.ema_decay_high),
    )
