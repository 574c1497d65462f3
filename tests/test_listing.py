"""What lists say of tasks and models, and what the conformance command says of a task."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from trainpilot.agents import cli, listing
from trainpilot.inner_tasks import words
from trainpilot.inner_tasks.catalogue import task_names
from trainpilot.inner_tasks.describing import describe_model, n_parameters
from trainpilot.inner_tasks.models import cnn, embedding_mlp, mlp, signal_cnn
from trainpilot.inner_tasks.sequence_models import GRUClassifier, TransformerClassifier

MODELS = [
    (lambda: mlp(4, [64, 32], 2), "MLP 64-32", 4 * 64 + 64 + 64 * 32 + 32 + 32 * 2 + 2),
    (lambda: mlp(4, [], 2), "linear", 4 * 2 + 2),
    (lambda: cnn(1, [8, 16], 8, 10), "CNN 8-16", 80 + 8 * 16 * 9 + 16 + 64 * 10 + 10),
    (lambda: signal_cnn([4], 10, 3), "CNN 4", 5 * 4 + 4 + 20 * 3 + 3),
    (
        lambda: embedding_mlp(5, 3, 2, [7], 4),
        "embedding 2, MLP 7",
        5 * 2 + 6 * 7 + 7 + 7 * 4 + 4,
    ),
    (
        lambda: GRUClassifier(5, 2, 4, 3),
        "GRU 4",
        5 * 2 + 3 * (4 * 2 + 4 * 4 + 2 * 4) + 4 * 3 + 3,
    ),
]


@pytest.mark.parametrize(("make", "description", "size"), MODELS, ids=[m[1] for m in MODELS])
def test_models_are_described_and_counted(make, description, size):
    model = make()
    assert describe_model(model) == description
    assert n_parameters(model) == size


def test_what_a_transformer_is_made_of_is_not_named_again():
    model = TransformerClassifier(5, 6, 8, 2, 3)
    assert describe_model(model) == "transformer 8"
    assert model(torch.zeros(4, 6, dtype=torch.int64)).shape == (4, 3)


def test_an_unknown_model_goes_by_its_class_and_frozen_numbers_do_not_count():
    class Scale(nn.Module):
        def __init__(self):
            super().__init__()
            self.factor = nn.Parameter(torch.ones(3))
            self.fixed = nn.Parameter(torch.ones(5), requires_grad=False)

    assert describe_model(Scale()) == "Scale"
    assert n_parameters(Scale()) == 3


def test_the_list_as_json_has_every_task_and_what_is_known_of_those_not_here(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "faker.providers.person.de_DE", None)
    words._languages.cache_clear()
    names = ["digits_cnn", "surnames_mlp", "fashion_mnist_cnn"]
    monkeypatch.setattr(listing, "task_names", lambda: names)
    monkeypatch.setitem(sys.modules, "torchvision", None)
    monkeypatch.setattr(sys, "argv", ["trainpilot", "tasks", "--json"])
    cli.main()
    digits, surnames, fashion = json.loads(capsys.readouterr().out)
    assert digits == {
        "name": "digits_cnn",
        "suite": "meta_test",
        "modality": "vision",
        "dataset": "digits",
        "model": "CNN 8-16",
        "n_params": 1898,
        "n_train": 1080,
        "licence": "CC BY 4.0 (UCI), in scikit-learn (BSD-3-Clause)",
        "note": None,
    }
    assert (surnames["suite"], surnames["dataset"]) == ("meta_test", "surnames")
    assert (surnames["model"], surnames["n_params"], surnames["n_train"]) == (None, None, None)
    assert surnames["licence"] == "MIT (Faker)"
    assert "pip install trainpilot[tasks]" in surnames["note"]
    assert (fashion["suite"], fashion["modality"]) == (None, "vision")
    # Known without the data: 0.8 of the 20,000 examples, and the model as it is configured.
    assert (fashion["model"], fashion["n_train"]) == ("CNN 8-16", 16_000)
    assert fashion["n_params"] == (9 * 8 + 8) + (9 * 8 * 16 + 16) + (7 * 7 * 16 * 10 + 10)
    assert "pip install torchvision" in fashion["note"]


def test_the_documentation_has_every_task():
    text = (Path(__file__).parents[1] / "docs" / "tasks.md").read_text(encoding="utf-8")
    assert [name for name in task_names() if f"| `{name}` |" not in text] == []


def test_the_list_as_a_table_ends_with_what_is_missing(monkeypatch, capsys):
    monkeypatch.setattr(listing, "task_names", lambda: ["iris_mlp", "cifar10_cnn"])
    monkeypatch.setitem(sys.modules, "torchvision", None)
    listing.list_tasks()
    lines = capsys.readouterr().out.splitlines()
    assert any("iris_mlp" in line and "meta_train" in line and "MLP 16" in line for line in lines)
    assert lines[-1].startswith("cifar10_cnn: the data set 'cifar10' needs the package")


def _run(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["trainpilot", *arguments])
    monkeypatch.setattr(sys, "path", [*sys.path])
    code = 0
    try:
        cli.main()
    except SystemExit as end:
        code = end.code
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_check_task_says_what_it_found(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    code, out, err = _run(monkeypatch, capsys, "check-task", "task=iris_mlp")
    assert code == 0, err
    lines = out.splitlines()
    assert lines[0] == "iris_mlp keeps the contract of an inner task"
    assert lines[2].split(maxsplit=1)[1] == (
        "train 91, valid 19, outer_valid 19, test 21; micro-batches of 16"
    )
    assert lines[4].split(maxsplit=1)[1] == "MLP 16, 131 parameters"
    assert 0.5 < float(lines[5].split()[2]) < 2
    assert lines[6].startswith("engine      inner ")
    assert list(tmp_path.iterdir()) == []


BROKEN = """
import torch
from trainpilot import TensorTask

def negative():
    return TensorTask(
        "negative",
        inputs=torch.ones(100, 3),
        targets=torch.zeros(100, 2),
        model=lambda: torch.nn.Linear(3, 2),
        loss=lambda outputs, targets: -(outputs ** 2).sum(),
    )

def unfit():
    return TensorTask(
        "unfit",
        inputs=torch.ones(100, 3),
        targets=torch.zeros(100, dtype=torch.int64),
        model=lambda: torch.nn.Linear(4, 2),
    )
"""


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("negative", "the loss of 'negative' must be finite and not neg"),
        ("unfit", "the model, loss, metrics and data of task 'unfit' must fit together; it failed"),
    ],
)
def test_check_task_refuses_a_broken_task_in_one_sentence(
    name, sentence, monkeypatch, capsys, tmp_path
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken_check.py").write_text(BROKEN)
    arguments = ["check-task", "task=custom", f"task._target_=broken_check.{name}"]
    code, out, err = _run(monkeypatch, capsys, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith(f"trainpilot check-task: {sentence}")
    assert len(err.splitlines()) == 1


#: A plain class with what the contract asks for.
PLAIN = """
import torch
from trainpilot.inner_tasks import Split, Splits

class Plain:
    name, modality, dataset, micro_batch_size = "plain", "tabular", "lines", 10

    def __init__(self, slope=2.0):
        self.splits = Splits(*(self._split(seed, slope) for seed in range(4)))

    @staticmethod
    def _split(seed, slope):
        inputs = torch.randn(50, 1, generator=torch.Generator().manual_seed(seed))
        return Split(inputs, slope * inputs)

    def make_model(self):
        return torch.nn.Linear(1, 1)

    def loss(self, outputs, targets):
        return (outputs - targets).square().mean()

    def metrics(self, outputs, targets):
        return {}
"""
README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("module", "code", "target", "found"),
    [
        (
            "my_task_check",
            README.split("<!-- my_task.py -->\n```python\n")[1].split("```")[0],
            "moons",
            ["moons keeps the contract", "train 600, valid 130", "MLP 32, 162 parameters"],
        ),
        (
            "plain_check",
            PLAIN,
            "Plain",
            ["plain keeps the contract", "train 50, valid 50", "0 of valid", "linear, 2 param"],
        ),
    ],
)
def test_check_task_says_what_it_found_of_a_task_of_one_s_own(
    module, code, target, found, monkeypatch, capsys, tmp_path
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / f"{module}.py").write_text(code)
    arguments = ["check-task", "task=custom", f"task._target_={module}.{target}"]
    code, out, err = _run(monkeypatch, capsys, *arguments)
    assert code == 0, err
    assert [text for text in found if text not in out] == []


@pytest.mark.parametrize("command", ["tasks", "controllers"])
def test_lists_take_no_settings(monkeypatch, capsys, command):
    code, out, err = _run(monkeypatch, capsys, command, "--yaml")
    assert (code, out) == (2, "")
    assert err.endswith("given: --yaml\n")
