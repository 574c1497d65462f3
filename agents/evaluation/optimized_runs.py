"""Runs of an engine that optimizers of `torch.optim` or of other packages move."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from time import perf_counter

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from trainpilot.envs.engine import Engine
from trainpilot.envs.hyperparameters import FloatArray
from trainpilot.envs.signals import Signals


class OptimizedRuns:
    """Every run of an engine with an optimizer of its own.

    The engine gives the gradients of all runs at once. An optimizer sees the whole parameter
    vector of its run as one flat parameter. That is the same for rules that work by element
    (Adam, Schedule-Free) or by sums over all parameters (Prodigy, hypergradient descent), and
    another for rules that look at each tensor of a model by itself. SWATS switches by a sum over
    all weights, as in its paper (arXiv 1712.07628); given a model's tensors one by one, the
    package pytorch-optimizer switches as soon as one of them tells it to.

    Args:
        engine: its runs may use "sgd"; it has been reset.
        makers: for each run, what makes the optimizer of its one parameter, `(n_params,)`.

    Attributes:
        update_seconds: that the updates of each run have taken so far, `(n_runs,)`; the gradients
            are found for all runs at once.
    """

    def __init__(
        self, engine: Engine, makers: Sequence[Callable[[nn.Parameter], torch.optim.Optimizer]]
    ) -> None:
        self.update_seconds = np.zeros(engine.n_runs)
        self._engine = engine
        self._gradients = torch.zeros_like(engine.parameters)
        self._optimizers = []
        for make, weights, gradient in zip(makers, engine.parameters, self._gradients, strict=True):
            # It shares the memory of the engine's weights: to move one is to move the other.
            parameter = nn.Parameter(weights)
            parameter.grad = gradient
            self._optimizers.append(make(parameter))
        self._call("train")

    @property
    def learning_rate(self) -> FloatArray:
        """What the next update of each run would use, `(n_runs,)`.

        It includes the estimate of the distance to the solution that D-Adaptation (arXiv
        2301.07733) and its like multiply it by, which they call d.
        """
        groups = [optimizer.param_groups[0] for optimizer in self._optimizers]
        return np.array([float(group["lr"]) * float(group.get("d", 1.0)) for group in groups])

    def advance(self, n_micro_batches: int, going_on: NDArray[np.bool_]) -> Signals:
        """Train the runs on their next micro-batches, with an update after each.

        Args:
            n_micro_batches: how many, at least 1; no run may pass its budget.
            going_on: the runs that are trained, `(n_runs,)`; the weights of others stay.

        Returns:
            The signals of these micro-batches, `(n_runs, n_micro_batches)` each; those of the
            updates, which the engine does not see, are 0.
        """
        moved = [(row, self._optimizers[row]) for row in np.flatnonzero(going_on).tolist()]
        steps = []
        for _ in range(n_micro_batches):
            gradients, signals = self._engine.gradients()
            # A copy, since some optimizers work in the gradient.
            self._gradients.copy_(gradients)
            begun = perf_counter()
            for row, optimizer in moved:
                optimizer.step()
                ended = perf_counter()
                self.update_seconds[row] += ended - begun
                begun = ended
            steps.append(signals)
        return Signals(*(np.concatenate(parts, axis=1) for parts in zip(*steps, strict=True)))

    @contextlib.contextmanager
    def evaluation(self) -> Iterator[None]:
        """Inside, the engine holds the weights that are meant for use.

        Schedule-Free optimizers (arXiv 2405.15682) train other weights than those, and have
        `eval()` and `train()` to change between the two.
        """
        self._call("eval")
        try:
            yield
        finally:
            self._call("train")

    def _call(self, name: str) -> None:
        """Call that method of every optimizer, if they have it."""
        for optimizer in self._optimizers:
            getattr(optimizer, name, lambda: None)()
