"""Actions: relative and bounded changes of hyperparameters."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from trainpilot.envs.config import FACTOR_HEADS, ActionConfig, BoundsConfig
from trainpilot.envs.hyperparameters import (
    HYPERPARAMETER_NAMES,
    FloatArray,
    Hyperparameters,
    IntArray,
)
from trainpilot.envs.optimizers import LEARNING_RATE_SCALES, optimizer_index
from trainpilot.inner_tasks.errors import TrainpilotError

#: What a weight decay of 0 becomes when it is raised.
SMALLEST_WEIGHT_DECAY = 1e-4
#: What no gradient clip becomes when it is lowered.
LARGEST_GRADIENT_CLIP = 10.0

_SCALES = np.array(LEARNING_RATE_SCALES)


def relative_learning_rate(hyperparameters: Hyperparameters) -> FloatArray:
    """The learning rate in units of Adam's, comparable among optimizers, `(n_runs,)`."""
    return np.asarray(hyperparameters.learning_rate / _SCALES[hyperparameters.optimizer])


class Head(NamedTuple):
    """One categorical choice of an action.

    Attributes:
        name: the hyperparameter.
        choices: factors of it (of one minus it, for the momentum), or optimizer names.
    """

    name: str
    choices: tuple[float, ...] | tuple[str, ...]


class ActionSpec:
    """Turns actions `(n_runs, n_heads)` of indices into hyperparameters.

    Args:
        config: which hyperparameters are controlled, and by which factors.

    Attributes:
        heads: one for each controlled hyperparameter.
    """

    def __init__(self, config: ActionConfig) -> None:
        offered: dict[str, list[Any]] = {name: getattr(config, name) for name in FACTOR_HEADS}
        offered["optimizer"] = config.optimizers
        self.heads = tuple(
            Head(name, tuple(offered[name])) for name in HYPERPARAMETER_NAMES if offered[name]
        )

    @property
    def n_choices(self) -> list[int]:
        """Number of choices of each head."""
        return [len(head.choices) for head in self.heads]

    def apply(self, current: Hyperparameters, action: IntArray) -> Hyperparameters:
        """The hyperparameters that an action asks for, before bounds.

        A switch of the optimizer rescales learning rate and weight decay, so that neither the
        size of the update nor the decay of the weights jumps.

        Args:
            current: of each run.
            action: index of the choice of each head, `(n_runs, n_heads)`.
        """
        after = current
        for number, head in enumerate(self.heads):
            choice = action[:, number]
            if head.name == "optimizer":
                indices = np.array([optimizer_index(str(name)) for name in head.choices])[choice]
                # Rate times decay is what shrinks the weights: the decay goes the other way.
                scale = _SCALES[indices] / _SCALES[after.optimizer]
                after = replace(
                    after,
                    learning_rate=after.learning_rate * scale,
                    weight_decay=after.weight_decay / scale,
                    optimizer=indices,
                )
                continue
            factor = np.array(head.choices, dtype=np.float64)[choice]
            if head.name == "learning_rate":
                after = replace(after, learning_rate=after.learning_rate * factor)
            elif head.name == "weight_decay":
                raised = np.where(after.weight_decay == 0, SMALLEST_WEIGHT_DECAY, factor)
                decay = np.where(after.weight_decay == 0, 1.0, after.weight_decay) * raised
                untouched = (after.weight_decay == 0) & (factor <= 1)
                after = replace(after, weight_decay=np.where(untouched, 0.0, decay))
            elif head.name == "momentum":
                after = replace(after, momentum=1 - (1 - after.momentum) * factor)
            elif head.name == "gradient_clip":
                lowered = np.isinf(after.gradient_clip) & (factor < 1)
                clip = np.where(lowered, LARGEST_GRADIENT_CLIP, after.gradient_clip * factor)
                after = replace(after, gradient_clip=clip)
            else:
                size = np.maximum(np.rint(after.batch_size * factor), 1)
                after = replace(after, batch_size=size.astype(np.int64))
        return after

    def to_json(self) -> list[dict[str, Any]]:
        """The heads as plain data, for a policy's metadata."""
        return [{"name": head.name, "choices": list(head.choices)} for head in self.heads]

    @classmethod
    def from_json(cls, heads: list[dict[str, Any]]) -> ActionSpec:
        """The spec that `to_json` gave.

        Raises:
            TrainpilotError: if a head is unknown.
        """
        given = {str(head["name"]): list(head["choices"]) for head in heads}
        for name in given:
            if name not in HYPERPARAMETER_NAMES:
                raise TrainpilotError(
                    f"an action may control {', '.join(HYPERPARAMETER_NAMES)}; given: {name}"
                )
        spec = cls(
            ActionConfig(
                **{name: given.get(name, []) for name in FACTOR_HEADS},
                optimizers=given.get("optimizer", []),
            )
        )
        if spec.to_json() != heads:
            # The order of the heads is that of the policy's outputs.
            raise TrainpilotError(
                f"an action's heads must stand in the order {', '.join(HYPERPARAMETER_NAMES)}; "
                f"given: {', '.join(given)}"
            )
        return spec


def clamp(hyperparameters: Hyperparameters, bounds: BoundsConfig) -> Hyperparameters:
    """Hyperparameters moved into their hard ranges; the learning rate in Adam's units."""
    scale = _SCALES[hyperparameters.optimizer]
    clip_high = np.inf if bounds.gradient_clip_high is None else bounds.gradient_clip_high
    return replace(
        hyperparameters,
        learning_rate=np.clip(
            hyperparameters.learning_rate,
            bounds.learning_rate_low * scale,
            bounds.learning_rate_high * scale,
        ),
        weight_decay=np.clip(
            hyperparameters.weight_decay, bounds.weight_decay_low, bounds.weight_decay_high
        ),
        momentum=np.clip(hyperparameters.momentum, bounds.momentum_low, bounds.momentum_high),
        gradient_clip=np.clip(hyperparameters.gradient_clip, bounds.gradient_clip_low, clip_high),
        batch_size=np.clip(
            hyperparameters.batch_size, bounds.batch_size_low, bounds.batch_size_high
        ),
    )
