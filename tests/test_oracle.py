"""The oracle finds what is best in hindsight, where that can be worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from trainpilot.agents.evaluation.configuration import SCHEDULES, Configuration
from trainpilot.agents.evaluation.oracle import Oracle
from trainpilot.agents.evaluation.results import results
from trainpilot.agents.heuristics import Constant
from trainpilot.agents.rollout import roll_out
from trainpilot.envs.config import EnvConfig
from trainpilot.envs.limits import GuardConfig
from trainpilot.inner_tasks.errors import TrainpilotError

CONFIG = EnvConfig(decisions=5, micro_batches_per_decision=4)


def losses(rate):
    """Loss of the quadratic after each decision: momentum 0.9 as powers of a matrix.

    `v <- 0.9 v + x` and `x <- x - r v`, from `x = (3, -2)`, loss `|x| ** 2 / 2`.
    """
    step = np.array([[1 - rate, -0.9 * rate], [1, 0.9]])
    places = [np.linalg.matrix_power(step, 4 * number)[0, 0] for number in range(6)]
    return 6.5 * np.array(places) ** 2


def test_the_best_constant_rate_is_found_and_its_speed_up_is_what_arithmetic_says(quadratic):
    own = [0.001, 0.003, 0.01, 0.02, 0.04, 0.3]
    best = min(own, key=lambda rate: losses(rate)[-1])
    oracle = Oracle(["sgd"], [rate / 30 for rate in own], ["constant"])
    fixed, of_all = oracle.train("oracle", quadratic, [7], CONFIG)
    assert [fixed.controller, of_all.controller] == oracle.names("oracle")
    assert fixed.configuration["learning_rate"] == pytest.approx(best)
    np.testing.assert_allclose(fixed.outer_valid_loss, losses(best), rtol=1e-3)
    slow = roll_out(quadratic, {"slow": Constant("sgd", 0.003)}, [7], CONFIG).runs[0]
    # The slow rate falls all the time, so that it needs its five decisions; the best gets there
    # with the third. A decision has 4 micro-batches of 5 examples.
    assert (np.diff(losses(0.003)) < 0).all()
    assert (losses(best) <= losses(0.003)[-1]).tolist() == [False] * 3 + [True] * 3
    content = results(
        [slow, fixed],
        [{"name": "quadratic"}],
        {
            name: {"kind": kind, "description": ""}
            for name, kind in (("slow", "heuristic"), ("oracle_fixed", "oracle"))
        },
        {"adam_default": "slow", "oracle_fixed": "oracle_fixed"},
        {"decisions": 5, "algoperf_reference": "adam_default"},
    )["summary"]
    assert fixed.search_samples == 6 * 2 * 100
    found = content["oracle_fixed"]
    assert found["speedup"]["adam_default"]["geomean"] == pytest.approx(5 / 3)
    assert found["speedup_with_search"]["adam_default"] == pytest.approx(100 / (60 + 1200))
    assert found["speedup"]["oracle_fixed"]["geomean"] == 1
    # It misses what the best rate reaches: two budgets over one.
    assert content["slow"]["speedup"]["oracle_fixed"]["geomean"] == pytest.approx(1 / 2)


def test_each_schedule_has_a_line_and_the_last_is_the_best_of_all(moons):
    oracle = Oracle(["sgd", "adam"], [1e-3, 1e-2], ["constant", "cosine"])
    assert oracle.names("best") == ["best_fixed", "best_cosine", "best"]
    runs = {run.controller: run for run in oracle.train("best", moons, [0], CONFIG)}
    assert runs["best_fixed"].configuration["schedule"] == "constant"
    assert runs["best_cosine"].configuration["schedule"] == "cosine"
    chosen = [runs["best_fixed"].configuration, runs["best_cosine"].configuration]
    assert runs["best"].configuration in chosen
    assert runs["best_fixed"].search_samples == 4 * 2 * 200
    assert runs["best"].search_samples == 8 * 2 * 200


def test_what_diverges_is_never_chosen(quadratic):
    guard = GuardConfig(on_divergence="end", max_loss_ratio=10)
    config = EnvConfig(decisions=5, micro_batches_per_decision=4, guard=guard)
    run = Oracle(["sgd"], [1.0, 1e-6], ["constant"]).train("oracle", quadratic, [0], config)[0]
    assert run.configuration["learning_rate"] == pytest.approx(3e-5)
    assert not run.diverged


def test_where_all_diverge_the_first_of_the_grid_is_taken(quadratic):
    guard = GuardConfig(on_divergence="end", max_loss_ratio=10)
    config = EnvConfig(decisions=5, micro_batches_per_decision=4, guard=guard)
    run = Oracle(["sgd"], [0.9, 0.8], ["constant"]).train("oracle", quadratic, [0], config)[0]
    assert run.configuration["learning_rate"] == pytest.approx(27)
    assert run.diverged


def test_the_choice_does_not_depend_on_the_seeds_that_are_evaluated(moons):
    oracle = Oracle(["adam", "rmsprop"], [1e-3, 1e-2])
    alone = oracle.train("oracle", moons, [5], CONFIG)
    others = [run for run in oracle.train("oracle", moons, [7, 5], CONFIG) if run.seed == 5]
    for one, other in zip(alone, others, strict=True):
        assert one.configuration == other.configuration
        np.testing.assert_allclose(one.outer_valid_loss, other.outer_valid_loss, rtol=1e-5)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_configuration_is_the_controller_that_it_names(schedule):
    configuration = Configuration("sgd", 1e-3, schedule)
    controller = configuration.controller()
    assert type(controller) is SCHEDULES[schedule]
    assert controller.learning_rate == pytest.approx(0.03)
    assert configuration.to_json() == {
        "optimizer": "sgd",
        "learning_rate": pytest.approx(0.03),
        "schedule": schedule,
    }


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Configuration("lamb", 1e-3), "unknown optimizer 'lamb'"),
        (lambda: Configuration("sgd", 0.0), "learning_rate must be above 0; given: 0.0"),
        (lambda: Configuration("sgd", 1e-3, "saw"), "unknown schedule 'saw'; allowed: constant"),
        (lambda: Oracle(schedules=["saw"]), "unknown schedule 'saw'"),
        (
            lambda: Oracle(search_seeds=0),
            "search_seeds must be a whole number of at least 1; given: 0",
        ),
        (lambda: Oracle(search_seeds=1.5), "a whole number of at least 1; given: 1.5"),
        (lambda: Oracle(learning_rates=[]), "at least one configuration; given: none"),
    ],
)
def test_mistakes_are_told_in_a_sentence(make, message):
    with pytest.raises(TrainpilotError, match=message):
        make()
