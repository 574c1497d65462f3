"""Controllers made from a configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate

from trainpilot.agents.controller import Controller
from trainpilot.inner_tasks.errors import TrainpilotError


def make_controllers(configs: Mapping[str, Any]) -> dict[str, Controller]:
    """A controller for each entry of the group `controller`.

    Args:
        configs: by name, each with `_target_` and its arguments.

    Raises:
        TrainpilotError: if there is none, or one cannot be made.
    """
    if not configs:
        raise TrainpilotError(
            "at least one controller is needed ('trainpilot controllers' lists them); given: none"
        )
    return {name: _make(name, config) for name, config in configs.items()}


def _make(name: str, config: Any) -> Controller:
    if not isinstance(config, Mapping) or "_target_" not in config:
        raise TrainpilotError(
            f"controller '{name}' must have a _target_, the callable that makes it; given: {config}"
        )
    try:
        controller = instantiate(config)
    except InstantiationException as error:
        if isinstance(error.__cause__, TrainpilotError):
            raise error.__cause__ from error
        reason = " ".join(str(error.__cause__ or error).split())
        raise TrainpilotError(
            f"controller '{name}' could not be made by {config['_target_']}: {reason}"
        ) from error
    if not isinstance(controller, Controller):
        raise TrainpilotError(
            f"{config['_target_']} must give a controller (begin and decide); "
            f"given: {type(controller).__name__}"
        )
    return controller
