"""The last good state of a training, to which the guard rolls back."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from trainpilot.agents.pilot.torch_optimizers import (
    State,
    TorchOptimizers,
    numbered,
    unnumbered,
)


class Snapshot:
    """One copy of a model's trained parameters and buffers and of what its optimizers keep.

    It takes as much memory as these do, on a device of choice.

    Args:
        model: of the training, or what wraps it; its buffers are found anew each time, since
            modules may replace them.
        parameters: all that may be trained; the list may grow.
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
        self._model = unwrapped(model)
        self._all = parameters
        self._optimizers = optimizers
        self._device = device
        self.keep()

    @torch.no_grad()
    def keep(self) -> None:
        """Take the copy anew."""
        # The old one goes first: two would take twice the memory.
        self._parameters: dict[Tensor, Tensor] = {}
        self._buffers: dict[str, Tensor] = {}
        self._states: dict[str, State] = {}
        self.extend(self._all)
        self._buffers = {name: self._copy(own) for name, own in self._model.named_buffers()}
        self._states = self._optimizers.copies(self._device)

    def extend(self, parameters: list[Tensor]) -> None:
        """Keep those that are not kept yet as they are now; what cannot move needs no copy."""
        if len(self._parameters) == len(self._all):
            return
        for parameter in parameters:
            if parameter in self._parameters:
                continue
            if parameter.requires_grad or parameter.grad is not None:
                self._parameters[parameter] = self._copy(parameter)

    @torch.no_grad()
    def restore(self) -> None:
        """Write the copy back."""
        for parameter, kept in self._parameters.items():
            parameter.copy_(kept)
        for name, kept in self._buffers.items():
            path, _, own = name.rpartition(".")
            try:
                module = self._model.get_submodule(path)
            except AttributeError:
                # It is no longer part of the model.
                continue
            buffer = getattr(module, own, None)
            if isinstance(buffer, Tensor) and buffer.shape == kept.shape:
                buffer.copy_(kept)
            elif own in module._buffers:
                device = self._all[0].device if buffer is None else buffer.device
                setattr(module, own, kept.to(device, copy=True))
        self._optimizers.restore(self._states)

    def _copy(self, tensor: Tensor) -> Tensor:
        return tensor.detach().to(self._device or tensor.device, copy=True)

    def state_dict(self) -> dict[str, Any]:
        """The copy itself, parameters by their number."""
        return {
            "parameters": [self._parameters.get(parameter) for parameter in self._all],
            # Compiled or not, a checkpoint fits.
            "buffers": {plain_name(name): kept for name, kept in self._buffers.items()},
            "optimizers": numbered(self._states, self._all),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take what `state_dict` gave for the copy; of buffers, those that the model has."""
        self._parameters = {
            parameter: kept.to(self._device or parameter.device, copy=True)
            for parameter, kept in zip(self._all, state["parameters"], strict=True)
            if kept is not None
        }
        self._buffers = {
            name: state["buffers"][plain_name(name)].to(self._device or own.device, copy=True)
            for name, own in self._model.named_buffers()
            if plain_name(name) in state["buffers"]
        }
        self._states = unnumbered(state["optimizers"], self._all)


def unwrapped(model: nn.Module) -> nn.Module:
    """The module within what torch wraps around a whole one."""
    while True:
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        else:
            return model


def plain_name(name: str) -> str:
    """The name that a buffer has where no part of the model is compiled."""
    return name.replace("_orig_mod.", "")
