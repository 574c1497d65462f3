"""The moving average of a model's weights, which is evaluated and kept in their place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from trainpilot.agents.pilot.snapshot import plain_name, unwrapped


class AveragedWeights:
    """`average = decay * average + (1 - decay) * weights`, as `envs.averages` has it for runs.

    It takes as much memory as the trained parameters and the buffers, beside them. Buffers that
    are no floating-point numbers are left as they are.

    Args:
        model: of the training, or what wraps it; its buffers are found anew each time.
        parameters: all that may be trained; the list may grow.
    """

    def __init__(self, model: nn.Module, parameters: list[Tensor]) -> None:
        self._model = unwrapped(model)
        self._all = parameters
        self.begin()

    def begin(self) -> None:
        """Begin anew, with the next weights that are taken in with a decay above 0."""
        self._kept: dict[Tensor | str, Tensor] = {}
        self._taken_at = -1

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
            self.begin()
        for key, values in self._weights() if decay > 0 else ():
            # In place where it can be: two would take twice the memory.
            kept = self._of(key, values)
            self._kept[key] = values.clone() if kept is None else kept.lerp_(values, 1 - decay)
        self._taken_at = steps

    @contextmanager
    def shown(self, decay: float, steps: int) -> Iterator[None]:
        """Let the model have the average in the place of its weights, which come back after.

        Args:
            decay: with which the weights are taken in that the average has not seen yet.
            steps: of the training so far.
        """
        with torch.no_grad():
            own = [(values, values.clone()) for _, values in self._weights()]
            self.write(decay, steps)
        try:
            yield
        finally:
            with torch.no_grad():
                for values, kept in own:
                    values.copy_(kept)

    @torch.no_grad()
    def write(self, decay: float, steps: int) -> None:
        """Write the average into the model; arguments as those of `shown`."""
        for key, values in self._weights():
            kept = self._of(key, values)
            if kept is not None:
                is_seen = steps == self._taken_at
                values.copy_(kept if is_seen else torch.lerp(kept, values, 1 - decay))

    def _of(self, key: Tensor | str, values: Tensor) -> Tensor | None:
        """The average of what is like this; None where there is none yet."""
        kept = self._kept.get(key)
        return None if kept is None or kept.shape != values.shape else kept

    def _weights(self) -> Iterator[tuple[Tensor | str, Tensor]]:
        for parameter in self._all:
            if parameter.requires_grad or parameter in self._kept:
                yield parameter, parameter.detach()
        for name, buffer in self._model.named_buffers():
            if buffer.is_floating_point():
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
        pairs = zip(self._all, state["parameters"], strict=True)
        self._kept = {
            parameter: kept.to(parameter.device, copy=True)
            for parameter, kept in pairs
            if kept is not None
        }
        device = self._all[0].device
        for name, kept in state["buffers"].items():
            self._kept[name] = kept.to(device, copy=True)
        self._taken_at = state["taken_at"]
