"""Objects made from a configuration: `_target_` and its arguments, as Hydra has them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf.errors import OmegaConfBaseException

from trainpilot.inner_tasks.errors import TrainpilotError

Built = TypeVar("Built")


def build(config: Any, protocol: type[Built], kind: str, name: str) -> Built:
    """The object that a configuration describes.

    Args:
        config: a mapping with `_target_`, any callable, and its arguments.
        protocol: what the object must be.
        kind: what errors call it ("task", "controller").
        name: which one it is.

    Raises:
        TrainpilotError: if there is no `_target_`, the callable fails, or what it gives is
            not what the protocol asks for.
    """
    if not isinstance(config, Mapping) or "_target_" not in config:
        raise TrainpilotError(
            f"{kind} '{name}' must have a _target_, the callable that makes it; given: {config}"
        )
    try:
        built = instantiate(config)
    except (InstantiationException, OmegaConfBaseException) as error:
        cause = error.__cause__ or error
        if isinstance(cause, TrainpilotError):
            raise cause from error
        reason = " ".join(str(cause).split())
        raise TrainpilotError(
            f"{kind} '{name}' could not be made by {config['_target_']}: {reason}"
        ) from error
    if not isinstance(built, protocol):
        raise TrainpilotError(
            f"{config['_target_']} must give a {kind} (trainpilot's {protocol.__name__}); "
            f"given: {type(built).__name__}"
        )
    return built
