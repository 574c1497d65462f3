"""The gradients of one inner step of many runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.func import grad_and_value, vmap

from trainpilot.envs.flat_model import FlatModel
from trainpilot.envs.trainer import Buffers
from trainpilot.inner_tasks.protocol import InnerTask

Gradients = Callable[
    [list[Tensor], Buffers, Tensor, Tensor, Tensor], tuple[Sequence[Tensor], Tensor]
]


class InnerStep:
    """Forward and back of a task's runs.

    Args:
        task: gives loss and data.
        model: of the task.
        buffer_names: of the model, in the order in which `gradients` takes them.
        row_by_row: go through the runs one after the other, for models that cannot be mapped.
    """

    def __init__(
        self,
        task: InnerTask,
        model: FlatModel,
        buffer_names: Sequence[str],
        *,
        row_by_row: bool,
    ) -> None:
        self._task = task
        self._model = model
        self._buffer_names = tuple(buffer_names)
        mapped = vmap(grad_and_value(self._loss))
        self._gradients: Gradients = self._one_by_one if row_by_row else mapped

    def gradients(self, *tensors: Tensor) -> list[Tensor]:
        """Gradients of every row's loss on its micro-batch.

        Args:
            tensors: parameters `(n_rows, width)`; inputs and targets of the micro-batches,
                `(n_rows, micro_batch_size, ...)`; keys of random numbers `(n_rows,)`; the
                buffers, which are written to.

        Returns:
            The losses `(n_rows,)`, then the gradient by each parameter, `(n_rows, size)`.
        """
        flat, inputs, targets, keys, *others = tensors
        buffers = dict(zip(self._buffer_names, others, strict=True))
        # By parts, not by the whole: the parts are then never put together.
        gradients, losses = self._gradients(self._model.parts(flat), buffers, keys, inputs, targets)
        return [losses, *(gradient.reshape(len(flat), -1) for gradient in gradients)]

    def _loss(
        self, parts: list[Tensor], buffers: Buffers, key: Tensor, inputs: Tensor, targets: Tensor
    ) -> Tensor:
        outputs = self._model.train_outputs(
            parts, buffers, key if self._model.draws else None, inputs
        )
        return self._task.loss(outputs, targets)

    def _one_by_one(
        self, parts: list[Tensor], buffers: Buffers, keys: Tensor, inputs: Tensor, targets: Tensor
    ) -> tuple[list[Tensor], Tensor]:
        """What the mapped form gives, for models that only plain autograd takes."""
        gradients, losses = [torch.zeros_like(part) for part in parts], []
        devices = [inputs.device] if inputs.device.type == "cuda" else []
        for row in range(len(inputs)):
            own = {name: value[row] for name, value in buffers.items()}
            with torch.enable_grad(), torch.random.fork_rng(devices=devices):
                torch.manual_seed(int(keys[row]))
                leaves = [part[row].detach().requires_grad_() for part in parts]
                loss = self._loss(leaves, own, keys[row], inputs[row], targets[row])
                found = torch.autograd.grad(loss, leaves, materialize_grads=True)
            for gradient, value in zip(gradients, found, strict=True):
                gradient[row] = value
            losses.append(loss.detach())
        return gradients, torch.stack(losses)
