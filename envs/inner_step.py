"""One inner step of many runs, as two functions of tensors.

`gradients` goes forward and back and measures the gradient; `update` moves the parameters. They
are two, since the update may write where it reads only once nothing else reads there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.func import grad_and_value, vmap

from trainpilot.envs.flat_model import Buffers, FlatModel
from trainpilot.envs.optimizers import (
    MEAN_GRADIENT,
    UpdateContext,
    moment_names,
    update,
)
from trainpilot.inner_tasks.protocol import InnerTask

#: Columns of the scalars that `gradients` takes.
GRADIENT_SCALARS = ("gradient_clip", "carried", "share")
#: Columns of the scalars that `update` takes, for each block of each row.
UPDATE_SCALARS = (
    "learning_rate", "weight_decay", "momentum", "one_minus_momentum", "mean_correction",
    "square_correction", "step", "optimizer", "applied",
)  # fmt: skip

#: As `torch.nn.utils.clip_grad_norm_` has it.
_CLIP_EPSILON = 1e-6

Gradients = Callable[[Tensor, Buffers, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


class InnerStep:
    """The inner step of a task.

    Args:
        task: gives loss and data.
        model: of the task.
        optimizers: indices of those that runs may use.
        accumulates: whether runs may take the mean gradient of several micro-batches.
        buffer_names: of the model, in the order in which `gradients` takes them.
        row_by_row: go through the runs one after the other, for models that cannot be mapped.
    """

    def __init__(
        self,
        task: InnerTask,
        model: FlatModel,
        buffer_names: Sequence[str],
        *,
        optimizers: Sequence[int],
        accumulates: bool,
        row_by_row: bool,
    ) -> None:
        self._task = task
        self._model = model
        self._buffer_names = tuple(buffer_names)
        self._optimizers = tuple(optimizers)
        self._moment_names = moment_names(optimizers)
        self._accumulates = accumulates
        mapped = vmap(grad_and_value(self._loss))
        self._gradients: Gradients = self._one_by_one if row_by_row else mapped

    def gradients(self, *tensors: Tensor) -> list[Tensor]:
        """Gradients of every row's loss on its micro-batch.

        Args:
            tensors: parameters `(n_rows, width)`; inputs and targets of the micro-batches,
                `(n_rows, micro_batch_size, ...)`; `GRADIENT_SCALARS` `(n_rows, 3)`; keys of
                random numbers `(n_rows,)`; if it accumulates, the gradient
                so far `(n_rows, width)` and where its sum goes; the buffers, which are
                written to.

        Returns:
            Gradient of the update `(n_rows, width)`, mean over what was accumulated but not
            yet clipped; gradient of this micro-batch; the factor that clips, `(n_rows *
            n_blocks, 1)`; and loss and squared norm of the micro-batch, `(2, n_rows)`.
        """
        given = iter(tensors)
        parameters, inputs, targets, scalars, keys = _take(given, 5)
        carried = [next(given), next(given)] if self._accumulates else []
        buffers = dict(zip(self._buffer_names, given, strict=True))
        own, loss = self._gradients(parameters, buffers, keys, inputs, targets)
        square = self._sum(own * own)
        clip, share = scalars[:, 0], scalars[:, 2:]
        gradient, gradient_square = own, square
        if carried:
            total = torch.where(scalars[:, 1:2] > 0, carried[0], 0) + own
            carried[1].copy_(total)
            gradient = total * share
            gradient_square = self._sum(gradient * gradient)
        factor = (clip / (gradient_square.sqrt() + _CLIP_EPSILON)).clamp(max=1)
        return [gradient, own, self._per_block(factor), torch.stack([loss, square])]

    def update(self, *tensors: Tensor) -> list[Tensor]:
        """Move every row by its own optimizer.

        Args:
            tensors: parameters, then the moments in the order of `moment_names`, `(n_rows *
                n_blocks, block_size)` each; the same again, to write to; the update's
                gradient, the micro-batch's own, the clipping factor, and `UPDATE_SCALARS`
                `(n_rows * n_blocks, 9)`.

        Returns:
            The last six of `StepSums`, summed over each block, `(6, n_rows * n_blocks)`.
        """
        given = iter(tensors)
        parameters, *old = _take(given, 1 + len(self._moment_names))
        targets = _take(given, 1 + len(self._moment_names))
        gradient, own, factor, scalars = given
        column = {name: scalars[:, i : i + 1] for i, name in enumerate(UPDATE_SCALARS)}
        context = UpdateContext(
            gradient * factor,
            *(column[name] for name in UpdateContext._fields[1:]),
        )
        before = dict(zip(self._moment_names, old, strict=True))
        direction, after = update(before, context, column["optimizer"], self._optimizers)
        change = -column["learning_rate"] * (direction + column["weight_decay"] * parameters)
        values = [parameters + change, *(after[name] for name in self._moment_names)]
        if self._accumulates:
            applied = column["applied"] > 0
            change = torch.where(applied, change, 0)
            pairs = zip(values, [parameters, *old], strict=True)
            values = [torch.where(applied, new, kept) for new, kept in pairs]
        mean = before[MEAN_GRADIENT]
        new_mean = values[1 + self._moment_names.index(MEAN_GRADIENT)]
        sums = [
            parameters * parameters,
            change * change,
            new_mean * new_mean,
            own * mean,
            own * parameters,
            own * change,
        ]
        reduced = [product.sum(1) for product in sums]
        for target, value in zip(targets, values, strict=True):
            target.copy_(value)
        return [torch.stack(reduced)]

    def _loss(
        self, flat: Tensor, buffers: Buffers, key: Tensor, inputs: Tensor, targets: Tensor
    ) -> Tensor:
        outputs = self._model.train_outputs(
            flat, buffers, key if self._model.draws else None, inputs
        )
        return self._task.loss(outputs, targets)

    def _one_by_one(
        self, flat: Tensor, buffers: Buffers, keys: Tensor, inputs: Tensor, targets: Tensor
    ) -> tuple[Tensor, Tensor]:
        """What the mapped form gives, for models that only plain autograd takes."""
        gradients, losses = torch.zeros_like(flat), []
        devices = [flat.device] if flat.device.type == "cuda" else []
        for row, parameters in enumerate(flat):
            own = {name: value[row] for name, value in buffers.items()}
            with torch.enable_grad(), torch.random.fork_rng(devices=devices):
                torch.manual_seed(int(keys[row]))
                leaf = parameters.detach().requires_grad_()
                loss = self._loss(leaf, own, keys[row], inputs[row], targets[row])
                (gradients[row],) = torch.autograd.grad(loss, leaf)
            losses.append(loss.detach())
        return gradients, torch.stack(losses)

    def _sum(self, values: Tensor) -> Tensor:
        """Sum of each row, by blocks: `(n_rows, width)` gives `(n_rows,)`."""
        model = self._model
        return values.view(-1, model.block_size).sum(1).view(-1, model.n_blocks).sum(1)

    def _per_block(self, values: Tensor) -> Tensor:
        """A number of each row, `(n_rows,)`, for each of its blocks, `(n_rows * n_blocks, 1)`."""
        # Contiguous for a single row too, or the compiled update would expect other strides.
        repeated = values.unsqueeze(1).expand(-1, self._model.n_blocks)
        return repeated.clone(memory_format=torch.contiguous_format).view(-1, 1)


def _take(given: Iterator[Tensor], n: int) -> list[Tensor]:
    return [next(given) for _ in range(n)]
