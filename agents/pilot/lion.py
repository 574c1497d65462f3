"""Lion, which torch does not have (Chen et al., arXiv 2302.06675, algorithm 2)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from trainpilot.envs.optimizers import LION_BETA2


class Lion(torch.optim.Optimizer):
    """Moves every parameter by the whole learning rate, in the direction of a mean's sign.

    Args:
        params: parameters, or groups of them.
        lr: learning rate, > 0 (default: 1e-4).
        betas: of the step and of the mean, each in [0, 1) (default: 0.9, 0.99).
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, LION_BETA2),
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move all parameters that have a gradient."""
        for group in self.param_groups:
            short, long = group["betas"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["exp_avg"] = torch.zeros_like(parameter)
                direction = torch.lerp(parameter.grad, state["exp_avg"], short).sign_()
                parameter.sub_(direction, alpha=group["lr"])
                state["exp_avg"].lerp_(parameter.grad, 1 - long)
