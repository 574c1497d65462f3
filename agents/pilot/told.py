"""What a training loop tells its pilot beside the gradients."""

from __future__ import annotations

import functools
from collections.abc import Callable
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import optimizer as all_optimizers

from trainpilot.agents.pilot.training_run import Valid
from trainpilot.inner_tasks.errors import explaining, require


class Told:
    """What was told and not yet used.

    Attributes:
        valid: what a validation set says; NaN where nothing was told.
    """

    def __init__(self) -> None:
        self.valid = Valid()
        self._train_loss: Tensor | float | None = None

    def tell_valid(self, loss: float | Tensor, accuracy: float | Tensor | None = None) -> None:
        """Take in what a validation set says; waits for the device.

        Args:
            loss: mean over it.
            accuracy: in [0, 1]; None, or NaN, where it is not known.

        Raises:
            TrainpilotError: if the accuracy is out of range.
        """
        with explaining("a validation loss and an accuracy must be numbers"):
            value = float(loss)
            share = float("nan") if accuracy is None else float(accuracy)
        require(not (share < 0 or share > 1), "an accuracy must lie in [0, 1]", share)
        # Not a number would say that there is no validation set.
        self.valid = Valid(
            float("inf") if np.isnan(value) else value,
            share,
        )

    def tell_train(self, loss: float | Tensor) -> None:
        """Take in the loss of a batch, beside those since the last `take_train`."""
        own = scalar(loss)
        # A copy, since a loop may go on to change its loss in place.
        own = own.detach().clone() if isinstance(own, Tensor) else own
        self._train_loss = own if self._train_loss is None else self._train_loss + own

    def take_train(self) -> Tensor | float | None:
        """The sum of the batches' losses, which begins anew; None where none was told."""
        loss, self._train_loss = self._train_loss, None
        return loss


class ToldOptimizer(torch.optim.Optimizer):
    """An optimizer that a training loop tells of losses.

    Args:
        groups: of parameters.
        defaults: of what a group may have of its own.
    """

    def __init__(self, groups: list[dict[str, Any]], defaults: dict[str, Any]) -> None:
        super().__init__(groups, defaults)
        self._told = Told()

    @staticmethod
    def profile_hook_step(func: Callable[..., Any]) -> Callable[..., Any]:
        """What torch makes of `step`: one that is marked for its profiler and calls the hooks.

        Where no profiler looks and there are no hooks, the method itself is called: the mark alone
        takes a fifth of AdamW's time for a small MLP.

        Args:
            func: the method.
        """
        marked: Callable[..., Any] = torch.optim.Optimizer.profile_hook_step(func)

        @functools.wraps(func)
        def step(self: ToldOptimizer, *args: Any, **kwargs: Any) -> Any:
            return (marked if self._is_watched() else func)(self, *args, **kwargs)

        return step

    def _is_watched(self) -> bool:
        """Whether a profiler looks at a step, or hooks are called in it."""
        return bool(
            torch.autograd.profiler._is_profiler_enabled
            or self._optimizer_step_pre_hooks
            or self._optimizer_step_post_hooks
            or all_optimizers._global_optimizer_pre_hooks
            or all_optimizers._global_optimizer_post_hooks
        )

    def observe(
        self,
        valid_loss: float | Tensor | None = None,
        valid_accuracy: float | Tensor | None = None,
        *,
        train_loss: float | Tensor | None = None,
    ) -> None:
        """Tell what a validation set says, or the loss that the next `step` is not given.

        Args:
            valid_loss: mean loss over the set; the next decision is made on it.
            valid_accuracy: accuracy on it, in [0, 1] (default: not known).
            train_loss: what `backward` was called on, where a framework calls `step` without a
                loss. Several before one step are summed, as their gradients are; `step` and
                `zero_grad` forget them. It stays on its device.

        Raises:
            TrainpilotError: if there is an accuracy without a loss, or one out of range.
        """
        require(
            valid_loss is not None or valid_accuracy is None,
            "a valid_accuracy needs the valid_loss beside it",
            f"valid_accuracy={valid_accuracy} alone",
        )
        if valid_loss is not None:
            self._told.tell_valid(valid_loss, valid_accuracy)
        if train_loss is not None:
            self._told.tell_train(train_loss)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients, and the losses that were told of them.

        Args:
            set_to_none: as torch's optimizers have it.
        """
        super().zero_grad(set_to_none)
        self._told.take_train()


def scalar(loss: Tensor | float) -> Tensor | float:
    """A loss without dimensions.

    Raises:
        TrainpilotError: if it is not one real number.
    """
    if isinstance(loss, Tensor):
        require(loss.numel() == 1, "a pilot's loss must be one number", f"{loss.numel()} of them")
        require(not loss.is_complex(), "a pilot's loss must be a real number", "a complex one")
        return loss.reshape(()) if loss.ndim else loss
    is_number = isinstance(loss, Real)
    require(is_number, "a pilot's loss must be a tensor or a number", f"a {type(loss).__name__}")
    return loss
