"""Measures steps of real parameters, by the sums that the engine measures its runs by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from trainpilot.envs.signals import StepSums


class Step(NamedTuple):
    """A step that is being measured.

    Attributes:
        parameters: those that have a gradient.
        gradients: of these, of this step's batch alone.
        before: copies of these parameters as they were.
        sums: what is known before the update.
    """

    parameters: list[Tensor]
    gradients: list[Tensor]
    before: list[Tensor]
    sums: list[Tensor]


class Probe:
    """Gathers the sums of steps and leaves them on the device until they are asked for."""

    def __init__(self) -> None:
        self._rows: list[Tensor] = []

    def begin(
        self,
        loss: Tensor | float,
        parameters: Sequence[Tensor],
        mean: Callable[[Tensor], Tensor | None],
    ) -> Step:
        """Measure a step before its update.

        Args:
            loss: of its batch.
            parameters: all that are trained; those without a gradient stay out.
            mean: gives the mean gradient of a parameter so far; None for zeros.
        """
        moving = [parameter for parameter in parameters if parameter.grad is not None]
        gradients = [parameter.grad for parameter in moving if parameter.grad is not None]
        zero = torch.zeros((), dtype=torch.float64, device=moving[0].device)
        pairs = [
            (gradient, own)
            for gradient, parameter in zip(gradients, moving, strict=True)
            if (own := mean(parameter)) is not None
        ]
        value = torch.as_tensor(loss, dtype=torch.float64, device=zero.device).detach()
        known = [other for _, other in pairs]
        sums = [
            value,
            _product(gradients, gradients),
            # All of them: those without a gradient are part of the model too.
            _product(parameters, parameters),
            _product([one for one, _ in pairs], known) if pairs else zero,
            _product(gradients, moving),
            _product(known, known) if pairs else zero,
        ]
        return Step(moving, gradients, [parameter.clone() for parameter in moving], sums)

    def end(self, step: Step, means: Sequence[Tensor]) -> None:
        """Measure a step after its update.

        Args:
            step: as `begin` gave it.
            means: the mean gradients now.
        """
        loss, gradient, parameter, gradient_mean, gradient_parameter, mean_before = step.sums
        change = [now - then for now, then in zip(step.parameters, step.before, strict=True)]
        zero = torch.zeros_like(loss)
        sums = {
            "train_loss": loss,
            "gradient_square": gradient,
            "parameter_square": parameter,
            "update_square": _product(change, change),
            "mean_square": _product(means, means) if means else zero,
            "gradient_mean": gradient_mean,
            "gradient_parameter": gradient_parameter,
            "gradient_update": _product(step.gradients, change),
        }
        columns = [*(sums[name] for name in StepSums._fields), mean_before]
        self._rows.append(torch.stack(columns))

    def take(self) -> np.ndarray:
        """What was gathered; waits for the device, and begins anew.

        Returns:
            `StepSums` and the squared norm of the mean gradient before each step,
            `(9, n_steps)`.
        """
        rows, self._rows = self._rows, []
        return torch.stack(rows, dim=1).cpu().numpy()

    @property
    def rows(self) -> list[Tensor]:
        """What was gathered so far, `(9,)` for each step."""
        return [row.clone() for row in self._rows]

    @rows.setter
    def rows(self, rows: Sequence[Tensor]) -> None:
        self._rows = list(rows)


def _product(ones: Sequence[Tensor], others: Sequence[Tensor]) -> Tensor:
    """The sum of the products of all elements, as a double."""
    device = ones[0].device
    parts = [
        torch.dot(_flat(one), _flat(other)).to(device)
        for one, other in zip(ones, others, strict=True)
    ]
    return torch.stack(parts).double().sum()


def _flat(values: Tensor) -> Tensor:
    """As a vector, of no less than single precision."""
    flat = values.detach().reshape(-1)
    return flat.float() if flat.dtype.itemsize < 4 else flat
