"""Adam whose learning rate is itself learned by gradient descent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.optim.optimizer import ParamsT


class AdamHD(torch.optim.Optimizer):
    """Adam with hypergradient descent of its learning rate.

    Algorithm 6 (Adam-HD) of Baydin et al., "Online Learning Rate Adaptation with Hypergradient
    Descent", ICLR 2018, arXiv 1703.04782. With the gradient g_t and Adam's step
    `theta_t = theta_(t-1) - alpha_t * u_t`, where `u_t = m_t / (sqrt(v_t) + eps)` of the
    bias-corrected moments, the rate moves before it is used:

        alpha_t = alpha_(t-1) + hypergradient_lr * dot(g_t, u_(t-1)),    u_0 = 0

    The derivative of the loss by the last rate is `-dot(g_t, u_(t-1))`; the product is over all
    parameters of a group. Nothing bounds the rate, as in the paper: it may fall below 0.

    Args:
        params: as `torch.optim.Adam` takes them.
        lr: the rate to start from, >= 0 (default: 1e-3, that of the paper).
        betas: decay of the two moments, in [0, 1) (default: 0.9 and 0.999).
        eps: of the denominator, >= 0 (default: 1e-8).
        hypergradient_lr: the rate of the rate, >= 0; 0 is Adam (default: 1e-7, the paper's for
            logistic regression and a multi-layer network; it takes 1e-8 for a VGG).
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        hypergradient_lr: float = 1e-7,
    ) -> None:
        super().__init__(
            params,
            {"lr": lr, "betas": betas, "eps": eps, "hypergradient_lr": hypergradient_lr, "step": 0},
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Move the learning rate, then the parameters.

        Args:
            closure: evaluates the model anew and gives the loss (default: None).
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            self._step_group(group)
        return loss

    def _step_group(self, group: dict[str, Any]) -> None:
        moved = [parameter for parameter in group["params"] if parameter.grad is not None]
        slope = sum(
            float(torch.dot(parameter.grad.flatten(), self.state[parameter]["direction"].flatten()))
            for parameter in moved
            if self.state[parameter]
        )
        group["lr"] += group["hypergradient_lr"] * slope
        group["step"] += 1
        beta1, beta2 = group["betas"]
        for parameter in moved:
            state = self.state[parameter]
            if not state:
                for name in ("exp_avg", "exp_avg_sq", "direction"):
                    state[name] = torch.zeros_like(parameter)
            mean, square, direction = state["exp_avg"], state["exp_avg_sq"], state["direction"]
            mean.lerp_(parameter.grad, 1 - beta1)
            square.mul_(beta2).addcmul_(parameter.grad, parameter.grad, value=1 - beta2)
            denominator = (square / (1 - beta2 ** group["step"])).sqrt_().add_(group["eps"])
            torch.div(mean, denominator, out=direction).div_(1 - beta1 ** group["step"])
            parameter.sub_(direction, alpha=group["lr"])
