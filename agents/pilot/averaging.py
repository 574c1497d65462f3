"""The moving average of a model's weights, which is evaluated and saved in their place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from trainpilot.agents.pilot.snapshot import plain_name, unwrapped
from trainpilot.envs.averages import is_averaged


class ModelAverage:
    """`average = decay * average + (1 - decay) * weights`, as `envs.averages` has it for runs.

    It takes as much memory as the trained parameters, of which it keeps those with fewer than 32
    bits in 32: in theirs, small changes would be lost.

    Args:
        model: of the training, or what wraps it; its buffers are found anew each time.
        parameters: all that may be trained; the list may grow.

    Attributes:
        is_shown: the model has the average in the place of its weights.
    """

    def __init__(self, model: nn.Module, parameters: list[Tensor]) -> None:
        self._model = unwrapped(model)
        self._all = parameters
        self.is_shown = False
        self.forget()

    def forget(self) -> None:
        """Begin anew, with the next weights that are taken in with a decay above 0."""
        self._kept: dict[Tensor | str, Tensor] = {}
        self._taken_at: int | None = None

    @torch.no_grad()
    def take_in(self, decay: float, steps: int) -> None:
        """Take in the weights, once after as many steps.

        Args:
            decay: share of the earlier average in the new one, in [0, 1).
            steps: of the training so far.
        """
        if steps == self._taken_at:
            return
        if decay == 0:
            self.forget()
            return
        try:
            for key, values in self._weights():
                kept = self._of(key, values)
                if kept is None:
                    self._kept[key] = _wide(values).clone()
                else:
                    kept.lerp_(_wide(values), 1 - decay)
        except BaseException:
            # Half of it is new: it must not be taken in twice.
            self.forget()
            raise
        self._taken_at = steps

    @contextmanager
    def shown(self, decay: float, steps: int) -> Iterator[None]:
        """Let the model have the average in the place of its weights, which come back after.

        Args:
            decay: with which the weights are taken in that the average has not seen yet.
            steps: of the training so far.
        """
        own = {key: values.detach().clone() for key, values in self._weights()}
        self.is_shown = True
        try:
            self.write(decay, steps)
            yield
        finally:
            with torch.no_grad():
                for key, values in self._weights():
                    if key in own and own[key].shape == values.shape:
                        values.copy_(own[key])
            self.is_shown = False

    @torch.no_grad()
    def write(self, decay: float, steps: int) -> None:
        """Write the average into the model; arguments as those of `shown`."""
        for key, values in self._weights():
            kept = self._of(key, values)
            if kept is not None:
                is_in = steps == self._taken_at
                now = kept if is_in else torch.lerp(kept, _wide(values).to(kept.device), 1 - decay)
                values.copy_(now)

    def _of(self, key: Tensor | str, values: Tensor) -> Tensor | None:
        """The average of what is like this; None where there is none yet."""
        kept = self._kept.get(key)
        alike = kept is not None and (kept.shape, kept.dtype) == (values.shape, _width(values))
        return kept if alike else None

    def _weights(self) -> Iterator[tuple[Tensor | str, Tensor]]:
        # The parameters themselves: a model that is moved gives them other memory.
        for parameter in self._all:
            if parameter.requires_grad or parameter in self._kept:
                yield parameter, parameter
        for name, buffer in self._model.named_buffers():
            if is_averaged(name):
                yield plain_name(name), buffer

    def state_dict(self) -> dict[str, Any]:
        """The average itself, parameters by their number."""
        return {
            "taken_at": self._taken_at,
            "parameters": [self._kept.get(parameter) for parameter in self._all],
            "buffers": {key: kept for key, kept in self._kept.items() if isinstance(key, str)},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        given = dict(zip(self._all, state["parameters"], strict=True)) | state["buffers"]
        self._kept = {
            key: given[key].to(values.device, copy=True)
            for key, values in [*zip(self._all, self._all, strict=True), *self._weights()]
            if given.get(key) is not None
        }
        self._taken_at = state["taken_at"]


def _width(values: Tensor) -> torch.dtype:
    return torch.promote_types(values.dtype, torch.float32)


def _wide(values: Tensor) -> Tensor:
    return values.detach().to(_width(values))
