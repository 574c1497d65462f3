"""The one exception that a user's mistake raises."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

from torch import nn


class TrainpilotError(ValueError):
    """A mistake in what the user gave: one sentence, shown without a traceback.

    The message says what is wrong, what is allowed and what was given.
    """


def unknown(kind: str, given: object, allowed: Iterable[str]) -> TrainpilotError:
    """The error for a name that is not in a list.

    Args:
        kind: what is named, in the singular ("optimizer", "task").
        given: what the user wrote.
        allowed: the names that exist.

    Returns:
        The exception, to be raised by the caller.
    """
    return TrainpilotError(f"unknown {kind} '{given}'; allowed: {', '.join(allowed)}")


def require(condition: bool, rule: str, given: object) -> None:
    """Raise unless a rule holds.

    Args:
        condition: whether it holds.
        rule: the rule as a sentence ("micro_batch_size must be at least 1").
        given: the value that was given.

    Raises:
        TrainpilotError: if the condition is false.
    """
    if not condition:
        raise TrainpilotError(f"{rule}; given: {given}")


class MissingDataError(TrainpilotError):
    """The data of a task are not here: a package or a download is missing.

    Args:
        message: the sentence, with the remedy.
        dataset: which data.

    Attributes:
        model: what the task would train, where that is known without the data, or None.
        n_train: its training examples, likewise.
    """

    model: nn.Module | None = None
    n_train: int | None = None

    def __init__(self, message: str, dataset: str) -> None:
        super().__init__(message)
        self.dataset = dataset


def first_line(error: Exception) -> str:
    """What an error says, in a line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@contextlib.contextmanager
def explaining(rule: str, cause: Exception | None = None) -> Iterator[None]:
    """Turn whatever a user's object raises in this block into one sentence.

    Args:
        rule: what should have gone well, as a sentence ("model and data must fit together").
        cause: what is to be shown as the cause, to those who look (default: what was raised).

    Raises:
        TrainpilotError: the rule and what was raised; one that was raised, unchanged.
    """
    try:
        yield
    except TrainpilotError:
        raise
    except Exception as error:
        raise TrainpilotError(f"{rule}; it failed with: {first_line(error)}") from (cause or error)
