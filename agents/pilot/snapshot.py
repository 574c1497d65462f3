"""The last good state of a training, to which the guard rolls back."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from trainpilot.agents.pilot.torch_optimizers import TorchOptimizers, numbered, unnumbered


class Snapshot:
    """One copy of a model's parameters and buffers and of what its optimizers keep.

    It takes as much memory as these do, on a device of choice.

    Args:
        model: of the training.
        parameters: that are trained, be they the model's or not.
        optimizers: of the training.
        device: where the copy lies; None for beside the originals.
    """

    def __init__(
        self,
        model: nn.Module,
        parameters: list[Tensor],
        optimizers: TorchOptimizers,
        device: str | None,
    ) -> None:
        own = {id(tensor): tensor for tensor in [*parameters, *model.buffers()]}
        self._live = list(own.values())
        self._parameters = parameters
        self._optimizers = optimizers
        self._device = device
        self.keep()

    @torch.no_grad()
    def keep(self) -> None:
        """Take the copy anew."""
        # The old one goes first: two would take twice the memory.
        self._kept: list[Tensor] = []
        self._states: dict[str, Any] = {}
        self._kept = [tensor.to(self._device or tensor.device, copy=True) for tensor in self._live]
        self._states = self._optimizers.copies(self._device)

    @torch.no_grad()
    def restore(self) -> None:
        """Write the copy back, in place."""
        for tensor, kept in zip(self._live, self._kept, strict=True):
            tensor.copy_(kept)
        self._optimizers.restore(self._states)

    def state_dict(self) -> dict[str, Any]:
        """The copy itself, parameters by their number."""
        return {"tensors": self._kept, "optimizers": numbered(self._states, self._parameters)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take what `state_dict` gave for the copy."""
        self._kept = [
            kept.to(self._device or tensor.device, copy=True)
            for tensor, kept in zip(self._live, state["tensors"], strict=True)
        ]
        self._states = unnumbered(state["optimizers"], self._parameters)
