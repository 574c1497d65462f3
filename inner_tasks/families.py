"""Families of synthetic tasks: what breadth a learned controller needs to be general.

Each draws its data, the scale of its inputs, its model, its noise and its sizes. No real data
set is imitated, so that no suite of real ones leaks into them. Every function here gives the family
of `n_tasks`, or with a `number` that one of its tasks.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from trainpilot.inner_tasks.drawn_models import (
    drawn_cnn,
    drawn_micro_batch_size,
    drawn_mlp,
    drawn_tower,
    log_uniform,
    log_uniform_int,
)
from trainpilot.inner_tasks.family import TaskFamily, Trainable
from trainpilot.inner_tasks.models import embedding_mlp
from trainpilot.inner_tasks.tensor_task import TensorTask


def teachers(n_tasks: int = 64, number: int | None = None) -> Trainable:
    """Targets given by a random network: classes, or for a third of the tasks its outputs."""
    return _of(TaskFamily("teachers", _teacher, n_tasks, model="MLP, 1 to 4 layers"), number)


def mixtures(n_tasks: int = 64, number: int | None = None) -> Trainable:
    """Classes that are mixtures of Gaussian clusters."""
    return _of(TaskFamily("mixtures", _mixture, n_tasks, model="MLP, 1 to 4 layers"), number)


def ill_conditioned(n_tasks: int = 64, number: int | None = None) -> Trainable:
    """Regression on correlated features whose deviations span up to three decades."""
    return _of(
        TaskFamily("ill_conditioned", _ill_conditioned, n_tasks, model="linear, or MLP"), number
    )


def patterns(n_tasks: int = 64, number: int | None = None) -> Trainable:
    """Small images: a random pattern for each class, shifted, over noise."""
    return _of(TaskFamily("patterns", _pattern, n_tasks, model="CNN, or MLP"), number)


def grammars(n_tasks: int = 64, number: int | None = None) -> Trainable:
    """The next token of a random Markov chain of order one or two."""
    return _of(TaskFamily("grammars", _grammar, n_tasks, model="embedding, MLP"), number)


def towers(n_tasks: int = 64, number: int | None = None) -> Trainable:
    """As `mixtures`, for deep and narrow networks."""
    return _of(TaskFamily("towers", _tower, n_tasks, model="3 to 10 narrow layers"), number)


def deep_grammars(n_tasks: int = 64, number: int | None = None) -> Trainable:
    """As `grammars`, for deep and narrow networks."""
    return _of(
        TaskFamily(
            "deep_grammars", _deep_grammar, n_tasks, model="embedding, 3 to 10 narrow layers"
        ),
        number,
    )


def waves(n_tasks: int = 64, number: int | None = None) -> Trainable:
    """Sums of sinusoids of random directions, as a value or as the class of its quantile."""
    return _of(TaskFamily("waves", _wave, n_tasks, model="MLP, 1 to 4 layers"), number)


def trees(n_tasks: int = 64, number: int | None = None) -> Trainable:
    """Classes given by a random decision tree over uniform features."""
    return _of(TaskFamily("trees", _tree, n_tasks, model="MLP, 1 to 4 layers"), number)


def _of(family: TaskFamily, number: int | None) -> Trainable:
    return family if number is None else family.task(number)


def _teacher(name: str, generator: np.random.Generator) -> TensorTask:
    n_examples, n_features, n_outputs = _sizes(generator)
    inputs = generator.normal(size=(n_examples, n_features))
    width = log_uniform_int(generator, 4, 64)
    first = generator.normal(size=(n_features, width)) / np.sqrt(n_features)
    second = generator.normal(size=(width, n_outputs)) / np.sqrt(width)
    outputs = np.tanh(log_uniform(generator, 0.5, 4) * inputs @ first) @ second
    if generator.uniform() < 1 / 3:
        return _regression(name, generator, inputs, outputs[:, :1])
    return _classification(name, generator, inputs, outputs.argmax(1), n_outputs)


def _mixture(name: str, generator: np.random.Generator) -> TensorTask:
    return _classification(name, generator, *_clustered(generator))


def _tower(name: str, generator: np.random.Generator) -> TensorTask:
    inputs, classes, n_classes = _clustered(generator)
    model = drawn_tower(generator, inputs.shape[1], n_classes)
    return _classification(name, generator, inputs, classes, n_classes, model)


def _clustered(generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray, int]:
    """Inputs, classes, and how many there are."""
    n_examples, n_features, n_classes = _sizes(generator)
    n_clusters = n_classes * int(generator.integers(1, 5))
    centres = generator.normal(size=(n_clusters, n_features))
    cluster = generator.integers(n_clusters, size=n_examples)
    spread = log_uniform(generator, 0.3, 1.2)
    inputs = centres[cluster] + spread * generator.normal(size=(n_examples, n_features))
    return inputs, cluster % n_classes, n_classes


def _ill_conditioned(name: str, generator: np.random.Generator) -> TensorTask:
    n_examples, n_features, _ = _sizes(generator)
    rotation, _ = np.linalg.qr(generator.normal(size=(n_features, n_features)))
    deviations = np.logspace(0, -generator.uniform(0, 3), n_features)
    inputs = generator.normal(size=(n_examples, n_features)) * deviations @ rotation
    # Directions of small deviation matter as much as the others.
    weights = rotation.T @ (generator.normal(size=(n_features, 1)) / deviations[:, None])
    outputs = inputs @ weights / np.sqrt(n_features)
    if generator.uniform() < 0.5:
        outputs = outputs + np.tanh(2 * outputs)
    linear = generator.uniform() < 0.25
    return _regression(name, generator, inputs, outputs, linear=linear)


def _pattern(name: str, generator: np.random.Generator) -> TensorTask:
    n_examples = log_uniform_int(generator, 500, 3000)
    n_classes = log_uniform_int(generator, 2, 12)
    side, n_channels = int(generator.choice([8, 12])), int(generator.choice([1, 3]))
    templates = generator.normal(size=(n_classes, n_channels, side, side))
    # Neighbouring pixels are alike, as in pictures.
    for axis in (2, 3):
        templates = templates + np.roll(templates, 1, axis) + np.roll(templates, -1, axis)
    templates /= templates.std()
    classes = generator.integers(n_classes, size=n_examples)
    furthest = int(generator.integers(0, 4))
    shifts = generator.integers(-furthest, furthest + 1, size=(n_examples, 2))
    images = np.stack(
        [np.roll(templates[c], s, (1, 2)) for c, s in zip(classes, shifts.tolist(), strict=True)]
    )
    images += log_uniform(generator, 0.3, 2) * generator.normal(size=images.shape)
    model = drawn_cnn(generator, n_channels, side, n_classes)
    if generator.uniform() < 0.3:
        model = drawn_mlp(generator, n_channels * side * side, n_classes)
    return _classification(name, generator, images, classes, n_classes, model)


def _grammar(name: str, generator: np.random.Generator) -> TensorTask:
    windows, n_tokens = _sentences(generator)
    width, hidden = log_uniform_int(generator, 4, 16), log_uniform_int(generator, 16, 96)
    context = windows.shape[1] - 1
    return _of_windows(
        name,
        generator,
        windows,
        lambda: embedding_mlp(n_tokens, context, width, [hidden], n_tokens),
    )


def _deep_grammar(name: str, generator: np.random.Generator) -> TensorTask:
    windows, n_tokens = _sentences(generator)
    width = log_uniform_int(generator, 4, 16)
    n_inputs = (windows.shape[1] - 1) * width
    model = drawn_tower(generator, n_inputs, n_tokens, lambda: nn.Embedding(n_tokens, width))
    return _of_windows(name, generator, windows, model)


def _of_windows(
    name: str, generator: np.random.Generator, windows: Tensor, model: Callable[[], nn.Module]
) -> TensorTask:
    return TensorTask(
        name,
        inputs=windows[:, :-1].contiguous(),
        targets=windows[:, -1].contiguous(),
        model=model,
        micro_batch_size=drawn_micro_batch_size(generator),
    )


def _sentences(generator: np.random.Generator) -> tuple[Tensor, int]:
    """Windows of a text and the token after each, and how many tokens there are."""
    n_tokens = log_uniform_int(generator, 6, 32)
    context = int(generator.integers(2, 9))
    n_examples = log_uniform_int(generator, 1000, 4000)
    # A low concentration makes few successors likely. Of order one, the token before does not
    # count; an order of two is too much to learn of many tokens.
    concentration = log_uniform(generator, 0.02, 0.3)
    n_before = n_tokens if n_tokens <= 10 and generator.uniform() < 0.5 else 1
    text = _markov_chain(generator, n_before, n_tokens, concentration, n_examples + context)
    while torch.bincount(text).max() > _MOST_COMMON * len(text):
        concentration *= 1.5
        text = _markov_chain(generator, n_before, n_tokens, concentration, n_examples + context)
    return text.unfold(0, context + 1, 1)[:n_examples], n_tokens


#: Share of the commonest token, at most: a chain that stays where it is teaches nothing.
_MOST_COMMON = 0.8


def _markov_chain(
    generator: np.random.Generator, n_before: int, n_tokens: int, concentration: float, length: int
) -> Tensor:
    """Tokens `(length,)`, the next one drawn by the last two; by the last where `n_before` is 1."""
    after = generator.dirichlet(np.full(n_tokens, concentration), size=(n_before, n_tokens))
    cumulated = after.cumsum(2)
    tokens = [0, 1]
    for draw in generator.uniform(size=length):
        place = int(np.searchsorted(cumulated[tokens[-2] % n_before, tokens[-1]], draw))
        tokens.append(min(place, n_tokens - 1))
    return torch.tensor(tokens[2:])


def _wave(name: str, generator: np.random.Generator) -> TensorTask:
    n_examples, n_features, n_classes = _sizes(generator)
    n_features = min(n_features, 6)
    inputs = generator.uniform(-1, 1, size=(n_examples, n_features))
    n_waves = int(generator.integers(1, 5))
    directions = generator.normal(size=(n_features, n_waves)) * log_uniform(generator, 0.5, 2)
    phases = generator.uniform(0, 2 * np.pi, size=n_waves)
    value = np.sin(inputs @ directions + phases).sum(1, keepdims=True)
    if generator.uniform() < 0.5:
        return _regression(name, generator, inputs, value)
    bounds = np.quantile(value, np.arange(1, n_classes) / n_classes)
    classes = np.searchsorted(bounds, value[:, 0])
    return _classification(name, generator, inputs, classes, n_classes)


def _tree(name: str, generator: np.random.Generator) -> TensorTask:
    n_examples, n_features, n_classes = _sizes(generator)
    inputs = generator.uniform(-1, 1, size=(n_examples, n_features))
    depth = int(generator.integers(2, 6))
    leaf = np.zeros(n_examples, dtype=np.int64)
    for level in range(depth):
        feature = generator.integers(n_features, size=2**level)
        threshold = generator.uniform(-0.5, 0.5, size=2**level)
        right = inputs[np.arange(n_examples), feature[leaf]] > threshold[leaf]
        leaf = 2 * leaf + right
    classes = generator.integers(n_classes, size=2**depth)
    # Every class has a leaf, as far as they go.
    classes[: min(n_classes, 2**depth)] = np.arange(min(n_classes, 2**depth))
    return _classification(name, generator, inputs, classes[leaf], n_classes)


def _sizes(generator: np.random.Generator) -> tuple[int, int, int]:
    """Examples, features and classes."""
    return (
        log_uniform_int(generator, 500, 4000),
        log_uniform_int(generator, 4, 40),
        log_uniform_int(generator, 2, 16),
    )


def _scaled(generator: np.random.Generator, inputs: np.ndarray) -> Tensor:
    """The inputs at some scale: many are not standardised in practice."""
    scale = log_uniform(generator, 0.1, 5) if generator.uniform() < 0.5 else 1.0
    return torch.as_tensor(scale * inputs, dtype=torch.float32)


def _classification(
    name: str,
    generator: np.random.Generator,
    inputs: np.ndarray,
    classes: np.ndarray,
    n_classes: int,
    model: Callable[[], nn.Module] | None = None,
) -> TensorTask:
    """With labels that are wrong for up to a fifth of the examples."""
    noise = float(generator.choice([0.0, generator.uniform(0, 0.2)]))
    wrong = generator.uniform(size=len(classes)) < noise
    labels = np.where(wrong, generator.integers(n_classes, size=len(classes)), classes)
    n_features = int(np.prod(inputs.shape[1:]))
    return TensorTask(
        name,
        inputs=_scaled(generator, inputs),
        targets=torch.as_tensor(labels, dtype=torch.int64),
        model=model or drawn_mlp(generator, n_features, n_classes),
        micro_batch_size=drawn_micro_batch_size(generator),
    )


def _regression(
    name: str,
    generator: np.random.Generator,
    inputs: np.ndarray,
    values: np.ndarray,
    *,
    linear: bool = False,
) -> TensorTask:
    """With targets of deviation 1 and noise of up to half of that."""
    values = (values - values.mean()) / max(float(values.std()), 1e-6)
    noise = float(generator.choice([0.0, generator.uniform(0, 0.5)]))
    values = values + noise * generator.normal(size=values.shape)
    n_features = inputs.shape[1]
    return TensorTask(
        name,
        inputs=_scaled(generator, inputs),
        targets=torch.as_tensor(values, dtype=torch.float32),
        model=(lambda: nn.Linear(n_features, 1)) if linear else drawn_mlp(generator, n_features, 1),
        loss="mse",
        micro_batch_size=drawn_micro_batch_size(generator),
    )
