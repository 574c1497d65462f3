"""Muon, with Adam for what is no matrix (`torch.optim.Muon` takes matrices alone)."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adam import adam

from trainpilot.envs.optimizers import ADAM_BETA2, EPSILON, OPTIMIZERS
from trainpilot.envs.orthogonal import Kind, orthogonalised, parameter_kinds

#: What the rate is multiplied by, for each kind of parameter that Adam moves.
_SCALES = {Kind.TABLE: 1.0, Kind.VECTOR: OPTIMIZERS["muon"].vector_scale}


def _without_autocast(device_type: str) -> AbstractContextManager[Any]:
    if torch.amp.is_autocast_available(device_type):
        return torch.autocast(device_type, enabled=False)
    return nullcontext()


class Muon(torch.optim.Optimizer):
    """Moves matrices by their orthogonalised momentum, all other parameters as Adam does.

    Vectors, biases for one, move by a third of the rate, tables of embeddings by the whole. The
    same as the engine's "muon": `trainpilot.envs.orthogonal` says what a parameter is and what
    the direction of a matrix is.

    Args:
        params: parameters, or groups of them.
        model: that they are of, which tells embeddings from matrices.
        lr: learning rate, > 0 (default: 1e-3).
        betas: of the momentum and of Adam's mean square, each in [0, 1) (default: 0.9, 0.999).
        foreach: of Adam, as torch has it.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        model: nn.Module,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, ADAM_BETA2),
        foreach: bool | None = None,
    ) -> None:
        self._model = model
        self._foreach = foreach
        super().__init__(params, {"lr": lr, "betas": betas})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move all parameters that have a gradient."""
        for group in self.param_groups:
            others: dict[Kind, list[Tensor]] = {kind: [] for kind in _SCALES}
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                kind = self._kind(parameter)
                if kind is Kind.MATRIX:
                    self._step_matrix(parameter, parameter.grad, group["lr"], group["betas"][0])
                else:
                    others[kind].append(parameter)
            for kind, parameters in others.items():
                self._step_others(parameters, group["lr"] * _SCALES[kind], group["betas"])

    def _kind(self, parameter: Tensor) -> Kind:
        """What a parameter is; what it is moved as at first, it stays."""
        state = self.state[parameter]
        if not state:
            (kind,) = parameter_kinds(self._model, [parameter])
            # Plain text, which checkpoints load without unpickling.
            state["kind"] = kind.value
            state["exp_avg"] = torch.zeros_like(parameter)
            if kind is not Kind.MATRIX:
                # Where torch has it, whatever the default device is.
                state["step"] = torch.tensor(0.0, device="cpu")
                state["exp_avg_sq"] = torch.zeros_like(parameter)
        return Kind(state["kind"])

    def _step_matrix(self, matrix: Tensor, gradient: Tensor, rate: float, momentum: float) -> None:
        state = self.state[matrix]
        state["exp_avg"].lerp_(gradient, 1 - momentum)
        # One that only looks on need not know where it would go.
        if rate > 0:
            ahead = torch.lerp(gradient, state["exp_avg"], momentum)
            # A loop may call `step` within its autocast, which would multiply in half precision.
            with _without_autocast(matrix.device.type):
                direction = orthogonalised(ahead.flatten(1))
            matrix.sub_(direction.view_as(matrix), alpha=rate)

    def _step_others(self, others: list[Tensor], rate: float, betas: tuple[float, float]) -> None:
        kept = [self.state[parameter] for parameter in others]
        adam(
            others,
            [parameter.grad for parameter in others if parameter.grad is not None],
            [state["exp_avg"] for state in kept],
            [state["exp_avg_sq"] for state in kept],
            [],
            [state["step"] for state in kept],
            foreach=self._foreach,
            has_complex=any(parameter.is_complex() for parameter in others),
            amsgrad=False,
            beta1=betas[0],
            beta2=betas[1],
            lr=rate,
            weight_decay=0.0,
            eps=EPSILON,
            maximize=False,
        )
