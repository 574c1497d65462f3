"""Hydra around each command: composition, output folder, and errors as one sentence."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar, cast

import hydra
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from trainpilot.agents.config import register_configs
from trainpilot.agents.messages import USER_ERRORS, is_mistake, one_sentence

Config = TypeVar("Config")

#: Exit status of a user's mistake, as argparse has it, and of Ctrl-C, as shells have it.
EXIT_MISTAKE, EXIT_INTERRUPTED = 2, 130


def run_app(verb: str, job: Callable[[DictConfig], float | None]) -> None:
    """Compose the configuration of a command from the command line and run it.

    Args:
        verb: the command: the name of its configuration, with "_" for "-".
        job: what to run, once for each job of a sweep; what it returns, a sweeper may optimise.
    """
    # Threads of one process spin on each other's work: cores are used through processes.
    torch.set_num_threads(1)
    # A user's own tasks are found beside them, after all that is installed.
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    register_configs()
    sys.argv[0] = f"trainpilot {verb}"
    wants_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    mistakes: list[Exception] = []

    def guarded(config: DictConfig) -> float | None:
        # Kept from Hydra, which would print the overrides beside it. A sweep goes on with its
        # other jobs: a sweeper takes what is not a number for a failed trial.
        try:
            return job(config)
        except USER_ERRORS as error:
            if wants_traceback:
                raise
            mistakes.append(error)
            return math.nan

    name = verb.replace("-", "_")
    app = hydra.main(version_base="1.3", config_path="pkg://trainpilot.conf", config_name=name)
    # Hydra would print its own account of an error and exit; we want the error itself.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        app(guarded)()
    except (*USER_ERRORS, ValueError) as error:
        if wants_traceback or not is_mistake(error):
            raise
        mistakes.append(error)
    except KeyboardInterrupt:
        print(f"trainpilot {verb}: interrupted", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
    finally:
        if not wants_traceback:
            del os.environ["HYDRA_FULL_ERROR"]
    for mistake in mistakes:
        print(f"trainpilot {verb}: {one_sentence(mistake)}", file=sys.stderr)
    if mistakes:
        sys.exit(EXIT_MISTAKE)


def typed(config: DictConfig, kind: type[Config]) -> Config:
    """The composed configuration as the dataclass that it was made from.

    Nested configurations of tasks and controllers, which have no dataclass, become plain data.
    """
    if OmegaConf.get_type(config) is not kind:
        raise TypeError(f"expected a configuration of type {kind.__name__}")
    return cast("Config", OmegaConf.to_object(config))


def output_folder() -> Path:
    """The folder of this run, `hydra.run.dir` or a sweep's."""
    return Path(HydraConfig.get().runtime.output_dir)


def say(sentence: str) -> None:
    """Tell the user something, on standard error: standard output is for results."""
    print(sentence, file=sys.stderr, flush=True)
