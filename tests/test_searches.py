"""Searches: nested, judged by valid alone, each seed's its own."""

from __future__ import annotations

import importlib.util
import math
import sys
from dataclasses import fields
from importlib.resources import files
from itertools import product

import numpy as np
import optuna
import pytest
from omegaconf import OmegaConf

from trainpilot.agents.choice_seed import choice_seed
from trainpilot.agents.evaluation.asha import Asha
from trainpilot.agents.evaluation.configuration import Configuration
from trainpilot.agents.evaluation.fingerprints import fingerprint_of_contender
from trainpilot.agents.evaluation.method import Method
from trainpilot.agents.evaluation.oracle import Oracle
from trainpilot.agents.evaluation.pbt import PopulationBasedTraining
from trainpilot.agents.evaluation.random_search import RandomSearch
from trainpilot.agents.evaluation.search import best_of_first, trial_seed
from trainpilot.agents.evaluation.search_space import SearchSpace
from trainpilot.agents.evaluation.tpe import Tpe
from trainpilot.agents.evaluation.trials import Trial, final_valid_loss, train_trials
from trainpilot.agents.rollout import roll_out
from trainpilot.agents.run import Run
from trainpilot.envs.config import EnvConfig
from trainpilot.envs.limits import GuardConfig
from trainpilot.inner_tasks import Split, TensorTask
from trainpilot.inner_tasks.building import build
from trainpilot.inner_tasks.catalogue import option_names
from trainpilot.inner_tasks.errors import TrainpilotError

CONFIG = EnvConfig(decisions=8, micro_batches_per_decision=2)
SEARCHES = [RandomSearch, Tpe, Asha, PopulationBasedTraining]
SUBCLASS = """
from trainpilot.agents.evaluation.random_search import RandomSearch
class Own(RandomSearch):
"""


def some_trials():
    generator = np.random.default_rng(0)
    return [Trial(SearchSpace().draw(generator), seed) for seed in (3, 3, 4, 9, 2)]


def test_a_trial_is_the_run_that_a_roll_out_makes(moons):
    trials = some_trials()
    for run, trial in zip(train_trials(moons, trials, CONFIG), trials, strict=True):
        controllers = {"one": trial.configuration.controller()}
        rolled = roll_out(moons, controllers, [trial.seed], CONFIG).runs[0]
        assert run.samples == rolled.samples
        np.testing.assert_allclose(run.valid_loss, rolled.valid_loss, rtol=1e-4)
        np.testing.assert_allclose(run.outer_valid_loss, rolled.outer_valid_loss, rtol=1e-4)


def test_a_trial_does_not_depend_on_those_beside_it(moons):
    together = train_trials(moons, some_trials(), CONFIG)
    in_pairs = train_trials(moons, some_trials(), CONFIG, most_rows=2)
    alone = train_trials(moons, some_trials()[:1], CONFIG)
    assert [run.valid_loss for run in together] == [run.valid_loss for run in in_pairs]
    assert alone[0].valid_loss == together[0].valid_loss


def test_random_search_is_the_best_of_the_first_trials(moons):
    search = RandomSearch(budgets=(1, 3, 9))
    runs = search.train("random", moons, [4], CONFIG)
    generator = np.random.default_rng(choice_seed(4, "moons"))
    drawn = [search.space.draw(generator) for _ in range(9)]
    trials = [Trial(each, trial_seed(4)) for each in drawn]
    losses = [final_valid_loss(run) for run in train_trials(moons, trials, CONFIG)]
    assert [run.controller for run in runs] == ["random_1x", "random_3x", "random_9x"]
    for run, n in zip(runs, (1, 3, 9), strict=True):
        assert run.configuration == drawn[int(np.argmin(losses[:n]))].to_json()
        assert run.search_samples == n * 160
        assert run.seed == 4


def test_tpe_is_what_optuna_itself_does_with_an_objective(moons):
    def objective(trial):
        chosen = Configuration(
            trial.suggest_categorical("optimizer", ["sgd", "adam", "rmsprop"]),
            trial.suggest_float("learning_rate", 1e-4, 1e-1, log=True),
            trial.suggest_categorical("schedule", ["constant", "cosine"]),
        )
        return final_valid_loss(train_trials(moons, [Trial(chosen, trial_seed(4))], CONFIG)[0])

    run = Tpe(budgets=(16,)).train("tpe", moons, [4], CONFIG)[0]
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=choice_seed(4, "moons")))
    study.optimize(objective, 16)
    assert run.configuration == Configuration(**study.best_params).to_json()


def test_choices_at_random_differ_among_tasks_and_seeds():
    drawn = {choice_seed(seed, f"task_{number}") for seed in range(50) for number in range(10)}
    assert len(drawn) == 500
    # By arithmetic alone, on every machine.
    assert choice_seed(3, "moons") == 0x371A46BE


@pytest.mark.parametrize("search", SEARCHES)
def test_the_same_seed_searches_otherwise_on_another_task(search, moons):
    def configuration(name):
        task = TensorTask(name, model=moons.make_model, splits=moons.splits, micro_batch_size=10)
        return search(budgets=(1,)).train("search", task, [3], CONFIG)[0].configuration

    assert configuration("one") == configuration("one")
    assert configuration("one") != configuration("two")


@pytest.mark.parametrize("search", SEARCHES)
def test_only_the_valid_loss_is_looked_at(search, moons):
    splits = moons.splits

    def poisoned(*names):
        wrong = {name: replace_targets(getattr(splits, name)) for name in names}
        return TensorTask(
            "moons", model=moons.make_model, splits=splits._replace(**wrong), micro_batch_size=10
        )

    def configurations(task):
        runs = search(budgets=(1, 4)).train("search", task, [0, 1], CONFIG)
        return [run.configuration for run in runs]

    chosen = configurations(moons)
    assert configurations(poisoned("outer_valid", "test")) == chosen
    assert configurations(poisoned("valid")) != chosen


def replace_targets(split):
    """The same inputs, each in the other class."""
    return Split(split.inputs, 1 - split.targets)


@pytest.mark.parametrize("search", SEARCHES)
def test_the_result_of_a_seed_is_the_same_beside_others_and_again(search, moons):
    method = search(budgets=(1, 4))
    alone = method.train("search", moons, [3], CONFIG)
    beside = method.train("search", moons, [8, 3], CONFIG)
    lines = [run.controller for run in beside]
    assert lines == ["search_1x"] * 2 + ["search_4x"] * 2
    for one, other in zip(alone, [run for run in beside if run.seed == 3], strict=True):
        assert one.configuration == other.configuration
        np.testing.assert_allclose(one.outer_valid_loss, other.outer_valid_loss, rtol=1e-5)
    again = method.train("search", moons, [8, 3], CONFIG)
    assert [run.outer_valid_loss for run in again] == [run.outer_valid_loss for run in beside]


def test_trials_have_neither_the_seed_of_the_run_that_counts_nor_that_of_another():
    seeds = range(50)
    derived = {trial_seed(seed) for seed in seeds}
    assert len(derived) == 50
    assert derived.isdisjoint(seeds)


def test_draws_fill_the_space_and_stay_within():
    space = SearchSpace(["sgd", "lion"], 1e-3, 1e-1, ["constant", "linear"])
    generator = np.random.default_rng(0)
    drawn = [space.draw(generator) for _ in range(400)]
    named = {(each.optimizer, each.schedule) for each in drawn}
    assert named == set(product(["sgd", "lion"], ["constant", "linear"]))
    rates = np.array([each.learning_rate for each in drawn])
    assert rates.min() >= 1e-3
    assert rates.max() <= 1e-1
    # Log-uniform: half of the rates lie below the geometric middle.
    assert (rates < 1e-2).mean() == pytest.approx(0.5, abs=0.08)


@pytest.mark.parametrize("name", ["oracle", "random_search", "tpe", "asha", "pbt"])
def test_what_ships_is_a_method_with_the_defaults_of_its_class(name):
    assert name in option_names("method")
    text = (files("trainpilot.conf") / "method" / f"{name}.yaml").read_text()
    method = build(OmegaConf.create(text)[name], Method, "method", name)
    default = type(method)()
    for field in fields(default):
        assert getattr(method, field.name) == getattr(default, field.name)
    assert fingerprint_of_contender(method) == fingerprint_of_contender(default)
    assert fingerprint_of_contender(method) is not None


@pytest.mark.parametrize("method", [Oracle(["sgd"], [1e-3]), *(each((1, 4)) for each in SEARCHES)])
def test_progress_is_told_as_often_as_announced(method, moons):
    told = []
    runs = method.train("method", moons, [0, 1, 2], CONFIG, lambda: told.append(1))
    assert len(told) == method.n_decisions(3, CONFIG)
    assert [run.controller for run in runs][::3] == method.names("method")


@pytest.mark.parametrize("on_divergence", ["end", "roll_back"])
@pytest.mark.parametrize("search", SEARCHES)
def test_where_all_trials_diverge_the_first_is_the_answer(search, on_divergence, quadratic):
    guard = GuardConfig(on_divergence, shrink=0.9, max_roll_backs=1, max_loss_ratio=10)
    # Trials end after a decision or after two: with none going on, each budget is spent.
    config = EnvConfig(decisions=6, micro_batches_per_decision=4, guard=guard)
    # Gradient descent with momentum diverges above 3.8; here it is 15 or more.
    space = SearchSpace(["sgd"], 0.5, 1.0)
    method = search(budgets=(1, 12), space=space)
    runs = method.train("search", quadratic, [3, 4], config)
    assert all(run.diverged for run in runs)
    # A search with a budget of 1 has nothing but the first trial.
    begun = [np.ravel(run.configuration["learning_rate"])[0] for run in runs]
    assert begun[:2] == begun[2:]
    again = method.train("search", quadratic, [3, 4], config)
    assert [run.configuration for run in again] == [run.configuration for run in runs]


def test_a_trial_that_diverged_is_chosen_only_if_all_did():
    def ended(loss, diverged=False):
        return Run("task", "trial", 0, 1, valid_loss=[1.0, loss], diverged=diverged)

    runs = [ended(0.1, True), ended(0.2, True), ended(math.inf), ended(3.0), ended(3.0)]
    names = ["a", "b", "c", "d", "e"]
    chosen = [best_of_first(names, runs, n) for n in range(1, 6)]
    assert chosen == ["a", "a", "c", "d", "d"]


def test_an_edited_subclass_is_another_search(tmp_path, monkeypatch):
    def fingerprint(number, body):
        path = tmp_path / f"{number}.py"
        path.write_text(f"{SUBCLASS}    {body}\n")
        spec = importlib.util.spec_from_file_location("users_search", path)
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, "users_search", module)
        spec.loader.exec_module(module)
        return fingerprint_of_contender(module.Own())

    assert fingerprint(1, "interval = 1") != fingerprint(2, "interval = 2")
    assert fingerprint(1, "interval = 1") == fingerprint(3, "interval = 1")


@pytest.mark.parametrize("search", [Tpe, Asha])
def test_a_missing_optuna_is_told_with_the_remedy(search, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(TrainpilotError, match=r"optuna \(pip install trainpilot\[rivals\]\)"):
        search()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RandomSearch(budgets=()), "budgets must be one or more whole numbers"),
        (lambda: Tpe(budgets=(0,)), r"whole numbers of at least 1.*; given: \[0\]"),
        (lambda: RandomSearch(budgets=(1, 2.5)), r"budgets .*; given: \[1, 2.5\]"),
        (lambda: RandomSearch(budgets=(1, 1)), r"none of them twice; given: \[1, 1\]"),
        (lambda: Asha(budgets=(4, 1)), r"ascending.*; given: \[4, 1\]"),
        (lambda: Tpe(budgets=(True,)), r"budgets .*; given: \[True\]"),
        (lambda: Asha(eta=1), "eta must be a whole number of at least 2; given: 1"),
        (lambda: Asha(first_rung=0.0), "first_rung must lie in"),
        (lambda: PopulationBasedTraining(interval=0), "interval must be a whole number of"),
        (lambda: PopulationBasedTraining(interval=1.5), "at least 1; given: 1.5"),
        (lambda: SearchSpace(optimizers=[]), "an optimizer to choose; given: none"),
        (lambda: SearchSpace(learning_rate_low=1.0), "learning_rate_low <= learning_rate_high"),
    ],
)
def test_mistakes_are_told_in_a_sentence(make, message):
    with pytest.raises(TrainpilotError, match=message):
        make()
