"""The next character of Python's own documentation strings: `python text_models.py gru`."""

from __future__ import annotations

import argparse
import inspect
import sys

import torch
from side_by_side import compare, splits
from torch import Tensor, nn

MODULES = ("argparse", "collections", "datetime", "decimal", "functools", "inspect", "logging")
CONTEXT = 32
N_CHARACTERS = 128


class Gru(nn.Module):
    """Reads the context from left to right."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(N_CHARACTERS, 32)
        self.gru = nn.GRU(32, 96, batch_first=True)
        self.head = nn.Linear(96, N_CHARACTERS)

    def forward(self, tokens: Tensor) -> Tensor:
        states, _ = self.gru(self.embedding(tokens))
        return self.head(states[:, -1])


class Transformer(nn.Module):
    """Two layers of attention over the context."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(N_CHARACTERS, 48)
        self.places = nn.Parameter(0.02 * torch.randn(CONTEXT, 48))
        layer = nn.TransformerEncoderLayer(48, 4, 96, dropout=0.1, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(48, N_CHARACTERS)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.layers(self.embedding(tokens) + self.places)[:, -1])


def text() -> tuple[Tensor, Tensor]:
    """Contexts and the character after each."""
    strings = []
    for name in MODULES:
        module = __import__(name)
        for _, member in sorted(inspect.getmembers(module), key=lambda item: item[0]):
            strings.append(inspect.getdoc(member) or "")
    # Inherited ones come more than once.
    joined = "\n".join(dict.fromkeys(strings))
    codes = torch.tensor([min(ord(character), N_CHARACTERS - 1) for character in joined])
    windows = codes.unfold(0, CONTEXT + 1, 5)
    return windows[:, :-1].contiguous(), windows[:, -1].contiguous()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", choices=["gru", "transformer"])
    chosen, sys.argv[1:] = parser.parse_known_args()
    make = {"gru": Gru, "transformer": Transformer}[chosen.model]
    compare(f"A {chosen.model} on text", make, splits(*text()), 1_500, 64)
