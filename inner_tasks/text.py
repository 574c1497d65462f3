"""A character model on text that is on every machine: the standard library's docstrings."""

from __future__ import annotations

import ast
import sysconfig
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from trainpilot.inner_tasks.errors import TrainpilotError, require
from trainpilot.inner_tasks.models import character_mlp
from trainpilot.inner_tasks.protocol import Split, Splits
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


def _docstrings(source: Path) -> Iterator[str]:
    """Every documentation string of a module, in the order of the source."""
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield text


@lru_cache
def _characters(split: str) -> Tensor:
    """The text of a split as character numbers, `(n_characters,)`."""
    library = Path(sysconfig.get_path("stdlib"))
    sources = [library / f"{module}.py" for module in MODULES[split]]
    texts = [text for source in sources if source.is_file() for text in _docstrings(source)]
    if not texts:
        raise TrainpilotError(
            "the task 'docstrings_mlp' needs the sources of Python's standard library; "
            f"none of its modules is in {library}"
        )
    index = {character: number for number, character in enumerate(ALPHABET)}
    text = "\n\n".join(texts).lower()
    return torch.tensor([index.get(character, _OTHER) for character in text])


def _windows(split: str, context: int, stride: int) -> Split:
    """Windows of `context` characters and the character that follows each."""
    windows = _characters(split).unfold(0, context + 1, stride)
    return Split(windows[:, :-1].contiguous(), windows[:, -1].contiguous())


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
    for number in (context, embedding, hidden, stride):
        require(number >= 1, "the sizes of 'docstrings_mlp' must be at least 1", number)
    splits = Splits(*(_windows(split, context, stride) for split in Splits._fields))
    return TensorTask(
        "docstrings_mlp",
        dataset="stdlib_docstrings",
        modality="text",
        splits=splits,
        model=lambda: character_mlp(N_CHARACTERS, context, embedding, hidden),
        micro_batch_size=micro_batch_size,
    )
