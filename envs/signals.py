"""Signals: raw statistics of inner steps, and what an evaluation of a split gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from trainpilot.envs.hyperparameters import FloatArray


class Signals(NamedTuple):
    """Statistics of each micro-batch of a decision, `(n_runs, n_steps)` each.

    Where several micro-batches make one update, those of the update are NaN at the others.

    Attributes:
        train_loss: loss of the micro-batch before the update.
        gradient_norm: Euclidean norm of the gradient.
        parameter_norm: norm of the parameters before the update.
        update_norm: norm of the change of the parameters; NaN without an update.
        momentum_norm: norm of the bias-corrected mean gradient (Adam's first moment).
        gradient_momentum_cosine: cosine of the gradient with the mean gradient before it.
        gradient_parameter_cosine: cosine of the gradient with the parameters.
        gradient_update_cosine: cosine of the gradient with the update; NaN without one.
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

    def first(self, n_runs: int) -> Evaluation:
        """That of the first runs."""
        return Evaluation(
            self.loss[:n_runs], {name: value[:n_runs] for name, value in self.metrics.items()}
        )

    def replaced(self, rows: Sequence[int], by: Evaluation) -> Evaluation:
        """A copy with other numbers in some rows, one for each of them."""

        def put(values: FloatArray, others: FloatArray) -> FloatArray:
            result = values.copy()
            result[list(rows)] = others
            return result

        metrics = {name: put(value, by.metrics[name]) for name, value in self.metrics.items()}
        return Evaluation(put(self.loss, by.loss), metrics)


class StepSums(NamedTuple):
    """What an inner step sums over the parameters, `(n_runs, n_steps)` each.

    Attributes:
        train_loss: of the micro-batch.
        gradient_square: squared norm of its gradient.
        parameter_square: that of the parameters before the update.
        update_square: that of their change.
        mean_square: that of the mean gradient after the update.
        gradient_mean: product of gradient and mean gradient before the update.
        gradient_parameter: product of gradient and parameters.
        gradient_update: product of gradient and change.
    """

    train_loss: FloatArray
    gradient_square: FloatArray
    parameter_square: FloatArray
    update_square: FloatArray
    mean_square: FloatArray
    gradient_mean: FloatArray
    gradient_parameter: FloatArray
    gradient_update: FloatArray


#: What an update sums over a run's parameters: `StepSums` without the loss.
UPDATE_SUMS = StepSums._fields[1:]


def make_signals(
    sums: StepSums,
    mean_square_before: FloatArray,
    mean_correction: FloatArray,
    updated: NDArray[np.bool_],
) -> Signals:
    """The signals of a decision's inner steps.

    Args:
        sums: of these steps.
        mean_square_before: squared norm of the mean gradient before each of them,
            `(n_runs, n_steps)`.
        mean_correction: Adam's bias correction after each step, `(n_runs, n_steps)`.
        updated: whether the step made an update, `(n_runs, n_steps)`.
    """
    with np.errstate(all="ignore"):
        gradient_norm = np.sqrt(sums.gradient_square)
        parameter_norm = np.sqrt(sums.parameter_square)
        # Not a number says that there was no update: one that is none is infinite.
        update_square = np.where(np.isnan(sums.update_square), np.inf, sums.update_square)
        update_norm = np.where(updated, np.sqrt(update_square), np.nan)
        mean_norm = np.sqrt(sums.mean_square)
        before = np.sqrt(mean_square_before)

        def cosine(product: FloatArray, other_norm: FloatArray) -> FloatArray:
            # Zero where one of the two vanishes, as at the first step.
            return np.asarray(product / np.maximum(gradient_norm * other_norm, 1e-30))

        return Signals(
            train_loss=sums.train_loss,
            gradient_norm=gradient_norm,
            parameter_norm=parameter_norm,
            update_norm=update_norm,
            momentum_norm=mean_norm * mean_correction,
            gradient_momentum_cosine=cosine(sums.gradient_mean, before),
            gradient_parameter_cosine=cosine(sums.gradient_parameter, parameter_norm),
            gradient_update_cosine=cosine(sums.gradient_update, update_norm),
        )
