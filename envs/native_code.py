"""C++ files of this package, compiled on the machine that runs them, when it first needs them."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import warnings
from pathlib import Path

from torch._inductor.runtime.runtime_utils import cache_dir  # type: ignore[attr-defined]

# No -ffast-math: it may assume that there is no NaN, and a run that diverges must show its own.
_FLAGS = ("-O2", "-std=c++17", "-march=native", "-ffp-contract=fast", "-shared", "-fPIC")


class UntranslatableError(Exception):
    """Something is not of the kind that C++ of our own knows; the message says what."""


def find_compiler() -> str | None:
    """The C++ compiler of this machine: `CXX`, `c++` or `g++`; None without one."""
    return next(filter(None, map(shutil.which, (os.environ.get("CXX", "c++"), "g++"))), None)


@functools.cache
def load(name: str, preamble: str = "") -> ctypes.CDLL | None:
    """The library made from the C++ file of that name in this folder.

    Args:
        name: such as "convolution.cpp".
        preamble: C++ that comes before the file's own (default: none).

    Returns:
        The library, or None without a C++ compiler. Where the compiler fails it is None too, with
        a warning.
    """
    compiler = find_compiler()
    if compiler is None:
        return None
    source = Path(__file__).with_name(name)
    try:
        return ctypes.CDLL(str(_compiled(compiler, source, preamble)))
    except (OSError, subprocess.CalledProcessError) as error:
        output = getattr(error, "stderr", None) or str(error)
        reason = (output.strip() or type(error).__name__).splitlines()[0]
        warnings.warn(f"{name} cannot be used, training is slower: {reason}", stacklevel=2)
        return None


def _compiled(compiler: str, source: Path, preamble: str) -> Path:
    """The library's file, beside what torch.compile keeps; made where it is missing."""
    # The compiler's own macros name its version and the processor's instructions, so that a
    # cache folder shared by unlike machines serves each of them its own library.
    target = _output([compiler, "-march=native", "-dM", "-E", "-x", "c++", os.devnull])
    parts = (preamble, *_texts(source), target, *_FLAGS)
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()
    folder = Path(cache_dir()) / "trainpilot"
    library = folder / f"{source.stem}-{key[:32]}.so"
    if not library.exists():
        folder.mkdir(parents=True, exist_ok=True)
        # Processes that start together may all compile; each puts a complete file in its place.
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            made, whole = Path(scratch) / library.name, Path(scratch) / source.name
            whole.write_text(preamble + source.read_text())
            _output([compiler, *_FLAGS, "-I", str(source.parent), str(whole), "-o", str(made)])
            made.replace(library)
    return library


def _texts(source: Path) -> list[str]:
    """What a file and the files of its folder that it includes, or that those include, hold."""
    files = [source]
    for file in files:
        names = re.findall(r'^#include "(.+)"', file.read_text(), re.MULTILINE)
        files += [new for name in names if (new := file.with_name(name)) not in files]
    return [file.read_text() for file in files]


def _output(command: list[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
