"""Seeds of what a controller or a search draws at random."""

from __future__ import annotations

import hashlib


def choice_seed(seed: int, task: str) -> int:
    """The seed of choices at random, on each task another.

    Were they the same on every task, a lucky draw would be lucky ten times, and intervals that
    resample tasks would take it for ten. The seed of weights and data order is `seed` itself.

    Args:
        seed: of the run, or of the first of runs that draw together.
        task: its name.

    Returns:
        The same on every machine, in [0, 2**32).
    """
    return int.from_bytes(hashlib.sha256(f"{task}/{seed}".encode()).digest()[:4], "big")
