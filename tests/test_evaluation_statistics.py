"""Statistics over tasks and seeds, with known answers."""

from __future__ import annotations

import math

import numpy as np
import pytest

from trainpilot.agents.evaluation.profile import performance_profiles
from trainpilot.agents.evaluation.statistics import (
    geometric_mean,
    interquartile_mean,
    interval_over_seeds,
    interval_over_tasks,
    probability_of_improvement,
)


def arrays(*tasks):
    return [np.array(task, dtype=float) for task in tasks]


def logs(*tasks):
    return [np.log(task) for task in tasks]


def test_every_task_has_the_same_weight():
    assert geometric_mean(logs([2.0, 8.0], [1.0, 1.0])) == pytest.approx(2)
    # However many seeds it has.
    assert geometric_mean(logs([16.0], [1.0, 1.0, 1.0])) == pytest.approx(4)
    assert geometric_mean(logs([1.0, 1.0], [1.0])) == 1.0


def test_the_interquartile_mean_is_that_of_the_middle_half():
    values = [0.001, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 9999.0]
    expected = (2.0 * 4.0 * 8.0 * 16.0) ** (1 / 4)
    assert interquartile_mean(logs(values[::2], values[1::2])) == pytest.approx(expected)


def test_a_tie_is_half_an_improvement():
    same = arrays([1.0, 1.0])
    assert probability_of_improvement(same, same) == (0.5, (0.5, 0.5))


def test_the_probability_of_improvement_is_that_of_all_pairs():
    # On the first task 200 is below two and ties with one, 300 is below one and ties with one, and
    # 500 is below none: 2.5 + 1.5 of nine pairs. On the second 100 ties with both: 1 of four.
    own = arrays([200, 300, 500], [100, 400])
    reference = arrays([300, 400, 200], [100, 100])
    found, (low, high) = probability_of_improvement(own, reference)
    assert found == pytest.approx((4 / 9 + 1 / 4) / 2)
    assert 0 <= low < found < high <= 1


def test_with_one_seed_the_probability_of_improvement_has_no_interval():
    assert probability_of_improvement(arrays([1.0]), arrays([2.0])) == (1.0, (None, None))


def test_the_interval_of_the_probability_covers_the_truth_as_often_as_it_says():
    """Samples that are normal on 10 tasks, ten seeds each, so that the truth is known."""
    random = np.random.default_rng(0)
    shifts = random.normal(0, 0.7, 10)
    truth = np.mean([0.5 * (1 + math.erf(shift / 2)) for shift in shifts])
    repetitions = 250
    covered = 0
    for _ in range(repetitions):
        own, reference = random.normal(-shifts, 1, (10, 10)).T, random.normal(0, 1, (10, 10))
        _, (low, high) = probability_of_improvement(list(own), list(reference))
        covered += low <= truth <= high
    assert 0.91 <= covered / repetitions <= 0.98


def test_equal_values_have_an_interval_of_no_width():
    assert interval_over_seeds(logs([2.0, 2.0], [8.0, 8.0])) == pytest.approx((4.0, 4.0))
    assert interval_over_seeds(logs([1.0, 1.0], [1.0, 1.0])) == (1.0, 1.0)
    assert interval_over_tasks(logs([1.0], [1.0])) == (1.0, 1.0)


def test_a_task_that_does_not_vary_adds_no_width():
    alone = interval_over_seeds(logs([1.0, 2.0, 4.0]))
    both = interval_over_seeds(logs([1.0, 2.0, 4.0], [3.0, 3.0, 3.0]))
    assert both == pytest.approx([math.sqrt(end * 3) for end in alone], rel=0.1)


def test_one_seed_or_one_task_has_no_interval():
    assert interval_over_seeds(logs([2.0, 3.0], [2.0])) == (None, None)
    assert interval_over_tasks(logs([2.0, 3.0])) == (None, None)


def test_the_same_runs_have_the_same_interval():
    tasks = logs([1.0, 2.0, 3.0], [2.0, 5.0, 1.5])
    assert interval_over_seeds(tasks) == interval_over_seeds(tasks)


def test_the_interval_covers_the_truth_as_often_as_it_says():
    """Log-normal speed-ups on 10 tasks whose means and spreads differ, ten seeds each."""
    random = np.random.default_rng(0)
    centres, spreads = random.normal(1, 0.6, 10), random.uniform(0.1, 0.6, 10)
    truth = math.exp(centres.mean())
    repetitions = 250
    covered = 0
    for _ in range(repetitions):
        low, high = interval_over_seeds(list(random.normal(centres, spreads, (10, 10)).T))
        covered += low <= truth <= high
    assert 0.91 <= covered / repetitions <= 0.98


def test_profiles_by_hand():
    # Ratios of a: 1, 2, inf; of b: 1.5, 1, 1; c is beyond 4 on one task.
    profiles = performance_profiles(
        {
            "a": [100, 400, math.inf],
            "b": [150, 200, 300],
            "c": [500, 800, math.inf],
        }
    )
    assert profiles["a"] == {
        "ratio": [1.0, 2.0, 4.0],
        "share": [1 / 3, 2 / 3, 2 / 3],
        "score": pytest.approx((3 + 2) / 3 / 3),
    }
    assert profiles["b"]["ratio"] == [1.0, 1.5, 4.0]
    assert profiles["b"]["share"] == [2 / 3, 1.0, 1.0]
    assert profiles["b"]["score"] == pytest.approx((3 + 3 + 2.5) / 3 / 3)
    assert profiles["c"] == {"ratio": [1.0, 4.0], "share": [0.0, 1 / 3], "score": 0.0}


def test_the_score_is_the_integral_of_the_profile():
    random = np.random.default_rng(1)
    times = {name: random.uniform(1, 6, 20).tolist() for name in "abc"}
    for profile in performance_profiles(times).values():
        area = np.diff(profile["ratio"]) @ profile["share"][:-1]
        assert profile["score"] == pytest.approx(area / 3)


def test_the_best_everywhere_scores_one_and_who_reaches_nothing_zero():
    profiles = performance_profiles({"best": [1, 1], "never": [math.inf, math.inf]})
    assert profiles["best"]["score"] == 1
    assert profiles["never"] == {"ratio": [1.0, 4.0], "share": [0.0, 0.0], "score": 0}


def test_a_task_that_nobody_reaches_counts_against_all():
    profiles = performance_profiles({"a": [1, math.inf], "b": [2, math.inf]})
    assert profiles["a"]["score"] == 0.5
    assert profiles["a"]["share"] == [0.5, 0.5]
