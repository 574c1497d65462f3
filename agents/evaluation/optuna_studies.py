"""Optuna, where it is installed."""

from __future__ import annotations

from types import ModuleType

from trainpilot.inner_tasks.errors import TrainpilotError


def import_optuna() -> ModuleType:
    """Optuna, silenced but for warnings.

    Raises:
        TrainpilotError: if it is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise TrainpilotError(
            "the searches tpe and asha need the package optuna "
            "(pip install trainpilot[rivals]); given: an environment without it"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
