"""Spreads rows over workers, so that all have about the same work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from trainpilot.envs.groups import GroupSpec
from trainpilot.envs.row_cost import row_cost
from trainpilot.inner_tasks.family import TaskFamily


def spread(costs: Sequence[float], n_workers: int) -> list[int]:
    """Split a row of things into contiguous parts of about the same cost.

    No part is empty, and none costs more than an even share and the costliest thing together.

    Args:
        costs: of each thing, each > 0.
        n_workers: number of parts, from 1 to the number of things.

    Returns:
        Number of things in each part, `n_workers` of them.
    """
    n_things = len(costs)
    after = np.cumsum(costs)
    # A thing belongs to the part that its middle falls into.
    middles = after - np.asarray(costs) / 2
    bounds = [0]
    for part in range(1, n_workers):
        bound = int(np.searchsorted(middles, after[-1] * part / n_workers))
        bounds.append(min(max(bound, bounds[-1] + 1), n_things - (n_workers - part)))
    return [int(size) for size in np.diff([*bounds, n_things])]


def assign(specs: Sequence[GroupSpec], n_workers: int) -> list[list[GroupSpec]]:
    """Split groups over workers, in order; a group at a border is divided between two.

    Args:
        specs: of the groups, at least one.
        n_workers: at least 1; of more workers than there are pairs of rows, the rest is left out.

    Returns:
        What each worker holds. Of a task that is divided, only the largest part measures the
        reference; of a family, every part those that it meets.
    """
    # Rows stay together in pairs: a lone row takes other paths through the arithmetic, and its
    # results would differ in the last bit from those beside others.
    units = [(number, size) for number, spec in enumerate(specs) for size in _pairs(spec.n_rows)]
    costs = [row_cost(spec.task) * spec.config.micro_batches_per_decision for spec in specs]
    counts = spread([costs[number] * size for number, size in units], min(n_workers, len(units)))
    held = []
    first = 0
    for count in counts:
        rows = np.zeros(len(specs), dtype=int)
        for number, size in units[first : first + count]:
            rows[number] += size
        held.append(rows)
        first += count
    # (n_workers, n_specs): rows of each group at each worker
    table = np.array(held)
    largest = table.argmax(axis=0)
    return [
        [
            replace(
                specs[number],
                n_rows=int(row[number]),
                measure=specs[number].measure
                and (worker == int(largest[number]) or isinstance(specs[number].task, TaskFamily)),
            )
            for number in np.flatnonzero(row).tolist()
        ]
        for worker, row in enumerate(table)
    ]


def _pairs(n_rows: int) -> list[int]:
    """Sizes of the smallest parts that a group may be divided into: 2, the last one up to 3."""
    if n_rows < 2:
        return [n_rows]
    return [2] * (n_rows // 2 - 1) + [2 + n_rows % 2]
