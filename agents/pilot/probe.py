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
        gradients: of these, of this step's batch alone, as `_vectors`.
        before: these parameters as they were, likewise.
        sums: what is known before the update.
    """

    parameters: list[Tensor]
    gradients: list[Tensor]
    before: list[Tensor]
    sums: list[Tensor]


class Probe:
    """Gathers the sums of steps and leaves them on the device until they are asked for.

    A step is a row: `StepSums` and the squared norm of the mean gradient before it.
    """

    def __init__(self) -> None:
        self._rows: list[Tensor] = []

    def look(self, loss: Tensor | float, parameters: Sequence[Tensor]) -> None:
        """Take in a step of which no more is asked than the loss and two norms; the rest is 0.

        Args:
            loss: of its batch.
            parameters: all that are trained.
        """
        gradients = [one.grad for one in parameters if one.grad is not None]
        trained = [one for one in parameters if one.grad is not None or one.requires_grad]
        known = [_as_double(loss, gradients[0].device), _square(gradients), _square(trained)]
        nothing = torch.zeros_like(known[0])
        self._rows.append(torch.stack([*known, *(nothing,) * (len(StepSums._fields) - 2)]))

    def begin(
        self,
        loss: Tensor | float,
        parameters: Sequence[Tensor],
        mean: Callable[[Tensor], Tensor | None],
    ) -> Step:
        """Measure a step before its update.

        Args:
            loss: of its batch.
            parameters: all that are trained; those without a gradient have no part but in the
                norm of the parameters, and frozen ones none at all.
            mean: gives the mean gradient of a parameter so far; None for zeros.
        """
        moving = [parameter for parameter in parameters if parameter.grad is not None]
        still = [one for one in parameters if one.grad is None and one.requires_grad]
        gradients = _vectors([one.grad for one in moving if one.grad is not None])
        before = _vectors(moving, copied=True)
        means = _vectors([_known(mean(parameter), parameter) for parameter in moving])
        resting = [own for one in still if (own := mean(one)) is not None]
        length, mean_length = _product(before, before), _product(means, means)
        sums = [
            _as_double(loss, length.device),
            _product(gradients, gradients),
            length + _square(still) if still else length,
            _product(gradients, means),
            _product(gradients, before),
            mean_length + _square(resting) if resting else mean_length,
        ]
        return Step(moving, gradients, before, sums)

    def end(self, step: Step, means: Sequence[Tensor]) -> None:
        """Measure a step after its update.

        Args:
            step: as `begin` gave it.
            means: the mean gradients now.
        """
        loss, gradient, parameter, gradient_mean, gradient_parameter, mean_before = step.sums
        after = _vectors(step.parameters)
        # In the copies, which takes no more memory than these.
        change = [then.neg_().add_(now) for now, then in zip(after, step.before, strict=True)]
        sums = {
            "train_loss": loss,
            "gradient_square": gradient,
            "parameter_square": parameter,
            "update_square": _product(change, change),
            "mean_square": _square(means) if means else torch.zeros_like(loss),
            "gradient_mean": gradient_mean,
            "gradient_parameter": gradient_parameter,
            "gradient_update": _product(step.gradients, change),
        }
        columns = [*(sums[name] for name in StepSums._fields), mean_before]
        self._rows.append(torch.stack(columns))

    def read(self) -> np.ndarray:
        """What was gathered; waits for the device.

        Returns:
            `StepSums` and the squared norm of the mean gradient before each step,
            `(9, n_steps)`.
        """
        return torch.stack(self._rows, dim=1).cpu().numpy()

    def clear(self) -> None:
        """Begin anew."""
        self._rows = []

    @property
    def rows(self) -> list[Tensor]:
        """What was gathered so far, `(9,)` for each step."""
        return [row.clone() for row in self._rows]

    @rows.setter
    def rows(self, rows: Sequence[Tensor]) -> None:
        self._rows = list(rows)


#: Numbers from which on a vector is no longer joined with others.
_JOINED = 1 << 16


def _product(ones: Sequence[Tensor], others: Sequence[Tensor]) -> Tensor:
    """The sum of the products of all elements of vectors, as a double."""
    if len(ones) == 1:
        return torch.dot(ones[0], others[0]).double()
    device = ones[0].device
    parts = [torch.dot(one, other).to(device) for one, other in zip(ones, others, strict=True)]
    return torch.stack(parts).double().sum()


def _square(tensors: Sequence[Tensor]) -> Tensor:
    vectors = _vectors(tensors)
    return _product(vectors, vectors)


def _vectors(tensors: Sequence[Tensor], *, copied: bool = False) -> list[Tensor]:
    """Tensors as vectors of no less than single precision.

    Small ones are joined: a call costs more than what is in them. Tensors of the same sizes in
    the same order give vectors of the same sizes.

    Args:
        tensors: any.
        copied: give copies in any case.
    """
    parts: list[list[Tensor]] = []
    n_joined = _JOINED
    for tensor in tensors:
        flat = tensor.detach().reshape(-1)
        if flat.dtype.itemsize < 4:
            flat = flat.float()
        if n_joined >= _JOINED or parts[-1][0].device != flat.device:
            parts.append([])
            n_joined = 0
        parts[-1].append(flat)
        n_joined += len(flat)
    return [
        torch.cat(part) if len(part) > 1 else part[0].clone() if copied else part[0]
        for part in parts
    ]


def _as_double(loss: Tensor | float, device: torch.device) -> Tensor:
    return torch.as_tensor(loss, dtype=torch.float64, device=device).detach()


def _known(mean: Tensor | None, parameter: Tensor) -> Tensor:
    return torch.zeros_like(parameter) if mean is None else mean
