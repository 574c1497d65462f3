"""The update of many runs and its sums, by `update.cpp`."""

from __future__ import annotations

import ctypes
from collections.abc import Container, Sequence

import numpy as np
import torch
from torch import Tensor

from trainpilot.envs.flat_model import FlatModel
from trainpilot.envs.formula_update import Move
from trainpilot.envs.native_code import UntranslatableError, load
from trainpilot.envs.signals import UPDATE_SUMS
from trainpilot.envs.trainer import RunState
from trainpilot.envs.update_source import update_source


class _Update(ctypes.Structure):
    """What `struct Update` in the C++ file is."""

    _fields_ = (
        ("n_rows", ctypes.c_int64),
        ("n_pieces", ctypes.c_int64),
        ("width", ctypes.c_int64),
        ("sizes", ctypes.POINTER(ctypes.c_int64)),
        ("gradients", ctypes.POINTER(ctypes.c_void_p)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("parameters", ctypes.c_void_p),
        ("moments", ctypes.POINTER(ctypes.c_void_p)),
        ("accumulated", ctypes.c_void_p),
        ("scalars", ctypes.c_void_p),
        ("sums", ctypes.c_void_p),
        ("n_parts", ctypes.c_int64),
        ("parts", ctypes.c_void_p),
    )


class NativeUpdate:
    """Moves runs as `FormulaUpdate` does, in one pass over what they keep.

    Args:
        library: the compiled `update.cpp`.
        model: gives the sizes of a gradient's pieces, and where matrices and vectors stand.

    Attributes:
        address: of the C++ function.
        parts: `struct Part` of each matrix and vector, as the C++ function takes them.
    """

    def __init__(self, library: ctypes.CDLL, model: FlatModel) -> None:
        self._update = library.trainpilot_update
        self.address = ctypes.cast(self._update, ctypes.c_void_p).value
        self._sizes = (ctypes.c_int64 * len(model.sizes))(*model.sizes)
        self.parts = np.array(model.matrices_and_vectors, dtype=np.int64).reshape(-1, 3)

    def on(self, state: RunState, used: Container[int] | None = None) -> Move:
        """What moves these rows, as `Update` has it."""
        parameters, moments, accumulated, _ = state
        n_pieces = len(self._sizes)
        gradients, strides = (ctypes.c_void_p * n_pieces)(), (ctypes.c_int64 * n_pieces)()
        pointers = (ctypes.c_void_p * len(moments))(*(moment.data_ptr() for moment in moments))
        given = _Update(
            len(parameters),
            n_pieces,
            parameters.stride(0),
            self._sizes,
            gradients,
            strides,
            parameters.data_ptr(),
            pointers,
            None if accumulated is None else accumulated.data_ptr(),
            n_parts=len(self.parts),
            parts=self.parts.ctypes.data,
        )
        address = ctypes.byref(given)

        def move(pieces: Sequence[Tensor], scalars: Tensor) -> Tensor:
            # Beyond here are bare pointers.
            own = [piece if piece.stride(1) == 1 else piece.contiguous() for piece in pieces]
            gradients[:] = [piece.data_ptr() for piece in own]
            strides[:] = [piece.stride(0) for piece in own]
            sums = torch.empty(len(UPDATE_SUMS), len(parameters), dtype=torch.float64)
            given.scalars, given.sums = scalars.data_ptr(), sums.data_ptr()
            self._update(address)
            return sums

        return move


def native_update(
    optimizers: Sequence[int], model: FlatModel, device: torch.device
) -> NativeUpdate:
    """The update, compiled.

    Args:
        optimizers: indices of those that runs may use.
        model: gives the runs' sizes.
        device: where they live.

    Raises:
        UntranslatableError: on other devices than the CPU, for other numbers than float32,
            without a C++ compiler, or if an optimizer's formula has no translation.
    """
    if device.type != "cpu" or model.dtype != torch.float32:
        raise UntranslatableError(f"its runs are {model.dtype} on '{device.type}'")
    library = load("update.cpp", update_source(optimizers))
    if library is None:
        raise UntranslatableError("no C++ compiler was found")
    return NativeUpdate(library, model)
