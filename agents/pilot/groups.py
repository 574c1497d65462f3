"""Parameter groups: what a user sets apart stays apart, whatever is decided."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from trainpilot.envs.hyperparameters import Hyperparameters
from trainpilot.inner_tasks.errors import TrainpilotError


def parameter_groups(
    model: nn.Module,
    params: Iterable[Tensor] | Iterable[tuple[str, Tensor]] | Iterable[dict[str, Any]] | None,
    start: Hyperparameters,
) -> list[dict[str, Any]]:
    """Groups with the multipliers that they keep to.

    Args:
        model: whose parameters are trained where `params` does not say otherwise.
        params: parameters, named ones, or groups of them, as torch's optimizers take them; a
            group may have an "lr" and a "weight_decay" of its own. Frozen ones are trained from
            when they require gradients.
        start: hyperparameters of all other groups, `(1,)` each.

    Raises:
        TrainpilotError: if there is nothing to train, or a parameter is complex.
    """
    given: list[Any] = list(model.parameters() if params is None else params)
    if given and not isinstance(given[0], dict):
        given = [{"params": given}]
    groups = []
    for group in given:
        own: Any = group["params"]
        parameters = [own] if isinstance(own, Tensor) else list(own)
        if parameters and isinstance(parameters[0], tuple):
            parameters = [parameter for _, parameter in parameters]
        if parameters:
            groups.append(with_multipliers({**group, "params": parameters}, start))
    trained = [parameter for group in groups for parameter in group["params"]]
    if not any(parameter.requires_grad for parameter in trained):
        raise TrainpilotError(
            "a pilot needs a model with parameters that require gradients; given: "
            f"{type(model).__name__} without any"
        )
    if any(parameter.is_complex() for parameter in trained):
        raise TrainpilotError("a pilot trains real parameters; given: complex ones")
    return groups


def with_multipliers(group: dict[str, Any], start: Hyperparameters) -> dict[str, Any]:
    """A group and how its learning rate and weight decay relate to the run's.

    A weight decay of its own beside one of 0 has nothing to relate to: it stays what it is.
    """
    rate, decay = float(start.learning_rate[0]), float(start.weight_decay[0])
    own_rate, own_decay = group.get("lr", rate), group.get("weight_decay", decay)
    multiplier: float | None
    if "weight_decay" not in group:
        multiplier = 1.0
    elif own_decay == 0:
        multiplier = 0.0
    else:
        multiplier = own_decay / decay if decay else None
    return {
        **group,
        "lr": own_rate,
        "weight_decay": own_decay,
        "momentum": float(start.momentum[0]),
        # A run that stands still gives no ratio.
        "lr_multiplier": own_rate / rate if rate else 1.0,
        "weight_decay_multiplier": multiplier,
    }
