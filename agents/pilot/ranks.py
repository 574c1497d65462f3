"""Agreement among the processes of a distributed training."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, distributed


def mean_loss(loss: Tensor | float, device: torch.device) -> Tensor | float:
    """The mean of all processes' losses; without others, the loss itself. Waits for no device.

    What each has measured is the same then, and one's checkpoint is that of all.

    Args:
        loss: of each process's own batch.
        device: that the process group can send from.
    """
    n_ranks = _n_ranks()
    if n_ranks == 1:
        return loss
    total = torch.as_tensor(loss, dtype=torch.float64, device=device).detach().clone()
    distributed.all_reduce(total)
    return total / n_ranks


def _n_ranks() -> int:
    if not (distributed.is_available() and distributed.is_initialized()):
        return 1
    return distributed.get_world_size()


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
    n_ranks = _n_ranks()
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
