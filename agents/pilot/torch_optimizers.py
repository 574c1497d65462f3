"""The optimizers that a run may use, as torch has them, over the same parameters."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, MutableMapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from trainpilot.agents.pilot.lion import Lion
from trainpilot.agents.pilot.muon import Muon
from trainpilot.envs.optimizers import ADAM_BETA2, EPSILON, LION_BETA2, RMSPROP_ALPHA

Groups = list[dict[str, Any]]
State = MutableMapping[Tensor, dict[str, Any]]

#: Those of which torch has a version with one kernel for the whole step.
_FUSED = ("adam", "sgd", "nesterov")

#: Those that keep the mean gradient of every parameter, Adam's first moment.
_WITH_MEAN = ("adam", "muon")

#: Among copies by optimizer, the name of the mean gradient that no optimizer keeps.
_MEAN = "mean"


def _sgd(groups: Groups, **how: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, lr=1e-3, momentum=0.9, **how)


def _nesterov(groups: Groups, **how: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, lr=1e-3, momentum=0.9, nesterov=True, **how)


def _adam(groups: Groups, **how: Any) -> torch.optim.Optimizer:
    betas = (0.9, ADAM_BETA2)
    return torch.optim.Adam(groups, lr=1e-3, betas=betas, eps=EPSILON, **how)


def _rmsprop(groups: Groups, **how: Any) -> torch.optim.Optimizer:
    return torch.optim.RMSprop(groups, lr=1e-3, alpha=RMSPROP_ALPHA, eps=EPSILON, **how)


def _lion(groups: Groups, **how: Any) -> torch.optim.Optimizer:
    return Lion(groups)


def _muon(groups: Groups, *, model: nn.Module, **how: Any) -> torch.optim.Optimizer:
    return Muon(groups, model, **how)


_MAKERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": _sgd,
    "nesterov": _nesterov,
    "adam": _adam,
    "rmsprop": _rmsprop,
    "lion": _lion,
    "muon": _muon,
}


class TorchOptimizers:
    """Optimizers of torch, one of which moves the parameters while the others look on.

    Every one takes in every gradient, those that look on with a learning rate of 0, so that a
    switch does not start from zero moments. Where there is but one, that costs nothing. One that
    is not among the first begins when it is first used.

    Args:
        groups: of the parameters, with "params", "lr", "weight_decay" (decoupled) and "momentum",
            which are read anew at every step.
        model: that the parameters are of.
        names: of the optimizers that take in gradients from the beginning.
        foreach: as torch's optimizers have it.
        fused: likewise, for those that have it.
    """

    def __init__(
        self,
        groups: Groups,
        model: nn.Module,
        names: Sequence[str],
        foreach: bool | None,
        fused: bool | None,
    ) -> None:
        self._groups = groups
        self._model = model
        self._foreach, self._fused = foreach, fused
        self._all: dict[str, torch.optim.Optimizer] = {}
        self._active = ""
        for name in names:
            self._make(name)
        #: The mean gradient, where there is no optimizer to keep it.
        self._means: dict[Tensor, Tensor] = {}

    def _make(self, name: str) -> None:
        how: dict[str, Any] = {"foreach": self._foreach}
        if name in _FUSED and self._fused:
            how = {"fused": True}
        elif name in _FUSED and self._fused is not None:
            how["fused"] = False
        if name == "nesterov" and not self._fused:
            # With `foreach`, torch's writes into the gradients that the others are to see.
            how["foreach"] = False
        if name == "muon":
            how["model"] = self._model
        own: Groups = [{"params": group["params"]} for group in self._groups]
        self._all[name] = _MAKERS[name](own, **how)

    def use(self, name: str) -> defaultdict[Tensor, Any]:
        """Move the parameters by this optimizer from now on; gives what it keeps."""
        if name not in self._all:
            self._make(name)
        self._active = name
        return self._all[name].state

    def add_group(self, group: dict[str, Any]) -> None:
        """Parameters that come later; `groups` has them already."""
        for optimizer in self._all.values():
            optimizer.add_param_group({"params": group["params"]})

    def step(self) -> None:
        """Move the parameters that have a gradient by the optimizer in use."""
        if self._with_mean() is None:
            self._take_mean()
        for group in self._groups:
            if group["weight_decay"]:
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        for name, optimizer in self._all.items():
            for group, own in zip(self._groups, optimizer.param_groups, strict=True):
                own["lr"] = group["lr"] if name == self._active else 0.0
                if name in _WITH_MEAN:
                    own["betas"] = (group["momentum"], ADAM_BETA2)
                elif name == "lion":
                    own["betas"] = (group["momentum"], LION_BETA2)
                elif name != "rmsprop":
                    own["momentum"] = group["momentum"]
            # Without torch's marks for its profiler, which the pilot's own step has already.
            _bare_step(type(optimizer))(optimizer)

    def mean(self, parameter: Tensor) -> Tensor | None:
        """The mean gradient of a parameter, Adam's first moment; None before its first step."""
        optimizer = self._with_mean()
        if optimizer is not None:
            mean: Tensor | None = optimizer.state.get(parameter, {}).get("exp_avg")
            return mean
        return self._means.get(parameter)

    def _with_mean(self) -> torch.optim.Optimizer | None:
        return next((self._all[name] for name in _WITH_MEAN if name in self._all), None)

    def _take_mean(self) -> None:
        for group in self._groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                if parameter not in self._means:
                    self._means[parameter] = torch.zeros_like(parameter)
                self._means[parameter].lerp_(parameter.grad, 1 - group["momentum"])

    def copies(self, device: str | None = None) -> dict[str, State]:
        """Copies of all that is kept, by optimizer.

        Args:
            device: where to (default: beside the parameters).
        """
        kept = {name: _copied(own.state, device) for name, own in self._all.items()}
        return kept | {_MEAN: _copied({p: {_MEAN: m} for p, m in self._means.items()}, device)}

    def restore(self, copies: dict[str, State]) -> None:
        """Go on from copies."""
        for name in copies.keys() - {*self._all, _MEAN}:
            self._make(name)
        for name, optimizer in self._all.items():
            optimizer.state.clear()
            for parameter, values in copies.get(name, {}).items():
                optimizer.state[parameter] = _like(values, parameter)
                if self._fused and name in _FUSED and "step" in values:
                    # One kernel for the whole step reads its number there too.
                    step = values["step"].to(parameter.device, copy=True)
                    optimizer.state[parameter]["step"] = step
        self._means = {
            parameter: _like(values, parameter)[_MEAN]
            for parameter, values in copies[_MEAN].items()
        }

    def state_dict(self) -> dict[str, Any]:
        """All that is kept, parameters by their number; for `load_state_dict`."""
        return numbered(self.copies(), self._parameters())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self.restore(unnumbered(state, self._parameters()))

    def _parameters(self) -> list[Tensor]:
        return [parameter for group in self._groups for parameter in group["params"]]


def _bare_step(kind: type[torch.optim.Optimizer]) -> Callable[[torch.optim.Optimizer], Any]:
    step: Callable[[torch.optim.Optimizer], Any] = getattr(kind.step, "__wrapped__", kind.step)
    return step


def numbered(copies: dict[str, State], parameters: Iterable[Tensor]) -> dict[str, Any]:
    """Copies by the numbers of the parameters instead of themselves."""
    numbers = {parameter: number for number, parameter in enumerate(parameters)}
    return {
        name: {numbers[parameter]: values for parameter, values in state.items()}
        for name, state in copies.items()
    }


def unnumbered(state: dict[str, Any], parameters: Iterable[Tensor]) -> dict[str, State]:
    """What `numbered` was given."""
    own = list(parameters)
    return {
        name: {own[int(number)]: values for number, values in kept.items()}
        for name, kept in state.items()
    }


def _copied(state: State, device: str | None) -> State:
    return {
        parameter: {
            name: value.detach().to(
                value.device if name == "step" else device or value.device, copy=True
            )
            if isinstance(value, Tensor)
            else value
            for name, value in values.items()
        }
        for parameter, values in state.items()
    }


def _like(values: dict[str, Any], parameter: Tensor) -> dict[str, Any]:
    """Copies beside the parameter; the number of steps where torch has it, maybe on the CPU."""
    return {
        name: value.to(value.device if name == "step" else parameter.device, copy=True)
        if isinstance(value, Tensor)
        else value
        for name, value in values.items()
    }
