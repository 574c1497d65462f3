"""What an inner task is: data, a model and a loss, with nothing of RL in it."""

from __future__ import annotations

from numbers import Integral
from typing import NamedTuple, Protocol, cast, runtime_checkable

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


def is_whole(value: object) -> bool:
    """Whether it is a whole number, of Python or NumPy."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def check_micro_batch_size(task_name: str, size: int, n_train: int) -> None:
    """Check that a task's micro-batch can be filled with different examples.

    Raises:
        TrainpilotError: if it cannot.
    """
    require(
        is_whole(size) and 1 <= size <= n_train,
        f"micro_batch_size of task '{task_name}' must be a whole number between 1 and {n_train}, "
        "its training examples",
        size,
    )


def check_kind_of_splits(task_name: str, splits: object) -> None:
    """Check that what a task gives as its data are four splits of tensors.

    Raises:
        TrainpilotError: if they are not.
    """
    rule = f"the splits of task '{task_name}' must be a Splits of four Split of tensors each"
    require(isinstance(splits, Splits), rule, type(splits).__name__)
    for name, split in cast("Splits", splits)._asdict().items():
        require(isinstance(split, Split), rule, f"{name} of type {type(split).__name__}")
        for part, values in split._asdict().items():
            given = f"{part} of {name} of type {type(values).__name__}"
            require(isinstance(values, Tensor), rule, given)
            require(
                values.ndim >= 1,
                f"the {part} of split '{name}' of task '{task_name}' must have an axis of examples",
                "none",
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
