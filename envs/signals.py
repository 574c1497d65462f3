"""Signals: raw statistics of inner steps, and what an evaluation of a split gives."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from trainpilot.envs.hyperparameters import FloatArray


class Signals(NamedTuple):
    """Statistics of each inner step of a decision, `(n_runs, n_steps)` each.

    Attributes:
        train_loss: loss of the micro-batch before the update.
        gradient_norm: Euclidean norm of the gradient.
        parameter_norm: norm of the parameters before the update.
        update_norm: norm of the change of the parameters.
        momentum_norm: norm of the bias-corrected mean gradient (Adam's first moment).
        gradient_momentum_cosine: cosine of the gradient with the mean gradient before it.
        gradient_parameter_cosine: cosine of the gradient with the parameters.
        gradient_update_cosine: cosine of the gradient with the update.
    """

    train_loss: FloatArray
    gradient_norm: FloatArray
    parameter_norm: FloatArray
    update_norm: FloatArray
    momentum_norm: FloatArray
    gradient_momentum_cosine: FloatArray
    gradient_parameter_cosine: FloatArray
    gradient_update_cosine: FloatArray


class Evaluation(NamedTuple):
    """Losses and metrics of one split, `(n_runs,)` each.

    Attributes:
        loss: mean loss of the split.
        metrics: the task's further metrics, by name.
    """

    loss: FloatArray
    metrics: dict[str, FloatArray]


def step_signals(
    loss: Tensor,
    gradient: Tensor,
    parameters: Tensor,
    update: Tensor,
    momentum_before: Tensor,
    momentum_after: Tensor,
    momentum_correction: Tensor,
) -> Tensor:
    """The signals of one inner step, in the order of `Signals`.

    Args:
        loss: `(n_runs,)`.
        gradient: `(n_runs, n_params)`, as are the four that follow.
        parameters: before the update.
        update: change of the parameters.
        momentum_before: Adam's first moment before this gradient.
        momentum_after: and after it.
        momentum_correction: Adam's bias correction of the first moment, `(n_runs,)`.

    Returns:
        `(n_runs, n_signals)`.
    """
    gradient_norm = gradient.norm(dim=1)
    parameter_norm = parameters.norm(dim=1)
    update_norm = update.norm(dim=1)

    def cosine(other: Tensor, other_norm: Tensor) -> Tensor:
        # Zero where one of the two vanishes, as at the first step.
        product = (gradient_norm * other_norm).clamp_min(1e-30)
        ratio: Tensor = (gradient * other).sum(1) / product
        return ratio

    return torch.stack(
        [
            loss,
            gradient_norm,
            parameter_norm,
            update_norm,
            momentum_after.norm(dim=1) / momentum_correction,
            cosine(momentum_before, momentum_before.norm(dim=1)),
            cosine(parameters, parameter_norm),
            cosine(update, update_norm),
        ],
        dim=1,
    )
