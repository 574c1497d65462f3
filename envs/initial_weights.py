"""Initial weights of inner runs: those of `torch.manual_seed(seed); task.make_model()`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainpilot.inner_tasks.protocol import InnerTask


class InitialWeights:
    """Models with the initial weights of any seed.

    To make a model costs more than to draw its weights. Where the layers' own
    `reset_parameters`, one after the other, draw the same numbers, one model is used over and over.

    Args:
        task: makes the models.
    """

    def __init__(self, task: InnerTask) -> None:
        self._task = task
        with torch.random.fork_rng(devices=[]):
            self._model = self._made(0)
            try:
                self._can_redraw = all(
                    _equal(self._redrawn(seed), self._made(seed)) for seed in (1, 2)
                )
            except Exception:
                # A method of that name that wants something else is the user's own business.
                self._can_redraw = False

    def model(self, seed: int) -> nn.Module:
        """The model of a seed; it changes when the next one is asked for.

        Seeds the global generator, which the caller keeps from the user's sight.
        """
        return self._redrawn(seed) if self._can_redraw else self._made(seed)

    def _made(self, seed: int) -> nn.Module:
        torch.default_generator.manual_seed(seed)
        return self._task.make_model()

    def _redrawn(self, seed: int) -> nn.Module:
        torch.default_generator.manual_seed(seed)
        with torch.no_grad():
            self._redraw()
        return self._model

    def _redraw(self) -> None:
        for module in self._model.modules():
            draw = getattr(module, "reset_parameters", None)
            if callable(draw):
                draw()


def _equal(one: nn.Module, other: nn.Module) -> bool:
    tensors, others = _tensors(one), _tensors(other)
    return tensors.keys() == others.keys() and all(
        torch.equal(tensor, others[name]) for name, tensor in tensors.items()
    )


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return dict(model.named_parameters()) | dict(model.named_buffers())
