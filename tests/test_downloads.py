"""Tasks on data that are downloaded, with libraries of the same interface in their place."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from trainpilot.inner_tasks import check_inner_task, downloads
from trainpilot.inner_tasks.catalogue import load_task
from trainpilot.inner_tasks.errors import MissingDataError

TOPICS = ("war peace treaty", "match goal team", "market share price", "chip code robot")


@pytest.fixture
def torchvision(monkeypatch):
    """torchvision's data sets with 60 random images to train on and 20 to test on."""
    asked = []

    def official(shape, as_list):
        def make(root, train, download):
            asked.append((train, download))
            if not download:
                raise RuntimeError("Dataset not found. You can use download=True to download it")
            generator = np.random.default_rng(int(train))
            n_examples = 60 if train else 20
            data = generator.integers(0, 256, (n_examples, *shape), dtype=np.uint8)
            targets = np.arange(n_examples) % 10
            if as_list:  # as CIFAR10 has them
                return SimpleNamespace(data=data, targets=targets.tolist())
            return SimpleNamespace(data=torch.tensor(data), targets=torch.tensor(targets))

        return make

    module = ModuleType("torchvision.datasets")
    module.FashionMNIST = official((28, 28), as_list=False)
    module.CIFAR10 = official((32, 32, 3), as_list=True)
    monkeypatch.setitem(sys.modules, "torchvision", ModuleType("torchvision"))
    monkeypatch.setitem(sys.modules, "torchvision.datasets", module)
    return asked


@pytest.fixture
def hub(monkeypatch):
    """A hub whose items are made of their topic's own words."""

    def load_dataset(path):
        assert path == "fancyzhx/ag_news"
        labels = [place % 4 for place in range(100)]
        texts = [f"{TOPICS[label]} number{place}" for place, label in enumerate(labels)]
        return {
            "train": {"text": texts[:80], "label": labels[:80]},
            "test": {"text": texts[80:], "label": labels[80:]},
        }

    module = ModuleType("datasets")
    module.load_dataset = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", module)
    return module


@pytest.mark.parametrize(
    ("name", "shape"), [("fashion_mnist_cnn", (1, 28, 28)), ("cifar10_cnn", (3, 32, 32))]
)
def test_images_are_split_and_standardised(torchvision, name, shape):
    task = load_task(name)
    check_inner_task(task)
    # The official test set is the test split.
    assert [len(split.inputs) for split in task.splits] == [48, 6, 6, 20]
    assert torchvision == [(True, True), (False, True)]
    assert task.splits.train.inputs.shape[1:] == shape
    assert task.splits.train.inputs.mean((0, 2, 3)).abs().max() < 1e-5
    assert torch.allclose(task.splits.train.inputs.std((0, 2, 3)), torch.tensor(1.0), atol=1e-4)


def test_channels_come_first(torchvision):
    pixels = np.zeros((2, 32, 32, 3), dtype=np.uint8)
    pixels[..., 1] = 255
    images = downloads._images(pixels)
    assert images[:, 1].min() == 1
    assert images[:, [0, 2]].max() == 0


def test_no_more_examples_are_used_than_wanted(torchvision):
    splits = downloads.fashion_mnist_cnn(n_examples=20, micro_batch_size=4).splits
    assert [len(split.inputs) for split in splits] == [16, 2, 2, 20]


def test_news_become_numbers_of_common_words(hub):
    task = downloads.ag_news_mlp(n_words=5, n_vocabulary=12, micro_batch_size=8)
    check_inner_task(task)
    assert [len(split.inputs) for split in task.splits] == [64, 8, 8, 20]
    # The twelve words of the topics have numbers from 2; an item's own word is rare.
    assert task.splits.test.inputs[:, :3].min() == 2
    assert task.splits.test.inputs[:, :3].max() == 13
    assert (task.splits.test.inputs[:, 3] == 1).all()
    assert (task.splits.test.inputs[:, 4] == 0).all()


@pytest.mark.parametrize("name", ["fashion_mnist_cnn", "cifar10_cnn", "ag_news_mlp"])
def test_nothing_is_downloaded_unless_it_may(torchvision, hub, monkeypatch, name):
    monkeypatch.setattr(hub, "load_dataset", None)
    with pytest.raises(MissingDataError, match=r"with download=true; given: download=false"):
        load_task(name, download=False)
    assert all(not download for _, download in torchvision)


@pytest.mark.parametrize(
    ("name", "most"),
    [("fashion_mnist_cnn", 48_000), ("cifar10_cnn", 40_000), ("ag_news_mlp", 96_000)],
)
def test_what_is_known_without_the_data_is_what_it_is_with_them(
    torchvision, hub, monkeypatch, name, most
):
    # The hub's items have 12 common words and 80 rare ones.
    arguments = {"n_vocabulary": 20, "micro_batch_size": 8} if name == "ag_news_mlp" else {}
    make = getattr(downloads, name)
    task = make(**arguments)
    with pytest.raises(MissingDataError) as found:
        make(**arguments, download=False)
    assert str(found.value.model) == str(task.make_model())
    assert found.value.n_train == 16_000
    with pytest.raises(MissingDataError) as found:
        make(**arguments, download=False, n_examples=10**9)
    assert found.value.n_train == most


def test_a_missing_network_is_one_sentence(hub, monkeypatch):
    def load_dataset(path):
        raise ConnectionError("Couldn't reach the hub\nand more")

    monkeypatch.setattr(hub, "load_dataset", load_dataset)
    with pytest.raises(MissingDataError) as found:
        load_task("ag_news_mlp")
    assert str(found.value) == (
        "the data set 'ag_news' is downloaded when it is first used, which needs the network; "
        "given: Couldn't reach the hub"
    )


@pytest.mark.parametrize(
    ("name", "module"), [("cifar10_cnn", "torchvision"), ("ag_news_mlp", "datasets")]
)
def test_a_missing_library_is_one_sentence(monkeypatch, name, module):
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setitem(sys.modules, f"{module}.datasets", None)
    with pytest.raises(MissingDataError, match=f"'pip install {module}' installs; given: none"):
        load_task(name)


def test_a_library_that_does_not_load_says_why(monkeypatch):
    def fail(name):
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr("trainpilot.inner_tasks.sources.import_module", fail)
    with pytest.raises(MissingDataError, match=r"does not load \(operator torchvision::nms"):
        load_task("cifar10_cnn")
