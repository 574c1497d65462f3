"""Measures of runs, with known answers."""

from __future__ import annotations

import math

import pytest
from finished_runs import DECISIONS, SLOW, run

from trainpilot.agents.evaluation.measures import (
    LEAST_LOSS,
    area_under_curve,
    measure,
    samples_to_target,
    switches,
    target_of,
)


def against(own, reference, **options):
    measured = measure(own, {"ref": target_of(reference)}, DECISIONS, **options)
    return measured["to_target"]["ref"]


def test_samples_to_target_is_the_first_point_at_or_below():
    assert samples_to_target(run("a", SLOW), 2.0) == 200
    assert samples_to_target(run("a", SLOW), 1.9) == 300
    assert samples_to_target(run("a", SLOW), 0.5) == 800
    assert samples_to_target(run("a", SLOW), 5.0) == 1


def test_a_run_that_reaches_the_target():
    # Two decisions of four, whose run took two seconds.
    found = against(run("fast", [4.0, 2.0, 1.0, 0.8, 0.7]), run("adam", SLOW))
    assert found == {
        "target": 1.0,
        "reached": True,
        "samples": 200,
        "decisions": 2,
        "seconds": 1.0,
        "speedup": 2.0,
        "speedup_with_search": 2.0,
    }


def test_a_run_that_misses_the_target_counts_as_two_whole_runs():
    found = against(run("slow", [4.0, 2.0, 1.5, 1.2, 1.1]), run("adam", SLOW))
    assert found["reached"] is False
    assert (found["samples"], found["decisions"], found["seconds"]) == (800, 8, 4.0)
    assert found["speedup"] == 0.5


def test_reaching_the_target_and_diverging_afterwards_is_a_miss():
    wild = run("wild", [4.0, 0.5, 99.0], diverged=True)
    found = against(wild, run("adam", SLOW))
    assert found["reached"] is False
    assert found["speedup"] == 0.5
    # Two decisions took two seconds, so that two whole runs would take eight.
    assert (found["decisions"], found["seconds"]) == (8, 8.0)


def test_a_reference_that_diverged_sets_what_it_had_reached_as_the_target():
    reference = run("adam", [4.0, 2.0, math.nan], diverged=True)
    assert target_of(reference).loss == 2.0
    assert against(run("calm", SLOW), reference)["speedup"] == 800 / 200
    assert against(reference, reference)["speedup"] == 1.0


def test_samples_of_a_search_count_on_top():
    searched = run("search", [4.0, 1.0, 1.0, 1.0, 1.0], search_samples=3_900)
    found = against(searched, run("adam", SLOW))
    assert found["speedup"] == 4.0
    assert found["speedup_with_search"] == 0.1


def test_the_area_is_the_mean_log_loss_over_the_start():
    # log2 falls 0, -1, -2, -2, -2: trapezoids of a quarter each.
    own = run("a", [8.0, 4.0, 2.0, 2.0, 2.0])
    assert area_under_curve(own) == pytest.approx(-math.log(2) * (0.5 + 1.5 + 2 + 2) / 4)
    assert area_under_curve(run("flat", [3.0] * 5)) == 0
    assert area_under_curve(run("zero", [1.0, 0.0, 0.0, 0.0, 0.0])) == pytest.approx(
        math.log(LEAST_LOSS) * 3.5 / 4
    )


@pytest.mark.parametrize("last", [99.0, math.inf, math.nan])
def test_a_diverged_run_counts_as_at_its_start_from_there_on(last):
    own = run("wild", [8.0, 4.0, last], diverged=True)
    assert area_under_curve(own) == pytest.approx(-math.log(2) * (0.5 + 0.5) / 4)
    assert area_under_curve(run("wild", [8.0], diverged=True)) == 0


def test_switches_count_changes_after_the_start():
    assert switches(run("mixed", SLOW, optimizers=["sgd", "sgd", "adam", "sgd"])) == 2


def test_a_measured_run_says_everything_of_it():
    own = run("a", SLOW, accuracy_curve=[0.1, 0.2, 0.3, 0.4, 0.5], best_test_accuracy=0.9)
    own.decisions[1]["clamped"] = True
    measured = measure(own, {}, DECISIONS, energy_watts=50.0)
    assert measured["clamped"] == 1
    assert measured["energy_joules"] == 100.0
    assert measured["final_outer_valid_loss"] == measured["final_test_loss"] == 1.0
    assert measured["final_test_accuracy"] == 0.9
    assert measured["best_test_accuracy"] == 0.9
    assert measured["curve"] == {
        "samples": [0, 100, 200, 300, 400],
        "valid_loss": SLOW,
        "outer_valid_loss": SLOW,
        "test_loss": SLOW,
        "test_accuracy": [0.1, 0.2, 0.3, 0.4, 0.5],
        "learning_rate": [1e-3] * 4,
        "batch_size": [1] * 4,
        "optimizer": ["adam"] * 4,
    }
    assert measure(own, {}, DECISIONS)["energy_joules"] is None


def test_a_diverged_run_has_a_best_but_no_final_loss():
    own = run("wild", [4.0, 1.0, 99.0], diverged=True)
    measured = measure(own, {}, DECISIONS)
    assert measured["final_outer_valid_loss"] is None
    assert measured["final_test_loss"] == math.inf
    assert measured["final_test_accuracy"] is None
    assert measured["best_test_loss"] == 1.0
