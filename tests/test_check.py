"""The check finds what breaks the contract of an inner task, and says it in a sentence."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from trainpilot.inner_tasks import Split, Splits, TensorTask, TrainpilotError, check_inner_task
from trainpilot.inner_tasks.catalogue import make_task
from trainpilot.inner_tasks.check import notes_on
from trainpilot.inner_tasks.overlap import overlaps


def _task(**changes):
    split = Split(torch.ones(20, 2), torch.zeros(20).long())
    given = {"model": lambda: nn.Linear(2, 2), "splits": Splits(split, split, split, split)}
    return TensorTask("mine", **({"micro_batch_size": 4} | given | changes))


class _Unseeded(nn.Linear):
    calls = 0

    def __init__(self) -> None:
        super().__init__(2, 2)
        _Unseeded.calls += 1
        nn.init.constant_(self.weight, _Unseeded.calls)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"modality": "sound"}, "modality.*vision, text, tabular, synthetic; given: sound"),
        ({"model": _Unseeded}, "global generator alone"),
        ({"loss": lambda outputs, targets: outputs.sum(1)}, "must be a scalar; given: \\(4,\\)"),
        ({"loss": lambda outputs, targets: -(outputs**2).sum()}, "finite and not negative"),
        ({"loss": lambda outputs, targets: 0 * outputs.sum()}, "depend on the model's parameters"),
    ],
)
def test_check_finds_what_breaks_the_contract(changes, message):
    with pytest.raises(TrainpilotError, match=message):
        check_inner_task(_task(**changes))


def _four_splits(seed=0, **sizes):
    """Splits of different examples: two classes, on either side of 0."""
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for name in Splits._fields:
        inputs = torch.randn(sizes.get(name, 20), 2, generator=generator)
        parts.append(Split(inputs, (inputs[:, 0] > 0).long()))
    return Splits(*parts)


@pytest.mark.parametrize("name", Splits._fields)
def test_check_finds_inputs_and_targets_that_are_not_finite_in_any_split(name):
    for part in Split._fields:
        splits = Splits(*(Split(s.inputs, s.inputs.clone()) for s in _four_splits()))
        task = _task(splits=splits, loss="mse")
        check_inner_task(task)
        getattr(getattr(splits, name), part)[-1] = float("nan")
        with pytest.raises(TrainpilotError, match=rf"the {part} of split '{name}' .* be finite"):
            check_inner_task(task)


@pytest.mark.parametrize("loss", ["cross_entropy", nn.functional.cross_entropy])
@pytest.mark.parametrize("name", Splits._fields)
def test_check_finds_a_class_that_does_not_exist_in_any_split(name, loss):
    # The last of more examples than go through the model at once.
    splits = _four_splits(**{name: 300})
    check_inner_task(_task(splits=splits, loss=loss))
    getattr(splits, name).targets[-1] = 2
    with pytest.raises(TrainpilotError, match=rf"finite and not negative over all of '{name}'"):
        check_inner_task(_task(splits=splits, loss=loss))


def test_check_finds_a_loss_that_is_a_sum():
    summed = nn.CrossEntropyLoss(reduction="sum")
    with pytest.raises(TrainpilotError, match=r"must be the mean over a batch, .*; given: \d"):
        check_inner_task(_task(splits=_four_splits(), loss=summed))


@pytest.mark.parametrize(("earlier", "name"), [*itertools.combinations(Splits._fields, 2)])
def test_check_finds_a_split_that_stands_in_another(earlier, name):
    splits = _four_splits(train=60, valid=60, outer_valid=60)
    leaked = Split(*(part[10:30] for part in getattr(splits, earlier)))
    # 19 of 20 are a leak, 20 of 40 may be natural, but are worth a note.
    for kept, given in ((0, "20 of 20"), (1, "19 of 20")):
        pairs = zip(leaked, splits.test, strict=True)
        mixed = Split(*(torch.cat([part[kept:], other[:kept]]) for part, other in pairs))
        rule = rf"split '{name}' .* not stand in {earlier}, at least 10% .*; given: {given} that do"
        with pytest.raises(TrainpilotError, match=rule):
            check_inner_task(_task(splits=splits._replace(**{name: mixed})))
    fresh = _four_splits(seed=1)
    half = Split(*(torch.cat(parts) for parts in zip(leaked, fresh.test, strict=True)))
    task = _task(splits=splits._replace(**{name: half}))
    found = check_inner_task(task)
    assert [note.partition(":")[0] for note in notes_on(task, found)] == [
        f"50% of {name}'s inputs stand in {earlier} too"
    ]


def test_a_model_that_seeds_itself_is_worth_a_note():
    def seeded():
        torch.manual_seed(7)
        return nn.Linear(2, 2)

    assert notes_on(_task(splits=_four_splits()), []) == []
    task = _task(splits=_four_splits(), model=seeded)
    assert notes_on(task, check_inner_task(task)) == [
        "the initial weights are the same for every seed: runs differ by data order"
    ]


class _Noisy(nn.Linear):
    def forward(self, inputs):
        return super().forward(inputs) + torch.randn(2)


def test_check_finds_a_model_that_draws_noise_in_evaluation_mode():
    task = _task(splits=_four_splits(), model=lambda: _Noisy(2, 2))
    with pytest.raises(TrainpilotError, match=r"the same for the same inputs .*; given: losses of"):
        check_inner_task(task)


@pytest.mark.parametrize("loss", ["mse", nn.functional.mse_loss, nn.L1Loss()])
def test_check_finds_targets_that_would_be_compared_all_with_all(loss):
    splits = Splits(*(Split(s.inputs, s.inputs[:, 0]) for s in _four_splits()))
    task = _task(splits=splits, model=lambda: nn.Linear(2, 1), loss=loss)
    with pytest.raises(TrainpilotError, match=r"must fit together; it failed with: .*(4, 1|4\])"):
        check_inner_task(task)
    fitting = Splits(*(Split(s.inputs, s.targets[:, None]) for s in splits))
    check_inner_task(_task(splits=fitting, model=lambda: nn.Linear(2, 1), loss=loss))


class _Unread:
    """A task whose data cannot be read."""

    name, modality, dataset, micro_batch_size = "mine", "tabular", "mine", 4
    make_model, loss, metrics = nn.Linear, nn.L1Loss(), dict

    @property
    def splits(self):
        raise RuntimeError("no disk")


SPLIT = Split(torch.ones(20, 2), torch.zeros(20).long())


@pytest.mark.parametrize(
    ("splits", "given"),
    [
        ((SPLIT,) * 4, "given: tuple"),
        ({"train": SPLIT}, "given: dict"),
        (Splits(SPLIT, SPLIT, SPLIT, (1, 2)), "given: test of type tuple"),
        (
            Splits(SPLIT, SPLIT, SPLIT, Split(SPLIT.inputs.numpy(), SPLIT.targets)),
            "given: inputs of test of type ndarray",
        ),
        (
            Splits(Split(SPLIT.inputs, torch.tensor(0)), SPLIT, SPLIT, SPLIT),
            "the targets of split 'train' of task 'mine' must have an axis of examples",
        ),
    ],
)
def test_data_of_another_kind_are_refused_by_the_check_and_where_tasks_are_made(splits, given):
    task = _task()
    with pytest.raises(TrainpilotError, match=given):
        _task(splits=splits)
    task.splits = splits
    with pytest.raises(TrainpilotError, match=given):
        check_inner_task(task)
    _MADE.append(task)
    with pytest.raises(TrainpilotError, match=given):
        make_task({"_target_": f"{__name__}._made"})


_MADE = []


def _made():
    return _MADE.pop()


def test_a_task_that_cannot_be_read_is_one_sentence():
    with pytest.raises(TrainpilotError, match="failed with: no disk"):
        check_inner_task(_Unread())
    _MADE.append(_Unread())
    with pytest.raises(TrainpilotError, match=r"cannot be read; it failed with: no disk"):
        make_task({"_target_": f"{__name__}._made"})


@pytest.mark.parametrize("size", ["ten", 2.5, None])
def test_a_size_that_is_no_whole_number_is_refused(size):
    with pytest.raises(TrainpilotError, match=f"a whole number between 1 and 20.*given: {size}"):
        _task(micro_batch_size=size)


def test_where_few_inputs_are_possible_all_may_stand_in_train():
    check_inner_task(
        _task(splits=Splits(*(Split(s.inputs.sign(), s.targets) for s in _four_splits())))
    )
    # All of six and of eight bits: each split by itself is as full as it can be.
    for bits, sizes in ((6, (100, 1000, 1000, 1000)), (8, (720, 150, 150, 150))):
        generator = torch.Generator().manual_seed(0)
        inputs = [torch.randint(0, 2, (size, bits), generator=generator).float() for size in sizes]
        splits = Splits(*(Split(part, (part[:, 0] > 0).long()) for part in inputs))
        check_inner_task(_task(splits=splits, model=lambda bits=bits: nn.Linear(bits, 2)))


def test_examples_that_stand_in_an_earlier_split_too_are_counted():
    train = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    other = torch.tensor([[3.0, 4.0], [3.0, 4.0], [1.0, 4.0]])
    splits = Splits(*(Split(inputs, inputs) for inputs in (train, other, other[2:], train)))
    found = overlaps(splits)
    assert {(pair.split, pair.earlier): pair.n_shared for pair in found} == {
        ("valid", "train"): 2,
        ("outer_valid", "train"): 0,
        ("test", "train"): 2,
        ("outer_valid", "valid"): 1,
        ("test", "valid"): 1,
        ("test", "outer_valid"): 0,
    }
    assert [pair.share for pair in found[:3]] == [2 / 3, 0, 1]
    assert [pair.distinct for pair in found] == [1, 1, 1, 2 / 3, 2 / 3, 1]
    assert [(pair.earlier, pair.split) for pair in found] == [
        *itertools.combinations(Splits._fields, 2)
    ]
