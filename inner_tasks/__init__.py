"""What is trained: data, model and loss. Knows nothing of reinforcement learning."""

from trainpilot.inner_tasks.check import check_inner_task
from trainpilot.inner_tasks.errors import TrainpilotError
from trainpilot.inner_tasks.overlap import Overlap
from trainpilot.inner_tasks.protocol import InnerTask, Split, Splits
from trainpilot.inner_tasks.tensor_task import TensorTask, split_tensors

__all__ = [
    "InnerTask",
    "Overlap",
    "Split",
    "Splits",
    "TensorTask",
    "TrainpilotError",
    "check_inner_task",
    "split_tensors",
]
