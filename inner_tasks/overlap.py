"""What two splits of a task have in common."""

from __future__ import annotations

from itertools import combinations
from typing import NamedTuple

import torch
from torch import Tensor

from trainpilot.inner_tasks.protocol import Splits


class Overlap(NamedTuple):
    """How many of a split's inputs stand in an earlier split too.

    Some are natural where examples are short, such as windows of text; many are a leak.

    Attributes:
        split: name of the split.
        earlier: name of the one before it.
        n_shared: examples of the split whose inputs stand in the earlier one.
        share: the same as a share of the split, in [0, 1].
        distinct: share of the earlier one's inputs that differ from each other, in [0, 1].
    """

    split: str
    earlier: str
    n_shared: int
    share: float
    distinct: float


def overlaps(splits: Splits) -> list[Overlap]:
    """What each of the six pairs of splits has in common.

    Args:
        splits: of a task; each must hold examples.
    """
    rows = {name: rows_of(split.inputs) for name, split in splits._asdict().items()}
    known = {name: set(keys) for name, keys in rows.items()}
    found = []
    for earlier, name in combinations(Splits._fields, 2):
        n_shared = sum(row in known[earlier] for row in rows[name])
        distinct = len(known[earlier]) / len(rows[earlier])
        found.append(Overlap(name, earlier, n_shared, n_shared / len(rows[name]), distinct))
    return found


def rows_of(inputs: Tensor) -> list[bytes]:
    """Each example as bytes, to be compared with others of the same shape and type."""
    # By way of bytes, since NumPy does not know every type of torch's.
    flat = inputs.detach().cpu().reshape(len(inputs), -1).contiguous().view(torch.uint8)
    return [row.tobytes() for row in flat.numpy()]
