"""Tabular tasks on data sets that scikit-learn and river bring along."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
from sklearn import datasets
from torch import Tensor

from trainpilot.inner_tasks.models import mlp
from trainpilot.inner_tasks.protocol import Split, Splits
from trainpilot.inner_tasks.sources import import_for, sourced_task
from trainpilot.inner_tasks.tensor_task import TensorTask, split_tensors, standardise


def _sklearn(loader: Callable[..., Any], target_dtype: torch.dtype) -> Splits:
    features, targets = loader(return_X_y=True)
    splits = split_tensors(
        torch.as_tensor(features, dtype=torch.float32),
        torch.as_tensor(targets, dtype=target_dtype),
    )
    return standardise(splits)


@lru_cache
def _river_examples(dataset: str, kind: str) -> tuple[Tensor, Tensor]:
    """Features and classes of one of river's data sets, each different example once."""
    examples = list(getattr(import_for(dataset, "river.datasets"), kind)())
    features = torch.tensor([[float(value) for value in x.values()] for x, _ in examples])
    names = sorted({str(label) for _, label in examples})
    classes = torch.tensor([names.index(str(label)) for _, label in examples])
    # An example that stands there twice could stand in two splits.
    rows = torch.unique(torch.cat([features, classes.unsqueeze(1)], 1), dim=0)
    return rows[:, :-1], rows[:, -1].long()


def _river(dataset: str, kind: str) -> Splits:
    return standardise(split_tensors(*_river_examples(dataset, kind)))


def _classification(
    dataset: str, splits: Splits, hidden: Sequence[int], activation: str, micro_batch_size: int
) -> TensorTask:
    n_features = splits.train.inputs.shape[1]
    n_classes = int(splits.train.targets.max()) + 1
    return sourced_task(
        f"{dataset}_mlp",
        dataset,
        splits=splits,
        model=lambda: mlp(n_features, hidden, n_classes, activation),
        micro_batch_size=micro_batch_size,
    )


def breast_cancer(
    hidden: Sequence[int] = (32, 32), activation: str = "relu", micro_batch_size: int = 32
) -> TensorTask:
    """Breast cancer Wisconsin (diagnostic): 569 examples, 30 features, 2 classes."""
    splits = _sklearn(datasets.load_breast_cancer, torch.int64)
    return _classification("breast_cancer", splits, hidden, activation, micro_batch_size)


def wine(
    hidden: Sequence[int] = (32, 32), activation: str = "relu", micro_batch_size: int = 16
) -> TensorTask:
    """Wine recognition: 178 examples, 13 features, 3 classes."""
    splits = _sklearn(datasets.load_wine, torch.int64)
    return _classification("wine", splits, hidden, activation, micro_batch_size)


def iris(
    hidden: Sequence[int] = (16,), activation: str = "tanh", micro_batch_size: int = 16
) -> TensorTask:
    """Iris plants: 150 examples, 4 features, 3 classes."""
    splits = _sklearn(datasets.load_iris, torch.int64)
    return _classification("iris", splits, hidden, activation, micro_batch_size)


def diabetes(
    hidden: Sequence[int] = (32, 32), activation: str = "gelu", micro_batch_size: int = 32
) -> TensorTask:
    """Diabetes progression: 442 examples, 10 features, a standardised target (regression)."""
    splits = _sklearn(datasets.load_diabetes, torch.float32)
    mean, deviation = splits.train.targets.mean(), splits.train.targets.std()
    splits = Splits(
        *(Split(s.inputs, ((s.targets - mean) / deviation).unsqueeze(-1)) for s in splits)
    )
    n_features = splits.train.inputs.shape[1]
    return sourced_task(
        "diabetes_mlp",
        "diabetes",
        splits=splits,
        model=lambda: mlp(n_features, hidden, 1, activation),
        loss="mse",
        micro_batch_size=micro_batch_size,
    )


def segments(
    hidden: Sequence[int] = (64,), activation: str = "tanh", micro_batch_size: int = 32
) -> TensorTask:
    """Statlog image segments: 18 features of a 3x3 patch, 7 classes of surface; needs river."""
    splits = _river("segments", "ImageSegments")
    return _classification("segments", splits, hidden, activation, micro_batch_size)


def phishing(
    hidden: Sequence[int] = (32, 32), activation: str = "relu", micro_batch_size: int = 16
) -> TensorTask:
    """Web pages, phishing or not: 9 features, 2 classes; needs river."""
    splits = _river("phishing", "Phishing")
    return _classification("phishing", splits, hidden, activation, micro_batch_size)


def bananas(
    hidden: Sequence[int] = (32, 32), activation: str = "relu", micro_batch_size: int = 32
) -> TensorTask:
    """Two classes in the shape of bananas that overlap: 2 features; needs river."""
    splits = _river("bananas", "Bananas")
    return _classification("bananas", splits, hidden, activation, micro_batch_size)
