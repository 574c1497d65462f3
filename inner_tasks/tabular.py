"""Tabular tasks on scikit-learn's embedded data sets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from sklearn import datasets

from trainpilot.inner_tasks.models import mlp
from trainpilot.inner_tasks.protocol import Split, Splits
from trainpilot.inner_tasks.tensor_task import TensorTask, split_tensors


def _standardise(splits: Splits) -> Splits:
    """Give every feature mean 0 and deviation 1, as measured on the train split alone."""
    mean = splits.train.inputs.mean(0)
    deviation = splits.train.inputs.std(0).clamp_min(1e-6)
    return Splits(*(Split((split.inputs - mean) / deviation, split.targets) for split in splits))


def _load(loader: Callable[..., Any], target_dtype: torch.dtype) -> Splits:
    features, targets = loader(return_X_y=True)
    splits = split_tensors(
        torch.as_tensor(features, dtype=torch.float32),
        torch.as_tensor(targets, dtype=target_dtype),
    )
    return _standardise(splits)


def _classification(
    dataset: str,
    loader: Callable[..., Any],
    hidden: Sequence[int],
    activation: str,
    micro_batch_size: int,
) -> TensorTask:
    splits = _load(loader, torch.int64)
    n_features = splits.train.inputs.shape[1]
    n_classes = int(splits.train.targets.max()) + 1
    return TensorTask(
        f"{dataset}_mlp",
        dataset=dataset,
        splits=splits,
        model=lambda: mlp(n_features, hidden, n_classes, activation),
        micro_batch_size=micro_batch_size,
    )


def breast_cancer(
    hidden: Sequence[int] = (32, 32), activation: str = "relu", micro_batch_size: int = 32
) -> TensorTask:
    """Breast cancer Wisconsin (diagnostic): 569 examples, 30 features, 2 classes."""
    return _classification(
        "breast_cancer", datasets.load_breast_cancer, hidden, activation, micro_batch_size
    )


def wine(
    hidden: Sequence[int] = (32, 32), activation: str = "relu", micro_batch_size: int = 16
) -> TensorTask:
    """Wine recognition: 178 examples, 13 features, 3 classes."""
    return _classification("wine", datasets.load_wine, hidden, activation, micro_batch_size)


def iris(
    hidden: Sequence[int] = (16,), activation: str = "tanh", micro_batch_size: int = 16
) -> TensorTask:
    """Iris plants: 150 examples, 4 features, 3 classes."""
    return _classification("iris", datasets.load_iris, hidden, activation, micro_batch_size)


def diabetes(
    hidden: Sequence[int] = (32, 32), activation: str = "gelu", micro_batch_size: int = 32
) -> TensorTask:
    """Diabetes progression: 442 examples, 10 features, a standardised target (regression)."""
    splits = _load(datasets.load_diabetes, torch.float32)
    mean, deviation = splits.train.targets.mean(), splits.train.targets.std()
    splits = Splits(
        *(Split(s.inputs, ((s.targets - mean) / deviation).unsqueeze(-1)) for s in splits)
    )
    n_features = splits.train.inputs.shape[1]
    return TensorTask(
        "diabetes_mlp",
        dataset="diabetes",
        splits=splits,
        model=lambda: mlp(n_features, hidden, 1, activation),
        loss="mse",
        micro_batch_size=micro_batch_size,
    )
