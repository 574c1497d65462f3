"""Measures with known answers."""

from __future__ import annotations

import math

import pytest

from trainpilot.agents.comparison import compare, geometric_mean, samples_to_target
from trainpilot.agents.run import Run


def run(controller, losses, seed=0, task="t", optimizers=None, diverged=False):
    used = optimizers or ["adam"] * (len(losses) - 1)
    return Run(
        task,
        controller,
        seed,
        budget=400,
        samples=[100 * point for point in range(len(losses))],
        valid_loss=list(losses),
        outer_valid_loss=list(losses),
        decisions=[{"optimizer": name} for name in used],
        diverged=diverged,
        test_loss=math.inf if diverged else losses[-1],
        test_metrics={} if diverged else {"accuracy": 1 - losses[-1] / 10},
    )


SLOW = [4.0, 3.0, 2.0, 1.5, 1.0]


def speedup(results, controller):
    return results["summary"][controller]["speedup"]["adam_default"]["geomean"]


def test_samples_to_target_is_the_first_point_at_or_below():
    assert samples_to_target(run("a", SLOW), 2.0) == 200
    assert samples_to_target(run("a", SLOW), 1.9) == 300
    assert samples_to_target(run("a", SLOW), 0.5) == 800
    assert samples_to_target(run("a", SLOW), 5.0) == 1


def test_a_controller_compared_with_itself_gives_exactly_one():
    twin = [
        run("adam", SLOW),
        run("twin", SLOW),
        run("adam", [3, 1, 2], 1),
        run("twin", [3, 1, 2], 1),
    ]
    results = compare(twin, "adam")
    assert speedup(results, "twin") == 1.0
    assert speedup(results, "adam") == 1.0


def test_speedups_are_what_arithmetic_says():
    runs = [
        run("adam", SLOW),
        run("fast", [4.0, 1.0, 0.9, 0.8, 0.7]),
        run("adam", SLOW, seed=1),
        run("fast", [4.0, 2.0, 1.0, 0.8, 0.7], seed=1),
        run("adam", SLOW, task="u"),
        run("fast", [4.0, 2.0, 1.5, 1.2, 1.1], task="u"),
        run("adam", SLOW, seed=1, task="u"),
        run("fast", [4.0, 2.0, 1.5, 1.2, 1.1], seed=1, task="u"),
    ]
    results = compare(runs, "adam")
    # On t 400/100 and 400/200; on u two misses, which count as 800 samples each.
    tasks = results["summary"]["fast"]["tasks"]
    assert tasks["t"]["speedup"] == pytest.approx(math.sqrt(8))
    assert tasks["u"]["speedup"] == pytest.approx(0.5)
    assert speedup(results, "fast") == pytest.approx(math.sqrt(math.sqrt(8) * 0.5))
    entry = results["summary"]["fast"]["speedup"]["adam_default"]
    assert entry["worst"] == pytest.approx(0.5)
    assert entry["reached"] == 0.5
    assert len(results["runs"]) == len(runs)


def test_a_diverged_run_is_a_miss_and_stays_in_the_means():
    runs = [
        run("adam", SLOW),
        run("wild", [4.0, 9.0], diverged=True),
        run("adam", SLOW, seed=1),
        run("wild", [4.0, 1.0, 0.9, 0.8, 0.7], seed=1),
    ]
    summary = compare(runs, "adam")["summary"]["wild"]
    assert summary["divergence_rate"] == 0.5
    assert summary["tasks"]["t"]["reached"] == 0.5
    assert summary["tasks"]["t"]["final_test_loss"] == math.inf
    assert math.isnan(summary["tasks"]["t"]["test_metrics"]["accuracy"])
    assert summary["tasks"]["t"]["speedup"] == pytest.approx(math.sqrt(0.5 * 4))


def test_reaching_the_target_and_diverging_afterwards_is_a_miss():
    runs = [run("adam", SLOW), run("wild", [4.0, 0.5, 99.0], diverged=True)]
    results = compare(runs, "adam")
    assert speedup(results, "wild") == 0.5
    assert results["summary"]["wild"]["speedup"]["adam_default"]["reached"] == 0


def test_a_reference_that_diverged_sets_what_it_had_reached_as_the_target():
    runs = [run("adam", [4.0, 2.0, 99.0], diverged=True), run("calm", SLOW)]
    results = compare(runs, "adam")
    assert results["runs"][1]["target"] == 2.0
    assert speedup(results, "calm") == pytest.approx(800 / 200)
    assert speedup(results, "adam") == 1.0


def test_switches_count_changes_after_the_start():
    used = ["sgd", "sgd", "adam", "sgd"]
    results = compare([run("adam", SLOW), run("mixed", SLOW, optimizers=used)], "adam")
    assert results["summary"]["mixed"]["tasks"]["t"]["switches"] == 2


def test_geometric_mean():
    assert geometric_mean([2, 8]) == pytest.approx(4)
