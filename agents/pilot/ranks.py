"""Agreement among the processes of a distributed training."""

from __future__ import annotations

import numpy as np
import torch
from torch import distributed


def agree(
    measured: np.ndarray, optional: np.ndarray, device: torch.device
) -> tuple[np.ndarray, np.ndarray]:
    """Means over all processes, the same in each; without others, the values themselves.

    Args:
        measured: what every process has measured, of the same shape in each.
        optional: what a process may not know, NaN where it does not: the loss of a validation
            set, say, that one process evaluates. The mean is that of those that know.
        device: that the process group can send from.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return measured, optional
    n_ranks = distributed.get_world_size()
    if n_ranks == 1:
        return measured, optional
    known = ~np.isnan(optional)
    parts = [measured, np.where(known, optional, 0.0), known.astype(np.float64)]
    total = torch.from_numpy(np.concatenate([part.ravel() for part in parts])).to(device)
    distributed.all_reduce(total)
    sums, values, counts = np.split(total.cpu().numpy(), np.cumsum([measured.size, optional.size]))
    with np.errstate(all="ignore"):
        means = np.where(counts > 0, values / counts, np.nan)
    return sums.reshape(measured.shape) / n_ranks, means.reshape(optional.shape)
