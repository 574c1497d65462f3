"""What an update is given: the mean gradient of one or more batches, clipped."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor


class Gradients:
    """Accumulates the gradients of batches, beside those that the parameters have."""

    def __init__(self) -> None:
        self._sums: dict[Tensor, Tensor] = {}
        self._count = 0

    @contextlib.contextmanager
    def prepared(
        self, parameters: Sequence[Tensor], batch_size: int, clip: float
    ) -> Iterator[bool]:
        """For as long as this lasts, parameters have the gradient that an update takes.

        Args:
            parameters: with the gradients of the latest batch.
            batch_size: batches that the mean is taken over.
            clip: largest norm of the mean; infinite for none.

        Yields:
            Whether there are enough batches; if not, there is nothing to update by.
        """
        self._count += 1
        if self._count == 1 and batch_size == 1 and math.isinf(clip):
            self._count = 0
            yield True
            return
        own = [(parameter, parameter.grad) for parameter in parameters]
        for parameter, gradient in own:
            if gradient is not None:
                kept = self._sums.get(parameter)
                self._sums[parameter] = gradient.clone() if kept is None else kept.add_(gradient)
        if self._count < batch_size:
            yield False
            return
        for parameter, kept in self._sums.items():
            parameter.grad = kept.div_(self._count)
        self.clear()
        try:
            if math.isfinite(clip):
                torch.nn.utils.clip_grad_norm_(parameters, clip)
            yield True
        finally:
            # A user may still look at the batch's own.
            for parameter, gradient in own:
                parameter.grad = gradient

    def clear(self) -> None:
        """Forget what was accumulated."""
        self._sums, self._count = {}, 0

    def state_dict(self, parameters: Sequence[Tensor]) -> dict[str, Any]:
        """What was accumulated, in the order of the parameters."""
        sums = [self._sums.get(parameter) for parameter in parameters]
        return {
            "count": self._count,
            "sums": [None if kept is None else kept.clone() for kept in sums],
        }

    def load_state_dict(self, state: dict[str, Any], parameters: Sequence[Tensor]) -> None:
        """Go on from what `state_dict` gave."""
        self._count = state["count"]
        self._sums = {
            parameter: kept.to(parameter.device, copy=True)
            for parameter, kept in zip(parameters, state["sums"], strict=True)
            if kept is not None
        }
