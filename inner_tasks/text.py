"""Character models on text that is on every machine: Python's standard library."""

from __future__ import annotations

import ast
import sys
import sysconfig
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from trainpilot.inner_tasks.errors import MissingDataError, require
from trainpilot.inner_tasks.models import embedding_mlp
from trainpilot.inner_tasks.protocol import Split, Splits
from trainpilot.inner_tasks.sequence_models import TransformerClassifier
from trainpilot.inner_tasks.sources import sourced_task
from trainpilot.inner_tasks.tensor_task import TensorTask

#: The alphabet: lower-case letters, digits, punctuation, space, line break, and one
#: sign for every other character.
ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789 \n.,:;!?'\"`()[]{}<>=+-*/_#%&|@\\^~$"
_OTHER = len(ALPHABET)
N_CHARACTERS = len(ALPHABET) + 1

#: Long, stable modules. No module stands in two splits.
MODULES = {
    "train": (
        "argparse", "ast", "collections/__init__", "configparser", "datetime", "doctest",
        "email/message", "functools", "inspect", "ipaddress", "logging/__init__", "mailbox",
        "optparse", "pathlib", "pickletools", "random", "shutil", "statistics", "subprocess",
        "tarfile", "tempfile", "threading", "turtle", "typing", "zipfile",
    ),
    "valid": ("decimal", "_pydecimal", "difflib"),
    "outer_valid": ("unittest/case", "fractions", "http/client", "socket"),
    "test": ("os", "string", "heapq", "codecs", "smtplib", "unittest/mock", "bdb"),
}  # fmt: skip

_DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def docstrings_of(tree: ast.Module) -> Iterator[str]:
    """Every documentation string of a module, in the order of the source."""
    for node in ast.walk(tree):
        if isinstance(node, _DOCUMENTED):
            text = ast.get_docstring(node)
            if text:
                yield text


def code_of(tree: ast.Module) -> Iterator[str]:
    """The source code of a module without documentation strings and comments; changes the tree."""
    for node in ast.walk(tree):
        if isinstance(node, _DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    yield ast.unparse(tree)


#: What of a module each data set reads.
_READERS: dict[str, Callable[[ast.Module], Iterator[str]]] = {
    "stdlib_docstrings": docstrings_of,
    "stdlib_code": code_of,
}


@lru_cache
def _characters(dataset: str, split: str) -> Tensor:
    """The text of a split as character numbers, `(n_characters,)`."""
    library = Path(sysconfig.get_path("stdlib"))
    sources = [library / f"{module}.py" for module in MODULES[split]]
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in sources if path.is_file()]
    texts = [text for tree in trees for text in _READERS[dataset](tree)]
    if not texts:
        raise MissingDataError(
            f"the data set '{dataset}' needs the sources of Python's standard library; "
            f"given: {library}, where none of its modules is",
            dataset,
        )
    text = "\n\n".join(texts).lower()
    numbers = np.full(sys.maxunicode + 1, _OTHER)
    numbers[[ord(character) for character in ALPHABET]] = np.arange(len(ALPHABET))
    return torch.from_numpy(
        numbers[np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")]
    )


def _windows(dataset: str, context: int, stride: int, n_windows: int | None) -> Splits:
    """Windows of `context` characters and the character that follows each.

    Args:
        dataset: a key of `_READERS`.
        context: characters in a window.
        stride: characters between two windows.
        n_windows: most windows of a split, evenly spread (None for all).
    """
    splits = []
    for split in Splits._fields:
        windows = _characters(dataset, split).unfold(0, context + 1, stride)
        if n_windows is not None:
            windows = windows[:: -(-len(windows) // n_windows)]
        splits.append(Split(windows[:, :-1].contiguous(), windows[:, -1].contiguous()))
    return Splits(*splits)


def _check(name: str, **sizes: int) -> None:
    for argument, size in sizes.items():
        require(size >= 1, f"{argument} of '{name}' must be at least 1", size)


def docstrings_mlp(
    context: int = 8,
    embedding: int = 12,
    hidden: int = 64,
    stride: int = 5,
    micro_batch_size: int = 32,
) -> TensorTask:
    """Next character of the standard library's docstrings, after Bengio et al. (2003).

    The text is that of the running Python, so that curves are the same only under the
    same Python version.

    Args:
        context: characters that the model sees.
        embedding: width of a character's embedding.
        hidden: width of the hidden layer.
        stride: characters between two windows.
        micro_batch_size: windows in a micro-batch.

    Raises:
        TrainpilotError: if the standard library has no sources, or a number is below 1.
    """
    name = "docstrings_mlp"
    _check(name, context=context, embedding=embedding, hidden=hidden, stride=stride)
    return sourced_task(
        name,
        "stdlib_docstrings",
        splits=_windows("stdlib_docstrings", context, stride, None),
        model=lambda: embedding_mlp(N_CHARACTERS, context, embedding, [hidden], N_CHARACTERS),
        micro_batch_size=micro_batch_size,
    )


def code_mlp(
    context: int = 10,
    embedding: int = 12,
    hidden: int = 64,
    n_windows: int = 8000,
    micro_batch_size: int = 32,
) -> TensorTask:
    """Next character of the standard library's source code, without comments and docstrings.

    Args:
        context: characters that the model sees.
        embedding: width of a character's embedding.
        hidden: width of the hidden layer.
        n_windows: most windows of a split.
        micro_batch_size: windows in a micro-batch.

    Raises:
        TrainpilotError: if the standard library has no sources, or a number is below 1.
    """
    name = "code_mlp"
    _check(name, context=context, embedding=embedding, hidden=hidden, n_windows=n_windows)
    return sourced_task(
        name,
        "stdlib_code",
        splits=_windows("stdlib_code", context, 1, n_windows),
        model=lambda: embedding_mlp(
            N_CHARACTERS, context, embedding, [hidden], N_CHARACTERS, "gelu"
        ),
        micro_batch_size=micro_batch_size,
    )


def code_transformer(
    context: int = 8,
    width: int = 16,
    n_heads: int = 2,
    n_windows: int = 8000,
    micro_batch_size: int = 32,
) -> TensorTask:
    """The same with one layer of a transformer.

    Args:
        context: characters that the model sees.
        width: of a character, divisible by `n_heads`.
        n_heads: attention heads.
        n_windows: most windows of a split.
        micro_batch_size: windows in a micro-batch.

    Raises:
        TrainpilotError: if the standard library has no sources, or a number does not fit.
    """
    name = "code_transformer"
    _check(name, context=context, width=width, n_heads=n_heads, n_windows=n_windows)
    require(width % n_heads == 0, f"width of '{name}' must be divisible by n_heads", width)
    return sourced_task(
        name,
        "stdlib_code",
        splits=_windows("stdlib_code", context, 1, n_windows),
        model=lambda: TransformerClassifier(N_CHARACTERS, context, width, n_heads, N_CHARACTERS),
        micro_batch_size=micro_batch_size,
    )


def docstrings_transformer(
    context: int = 8,
    width: int = 24,
    n_heads: int = 2,
    n_layers: int = 3,
    n_windows: int = 20_000,
    micro_batch_size: int = 32,
) -> TensorTask:
    """As `docstrings_mlp`, with fewer windows and layers of a transformer that normalise last.

    They normalise after they add, as the first transformers did (Vaswani et al., 2017). Unlike
    `code_transformer` it gets stuck at once where the learning rate is too high.

    Args:
        context: characters that the model sees.
        width: of a character, divisible by `n_heads`.
        n_heads: attention heads.
        n_layers: of attention and a perceptron each.
        n_windows: most windows of a split.
        micro_batch_size: windows in a micro-batch.

    Raises:
        TrainpilotError: if the standard library has no sources, or a number does not fit.
    """
    name = "docstrings_transformer"
    sizes = {"context": context, "width": width, "n_heads": n_heads, "n_layers": n_layers}
    _check(name, **sizes, n_windows=n_windows)
    require(width % n_heads == 0, f"width of '{name}' must be divisible by n_heads", width)
    return sourced_task(
        name,
        "stdlib_docstrings",
        splits=_windows("stdlib_docstrings", context, 5, n_windows),
        model=lambda: TransformerClassifier(
            N_CHARACTERS, context, width, n_heads, N_CHARACTERS, n_layers, False, 2
        ),
        micro_batch_size=micro_batch_size,
    )
