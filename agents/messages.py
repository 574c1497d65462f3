"""A user's mistake as one sentence: what is wrong, what is allowed, what was given."""

from __future__ import annotations

import re

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)

from trainpilot.inner_tasks.catalogue import option_names
from trainpilot.inner_tasks.errors import TrainpilotError

#: Errors that are told in one sentence. `OSError`: a folder that cannot be made, a full disk.
USER_ERRORS = (TrainpilotError, HydraException, OmegaConfBaseException, OSError)


#: How Hydra begins what it says of a group that is null; it has no class for that.
_NO_OPTION = "Config group override must be"


def _given(error: BaseException) -> str:
    """What Hydra says a group was given: a type."""
    kind = str(error).rpartition("Got ")[2].strip(" .")
    return "null" if kind == "NoneType" else kind


def is_mistake(error: BaseException) -> bool:
    """Whether an error is a user's mistake."""
    return isinstance(error, USER_ERRORS) or str(error).startswith(_NO_OPTION)


def one_sentence(error: BaseException) -> str:
    """What to tell the user of an error, on one line."""
    if isinstance(error, TrainpilotError):
        return _flat(str(error))
    if str(error).startswith(_NO_OPTION):
        return (
            f"a group such as task or env must be given one of its options; given: {_given(error)}"
        )
    # Hydra's error for a missing option is an OSError too.
    if isinstance(error, OSError) and not isinstance(error, HydraException):
        return f"a file or folder could not be used: {_flat(str(error))}"
    chain: list[BaseException] = [error]
    while (cause := chain[-1].__cause__) is not None:
        chain.append(cause)
    for link in chain:
        if isinstance(link, MissingConfigException) and link.missing_cfg_file:
            return _missing_option(link)
        if isinstance(link, OverrideParseException):
            return (
                "a setting must read NAME=VALUE, in Hydra's override syntax; given: "
                f"{link.override} ({_flat(str(link))})"
            )
        if isinstance(link, ConfigAttributeError | ConfigKeyError):
            return _unknown_setting(link)
        if isinstance(link, MissingMandatoryValue):
            return f"a value must be given for '{link.full_key or _flat(str(link))}'; given: none"
    inner = next((link for link in chain[::-1] if isinstance(link, OmegaConfBaseException)), error)
    lines = str(inner).strip().splitlines() or [type(inner).__name__]
    key = getattr(inner, "full_key", None)
    return f"'{key}': {lines[0]}" if key else _flat(lines[0])


def _missing_option(error: MissingConfigException) -> str:
    # Our groups are one level deep, Hydra's own ("hydra/launcher") are two.
    name = str(error.missing_cfg_file).removesuffix(".yaml")
    split = name.rpartition if name.startswith("hydra/") else name.partition
    group, slash, option = split("/")
    if not slash:
        return f"unknown configuration '{name}'; allowed: check_task, deploy, evaluate, train"
    # Hydra names the options of a single choice, but not those of a list.
    options = error.options or option_names(group)
    return f"unknown {group} '{option}'; allowed: {', '.join(options)}"


def _unknown_setting(error: ConfigAttributeError | ConfigKeyError) -> str:
    key = error.full_key or str(error.key)
    parent = error.parent_node
    allowed = ", ".join(str(name) for name in parent) if isinstance(parent, DictConfig) else ""
    above = key.rpartition(".")[0]
    place = f"under '{above}'" if above else "at the top"
    return f"unknown setting '{key}'; allowed {place}: {allowed or 'what --cfg job shows'}"


def _flat(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()
