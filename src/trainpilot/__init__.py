"""trainpilot: an autopilot for neural-network training.

Importing it registers the Gymnasium environment `trainpilot/InnerTraining-v0`.
"""

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from trainpilot.envs.registration import ENV_ID, register_envs
from trainpilot.inner_tasks import (
    InnerTask,
    Split,
    Splits,
    TensorTask,
    TrainpilotError,
    check_inner_task,
)

if TYPE_CHECKING:
    from trainpilot.agents.pilot.pilot import Pilot

__version__ = version("trainpilot")
__all__ = [
    "ENV_ID",
    "InnerTask",
    "Pilot",
    "Split",
    "Splits",
    "TensorTask",
    "TrainpilotError",
    "__version__",
    "check_inner_task",
]

register_envs()


def __getattr__(name: str) -> Any:
    """`Pilot`, imported when it is first asked for: it brings Stable-Baselines3 along."""
    if name == "Pilot":
        from trainpilot.agents.pilot.pilot import Pilot

        return Pilot
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
