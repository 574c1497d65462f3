"""What an inner task is: data, a model and a loss, with nothing of RL in it."""

from __future__ import annotations

from typing import NamedTuple, Protocol, runtime_checkable

from torch import Tensor, nn

from trainpilot.inner_tasks.errors import require


class Split(NamedTuple):
    """A part of a data set.

    Attributes:
        inputs: what the model is given, `(n_examples, ...)`.
        targets: what the loss compares with, `(n_examples, ...)`.
    """

    inputs: Tensor
    targets: Tensor


class Splits(NamedTuple):
    """The four parts that every inner task has; no example stands in two.

    Attributes:
        train: what the inner model is trained on.
        valid: what a controller may observe.
        outer_valid: what the reward sees, never observed by a controller.
        test: for reports only.
    """

    train: Split
    valid: Split
    outer_valid: Split
    test: Split


def check_micro_batch_size(task_name: str, size: int, n_train: int) -> None:
    """Check that a task's micro-batch can be filled with different examples.

    Raises:
        TrainpilotError: if it cannot.
    """
    require(
        1 <= size <= n_train,
        f"micro_batch_size of task '{task_name}' must lie between 1 and {n_train}, "
        "its training examples",
        size,
    )


@runtime_checkable
class InnerTask(Protocol):
    """Data, model and loss of one inner task.

    Attributes:
        name: how records and tables call it.
        modality: "vision", "text", "tabular" or "synthetic".
        dataset: the data's name; no data set stands in two suites.
        micro_batch_size: examples in one micro-batch, at least 1.
        splits: the four splits.
    """

    name: str
    modality: str
    dataset: str
    micro_batch_size: int
    splits: Splits

    def make_model(self) -> nn.Module:
        """A new model; its initial weights come from torch's global generator."""
        ...

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The mean loss of a batch: a scalar, not negative, lower is better.

        Args:
            outputs: the model's outputs, `(n_examples, ...)`.
            targets: the targets, `(n_examples, ...)`.
        """
        ...

    def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Further measures of a batch, scalars by name.

        `accuracy`, where there is one, lies in [0, 1] and is observed by controllers.
        """
        ...
