"""Tasks on large standard sets, downloaded by their own library when the user asks for one.

They stand in no suite, and what downloads them is no dependency.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trainpilot.inner_tasks.errors import MissingDataError, first_line, require
from trainpilot.inner_tasks.models import cnn, embedding_mlp
from trainpilot.inner_tasks.protocol import Split, Splits
from trainpilot.inner_tasks.sources import import_for, sourced_task
from trainpilot.inner_tasks.tensor_task import TensorTask

_N_CLASSES, _N_TOPICS = 10, 4
#: Where torchvision keeps what it downloads.
FOLDER = "~/.cache/trainpilot"

#: What words are, for a vocabulary.
_WORD = re.compile(r"[a-z0-9]+")
#: Numbers of no word, and of any word that is not in the vocabulary.
_NO_WORD, _RARE_WORD = 0, 1


def fashion_mnist_cnn(
    widths: Sequence[int] = (8, 16),
    n_examples: int = 20_000,
    folder: str = FOLDER,
    download: bool = True,
    micro_batch_size: int = 32,
) -> TensorTask:
    """Fashion-MNIST (arXiv 1708.07747): images of 28x28 pixels, 10 classes; needs torchvision.

    Args:
        widths: channels of each convolution.
        n_examples: most examples of the official training set that are used, at least 20;
            they become train, valid and outer_valid.
        folder: where the files are kept.
        download: fetch them if they are not there.
        micro_batch_size: images in a micro-batch.

    Raises:
        TrainpilotError: if torchvision is missing, or the files cannot be had.
    """

    def model() -> nn.Module:
        return cnn(1, widths, 28, _N_CLASSES)

    with _outlined(model, n_examples, 60_000):
        splits = _torchvision("fashion_mnist", "FashionMNIST", n_examples, folder, download)
    return sourced_task(
        "fashion_mnist_cnn",
        "fashion_mnist",
        splits=splits,
        model=model,
        micro_batch_size=micro_batch_size,
    )


def cifar10_cnn(
    widths: Sequence[int] = (16, 32),
    n_examples: int = 20_000,
    folder: str = FOLDER,
    download: bool = True,
    micro_batch_size: int = 32,
) -> TensorTask:
    """CIFAR-10 (Krizhevsky, 2009): colour images of 32x32 pixels; as `fashion_mnist_cnn`."""

    def model() -> nn.Module:
        return cnn(3, widths, 32, _N_CLASSES)

    with _outlined(model, n_examples, 50_000):
        splits = _torchvision("cifar10", "CIFAR10", n_examples, folder, download)
    return sourced_task(
        "cifar10_cnn",
        "cifar10",
        splits=splits,
        model=model,
        micro_batch_size=micro_batch_size,
    )


def ag_news_mlp(
    embedding: int = 16,
    hidden: Sequence[int] = (32,),
    n_words: int = 24,
    n_vocabulary: int = 4000,
    n_examples: int = 20_000,
    download: bool = True,
    micro_batch_size: int = 32,
) -> TensorTask:
    """AG News (arXiv 1509.01626): the topic of a news item, 4 classes; needs datasets.

    Args:
        embedding: width of a word's embedding.
        hidden: widths of the hidden layers.
        n_words: of an item that the model sees, its first ones; at least 1.
        n_vocabulary: words that have a number of their own, the commonest of the train split.
        n_examples: as `fashion_mnist_cnn`.
        download: may ask the hub for the files; without it nothing can be had.
        micro_batch_size: items in a micro-batch.

    Raises:
        TrainpilotError: if datasets is missing, or the files cannot be had.
    """
    require(n_words >= 1, "n_words of 'ag_news_mlp' must be at least 1", n_words)

    def model(n_known_words: int = n_vocabulary) -> nn.Module:
        return embedding_mlp(n_known_words + 2, n_words, embedding, hidden, _N_TOPICS, "relu")

    with _outlined(model, n_examples, 120_000):
        library = import_for("ag_news", "datasets")
        if not download:
            raise _not_here("ag_news")
        official = _fetched("ag_news", lambda: library.load_dataset("fancyzhx/ag_news"))
    # As plain lists: the library's columns read the disk at every index.
    texts, test_texts = (list(official[part]["text"]) for part in ("train", "test"))
    targets, test_targets = (list(official[part]["label"]) for part in ("train", "test"))
    order = _order(len(targets), n_examples).tolist()
    chosen = [texts[index] for index in order]
    # The vocabulary is that of the examples that become the train split.
    counts = Counter(word for text in chosen[: _n_train(len(order))] for word in _words(text))
    vocabulary = {word: 2 + place for place, (word, _) in enumerate(_common(counts, n_vocabulary))}
    labels = torch.tensor(targets)[order]
    splits = _splits(
        _numbers(chosen, vocabulary, n_words),
        labels,
        _numbers(test_texts, vocabulary, n_words),
        torch.tensor(test_targets),
    )
    return sourced_task(
        "ag_news_mlp",
        "ag_news",
        splits=splits,
        model=lambda: model(len(vocabulary)),
        micro_batch_size=micro_batch_size,
    )


def _torchvision(dataset: str, kind: str, n_examples: int, folder: str, download: bool) -> Splits:
    """Images `(n_examples, channels, height, width)`, each channel standardised on train."""
    make = getattr(import_for(dataset, "torchvision.datasets"), kind)
    root = str(Path(folder).expanduser())
    if not download:
        try:
            train, test = (make(root=root, train=part, download=False) for part in (True, False))
        except (OSError, RuntimeError) as error:
            raise _not_here(dataset) from error
    else:
        train, test = _fetched(
            dataset,
            lambda: tuple(make(root=root, train=part, download=True) for part in (True, False)),
        )
    order = _order(len(train.targets), n_examples)
    images = _images(np.asarray(train.data)[order.numpy()])
    n_train = _n_train(len(images))
    mean = images[:n_train].mean((0, 2, 3), keepdim=True)
    deviation = images[:n_train].std((0, 2, 3), keepdim=True)
    return _splits(
        (images - mean) / deviation,
        torch.as_tensor(train.targets)[order],
        (_images(np.asarray(test.data)) - mean) / deviation,
        torch.as_tensor(test.targets),
    )


def _images(pixels: Any) -> Tensor:
    """Bytes `(n, height, width)` or `(n, height, width, 3)` as floats, channels first."""
    images = torch.as_tensor(pixels, dtype=torch.float32) / 255
    return images.unsqueeze(1) if images.ndim == 3 else images.permute(0, 3, 1, 2).contiguous()


def _order(n_available: int, n_examples: int) -> Tensor:
    """Which examples of the official training set are used, at random but always the same."""
    require(n_examples >= 20, "n_examples must be at least 20", n_examples)
    return torch.randperm(n_available, generator=torch.Generator().manual_seed(0))[:n_examples]


def _n_train(n_examples: int) -> int:
    return round(0.8 * n_examples)


def _splits(inputs: Tensor, targets: Tensor, test_inputs: Tensor, test_targets: Tensor) -> Splits:
    """The official training set as train, valid and outer_valid; the official test set as test."""
    first = _n_train(len(inputs))
    second = (first + len(inputs)) // 2
    return Splits(
        train=Split(inputs[:first], targets[:first]),
        valid=Split(inputs[first:second], targets[first:second]),
        outer_valid=Split(inputs[second:], targets[second:]),
        test=Split(test_inputs, test_targets),
    )


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _common(counts: Counter[str], most: int) -> list[tuple[str, int]]:
    """The commonest words; where counts are equal, in alphabetical order."""
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:most]


def _numbers(texts: Sequence[str], vocabulary: dict[str, int], n_words: int) -> Tensor:
    """The first words of each text as numbers, `(n_texts, n_words)`."""
    rows = []
    for text in texts:
        own = [vocabulary.get(word, _RARE_WORD) for word in _words(text)[:n_words]]
        rows.append(own + [_NO_WORD] * (n_words - len(own)))
    return torch.tensor(rows)


@contextmanager
def _outlined(model: Callable[[], nn.Module], n_examples: int, n_official: int) -> Iterator[None]:
    """Let an error for missing data say what is known of the task without them.

    Args:
        model: what the task trains.
        n_examples: most examples of the official training set that are used.
        n_official: examples of that set.
    """
    try:
        yield
    except MissingDataError as error:
        error.model = model()
        error.n_train = _n_train(min(n_examples, n_official))
        raise


def _fetched(dataset: str, fetch: Callable[[], Any]) -> Any:
    """What a library gives, and its many errors as one."""
    try:
        return fetch()
    except (OSError, RuntimeError, ValueError) as error:
        reason = first_line(error)
        raise MissingDataError(
            f"the data set '{dataset}' is downloaded when it is first used, which needs the "
            f"network; given: {reason}",
            dataset,
        ) from error


def _not_here(dataset: str) -> MissingDataError:
    return MissingDataError(
        f"the data set '{dataset}' is downloaded when a task is made with download=true; "
        "given: download=false",
        dataset,
    )
