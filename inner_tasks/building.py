"""Objects made from a configuration: `_target_` and its arguments, as Hydra has them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf.errors import OmegaConfBaseException

from trainpilot.inner_tasks.errors import TrainpilotError, explaining


def build(config: Any, wanted: type[Any] | tuple[type[Any], ...], kind: str, name: str) -> Any:
    """The object that a configuration describes.

    Args:
        config: a mapping with `_target_`, any callable, and its arguments.
        wanted: what the object must be, or one of what it must be.
        kind: what errors call it ("task", "controller").
        name: which one it is.

    Raises:
        TrainpilotError: if there is no `_target_`, the callable fails, or what it gives is
            not what is wanted.
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
        reason = " ".join(str(cause).split()) or type(cause).__name__
        raise TrainpilotError(
            f"{kind} '{name}' could not be made by {config['_target_']}: {reason}"
        ) from error
    with explaining(f"{kind} '{name}' of {config['_target_']} cannot be read"):
        # Looks for what it must have, which may be computed on demand.
        fits = isinstance(built, wanted)
    if not fits:
        first = wanted[0] if isinstance(wanted, tuple) else wanted
        raise TrainpilotError(
            f"{config['_target_']} must give a {kind} (trainpilot's {first.__name__}); "
            f"given: {type(built).__name__}"
        )
    return built
