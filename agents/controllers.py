"""Controllers made from a configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trainpilot.agents.controller import Controller
from trainpilot.inner_tasks.building import build
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
            "at least one controller is needed (`trainpilot controllers` lists them); given: none"
        )
    return {name: build(config, Controller, "controller", name) for name, config in configs.items()}
