"""An inner task from any tensors and any `torch.nn.Module`."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from trainpilot.inner_tasks.errors import TrainpilotError, require
from trainpilot.inner_tasks.objectives import LossFn, Objective, objective, objective_name
from trainpilot.inner_tasks.protocol import (
    Split,
    Splits,
    check_kind_of_splits,
    check_micro_batch_size,
)

#: Shares of train, valid, outer_valid and test.
SPLIT_SHARES = (0.6, 0.13, 0.13, 0.14)


def split_tensors(inputs: Tensor, targets: Tensor, seed: int = 0) -> Splits:
    """Shuffle examples and cut them into the four splits.

    Args:
        inputs: `(n_examples, ...)`.
        targets: `(n_examples, ...)`.
        seed: of the shuffle; the same for every run, so that splits never mix.

    Returns:
        Disjoint splits with the shares `SPLIT_SHARES`.

    Raises:
        TrainpilotError: if the lengths differ, or there are fewer than 20 examples.
    """
    n_examples = len(inputs)
    require(
        len(targets) == n_examples,
        "inputs and targets must have the same length",
        f"{n_examples} inputs and {len(targets)} targets",
    )
    require(n_examples >= 20, "a task needs at least 20 examples", n_examples)
    order = torch.randperm(n_examples, generator=torch.Generator().manual_seed(seed))
    sizes = [int(share * n_examples) for share in SPLIT_SHARES[1:]]
    parts = torch.split(order, [n_examples - sum(sizes), *sizes])
    return Splits(*(Split(inputs[part], targets[part]) for part in parts))


def standardise(splits: Splits) -> Splits:
    """Give every feature mean 0 and deviation 1, as measured on the train split alone.

    Args:
        splits: float inputs, `(n_examples, ...)`; each place of an example is a feature.
    """
    mean = splits.train.inputs.mean(0)
    deviation = splits.train.inputs.std(0).clamp_min(1e-6)
    return Splits(*(Split((split.inputs - mean) / deviation, split.targets) for split in splits))


class TensorTask:
    """An inner task made of tensors, a model factory and a loss.

    Args:
        name: how records and tables call it.
        model: makes a new model; called without arguments.
        loss: "cross_entropy", "mse", or a function `(outputs, targets) -> scalar`.
        inputs: `(n_examples, ...)`, to be split at random; or give `splits`.
        targets: `(n_examples, ...)`, likewise.
        splits: the four splits, where the caller has made them.
        modality: "vision", "text", "tabular" or "synthetic" (default: "tabular").
        dataset: the data's name (default: the task's name).
        licence: of the data, for lists (default: unknown).
        micro_batch_size: examples in one micro-batch, at least 1 and at most the
            training examples (default: 32).
        split_seed: of the random split (default: 0).

    Raises:
        TrainpilotError: if an argument breaks the rule stated for it.
    """

    def __init__(
        self,
        name: str,
        *,
        model: Callable[[], nn.Module],
        loss: str | LossFn = "cross_entropy",
        inputs: Tensor | None = None,
        targets: Tensor | None = None,
        splits: Splits | None = None,
        modality: str = "tabular",
        dataset: str | None = None,
        licence: str | None = None,
        micro_batch_size: int = 32,
        split_seed: int = 0,
    ) -> None:
        if splits is None:
            if inputs is None or targets is None:
                raise TrainpilotError(
                    f"task '{name}' needs data: give inputs and targets, or splits; given: neither"
                )
            splits = split_tensors(inputs, targets, split_seed)
        check_kind_of_splits(name, splits)
        check_micro_batch_size(name, micro_batch_size, len(splits.train.inputs))
        self.name = name
        self.modality = modality
        self.dataset = dataset or name
        self.licence = licence
        self.micro_batch_size = micro_batch_size
        self.splits = splits
        self._model = model
        self._objective = (
            objective(loss) if isinstance(loss, str) else Objective(loss, lambda *_: {})
        )

    @property
    def objective_name(self) -> str | None:
        """The name of the loss, by which the engine may train with kernels of its own.

        None if it has none, or if a subclass has a loss or metrics of its own.
        """
        own = self.__dict__.keys() & {"loss", "metrics"}
        kind = type(self)
        if own or (kind.loss, kind.metrics) != (TensorTask.loss, TensorTask.metrics):
            return None
        return objective_name(self._objective)

    def make_model(self) -> nn.Module:
        """A new model; its initial weights come from torch's global generator."""
        return self._model()

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The mean loss of a batch, a scalar."""
        return self._objective.loss(outputs, targets)

    def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Accuracy for "cross_entropy", mean absolute error for "mse", else nothing."""
        return self._objective.metrics(outputs, targets)
