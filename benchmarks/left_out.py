"""Updates that leave something out, so that what they leave out can be timed.

They are `update.cpp` and its formulas with some of the text taken away.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from engines import STEPS, mixed

from trainpilot.envs import native_code
from trainpilot.envs.chain_trainer import ChainTrainer
from trainpilot.envs.engine import Engine
from trainpilot.envs.native_update import NativeUpdate
from trainpilot.envs.optimizers import OPTIMIZER_NAMES
from trainpilot.envs.update_source import update_source

_FOLDER = Path(native_code.__file__).parent
#: All that only signals need. The gradient's own square is among it, though clipping needs it
#: too: without clipping, the update is the same.
_SUMS = (
    "      sum[0] += parameter * parameter;\n"
    "      sum[1] += change * change;\n"
    "      sum[2] += after[MEAN] * after[MEAN];\n"
    "      sum[3] += gradient * before[MEAN];\n"
    "      sum[4] += gradient * parameter;\n"
    "      sum[5] += gradient * change;\n",
    "    for (int k = 0; k < N_SUMS - 1; k++) sums[k] += total(sum[k]);\n",
    "    sums[0] += square_of(own, size);\n",
)
_ENTRY = "for (int64_t run = 0; run < update->n_rows; run++) step_row(*update, run);"


def update_without_sums(engine: Engine) -> NativeUpdate:
    """The engine's update without the sums that signals are made of.

    Raises:
        RuntimeError: if the update's text is no longer the one that this was written for, or
            runs are trained differently without the sums.
    """
    update = _changed(engine, _SUMS)
    _check_trains_alike(engine, update)
    return update


def no_update(engine: Engine) -> NativeUpdate:
    """An update that does nothing: runs keep their weights.

    Raises:
        RuntimeError: if the update's text is no longer the one that this was written for.
    """
    return _changed(engine, (_ENTRY,))


def with_update(
    engine: Engine, update: NativeUpdate, action: Callable[[], object]
) -> Callable[[], None]:
    """The action, done while an engine has another update."""
    trainer: Any = engine._trainer

    def changed() -> None:
        with mock.patch.object(trainer, "_update", update):
            action()

    return changed


def _changed(engine: Engine, left_out: Sequence[str]) -> NativeUpdate:
    if not isinstance(engine._trainer, ChainTrainer):
        raise RuntimeError(f"its update is part of no chain: {engine.report}")
    text = (_FOLDER / "update.cpp").read_text()
    for part in left_out:
        if text.count(part) != 1:
            raise RuntimeError(f"update.cpp no longer holds once what is left out:\n{part}")
        text = text.replace(part, "")
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder) / "update.cpp", Path(folder) / "update.so"
        source.write_text(update_source(engine._menu) + text)
        compiler = os.environ.get("CXX", "c++")
        flags = [*native_code._FLAGS, "-I", str(_FOLDER)]
        subprocess.run([compiler, *flags, str(source), "-o", str(library)], check=True)
        # Loaded, it no longer needs its file.
        return NativeUpdate(ctypes.CDLL(str(library)), engine._model)


def _check_trains_alike(engine: Engine, update: NativeUpdate) -> None:
    weights: list[torch.Tensor] = []
    settings = mixed(engine.n_runs, [OPTIMIZER_NAMES[index] for index in engine._menu])

    def train() -> None:
        engine.reset(range(engine.n_runs), range(engine.n_runs))
        engine.advance(settings, STEPS)
        weights.append(engine._state.parameters.clone())

    train()
    with_update(engine, update, train)()
    if not torch.allclose(weights[0], weights[1], rtol=1e-4, atol=1e-5):
        raise RuntimeError("without the sums, runs are trained differently")
