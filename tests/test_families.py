"""Families draw hundreds of different tasks, and their engine trains each row on one of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from trainpilot.envs import family_engine
from trainpilot.envs.config import EnvConfig
from trainpilot.envs.engine import Engine
from trainpilot.envs.family_engine import FamilyEngine
from trainpilot.envs.family_references import FamilyReferences, measure_rows
from trainpilot.envs.hyperparameters import Hyperparameters
from trainpilot.envs.inner_runs import InnerRuns
from trainpilot.envs.task_reference import TaskReference
from trainpilot.inner_tasks import TrainpilotError, check_inner_task, families

FAMILIES = (
    families.teachers, families.mixtures, families.ill_conditioned, families.patterns,
    families.grammars, families.waves, families.trees,
)  # fmt: skip


@pytest.mark.parametrize("make", FAMILIES)
def test_tasks_are_sound_different_and_the_same_by_number(make):
    family = make()
    sizes = set()
    for number in range(6):
        task, again = family.task(number), family.task(number)
        check_inner_task(task)
        assert task.name == f"{family.name}_{number}"
        assert task.dataset == family.dataset
        for split, other in zip(task.splits, again.splits, strict=True):
            assert torch.equal(split.inputs, other.inputs)
            assert torch.equal(split.targets, other.targets)
        n_params = sum(parameter.numel() for parameter in task.make_model().parameters())
        sizes.add((n_params, len(task.splits.train.inputs), task.micro_batch_size))
    assert len(sizes) == 6


@pytest.mark.parametrize("make", FAMILIES)
def test_all_models_train_in_our_own_kernels(make):
    """Else meta-training would wait for every new task to be compiled."""
    for number in range(12):
        report = Engine(make().task(number), 1, n_micro_batches=1).report
        assert report == "inner runs are trained by C++ of our own"


@pytest.mark.parametrize("make", FAMILIES)
def test_no_class_is_nearly_all_of_a_task(make):
    family = make()
    for number in range(family.n_tasks):
        task = family.task(number)
        if task.objective_name == "cross_entropy":
            classes = torch.cat([split.targets for split in task.splits])
            assert torch.bincount(classes).max() < 0.85 * len(classes), task.name


def test_features_of_ill_conditioned_tasks_span_decades():
    conditions = []
    for number in range(8):
        inputs = torch.cat([s.inputs for s in families.ill_conditioned().task(number).splits])
        deviations = torch.linalg.svdvals(inputs - inputs.mean(0))
        conditions.append(float(deviations[0] / deviations[-1]))
    assert max(conditions) > 100
    assert min(conditions) < 20


def test_a_number_that_does_not_exist_is_refused():
    with pytest.raises(TrainpilotError, match="numbers from 0 to 63; given: 64"):
        families.teachers().task(64)


def test_each_row_is_the_run_of_its_own_task():
    """As an engine of that task alone has it, to the last bit."""
    family = families.mixtures(n_tasks=40)
    engine = FamilyEngine(family, 3, n_micro_batches=4)
    engine.reset(range(3), [5, 6, 7])
    first = engine.numbers.copy()
    engine.reset([1], [11])
    assert engine.numbers[1] != first[1]
    assert engine.task_names == [f"mixtures_{number}" for number in engine.numbers]
    rates = np.array([1e-3, 1e-2, 3e-3])
    hyperparameters = Hyperparameters.full(3)
    hyperparameters.learning_rate[:] = rates
    signals = engine.advance(hyperparameters, 4)
    valid, outer_valid = engine.evaluate()
    for row, seed in enumerate([5, 11, 7]):
        alone = Engine(family.task(int(engine.numbers[row])), 1, n_micro_batches=4)
        alone.reset([0], [seed])
        own = alone.advance(Hyperparameters.full(1, learning_rate=rates[row]), 4)
        np.testing.assert_array_equal(signals.train_loss[row], own.train_loss[0])
        np.testing.assert_array_equal(signals.update_norm[row], own.update_norm[0])
        assert valid.loss[row] == alone.evaluate()[0].loss[0]
        assert outer_valid.metrics["accuracy"][row] == alone.evaluate()[1].metrics["accuracy"][0]
    assert (engine.position == 4).all()


def test_rows_without_an_accuracy_have_none():
    family = families.teachers()
    losses = [family.task(number).objective_name for number in range(6)]
    assert set(losses) == {"cross_entropy", "mse"}
    engine = FamilyEngine(family, 6, n_micro_batches=1)
    accuracy = engine.evaluate()[0].metrics["accuracy"]
    np.testing.assert_array_equal(np.isnan(accuracy), [loss == "mse" for loss in losses])


def test_an_evaluation_of_some_rows_leaves_the_others():
    engine = FamilyEngine(families.trees(), 2, n_micro_batches=2)
    engine.reset(range(2), [0, 1])
    before = engine.evaluate()[0].loss
    engine.reset([1], [2])
    after = engine.evaluate([1])[0].loss
    assert after[0] == before[0]
    assert after[1] != before[1]


def test_engines_that_wait_are_not_kept_without_end(monkeypatch):
    monkeypatch.setattr(family_engine, "_MOST_IDLE", 3)
    engine = FamilyEngine(families.trees(), 2, n_micro_batches=2)
    for seed in range(12):
        engine.reset(range(2), [seed, seed + 100])
        assert len(engine._idle) <= 3


def test_every_row_has_the_reference_of_its_own_task():
    """Measured when the task is first drawn; what is known is not measured again."""
    family = families.trees(n_tasks=4)
    config = EnvConfig(decisions=3, micro_batches_per_decision=5)
    known = {"trees_1": TaskReference((-1.0, -2.0, -3.0))}
    runs = InnerRuns(family, 2, config)
    assert measure_rows(runs, known) is None
    own = FamilyReferences(family, config, {})
    drawn = set()
    for seed in range(8):
        runs.reset([0, 1], [seed, seed + 50])
        for row in range(2):
            number = int(runs.engine.numbers[row])
            drawn.add(number)
            expected = known["trees_1"] if number == 1 else own(number)
            assert runs.references[row] == expected
            assert runs.references.known[row]
    assert drawn == {0, 1, 2, 3}
    assert own(1) != known["trees_1"]
