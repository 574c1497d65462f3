"""Synthetic tasks: data drawn from a generator with a fixed seed."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from trainpilot.inner_tasks.errors import require
from trainpilot.inner_tasks.models import mlp
from trainpilot.inner_tasks.sources import DRAWN
from trainpilot.inner_tasks.tensor_task import TensorTask


def clusters(
    n_examples: int = 4000,
    n_features: int = 32,
    n_classes: int = 10,
    clusters_per_class: int = 3,
    spread: float = 1.0,
    hidden: Sequence[int] = (64, 64),
    activation: str = "relu",
    micro_batch_size: int = 32,
    data_seed: int = 0,
) -> TensorTask:
    """Gaussian mixtures: each class is several clusters with random centres.

    Args:
        n_examples: in all four splits together, at least 20.
        n_features: of an example, at least 1.
        n_classes: at least 2.
        clusters_per_class: at least 1; more make the classes less linear.
        spread: deviation inside a cluster, where centres have deviation 1; > 0.
        hidden: widths of the model's hidden layers.
        activation: of the model.
        micro_batch_size: examples in a micro-batch.
        data_seed: of the data.

    Raises:
        TrainpilotError: if a number is out of range.
    """
    require(n_classes >= 2, "clusters needs at least 2 classes", n_classes)
    require(spread > 0, "the spread of clusters must be above 0", spread)
    generator = torch.Generator().manual_seed(data_seed)
    n_clusters = n_classes * clusters_per_class
    centres = torch.randn(n_clusters, n_features, generator=generator)
    cluster = torch.randint(n_clusters, (n_examples,), generator=generator)
    noise = torch.randn(n_examples, n_features, generator=generator)
    return TensorTask(
        "clusters_mlp",
        dataset="clusters",
        modality="synthetic",
        licence=DRAWN,
        inputs=centres[cluster] + spread * noise,
        targets=cluster % n_classes,
        model=lambda: mlp(n_features, hidden, n_classes, activation),
        micro_batch_size=micro_batch_size,
    )
