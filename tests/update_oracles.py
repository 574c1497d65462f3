"""torch.optim's optimizers, and Lion and Muon as they are defined: what rules are held against."""

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


class Muon:
    """Muon by the singular values, on which its iteration is a polynomial five times over.

    Of parameters that are no matrices, Adam, with a third of the rate: in the tests that use it
    they are vectors.
    """

    def __init__(self, parameters: list[Tensor], lr: float, momentum: float) -> None:
        self.matrices = [one for one in parameters if one.ndim > 1 and min(one.shape) > 1]
        chosen = {id(matrix) for matrix in self.matrices}
        others = [one for one in parameters if id(one) not in chosen]
        self.adam = torch.optim.Adam(others, lr=lr / 3, betas=(momentum, 0.999)) if others else None
        self.lr, self.momentum = lr, momentum
        self.means = [torch.zeros_like(matrix) for matrix in self.matrices]

    def step(self) -> None:
        if self.adam is not None:
            self.adam.step()
        for parameter, mean in zip(self.matrices, self.means, strict=True):
            mean.mul_(self.momentum).add_(parameter.grad)
            values = (parameter.grad + self.momentum * mean).flatten(1)
            left, size, right = torch.linalg.svd(values, full_matrices=False)
            size = size / size.square().sum().sqrt()
            for _ in range(5):
                size = 3.4445 * size - 4.775 * size**3 + 2.0315 * size**5
            scale = self.lr * 0.2 * max(values.shape) ** 0.5
            parameter.data -= scale * (left @ size.diag() @ right).view_as(parameter)


#: Momentum 0.8 is no library's default, so that a rule that ignores it is found out.
ORACLES: dict[str, Callable] = {
    "sgd": lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.8),
    "nesterov": lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.8, nesterov=True),
    "adam": lambda p, lr: torch.optim.Adam(p, lr=lr, betas=(0.8, 0.999)),
    "rmsprop": lambda p, lr: torch.optim.RMSprop(p, lr=lr),
    "lion": lambda p, lr: Lion(p, lr, (0.8, 0.99)),
    "muon": lambda p, lr: Muon(p, lr, 0.8),
}
RATES = {
    "sgd": 0.05, "nesterov": 0.05, "adam": 0.01, "rmsprop": 0.003, "lion": 0.002, "muon": 0.01,
}  # fmt: skip
