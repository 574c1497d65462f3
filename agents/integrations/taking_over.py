"""Begins where an optimizer of torch would have begun."""

from __future__ import annotations

from typing import Any

import torch

from trainpilot.inner_tasks.errors import TrainpilotError

_NAMES: dict[type[torch.optim.Optimizer], str] = {
    torch.optim.Adam: "adam",
    torch.optim.AdamW: "adam",
    torch.optim.SGD: "sgd",
    torch.optim.RMSprop: "rmsprop",
}


def take_over(optimizer: torch.optim.Optimizer, options: dict[str, Any]) -> dict[str, Any]:
    """Arguments of `Pilot.attach` that begin as an optimizer of torch is set.

    Taken are its kind, its learning rate, its weight decay (decoupled from now on), the momentum
    of SGD or Adam's beta1, and its groups with the ratio of their learning rates and with weight
    decays and momenta of their own. All else that it is set to has no part.

    Args:
        optimizer: that has made no step. What a scheduler has made of its learning rates is
            undone.
        options: arguments of `Pilot.attach` that come before what is taken.

    Raises:
        TrainpilotError: if it is neither Adam, AdamW, SGD nor RMSprop, and `options` lack
            "optimizer" or "lr".
    """
    defaults, kind = optimizer.defaults, type(optimizer)
    has_momentum = kind in _NAMES and kind is not torch.optim.RMSprop
    start: dict[str, Any] = {}
    if kind in _NAMES:
        start = {
            "optimizer": "nesterov" if defaults.get("nesterov") else _NAMES[kind],
            "lr": float(defaults["lr"]),
            "weight_decay": float(defaults["weight_decay"]),
        }
        if has_momentum:
            start["momentum"] = _momentum(defaults)
    elif not {"optimizer", "lr"} <= options.keys() or "lr" not in defaults:
        raise TrainpilotError(
            "a pilot takes over from Adam, AdamW, SGD or RMSprop of torch, from others where it is "
            f"told the optimizer and the lr to begin with; given: {kind.__name__}"
        )
    rates = _rates(optimizer)
    common = rates[0] if len(set(rates)) == 1 else None
    if common is not None:
        start["lr"] = common
    start |= options
    groups = []
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        ratio = 1.0 if common is not None else rate / (float(defaults["lr"]) or max(rates))
        own = {"params": group["params"], "lr": start["lr"] * ratio}
        if group.get("weight_decay") != defaults.get("weight_decay"):
            own["weight_decay"] = group["weight_decay"]
        # Schedulers that lead the momentum too say so in the group.
        is_led = "max_momentum" in group
        if has_momentum and not is_led and _momentum(group) != _momentum(defaults):
            own["momentum"] = _momentum(group)
        groups.append(own)
    return {"params": groups, **start}


def _rates(optimizer: torch.optim.Optimizer) -> list[float]:
    """The learning rates that groups were given.

    `OneCycleLR` has put others in their place, which keep the ratio of its own highest ones.
    """
    groups = optimizer.param_groups
    if all("max_lr" in group for group in groups):
        highest = max(group["max_lr"] for group in groups)
        return [float(optimizer.defaults["lr"] * group["max_lr"] / highest) for group in groups]
    return [float(group.get("initial_lr", group["lr"])) for group in groups]


def _momentum(settings: dict[str, Any]) -> float:
    """SGD's momentum or Adam's beta1."""
    return float(settings["betas"][0] if "betas" in settings else settings["momentum"])
