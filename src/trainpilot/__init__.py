"""trainpilot: an autopilot for neural-network training.

Importing it registers the Gymnasium environment `trainpilot/InnerTraining-v0`.
"""

from importlib.metadata import version

from trainpilot.envs.registration import ENV_ID, register_envs
from trainpilot.inner_tasks import InnerTask, Splits, TensorTask, TrainpilotError

__version__ = version("trainpilot")
__all__ = ["ENV_ID", "InnerTask", "Splits", "TensorTask", "TrainpilotError", "__version__"]

register_envs()
