"""torch.optim's optimizers, and Lion as its paper has it: what update rules are held against."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class Lion:
    """Lion as arXiv 2302.06675, algorithm 2, has it; the decay is done by the caller."""

    def __init__(self, parameters: list[Tensor], lr: float, betas: tuple[float, float]) -> None:
        self.parameters, self.lr, self.betas = parameters, lr, betas
        self.means = [torch.zeros_like(parameter) for parameter in parameters]

    def step(self) -> None:
        for parameter, mean in zip(self.parameters, self.means, strict=True):
            update = self.betas[0] * mean + (1 - self.betas[0]) * parameter.grad
            parameter.data -= self.lr * update.sign()
            mean.mul_(self.betas[1]).add_(parameter.grad, alpha=1 - self.betas[1])


#: Momentum 0.8 is no library's default, so that a rule that ignores it is found out.
ORACLES: dict[str, Callable] = {
    "sgd": lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.8),
    "nesterov": lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.8, nesterov=True),
    "adam": lambda p, lr: torch.optim.Adam(p, lr=lr, betas=(0.8, 0.999)),
    "rmsprop": lambda p, lr: torch.optim.RMSprop(p, lr=lr),
    "lion": lambda p, lr: Lion(p, lr, (0.8, 0.99)),
}
RATES = {"sgd": 0.05, "nesterov": 0.05, "adam": 0.01, "rmsprop": 0.003, "lion": 0.002}
