"""trainpilot: an autopilot for neural-network training.

Importing it registers the Gymnasium environment `trainpilot/InnerTraining-v0`.
"""

from importlib.metadata import version

from trainpilot.envs.registration import ENV_ID, register_envs
from trainpilot.inner_tasks import (
    InnerTask,
    Split,
    Splits,
    TensorTask,
    TrainpilotError,
    check_inner_task,
)

__version__ = version("trainpilot")
__all__ = [
    "ENV_ID",
    "InnerTask",
    "Split",
    "Splits",
    "TensorTask",
    "TrainpilotError",
    "__version__",
    "check_inner_task",
]

register_envs()
