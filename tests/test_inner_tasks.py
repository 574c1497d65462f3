"""Inner tasks keep their contract, and their data stay apart."""

from __future__ import annotations

import ast
import itertools
from collections import Counter
from importlib.resources import files

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from trainpilot.inner_tasks import (
    Split,
    Splits,
    TensorTask,
    TrainpilotError,
    catalogue,
    check_inner_task,
    split_tensors,
)
from trainpilot.inner_tasks.catalogue import (
    SUITES,
    load_task,
    make_task,
    make_tasks,
    suite_of_tasks,
    task_names,
)
from trainpilot.inner_tasks.describing import describe_model
from trainpilot.inner_tasks.family import TaskFamily
from trainpilot.inner_tasks.objectives import cross_entropy, mse
from trainpilot.inner_tasks.overlap import rows_of
from trainpilot.inner_tasks.patches import PHOTOGRAPHS
from trainpilot.inner_tasks.sources import SOURCES
from trainpilot.inner_tasks.text import (
    ALPHABET,
    MODULES,
    code_mlp,
    code_of,
    code_transformer,
    docstrings_mlp,
    docstrings_of,
    docstrings_transformer,
)

#: Tasks on data that are downloaded; they have tests of their own.
DOWNLOADED = ["ag_news_mlp", "cifar10_cnn", "fashion_mnist_cnn"]


def suite_tasks(suite: str) -> list[str]:
    text = (files("trainpilot.conf") / "suite" / f"{suite}.yaml").read_text()
    return [next(iter(default.values())) for default in OmegaConf.create(text).defaults]


@pytest.mark.parametrize("name", [name for name in task_names() if name not in DOWNLOADED])
def test_task_keeps_the_contract(name):
    task = load_task(name)
    assert task.name == name
    assert task.licence
    check_inner_task(task.task(0) if isinstance(task, TaskFamily) else task)


def test_every_task_is_in_one_suite_or_downloaded():
    named = [name for suite in SUITES for name in suite_tasks(suite)]
    assert len(set(named)) == len(named)
    more = set(suite_tasks("wide")) - set(named)
    assert more == {"deep_grammars", "docstrings_transformer", "towers", "words_gru"}
    assert sorted([*named, *more, *DOWNLOADED]) == task_names()
    assert suite_of_tasks()["digits_cnn"] == "meta_test"


def test_no_data_set_stands_in_two_suites():
    datasets = {suite: {load_task(n).dataset for n in suite_tasks(suite)} for suite in SUITES}
    for one, other in itertools.combinations(SUITES, 2):
        assert not datasets[one] & datasets[other]


def test_no_example_stands_in_two_suites():
    """Whatever the data sets are called: inputs as the models are given them."""
    rows: dict[str, set[bytes]] = {}
    suites = {}
    for suite in SUITES:
        for name in suite_tasks(suite):
            task = load_task(name)
            if not isinstance(task, TaskFamily):
                # Tasks may be given a data set at different lengths.
                seen = rows.setdefault(task.dataset, set())
                seen.update(*(rows_of(split.inputs) for split in task.splits))
                suites[task.dataset] = suite
    shared = {
        frozenset((one, other)): len(rows[one] & rows[other])
        for one, other in itertools.combinations(rows, 2)
        if suites[one] != suites[other] and rows[one] & rows[other]
    }
    # Some words are names too, and short windows of text are often blanks or a common word: the
    # table of docs/tasks.md. What is asked of a word differs, and no text stands in two suites.
    expected = {
        frozenset(pair) for pair in itertools.combinations(("words", "cmudict", "surnames"), 2)
    } | {frozenset(("stdlib_docstrings", "stdlib_code"))}
    assert shared.keys() == expected
    for pair, count in shared.items():
        most = 0.1 if "stdlib_code" in pair else 0.02
        assert count < most * min(len(rows[name]) for name in pair), (pair, count)


def test_no_photograph_stands_in_two_data_sets():
    photographs = list(itertools.chain(*PHOTOGRAPHS.values()))
    assert len(photographs) == len(set(photographs))


def test_the_small_suite_is_part_of_meta_train_and_needs_no_further_package():
    small = suite_tasks("small")
    assert set(small) < set(suite_tasks("meta_train"))
    datasets = {load_task(name).dataset for name in small}
    assert not any(SOURCES[dataset].remedy for dataset in datasets & set(SOURCES))


def test_the_wide_suite_has_data_of_meta_train_or_draws_its_own():
    allowed = {load_task(name).dataset for name in suite_tasks("meta_train")}
    for task in (load_task(name) for name in suite_tasks("wide")):
        assert isinstance(task, TaskFamily) or task.dataset in allowed


def test_meta_test_holds_every_modality_and_kind_of_model():
    tasks = [load_task(name) for name in suite_tasks("meta_test")]
    modalities = Counter(task.modality for task in tasks)
    assert modalities["vision"] >= 4
    assert modalities["text"] >= 4
    assert modalities["tabular"] >= 2
    models = " ".join(describe_model(task.make_model()) for task in tasks)
    for kind in ("MLP", "CNN", "GRU", "transformer"):
        assert kind in models


def test_meta_valid_judges_on_enough_examples():
    tasks = [load_task(name) for name in suite_tasks("meta_valid")]
    for task in tasks:
        if not isinstance(task, TaskFamily):
            assert sum(len(split.inputs) for split in task.splits) >= 1000
    assert {task.modality for task in tasks} == {"vision", "text", "tabular", "synthetic"}


def test_hundreds_of_tasks_are_drawn_for_learning():
    tasks = [load_task(name) for name in suite_tasks("meta_train")]
    assert sum(task.n_tasks for task in tasks if isinstance(task, TaskFamily)) > 300
    evaluated = catalogue.one_by_one(tasks, of_family=3)
    names = [task.name for task in evaluated]
    assert names.count("digits_mlp") == 0
    assert [name for name in names if name.startswith("teachers")] == [
        "teachers_0", "teachers_1", "teachers_2",
    ]  # fmt: skip


def test_one_task_of_a_family_is_chosen_by_its_number():
    config = {"_target_": "trainpilot.inner_tasks.families.trees", "n_tasks": 5, "number": 3}
    assert make_task(config).name == "trees_3"
    with pytest.raises(TrainpilotError, match=r"'trees' is a family .* 0 and 4; given: none"):
        make_task(config | {"number": None})


def _task(**changes):
    tensors = {"inputs": torch.ones(20, 2), "targets": torch.zeros(20).long()}
    return TensorTask("mine", model=nn.Identity, micro_batch_size=4, **tensors, **changes)


def test_a_licence_is_unknown_unless_it_is_given():
    assert _task().licence is None
    assert _task(licence="MIT").licence == "MIT"


def test_splits_share_no_example_and_lose_none():
    numbers = torch.arange(100.0).unsqueeze(1)
    splits = split_tensors(numbers, numbers)
    parts = [split.inputs.flatten().tolist() for split in splits]
    assert sorted(itertools.chain(*parts)) == list(range(100))
    assert [len(part) for part in parts] == [60, 13, 13, 14]


def test_no_module_stands_in_two_text_splits():
    modules = [module for split in MODULES.values() for module in split]
    assert len(modules) == len(set(modules))


def test_windows_of_text_predict_the_character_that_follows():
    split = docstrings_mlp(context=3, stride=1).splits.valid
    # With stride 1, the target of a window is the last character of the next one.
    assert torch.equal(split.targets[:-1], split.inputs[1:, -1])
    assert int(split.inputs.max()) <= len(ALPHABET)


SOURCE = '''"""A module."""
# A comment.
def double(x):
    """Twice x."""
    return 2 * x  # again


class Empty:
    """Nothing."""
'''


def test_code_and_docstrings_share_no_text():
    assert list(docstrings_of(ast.parse(SOURCE))) == ["A module.", "Twice x.", "Nothing."]
    (code,) = code_of(ast.parse(SOURCE))
    assert code.split() == [
        *("def", "double(x):", "return", "2", "*", "x", "class", "Empty:", "pass")
    ]


def test_windows_of_code_are_spread_over_the_whole_text():
    splits = code_mlp(context=4, n_windows=100).splits
    assert all(50 <= len(split.inputs) <= 100 for split in splits)
    few, many = splits.train.inputs, code_mlp(context=4, n_windows=10**9).splits.train.inputs
    stride = -(-len(many) // 100)
    assert torch.equal(few, many[::stride])


def test_a_transformer_needs_heads_that_divide_its_width():
    for make in (code_transformer, docstrings_transformer):
        with pytest.raises(TrainpilotError, match=r"divisible by n_heads; given: 15"):
            make(width=15)


def test_the_transformers_normalise_before_or_after():
    for make, n_layers, norm_first in (
        (code_transformer, 1, True), (docstrings_transformer, 3, False),
    ):  # fmt: skip
        layers = [
            layer
            for layer in make(n_windows=100).make_model().modules()
            if isinstance(layer, nn.TransformerEncoderLayer)
        ]
        assert [layer.norm_first for layer in layers] == [norm_first] * n_layers


def test_tabular_features_are_standardised_on_train_alone():
    splits = load_task("wine_mlp").splits
    assert torch.allclose(splits.train.inputs.mean(0), torch.zeros(13), atol=1e-5)
    assert torch.allclose(splits.train.inputs.std(0), torch.ones(13), atol=1e-4)
    assert splits.test.inputs.mean(0).abs().max() > 0.02


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"loss": "hinge"}, "unknown loss 'hinge'; allowed: cross_entropy, mse"),
        ({"micro_batch_size": 0}, "micro_batch_size .* between 1 and 60.*given: 0"),
        ({"micro_batch_size": 61}, "between 1 and 60.*given: 61"),
        ({"inputs": None}, "needs data.*neither"),
        ({"targets": torch.zeros(3)}, "same length; given: 100 inputs and 3 targets"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    good = {"inputs": torch.zeros(100, 2), "targets": torch.zeros(100).long()}
    with pytest.raises(TrainpilotError, match=message):
        TensorTask("mine", model=lambda: nn.Linear(2, 2), **(good | arguments))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "must have a _target_"),
        ({"_target_": "no.such.place"}, "could not be made by no.such.place"),
        ({"_target_": "collections.OrderedDict"}, "must give a task.*OrderedDict"),
        (
            {"_target_": "trainpilot.inner_tasks.tabular.wine", "activation": "sine"},
            "could not|unknown activation",
        ),
        (
            {"_target_": "trainpilot.inner_tasks.tabular.wine", "micro_batch_size": 1000},
            "micro_batch_size .* between 1 and 108.*given: 1000",
        ),
    ],
)
def test_a_faulty_configuration_is_one_sentence(config, message):
    with pytest.raises(TrainpilotError, match=message):
        make_task(config).make_model()


def test_unknown_task_lists_what_there_is():
    with pytest.raises(TrainpilotError, match=r"unknown task 'mnist'; allowed: .*digits_mlp"):
        load_task("mnist")


def test_a_suite_names_its_tasks_even_if_they_are_one_object(monkeypatch):
    shared = _task()
    monkeypatch.setattr(catalogue, "make_trainable", lambda *_: shared)
    assert [task.name for task in make_tasks({"one": {}, "two": {}})] == ["one", "two"]


def test_a_task_whose_name_cannot_be_set_is_refused(monkeypatch):
    class Fixed(TensorTask):
        name = property(lambda self: "fixed", lambda self, value: self._refuse(value))

        def _refuse(self, value):
            if value != "fixed":
                raise AttributeError

    split = Split(torch.ones(20, 2), torch.zeros(20).long())
    fixed = Fixed(
        "fixed", model=lambda: nn.Linear(2, 2), splits=Splits(*[split] * 4), micro_batch_size=4
    )
    monkeypatch.setattr(catalogue, "make_trainable", lambda *_: fixed)
    assert make_tasks({"fixed": {}})[0].name == "fixed"
    with pytest.raises(TrainpilotError, match=r"name of task 'other' .*; given: 'fixed'"):
        make_tasks({"other": {}})


def test_cross_entropy_is_torch_s_and_takes_sequences():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 5, 4, generator=generator)
    targets = torch.randint(0, 4, (6, 5), generator=generator)
    expected = nn.functional.cross_entropy(logits.transpose(1, 2), targets)
    torch.testing.assert_close(cross_entropy(logits, targets), expected)
    shares = torch.softmax(torch.randn(6, 4, generator=generator), -1)
    expected = nn.functional.cross_entropy(logits[:, 0], shares)
    torch.testing.assert_close(cross_entropy(logits[:, 0], shares), expected)


def test_cross_entropy_takes_no_targets_that_are_not_there():
    logits = torch.zeros(3, 4)
    assert cross_entropy(logits, torch.tensor([1, 2, 4])).isnan()
    assert cross_entropy(logits, torch.tensor([1, 2, -100])).isnan()
    with pytest.raises(ValueError, match=r"targets of shape \(3,\) .* given: \(3, 1\)"):
        cross_entropy(logits, torch.zeros(3, 1).long())


def test_mse_is_torch_s():
    generator = torch.Generator().manual_seed(0)
    outputs, targets = torch.randn(2, 6, 3, generator=generator)
    torch.testing.assert_close(mse(outputs, targets), nn.functional.mse_loss(outputs, targets))
    with pytest.raises(ValueError, match=r"shape \(6, 3\); given: \(6,\)"):
        mse(outputs, targets[:, 0])
