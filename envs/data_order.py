"""In which order an inner run sees its data."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def data_order(seed: int, n_examples: int, n_micro_batches: int, micro_batch_size: int) -> Tensor:
    """Epoch after epoch of shuffled examples, cut into micro-batches.

    An epoch's last, incomplete micro-batch is left out, as `DataLoader(drop_last=True)` does.
    The order depends on the seed alone, so that every controller sees the same data.

    Args:
        seed: of the shuffles.
        n_examples: examples in the train split.
        n_micro_batches: how many are needed.
        micro_batch_size: examples in each, at most `n_examples`.

    Returns:
        Indices of examples, `(n_micro_batches, micro_batch_size)`, int64.
    """
    generator = np.random.default_rng(seed)
    per_epoch = n_examples // micro_batch_size
    n_epochs = -(-n_micro_batches // per_epoch)
    epochs = [
        generator.permutation(n_examples)[: per_epoch * micro_batch_size] for _ in range(n_epochs)
    ]
    order = np.concatenate(epochs).reshape(-1, micro_batch_size)[:n_micro_batches]
    return torch.from_numpy(order)
