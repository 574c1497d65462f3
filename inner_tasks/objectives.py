"""Named losses, each with the metrics that are usually reported beside it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from trainpilot.inner_tasks.errors import unknown

LossFn = Callable[[Tensor, Tensor], Tensor]
MetricsFn = Callable[[Tensor, Tensor], dict[str, Tensor]]


class Objective(NamedTuple):
    """A loss and its metrics.

    Attributes:
        loss: `(outputs, targets) -> scalar`.
        metrics: `(outputs, targets) -> {name: scalar}`.
    """

    loss: LossFn
    metrics: MetricsFn


def _accuracy(outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
    return {"accuracy": (outputs.argmax(-1) == targets).float().mean()}


def _absolute_error(outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
    return {"mean_absolute_error": (outputs - targets).abs().mean()}


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy over all positions, as `torch.nn.functional.cross_entropy` has it.

    Picks the targets by comparison, not by index: the gradient is then plain arithmetic, which
    maps over runs and vectorises, where that of an index scatters.

    Args:
        outputs: logits, `(..., n_classes)`.
        targets: classes, `(...)`, or their probabilities, `(..., n_classes)`. Classes that do
            not exist give NaN.

    Raises:
        ValueError: if there is not one target for each output.
    """
    expected = outputs.shape if targets.is_floating_point() else outputs.shape[:-1]
    if targets.shape != expected:
        raise ValueError(
            f"cross_entropy needs targets of shape {tuple(expected)} for outputs of shape "
            f"{tuple(outputs.shape)}; given: {tuple(targets.shape)}"
        )
    log_probabilities = torch.log_softmax(outputs, -1)
    if targets.is_floating_point():
        return -(targets * log_probabilities).sum(-1).mean()
    classes = torch.arange(outputs.shape[-1], device=outputs.device)
    chosen = targets.unsqueeze(-1) == classes
    exists = (targets >= 0) & (targets < outputs.shape[-1])
    picked = torch.where(chosen, log_probabilities, 0).sum(-1)
    return -torch.where(exists, picked, torch.nan).mean()


def mse(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean of the squared differences.

    Args:
        outputs: `(...)`.
        targets: of the same shape: torch would compare `(n,)` with `(n, 1)` as all with all.

    Raises:
        ValueError: if the shapes differ.
    """
    if targets.shape != outputs.shape:
        raise ValueError(
            f"mse needs targets of the outputs' shape {tuple(outputs.shape)}; given: "
            f"{tuple(targets.shape)}"
        )
    return functional.mse_loss(outputs, targets)


OBJECTIVES: dict[str, Objective] = {
    "cross_entropy": Objective(cross_entropy, _accuracy),
    "mse": Objective(mse, _absolute_error),
}


def objective(name: str) -> Objective:
    """The objective of that name.

    Raises:
        TrainpilotError: if there is none.
    """
    if name not in OBJECTIVES:
        raise unknown("loss", name, OBJECTIVES)
    return OBJECTIVES[name]


def objective_name(wanted: Objective) -> str | None:
    """The name of an objective, None if it is not one of these."""
    names = (name for name, known in OBJECTIVES.items() if known == wanted)
    return next(names, None)
