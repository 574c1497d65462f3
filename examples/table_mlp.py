"""An MLP on a table: 2,310 image segments (`pip install river` brings them)."""

from __future__ import annotations

import torch
from river.datasets import ImageSegments
from side_by_side import compare, splits
from torch import Tensor, nn


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Linear(18, 64), nn.GELU(), nn.LayerNorm(64), nn.Linear(64, 64), nn.GELU(),
        nn.Linear(64, 7),
    )  # fmt: skip


def table() -> tuple[Tensor, Tensor]:
    rows, labels = zip(*ImageSegments(), strict=True)
    names = sorted(set(labels))
    values = torch.tensor([list(row.values()) for row in rows], dtype=torch.float32)
    values = (values - values.mean(0)) / values.std(0).clamp(min=1e-6)
    return values, torch.tensor([names.index(label) for label in labels])


if __name__ == "__main__":
    compare("An MLP on a table", mlp, splits(*table()), 1_000, 64)
