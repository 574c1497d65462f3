"""Parameter groups: what a user sets apart stays apart, whatever is decided."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor, nn

from trainpilot.envs.hyperparameters import Hyperparameters
from trainpilot.envs.optimizers import (
    EPSILON,
    LEARNING_RATE_SCALES,
    OPTIMIZER_NAMES,
    RMSPROP_ALPHA,
)
from trainpilot.inner_tasks.errors import TrainpilotError, explaining, require

#: What a group of torch's optimizers may have beside, and what it is in every group of a pilot.
_NOT_ITS_OWN: dict[str, Any] = {
    "maximize": False,
    "amsgrad": False,
    "centered": False,
    "dampening": 0,
    "alpha": RMSPROP_ALPHA,
    "eps": EPSILON,
}

_RULE = "params must be parameters in an order, or groups of them with their 'params'"


def parameter_groups(
    model: nn.Module,
    params: Iterable[Tensor] | Iterable[tuple[str, Tensor]] | Iterable[dict[str, Any]] | None,
    start: Hyperparameters,
) -> list[dict[str, Any]]:
    """Groups with the multipliers that they keep to.

    Args:
        model: whose parameters are trained where `params` does not say otherwise.
        params: parameters, named ones, or groups of them, as torch's optimizers take them; a
            group may have an "lr", a "weight_decay" and a "momentum" (SGD's, Adam's beta1) of its
            own. Frozen ones are trained from when they require gradients.
        start: hyperparameters of all other groups, `(1,)` each.

    Raises:
        TrainpilotError: if there is nothing to train, a parameter is complex, or a group has betas
            or a momentum out of range.
    """
    require(not isinstance(params, Tensor | set), _RULE, f"a {type(params).__name__}")
    with explaining(_RULE):
        given: list[Any] = list(model.parameters() if params is None else params)
    if given and not isinstance(given[0], dict):
        given = [{"params": given}]
    groups = [group for group in (with_multipliers(one, start) for one in given) if group["params"]]
    trained = [parameter for group in groups for parameter in group["params"]]
    if not any(parameter.requires_grad for parameter in trained):
        raise TrainpilotError(
            "a pilot needs a model with parameters that require gradients; given: "
            f"{type(model).__name__} without any"
        )
    return groups


def with_what_is_common(groups: list[dict[str, Any]], start: Hyperparameters) -> Hyperparameters:
    """The start with what all groups share, which then is no group's own.

    That is the learning rate, the momentum, and the weight decay of those groups that have one.

    Args:
        groups: with the multipliers that `with_multipliers` gives.
        start: what they relate to, `(1,)` each.
    """
    rate = _common([group["lr"] for group in groups])
    if rate:
        start = replace(start, learning_rate=np.array([rate]))
        for group in groups:
            group["lr_multiplier"] = 1.0
    decay = _common([group["weight_decay"] for group in groups if group["weight_decay"]])
    if decay:
        start = replace(start, weight_decay=np.array([decay]))
        for group in groups:
            group["weight_decay_multiplier"] = 1.0 if group["weight_decay"] else 0.0
    momentum = _common([group["momentum"] for group in groups])
    if momentum is not None:
        start = replace(start, momentum=np.array([momentum]))
        for group in groups:
            group["own_momentum"] = False
    return start


def greatest_multiplier(groups: Sequence[dict[str, Any]]) -> float:
    """Of the learning rate, of any group."""
    return max(float(group["lr_multiplier"]) for group in groups)


def _common(values: Sequence[float]) -> float | None:
    """What all of them are; None where they differ, or there is none."""
    return values[0] if len(set(values)) == 1 else None


def with_multipliers(group: dict[str, Any], start: Hyperparameters) -> dict[str, Any]:
    """A group and how its learning rate and weight decay relate to the run's.

    A weight decay of its own beside one of 0 has nothing to relate to: it stays what it is. So
    does a momentum of its own.

    Raises:
        TrainpilotError: if it is no group, has betas, a setting out of range, or complex
            parameters.
    """
    parameters = _parameters_of(group)
    if any(parameter.is_complex() for parameter in parameters):
        raise TrainpilotError("a pilot trains real parameters; given: complex ones")
    if group.get("betas") is not None:
        raise TrainpilotError(
            "a group of a pilot may have a momentum of its own, Adam's beta1, and beta2 is 0.999 "
            f"for all; given: betas {group['betas']}"
        )
    is_nesterov = OPTIMIZER_NAMES[int(start.optimizer[0])] == "nesterov"
    for name, usual in {**_NOT_ITS_OWN, "nesterov": is_nesterov}.items():
        require(
            group.get(name, usual) in (usual, None),
            "a group of a pilot may have an lr, a weight_decay and a momentum of its own, and no "
            f"{name}",
            f"{name} {group.get(name)}",
        )
    rate, decay = float(start.learning_rate[0]), float(start.weight_decay[0])
    momentum = float(start.momentum[0])
    own_momentum = _momentum(group.get("momentum", momentum))
    own_rate = _at_least_zero("lr", group.get("lr", rate))
    own_decay = _at_least_zero("weight_decay", group.get("weight_decay", decay))
    multiplier: float | None
    if "weight_decay" not in group:
        multiplier = 1.0
    elif own_decay == 0:
        multiplier = 0.0
    else:
        multiplier = own_decay / decay if decay else None
    return {
        **group,
        "params": parameters,
        "lr": own_rate,
        "weight_decay": own_decay,
        "momentum": own_momentum,
        # A run that stands still gives no ratio.
        "lr_multiplier": own_rate / rate if rate else 1.0,
        "weight_decay_multiplier": multiplier,
        "own_momentum": own_momentum != momentum,
    }


def _parameters_of(group: Any) -> list[Tensor]:
    """The parameters of a group, named or not."""
    require(isinstance(group, dict) and "params" in group, _RULE, repr(group)[:60])
    own: Any = group["params"]
    require(not isinstance(own, set), _RULE, "a set")
    with explaining(_RULE):
        parameters = [own] if isinstance(own, Tensor) else list(own)
    if parameters and isinstance(parameters[0], tuple):
        parameters = [parameter for _, parameter in parameters]
    for parameter in parameters:
        require(isinstance(parameter, Tensor), _RULE, repr(parameter)[:60])
    return parameters


def _at_least_zero(name: str, value: Any) -> float:
    """A group's setting as a plain number, which is what is compared with later."""
    require(not isinstance(value, str), f"the {name} of a group must be a number", repr(value))
    with explaining(f"the {name} of a group must be a number"):
        number = float(value)
    require(number >= 0, f"the {name} of a group must be at least 0", value)
    return number


def _momentum(value: Any) -> float:
    """A group's momentum, likewise."""
    with explaining("the momentum of a group must be a number"):
        momentum = float(value)
    require(0 <= momentum < 1, "the momentum of a group must lie in [0, 1)", value)
    return momentum


class GroupSettings:
    """Writes what is decided into parameter groups, and finds out what others have written there.

    Args:
        groups: with the multipliers that `with_multipliers` gives; the list may grow.
        highest: learning rate that a group may have, in Adam's units.
    """

    def __init__(self, groups: list[dict[str, Any]], highest: float) -> None:
        self._groups = groups
        self._highest = highest
        self._written: list[tuple[float, float, float]] = []
        self._factor = 1.0

    def write(self, settings: Hyperparameters, factor: float) -> None:
        """Give every group what was decided, times its own multipliers.

        Args:
            settings: of the run, `(1,)` each.
            factor: of the learning rate, now.
        """
        for group in self._groups:
            if not group["own_momentum"]:
                group["momentum"] = float(settings.momentum[0])
            if group["weight_decay_multiplier"] is not None:
                decay = float(settings.weight_decay[0])
                group["weight_decay"] = decay * group["weight_decay_multiplier"]
        self.write_rates(settings, factor)

    def write_rates(self, settings: Hyperparameters, factor: float) -> None:
        """The same for learning rates alone."""
        rate = float(settings.learning_rate[0]) * factor
        highest = self._highest * LEARNING_RATE_SCALES[int(settings.optimizer[0])]
        for group in self._groups:
            group["lr"] = min(rate * group["lr_multiplier"], highest)
        self._written, self._factor = self._now(), factor

    def _now(self) -> list[tuple[float, float, float]]:
        return [
            (float(group["lr"]), float(group["weight_decay"]), float(group["momentum"]))
            for group in self._groups
        ]

    def take(self, settings: Hyperparameters) -> dict[str, float]:
        """What somebody else has set since the last time.

        A weight decay that was set stays what it is, whatever is decided, and so does a momentum
        that was set for some groups alone.

        Args:
            settings: of the run, as they were last written.

        Returns:
            Hyperparameters of the run that are others now.

        Raises:
            TrainpilotError: if one is out of range; nothing is taken then.
        """
        now, factor = self._now(), self._factor
        if now == self._written:
            return {}
        for own_rate, own_decay, own_momentum in now:
            _at_least_zero("lr", own_rate)
            _at_least_zero("weight_decay", own_decay)
            _momentum(own_momentum)
        taken = {}
        pairs = list(zip(self._groups, self._written, strict=True))
        for group, (_, decay, _) in pairs:
            if group["weight_decay"] != decay:
                group["weight_decay_multiplier"] = None
        momentum = self._take_momenta()
        if momentum is not None and momentum != settings.momentum[0]:
            taken["momentum"] = momentum
        if any(group["lr"] != rate for group, (rate, _, _) in pairs):
            rate = self._common_rate(factor)
            if rate is None:
                self._set_apart(float(settings.learning_rate[0]) * factor)
            else:
                taken["learning_rate"] = rate
        self._written = now
        return taken

    def _take_momenta(self) -> float | None:
        """The run's momentum; None where groups that it led were set apart from each other."""
        before = [momentum for _, _, momentum in self._written]
        changed = [g["momentum"] != was for g, was in zip(self._groups, before, strict=True)]
        shared = _common([group["momentum"] for group in self._groups])
        # One that was left alone and happens to be equal keeps its own.
        if shared is not None and all(changed):
            for group in self._groups:
                group["own_momentum"] = False
            return shared
        led = _common([g["momentum"] for g in self._groups if not g["own_momentum"]])
        if led is None:
            for group, was_set in zip(self._groups, changed, strict=True):
                group["own_momentum"] |= was_set
        return led

    def _common_rate(self, factor: float) -> float | None:
        """The run's learning rate where all groups were changed alike, else None."""
        if any(group["lr_multiplier"] == 0 != group["lr"] for group in self._groups):
            return None
        rates = [
            group["lr"] / group["lr_multiplier"] / factor
            for group in self._groups
            if group["lr_multiplier"] > 0 and factor > 0
        ]
        if rates and max(rates) - min(rates) <= 1e-9 * max(rates):
            return float(max(rates))
        return None

    def _set_apart(self, rate: float) -> None:
        """Groups that were changed on their own relate to the run's rate as they do now."""
        for group, (before, _, _) in zip(self._groups, self._written, strict=True):
            if group["lr"] != before and rate > 0:
                group["lr_multiplier"] = group["lr"] / rate

    def state_dict(self) -> dict[str, Any]:
        """What was last written, for `load_state_dict`."""
        return {"settings": [list(one) for one in self._written], "factor": self._factor}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take what `state_dict` gave."""
        self._written = [(rate, decay, momentum) for rate, decay, momentum in state["settings"]]
        self._factor = state["factor"]
