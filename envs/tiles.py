"""How many rows are worked on together on a core."""

from __future__ import annotations

from trainpilot.envs.row_cost import row_cost
from trainpilot.inner_tasks.protocol import InnerTask

#: Rows in a tile, at most. More no longer spreads a call's fixed cost noticeably thinner, and
#: fewer fit the caches no better, since a tile's state is streamed through them anyway.
TILE = 16
#: The same where an inner step is heavy: activations count there, and fewer of them stay near
#: (measured: a transformer's step takes 1.23 ms, not 1.38 ms).
HEAVY_TILE = 4
#: FLOPs of an inner step that is heavy.
_HEAVY = 2e7
#: Rows that full tiles may waste, as a share of the runs.
_MOST_SPARE = 0.2


def tile_of(task: InnerTask, n_runs: int, *, to_compile: bool) -> int:
    """Rows of a tile of a task's runs.

    Args:
        task: whose inner steps may be heavy.
        n_runs: number of runs, at least 1.
        to_compile: as `tile_size` takes it.
    """
    # Of a few rows both sizes make one tile: no need to weigh the step.
    light = n_runs <= HEAVY_TILE or row_cost(task) <= _HEAVY
    return tile_size(n_runs, TILE if light else HEAVY_TILE, to_compile=to_compile)


def tile_size(n_runs: int, most: int, *, to_compile: bool) -> int:
    """Rows of a tile, of which there are as few as can be.

    Args:
        n_runs: number of runs, at least 1.
        most: rows of a tile, at most.
        to_compile: prefer full tiles. Tiles of like size waste fewest rows; but each size is
            compiled anew, and that takes half a minute of a GRU.
    """
    n_tiles = -(-n_runs // most)
    spare = n_tiles * most - n_runs
    if to_compile and n_tiles > 1 and spare <= _MOST_SPARE * n_runs:
        return most
    return -(-n_runs // n_tiles)
