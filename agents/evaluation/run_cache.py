"""Finished runs on disk, by a hash of all that they depend on."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from trainpilot.agents.files import atomic_path
from trainpilot.agents.run import Run


class RunCache:
    """A folder of runs. It may be deleted at any time.

    Args:
        folder: made when something is stored; None for a cache that keeps nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def load(self, key: str | None) -> list[Run] | None:
        """What was stored under a key; None if nothing was, or it is damaged."""
        path = self._path(key)
        if path is None or not path.is_file():
            return None
        try:
            with gzip.open(path, "rt", encoding="utf-8") as file:
                return [Run(**run) for run in json.load(file)]
        except (OSError, EOFError, ValueError, TypeError):
            return None

    def store(self, key: str | None, runs: Sequence[Run]) -> None:
        """Store runs under a key, atomically; None stores nothing."""
        path = self._path(key)
        if path is None:
            return
        # Not strict JSON: a loss may be infinite.
        text = json.dumps([vars(run) for run in runs])
        with atomic_path(path) as temporary:
            temporary.write_bytes(gzip.compress(text.encode(), compresslevel=1))

    def _path(self, key: str | None) -> Path | None:
        if self._folder is None or key is None:
            return None
        return self._folder / key[:2] / f"{key[2:]}.json.gz"


def run_key(*parts: str | None, seeds: Sequence[int]) -> str | None:
    """The key of runs.

    Args:
        parts: fingerprints; None for one that is not known.
        seeds: of the runs.

    Returns:
        None if a part is not known.
    """
    if any(part is None for part in parts):
        return None
    return hashlib.sha256(json.dumps([*parts, list(seeds)]).encode()).hexdigest()
