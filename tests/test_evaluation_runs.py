"""The runs of an evaluation: known ones from the cache, the others in processes."""

from __future__ import annotations

import importlib
import sys
import threading
from dataclasses import asdict
from types import ModuleType

import pytest
import torch

from trainpilot.agents.evaluation import evaluating, jobs
from trainpilot.agents.evaluation.contenders import Contender, complete, make_contenders
from trainpilot.agents.evaluation.evaluating import Evaluation
from trainpilot.agents.evaluation.fingerprints import (
    fingerprint_of_contender,
    fingerprint_of_setting,
    fingerprint_of_task,
)
from trainpilot.agents.evaluation.run_cache import RunCache, run_key
from trainpilot.agents.heuristics import Constant, RandomPolicy
from trainpilot.agents.run import Run
from trainpilot.agents.schedules import StepDecay
from trainpilot.envs.config import EnvConfig
from trainpilot.inner_tasks import TensorTask
from trainpilot.inner_tasks.catalogue import option
from trainpilot.inner_tasks.errors import TrainpilotError

CONFIG = EnvConfig(decisions=4, micro_batches_per_decision=3)


def contender(name, made):
    return Contender(name, "heuristic", "", made)


class Doubling:
    """A method of two lines that trains nothing."""

    kind = "search"

    def names(self, name):
        return [f"{name}_1x", f"{name}_4x"]

    def n_decisions(self, n_seeds, config):
        return 3

    def train(self, name, task, seeds, config, on_decision=lambda: None):
        on_decision()
        return [
            Run(task.name, line, seed, 120, samples=[0], outer_valid_loss=[float("inf")])
            for line in self.names(name)
            for seed in seeds
        ]


def without_time(runs):
    return [asdict(run) | {"seconds": 0} for run in runs]


class Scaled(torch.nn.Module):
    """A model whose factor no repr shows."""

    def __init__(self, factor):
        super().__init__()
        self.linear = torch.nn.Linear(2, 2)
        self.factor = factor

    def forward(self, inputs):
        return self.factor * self.linear(inputs)


def moons_task(name="moons", shift=0.0, width=6, **options):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(100, 2, generator=generator) + shift
    targets = (inputs[:, 0] * inputs[:, 1] > 0).long()
    model = options.pop(
        "model",
        lambda: torch.nn.Sequential(
            torch.nn.Linear(2, width), torch.nn.Tanh(), torch.nn.Linear(width, 2)
        ),
    )
    return TensorTask(
        name, model=model, inputs=inputs, targets=targets, micro_batch_size=10, **options
    )


def steeper(outputs, targets):
    return 2 * torch.nn.functional.cross_entropy(outputs, targets)


def everyone():
    return [
        contender("adam", Constant("adam", 1e-2)),
        contender("step", StepDecay("adam", 1e-2)),
        contender("chance", RandomPolicy()),
        Contender("search", "search", "", Doubling()),
    ]


def test_runs_are_the_same_from_processes_from_here_and_from_the_cache(tmp_path):
    def runs(n_workers, cache):
        task = moons_task()
        made = Evaluation([task], [3, 5], CONFIG, cache, n_workers)
        return made.runs({"moons": everyone()}, "testing"), made.n_cached

    here, none = runs(0, None)
    assert none == 0
    assert [(run.controller, run.seed) for run in here[:4]] == [
        ("adam", 3), ("adam", 5), ("step", 3), ("step", 5),
    ]  # fmt: skip
    assert [run.controller for run in here[-4:]] == ["search_1x"] * 2 + ["search_4x"] * 2
    there, none = runs(2, tmp_path)
    assert none == 0
    known, n_known = runs(2, tmp_path)
    assert n_known == len(known) == 10
    assert without_time(here) == without_time(there)
    # Times too: nothing was made anew.
    assert known == there


def test_a_second_policy_costs_only_its_own_runs(tmp_path, monkeypatch):
    task = moons_task()
    Evaluation([task], [0], CONFIG, tmp_path, 0).runs({"moons": everyone()}, "testing")
    made, original = [], jobs.roll_out

    def counted(task, controllers, *arguments, **options):
        made.extend(controllers)
        return original(task, controllers, *arguments, **options)

    monkeypatch.setattr(jobs, "roll_out", counted)
    again = Evaluation([task], [0], CONFIG, tmp_path, 0)
    newcomer = contender("newcomer", Constant("sgd", 0.1))
    again.runs({"moons": [*everyone(), newcomer]}, "testing")
    assert made == ["newcomer"]
    assert again.n_cached == 5


def test_what_ended_before_an_interruption_is_kept(tmp_path, monkeypatch):
    task = moons_task()

    def interrupted(given, *arguments):
        for number, pair in enumerate(jobs.run_jobs(given, *arguments)):
            if number == 1:
                raise KeyboardInterrupt
            yield pair

    monkeypatch.setattr(evaluating, "run_jobs", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Evaluation([task], [0], CONFIG, tmp_path, 0).runs({"moons": everyone()}, "testing")
    monkeypatch.undo()
    again = Evaluation([task], [0], CONFIG, tmp_path, 0)
    again.runs({"moons": everyone()}, "testing")
    assert 0 < again.n_cached < 5


@pytest.mark.parametrize("other", [moons_task("other"), moons_task(shift=1.0), moons_task(width=7)])
def test_a_task_is_known_by_its_name_data_and_model(other):
    assert fingerprint_of_task(moons_task()) == fingerprint_of_task(moons_task())
    assert fingerprint_of_task(moons_task()) != fingerprint_of_task(other)


def test_a_task_is_known_by_what_its_loss_and_its_model_compute():
    tasks = [moons_task(), moons_task(loss=steeper)]
    tasks += [moons_task(model=lambda factor=factor: Scaled(factor)) for factor in (1.0, 2.0)]
    known = [fingerprint_of_task(task) for task in tasks]
    assert None not in known
    assert len(set(known)) == 4


def test_a_task_that_cannot_be_made_is_refused_in_a_sentence(tmp_path):
    def broken():
        raise RuntimeError("no such layer")

    task = moons_task(model=broken)
    assert fingerprint_of_task(task) is None
    with pytest.raises(TrainpilotError, match="no such layer"):
        Evaluation([task], [0], CONFIG, tmp_path, 0).runs({"moons": everyone()}, "testing")


def test_a_task_that_cannot_be_sent_to_other_processes_is_told_so():
    task = moons_task()
    task.lock = threading.Lock()
    with pytest.raises(TrainpilotError, match="n_workers=0 trains in this one"):
        Evaluation([task], [0], CONFIG, None, 2).runs({"moons": everyone()}, "testing")


def test_the_code_of_the_working_folder_is_part_of_the_setting(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "mine_for_a_test.py").write_text("RATE = 1")
    before = fingerprint_of_setting(CONFIG)
    importlib.import_module("mine_for_a_test")
    one = fingerprint_of_setting(CONFIG)
    (tmp_path / "mine_for_a_test.py").write_text("RATE = 2")
    assert len({before, one, fingerprint_of_setting(CONFIG)}) == 3
    del sys.modules["mine_for_a_test"]


def test_in_a_checkout_modules_that_no_run_depends_on_change_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = fingerprint_of_setting(CONFIG)
    for name in ("trainpilot.agents.evaluation.report.mine_for_a_test", "trainpilots_own"):
        path = tmp_path / f"{name}.py"
        path.write_text("WORD = 'faster'")
        module = ModuleType(name)
        module.__file__ = str(path)
        monkeypatch.setitem(sys.modules, name, module)
        # A module of the user's own may have a name that begins so.
        assert (fingerprint_of_setting(CONFIG) == before) == name.startswith("trainpilot.")


def test_a_contender_is_known_by_its_settings():
    known = fingerprint_of_contender(Constant("adam", 1e-3))
    assert known == fingerprint_of_contender(Constant("adam", 1e-3))
    assert known != fingerprint_of_contender(Constant("adam", 2e-3))
    assert known != fingerprint_of_contender(StepDecay("adam", 1e-3))
    opaque = Constant("adam", 1e-3)
    opaque.something = object()
    assert fingerprint_of_contender(opaque) is None


def test_a_setting_is_known_by_every_number_of_the_environment():
    assert fingerprint_of_setting(CONFIG) == fingerprint_of_setting(CONFIG)
    other = EnvConfig(decisions=4, micro_batches_per_decision=3)
    other.guard.shrink = 0.4
    assert fingerprint_of_setting(CONFIG) != fingerprint_of_setting(other)


def test_a_damaged_cache_is_as_if_there_were_none(tmp_path):
    cache = RunCache(tmp_path)
    key = run_key("a", "b", seeds=[0])
    cache.store(key, [Run("t", "c", 0, 100, test_loss=float("inf"))])
    assert cache.load(key) == [Run("t", "c", 0, 100)]
    assert cache.load(run_key("a", "b", seeds=[1])) is None
    path = next(tmp_path.rglob("*.gz"))
    path.write_bytes(path.read_bytes()[:20])
    assert cache.load(key) is None
    assert run_key("a", None, seeds=[0]) is None
    cache.store(None, [])
    assert len(list(tmp_path.rglob("*.gz"))) == 1


def test_a_worker_that_dies_is_told_in_a_sentence():
    class Dying(Constant):
        def decide(self, view):
            import os

            os._exit(3)

    evaluation = Evaluation([moons_task()], [0], CONFIG, None, 1)
    with pytest.raises(TrainpilotError, match="must stay alive"):
        evaluation.runs({"moons": [contender("dying", Dying("adam", 1e-3))]}, "testing")


@pytest.mark.parametrize("name", ["shared_fixed", "shared_cosine"])
def test_a_shared_setting_that_was_changed_is_a_rival_of_the_reference(name):
    own = option("controller", name)
    own[name].learning_rate = 0.02
    found, lines = complete(make_contenders(own, {}), [name])
    assert [each.lines for each in found] == [[name], [f"reference_{name}"]]
    assert found[0].made.learning_rate == 0.02
    assert found[1].made.learning_rate != 0.02
    assert lines == {name: f"reference_{name}"}


def test_references_run_along_under_their_own_names():
    own = {"adam": {"_target_": "trainpilot.agents.heuristics.Constant", "optimizer": "adam"}}
    own["adam"]["learning_rate"] = 0.001
    same = make_contenders(own, {})
    found, lines = complete(same, ["adam_default"])
    assert found == same
    assert lines == {"adam_default": "adam"}
    own["adam"]["learning_rate"] = 0.002
    found, lines = complete(make_contenders(own, {}), ["adam_default"])
    assert [each.name for each in found] == ["adam", "reference_adam"]
    assert lines == {"adam_default": "reference_adam"}
    worse = {"oracle": {"_target_": "trainpilot.agents.evaluation.oracle.Oracle"}}
    worse["oracle"]["learning_rates"] = [1e-5]
    found, lines = complete(make_contenders({}, worse), ["oracle_fixed"])
    assert [each.name for each in found] == ["oracle", "reference_oracle"]
    assert lines == {"oracle_fixed": "reference_oracle_fixed"}
    # Its line `oracle_fixed` is missing, the others are taken.
    other = {"oracle": worse["oracle"] | {"schedules": ["cosine"]}}
    found, lines = complete(make_contenders({}, other), ["oracle_fixed"])
    assert [each.name for each in found] == ["oracle", "reference_oracle"]
    assert lines == {"oracle_fixed": "reference_oracle_fixed"}
    with pytest.raises(TrainpilotError, match="unknown reference 'best'"):
        complete(same, ["best"])
