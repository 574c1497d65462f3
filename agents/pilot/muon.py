"""Muon, with Adam for what is no matrix (`torch.optim.Muon` takes matrices alone)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adam import adam

from trainpilot.envs.optimizers import ADAM_BETA2, EPSILON
from trainpilot.envs.orthogonal import matrix_parameters, orthogonalised


class Muon(torch.optim.Optimizer):
    """Moves matrices by their orthogonalised momentum, all other parameters as Adam does.

    The same as the engine's "muon": `trainpilot.envs.orthogonal` says which parameters are matrices
    and what their direction is.

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
            others, gradients = [], []
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                if self._is_matrix(parameter):
                    self._step_matrix(parameter, parameter.grad, group["lr"], group["betas"][0])
                else:
                    others.append(parameter)
                    gradients.append(parameter.grad)
            self._step_others(others, gradients, group["lr"], group["betas"])

    def _is_matrix(self, parameter: Tensor) -> bool:
        state = self.state.get(parameter)
        if state:
            # What it has been moved as, it stays.
            return "step" not in state
        return bool(matrix_parameters(self._model, [parameter]))

    def _step_matrix(self, matrix: Tensor, gradient: Tensor, rate: float, momentum: float) -> None:
        state = self.state[matrix]
        if not state:
            state["exp_avg"] = torch.zeros_like(matrix)
        state["exp_avg"].lerp_(gradient, 1 - momentum)
        # One that only looks on need not know where it would go.
        if rate > 0:
            ahead = torch.lerp(gradient, state["exp_avg"], momentum)
            # A loop may call `step` within its autocast, which would multiply in half precision.
            with torch.autocast(matrix.device.type, enabled=False):
                direction = orthogonalised(ahead.flatten(1))
            matrix.sub_(direction.view_as(matrix), alpha=rate)

    def _step_others(
        self,
        others: list[Tensor],
        gradients: list[Tensor],
        rate: float,
        betas: tuple[float, float],
    ) -> None:
        for parameter in others:
            state = self.state[parameter]
            if not state:
                # Where torch has it, whatever the default device is.
                state["step"] = torch.tensor(0.0, device="cpu")
                state["exp_avg"] = torch.zeros_like(parameter)
                state["exp_avg_sq"] = torch.zeros_like(parameter)
        kept = [self.state[parameter] for parameter in others]
        adam(
            others,
            gradients,
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
