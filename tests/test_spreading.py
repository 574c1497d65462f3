"""Rows are spread over workers evenly, in order, and without a lone row."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from trainpilot.envs.config import EnvConfig
from trainpilot.envs.groups import GroupSpec
from trainpilot.envs.row_cost import row_cost
from trainpilot.envs.spreading import assign, spread
from trainpilot.inner_tasks import TensorTask
from trainpilot.inner_tasks.families import teachers

COSTS = st.lists(st.floats(1e-3, 1e6), min_size=1, max_size=60)


@given(costs=COSTS, data=st.data())
def test_parts_are_whole_and_even(costs, data):
    n_workers = data.draw(st.integers(1, len(costs)))
    sizes = spread(costs, n_workers)
    assert len(sizes) == n_workers
    assert sum(sizes) == len(costs)
    assert min(sizes) >= 1
    ends = [sum(sizes[: part + 1]) for part in range(n_workers)]
    loads = [sum(costs[end - size : end]) for size, end in zip(sizes, ends, strict=True)]
    assert max(loads) <= (sum(costs) / n_workers + max(costs)) * (1 + 1e-9)


@pytest.mark.parametrize(
    ("costs", "n_workers", "sizes"),
    [
        ([1, 1, 1, 1], 2, [2, 2]),
        ([3, 1, 1, 1], 2, [1, 3]),
        ([1, 1, 1, 9], 2, [3, 1]),
        ([9, 1, 1], 3, [1, 1, 1]),
        ([1, 1, 1], 1, [3]),
    ],
)
def test_known_splits(costs, n_workers, sizes):
    assert spread(costs, n_workers) == sizes


def linear(name, width):
    return TensorTask(
        name,
        inputs=torch.zeros(100, width),
        targets=torch.zeros(100).long(),
        model=lambda: nn.Linear(width, 3, bias=False),
        micro_batch_size=10,
    )


def test_the_cost_counts_multiplications_and_parameters():
    # A product of 10 x 7 and 7 x 3 is 2 * 210 operations, three times with its backward.
    assert row_cost(linear("a", 7)) == 3 * 2 * 10 * 7 * 3 + 60 * 7 * 3 + 1e6


def test_a_row_of_a_family_costs_more_than_its_tasks():
    family = teachers(n_tasks=2)
    mean = (row_cost(family.task(0)) + row_cost(family.task(1))) / 2
    assert row_cost(family) == mean + 2e6


def test_the_cost_leaves_the_random_numbers_alone_and_a_broken_model_to_its_worker():
    task = linear("a", 7)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    row_cost(task)
    assert torch.equal(before, torch.get_rng_state())
    task.make_model = lambda: nn.Linear(8, 3)
    assert row_cost(task) == 1e6


def held(sizes, n_workers, widths=None):
    widths = widths or [4] * len(sizes)
    specs = [
        GroupSpec(linear(f"task{n}", width), size, EnvConfig(), measure=True)
        for n, (size, width) in enumerate(zip(sizes, widths, strict=True))
    ]
    return [
        [(spec.task.name, spec.n_rows, spec.measure) for spec in part]
        for part in assign(specs, n_workers)
    ]


def test_a_task_at_a_border_is_divided_and_measured_once():
    assert held([4, 4, 4], 2) == [
        [("task0", 4, True), ("task1", 2, True)],
        [("task1", 2, False), ("task2", 4, True)],
    ]
    # A row of the second task costs five times one of the first: half of 8 + 40 is 8 + 3 * 5.
    assert held([8, 8], 2, widths=[2, 11_111]) == [
        [("task0", 8, True), ("task1", 4, True)],
        [("task1", 4, False)],
    ]


@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    n_workers=st.integers(1, 12),
)
def test_every_row_is_held_in_order_and_none_is_alone(sizes, n_workers):
    parts = held(sizes, n_workers)
    assert len(parts) == min(n_workers, sum(max(1, size // 2) for size in sizes))
    names = [name for part in parts for name, n_rows, _ in part for _ in range(n_rows)]
    assert names == [f"task{n}" for n, size in enumerate(sizes) for _ in range(size)]
    for name, n_rows, _ in (entry for part in parts for entry in part):
        assert n_rows >= min(2, sizes[int(name.removeprefix("task"))])
    measured = [name for part in parts for name, _, measure in part if measure]
    assert measured == [f"task{n}" for n in range(len(sizes))]
