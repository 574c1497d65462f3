"""How many rows make a tile."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from trainpilot.envs.tiles import tile_of, tile_size
from trainpilot.inner_tasks import TensorTask


@pytest.mark.parametrize(
    ("n_runs", "equal", "full"),
    [(1, 1, 1), (16, 16, 16), (17, 9, 9), (24, 12, 12), (30, 15, 16), (40, 14, 16), (84, 14, 16)],
)
def test_tiles_that_are_compiled_have_one_size_where_that_wastes_few_rows(n_runs, equal, full):
    assert tile_size(n_runs, 16, to_compile=False) == equal
    assert tile_size(n_runs, 16, to_compile=True) == full
    assert tile_size(n_runs, 4, to_compile=False) <= 4


def linear(width):
    inputs, targets = torch.ones(100, width), torch.zeros(100, dtype=torch.int64)
    return TensorTask("x", model=lambda: nn.Linear(width, 10), inputs=inputs, targets=targets)


def test_tiles_of_heavy_steps_are_small():
    # 3 passes of 2 x 32 x width x 10 FLOPs, and 60 a parameter: 6 and 25 million.
    light, heavy = linear(2_000), linear(8_000)
    assert [tile_of(light, n, to_compile=False) for n in (3, 64)] == [3, 16]
    assert [tile_of(heavy, n, to_compile=False) for n in (3, 64)] == [3, 4]
