"""Vision tasks on patches of photographs: which photograph is it from?"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from trainpilot.inner_tasks.errors import require
from trainpilot.inner_tasks.models import cnn, mlp
from trainpilot.inner_tasks.protocol import Split, Splits
from trainpilot.inner_tasks.sources import import_for, sourced_task
from trainpilot.inner_tasks.tensor_task import SPLIT_SHARES, TensorTask

#: Photographs of each data set, as `skimage.data` calls them: those that its wheel holds and that
#: are CC0 or in the public domain, or of which it says that no copyright restrictions are known
#: (coins, immunohistochemistry). A photograph stands in one data set.
PHOTOGRAPHS = {
    "textures": ("brick", "grass", "gravel", "coins", "text", "hubble_deep_field"),
    "photographs": (
        "astronaut", "camera", "chelsea", "coffee", "immunohistochemistry", "retina", "rocket",
    ),
}  # fmt: skip

#: Side of a region, in pixels. No region stands in two splits.
REGION = 48
_PATCH = 16
_PATCHES_PER_PHOTOGRAPH = 700
#: Patches with less contrast, such as sky, show nothing (in shares of white).
_LEAST_DEVIATION = 0.02


def _grey(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The picture in [0, 1], `(height, width)`."""
    grey = image if image.ndim == 2 else image.mean(2)
    return (grey / 255).astype(np.float32)


def _cut(image: NDArray[np.float32], generator: np.random.Generator) -> list[NDArray[np.float32]]:
    """Patches of each split, `(n_patches, side, side)`, at random places of its own regions."""
    rows, columns = image.shape[0] // REGION, image.shape[1] // REGION
    places = generator.permutation(rows * columns)
    borders = np.round(np.cumsum(SPLIT_SHARES[:-1]) * len(places)).astype(int)
    patches = []
    for share, regions in zip(SPLIT_SHARES, np.split(places, borders), strict=True):
        wanted = round(share * _PATCHES_PER_PHOTOGRAPH)
        own: list[NDArray[np.float32]] = []
        # Ten draws for each patch are enough even where most of a photograph is dark.
        for _ in range(10 * wanted):
            region = generator.choice(regions)
            offset = generator.integers(0, REGION - _PATCH + 1, 2)
            top, left = np.array(divmod(region, columns)) * REGION + offset
            patch = image[top : top + _PATCH, left : left + _PATCH]
            if patch.std() >= _LEAST_DEVIATION:
                own.append(patch)
            if len(own) == wanted:
                break
        patches.append(np.stack(own))
    return patches


@lru_cache
def _patches(dataset: str) -> Splits:
    """Patches `(n_examples, 1, side, side)`, each of mean 0 and deviation 1."""
    data = import_for(dataset, "skimage.data")
    generator = np.random.default_rng(0)
    of_photographs = [
        _cut(_grey(getattr(data, name)()), generator) for name in PHOTOGRAPHS[dataset]
    ]
    splits = []
    for parts in zip(*of_photographs, strict=True):
        inputs = torch.as_tensor(np.concatenate(parts)).unsqueeze(1)
        # Brightness and contrast alone would tell photographs apart.
        inputs = inputs - inputs.mean((2, 3), keepdim=True)
        inputs = inputs / inputs.std((2, 3), keepdim=True)
        counts = torch.tensor([len(part) for part in parts])
        splits.append(Split(inputs, torch.arange(len(parts)).repeat_interleave(counts)))
    return Splits(*splits)


def patches_mlp(
    dataset: str,
    hidden: Sequence[int] = (64,),
    activation: str = "relu",
    micro_batch_size: int = 32,
) -> TensorTask:
    """The photograph that a patch of 16x16 pixels is from; needs scikit-image.

    Args:
        dataset: "textures" (6 surfaces and skies) or "photographs" (7 pictures).
        hidden: widths of the hidden layers.
        activation: of the model.
        micro_batch_size: patches in a micro-batch.

    Raises:
        TrainpilotError: if the data set is unknown or scikit-image is missing.
    """
    splits = _checked(dataset)
    n_classes = len(PHOTOGRAPHS[dataset])
    return sourced_task(
        f"{dataset}_mlp",
        dataset,
        splits=splits,
        model=lambda: mlp(_PATCH**2, hidden, n_classes, activation),
        micro_batch_size=micro_batch_size,
    )


def patches_cnn(
    dataset: str, widths: Sequence[int] = (8, 16), micro_batch_size: int = 32
) -> TensorTask:
    """The same with a small convolutional network of these widths; arguments as `patches_mlp`."""
    splits = _checked(dataset)
    n_classes = len(PHOTOGRAPHS[dataset])
    return sourced_task(
        f"{dataset}_cnn",
        dataset,
        splits=splits,
        model=lambda: cnn(1, widths, _PATCH, n_classes),
        micro_batch_size=micro_batch_size,
    )


def _checked(dataset: str) -> Splits:
    allowed = ", ".join(PHOTOGRAPHS)
    require(dataset in PHOTOGRAPHS, f"the dataset of patches must be one of {allowed}", dataset)
    return _patches(dataset)
