"""Vision tasks on scikit-learn's embedded digits."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from sklearn import datasets
from torch import nn

from trainpilot.inner_tasks.models import cnn, mlp
from trainpilot.inner_tasks.tensor_task import TensorTask

_IMAGE_SIZE = 8
_N_CLASSES = 10


def _digits(name: str, model: Callable[[], nn.Module], micro_batch_size: int) -> TensorTask:
    digits = datasets.load_digits()
    # Pixels are counts from 0 to 16.
    images = torch.as_tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
    return TensorTask(
        name,
        dataset="digits",
        modality="vision",
        inputs=images,
        targets=torch.as_tensor(digits.target, dtype=torch.int64),
        model=model,
        micro_batch_size=micro_batch_size,
    )


def digits_mlp(
    hidden: Sequence[int] = (64, 64), activation: str = "relu", micro_batch_size: int = 32
) -> TensorTask:
    """Optical recognition of handwritten digits: 1,797 images of 8x8 pixels, 10 classes."""
    return _digits(
        "digits_mlp",
        lambda: mlp(_IMAGE_SIZE**2, hidden, _N_CLASSES, activation),
        micro_batch_size,
    )


def digits_cnn(widths: Sequence[int] = (8, 16), micro_batch_size: int = 32) -> TensorTask:
    """The same digits with a small convolutional network."""
    return _digits("digits_cnn", lambda: cnn(1, widths, _IMAGE_SIZE, _N_CLASSES), micro_batch_size)
