"""The content of `results.json`, with known answers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from finished_runs import BUDGET, DECISIONS, SLOW, run

from trainpilot.agents.evaluation.results import results
from trainpilot.agents.evaluation.table import print_summary, print_tasks
from trainpilot.agents.files import read_json, write_json
from trainpilot.inner_tasks.errors import TrainpilotError

FAST = [4.0, 1.0, 0.9, 0.8, 0.7]
MIDDLE = [4.0, 2.0, 1.0, 0.8, 0.7]
MISS = [4.0, 2.0, 1.5, 1.2, 1.1]


def compared(runs, kinds=None, references=None, watts=None):
    names = dict.fromkeys(each.controller for each in runs)
    return results(
        runs,
        [{"name": task} for task in dict.fromkeys(each.task for each in runs)],
        {
            name: {"kind": (kinds or {}).get(name, "heuristic"), "description": "It trains."}
            for name in names
        },
        references or {"adam_default": "adam"},
        {"decisions": DECISIONS, "algoperf_reference": "adam_default", "energy_watts": watts},
    )


def vs_adam(content, controller):
    return content["summary"][controller]["speedup"]["adam_default"]


@pytest.fixture
def two_tasks():
    """On t `fast` is 4 and 2 times as fast; on u it misses twice, which counts one half."""
    runs = [run("adam", SLOW, seed, task) for task in "tu" for seed in (0, 1)]
    return [
        *runs,
        run("fast", FAST),
        run("fast", MIDDLE, seed=1),
        run("fast", MISS, task="u"),
        run("fast", MISS, seed=1, task="u"),
    ]


def test_a_controller_compared_with_itself_gives_exactly_one():
    curves = [SLOW, [3.0, 1.0, 2.0, 1.0, 1.5]]
    wild = {"losses": [4.0, 2.0, 99.0], "diverged": True}
    runs = [
        made
        for name in ("adam", "cosine", "twin")
        for made in (
            *(run(name, losses, seed) for seed, losses in enumerate(curves)),
            run(name, seed=0, task="u", **wild),
            run(name, SLOW, seed=1, task="u"),
        )
    ]
    content = compared(runs, references={"adam_default": "adam", "shared_cosine": "cosine"})
    for name in ("adam", "cosine", "twin"):
        entry = content["summary"][name]
        for reference in ("adam_default", "shared_cosine"):
            speedup = entry["speedup"][reference]
            for measure in ("geomean", "ci_low", "ci_high", "iqm", "worst"):
                assert speedup[measure] == 1.0
            assert speedup["tasks_ci_low"] == speedup["tasks_ci_high"] == 1.0
            for measure in ("of_improvement", "ci_low", "ci_high"):
                assert speedup[f"probability_{measure}"] == 0.5
            assert entry["speedup_with_search"][reference] == 1.0
            assert {entry["tasks"][task]["speedup"][reference] for task in "tu"} == {1.0}
        assert entry["final_test_loss_ratio"] == 1.0


def test_an_equal_rival_does_not_get_one():
    """Runs that differ by chance alone: the number that docs/evaluation.md warns with.

    Every second run ends above its reference and counts as 2 budgets; a run that gets there does
    so somewhat before the end. With hardly any chance that comes to sqrt(1/2 * 1) = 0.71.
    """
    random = np.random.default_rng(0)
    progress = np.linspace(0, 1, 31)

    def by_chance(name, seed):
        luck = random.normal(0, 0.05) + random.normal(0, 0.02, 30)
        losses = np.exp(-progress + [0, *luck]).tolist()
        return run(name, losses, seed, samples=[BUDGET * i // 30 for i in range(31)])

    content = compared([by_chance(name, seed) for seed in range(2000) for name in ("adam", "twin")])
    speedup = vs_adam(content, "twin")
    assert speedup["geomean"] == pytest.approx(0.72, abs=0.02)
    assert speedup["reached"] == pytest.approx(0.5, abs=0.04)
    assert speedup["probability_of_improvement"] == pytest.approx(0.4, abs=0.04)


def test_speedups_are_what_arithmetic_says(two_tasks):
    content = compared(two_tasks)
    tasks = content["summary"]["fast"]["tasks"]
    assert tasks["t"]["speedup"]["adam_default"] == pytest.approx(math.sqrt(8))
    assert tasks["u"]["speedup"]["adam_default"] == pytest.approx(0.5)
    assert tasks["t"]["reached"]["adam_default"] == 1
    speedup = vs_adam(content, "fast")
    assert speedup["geomean"] == pytest.approx(math.sqrt(math.sqrt(8) * 0.5))
    assert speedup["worst"] == pytest.approx(0.5)
    assert speedup["worst_task"] == "u"
    assert speedup["reached"] == 0.5
    assert speedup["probability_of_improvement"] == 0.5
    # Of 0.5, 0.5, 2 and 4 the middle two.
    assert speedup["iqm"] == pytest.approx(1.0)
    assert speedup["ci_low"] < speedup["geomean"] < speedup["ci_high"]
    assert len(content["runs"]) == len(two_tasks)
    assert content["tasks"] == [
        {"name": "t", "targets": {"adam_default": 1.0}},
        {"name": "u", "targets": {"adam_default": 1.0}},
    ]


def test_a_policy_is_compared_run_by_run():
    speeds = [[4.0, 2.0, 1.0, 0.8, 0.7], [4.0, 3.0, 1.0, 0.9, 0.8], [4.0, 3.0, 2.0, 1.0, 0.9]]
    slower = [[4.0, 3.0, 1.0, 0.9, 0.8], [4.0, 3.0, 1.0, 0.9, 0.8], SLOW]
    runs = [
        run(name, losses, seed)
        for name, curves in (("adam", [SLOW] * 3), ("policy", speeds), ("loop", slower))
        for seed, losses in enumerate(curves)
    ]
    summary = compared(runs, {"policy": "policy", "loop": "ablation"})["summary"]
    assert list(summary["policy"]["against"]) == ["adam", "loop"]
    assert summary["loop"]["against"] == {}
    found = summary["policy"]["against"]["loop"]["adam_default"]
    # Samples 200, 200, 300 and 200, 200, 400.
    assert found["ratio"] == pytest.approx((4 / 3) ** (1 / 3))
    assert found["ci_low"] < found["ratio"] < found["ci_high"]
    against_adam = summary["policy"]["against"]["adam"]["adam_default"]
    own = summary["policy"]["speedup"]["adam_default"]
    assert against_adam["ratio"] == pytest.approx(own["geomean"])
    assert against_adam["ci_low"] == pytest.approx(own["ci_low"])


def test_a_diverged_run_is_a_miss_and_stays_in_the_means():
    content = compared(
        [
            run("adam", SLOW),
            run("wild", [4.0, 9.0], diverged=True),
            run("adam", SLOW, seed=1),
            run("wild", FAST, seed=1),
        ]
    )
    summary = content["summary"]["wild"]
    assert summary["divergence_rate"] == 0.5
    task = summary["tasks"]["t"]
    assert task["reached"]["adam_default"] == 0.5
    assert task["divergence_rate"] == 0.5
    assert task["final_test_loss"] is None
    assert task["test_metrics"]["accuracy"] is None
    assert task["speedup"]["adam_default"] == pytest.approx(math.sqrt(0.5 * 4))
    # It ends where it began, at four times Adam's final loss; the other at 0.7 of it.
    assert summary["final_test_loss_ratio"] == pytest.approx(math.sqrt(4 * 0.7))


def test_ratios_of_test_losses_are_bounded():
    flat = [4.0] * 5
    for test_loss, expected in ((0.0, 0.01), (1e-9, 0.01), (0.5, 0.5), (1e9, 100.0)):
        runs = [run("adam", SLOW), run("a", flat, test_loss=test_loss)]
        found = compared(runs)["summary"]["a"]["final_test_loss_ratio"]
        assert found == pytest.approx(expected)
    runs = [run("adam", SLOW, test_loss=0.0), run("a", flat, test_loss=0.0)]
    assert compared(runs)["summary"]["a"]["final_test_loss_ratio"] == 1


def test_without_a_test_curve_a_diverged_run_ends_at_its_initial_outer_valid_loss():
    wild = run("wild", [3.0, 9.0], diverged=True, test_curve=[])
    content = compared([run("adam", SLOW), wild])
    assert content["summary"]["wild"]["final_test_loss_ratio"] == pytest.approx(3.0)


def test_a_run_that_is_missing_is_an_error(two_tasks):
    with pytest.raises(TrainpilotError, match="given: 0 of fast on u with seed 1"):
        compared(two_tasks[:-1])
    with pytest.raises(TrainpilotError, match="given: 2 of fast on u with seed 1"):
        compared([*two_tasks, two_tasks[-1]])
    with pytest.raises(TrainpilotError, match="unknown kind of controller 'best'; allowed: policy"):
        compared(two_tasks, kinds={"fast": "best"})


def test_the_profile_compares_those_that_search_nothing_on_the_task():
    runs = [run("adam", SLOW), run("policy", MIDDLE), run("oracle", FAST), run("never", MISS)]
    kinds = {"policy": "policy", "oracle": "oracle"}
    summary = compared(runs, kinds)["summary"]
    assert summary["policy"]["algoperf_score"] == 1.0
    # 400 samples over the policy's 200.
    assert summary["adam"]["algoperf_score"] == pytest.approx(2 / 3)
    assert summary["adam"]["profile"]["adam_default"] == {
        "ratio": [1.0, 2.0, 4.0],
        "share": [0.0, 1.0, 1.0],
        "score": pytest.approx(2 / 3),
    }
    assert summary["never"]["algoperf_score"] == 0.0
    assert summary["oracle"]["algoperf_score"] is None
    assert summary["oracle"]["profile"] == {"adam_default": None}


def test_a_time_to_target_is_a_median_in_which_a_miss_is_infinite():
    adam = [run("adam", SLOW, seed) for seed in range(3)]
    most = [run("most", losses, seed) for seed, losses in enumerate((FAST, MISS, FAST))]
    few = [run("few", losses, seed) for seed, losses in enumerate((FAST, MISS, MISS))]
    summary = compared([*adam, *most, *few])["summary"]
    assert summary["most"]["algoperf_score"] == 1.0
    assert summary["few"]["algoperf_score"] == 0.0
    # 400 over 100: at the end of the range.
    assert summary["adam"]["profile"]["adam_default"]["share"] == [0.0, 1.0]


def test_searches_are_counted():
    searched = run("search", FAST, search_samples=3_900, configuration={"learning_rate": 0.1})
    content = compared([run("adam", SLOW), searched], {"search": "search"}, watts=50.0)
    summary = content["summary"]["search"]
    assert summary["speedup"]["adam_default"]["geomean"] == pytest.approx(4.0)
    assert summary["speedup_with_search"]["adam_default"] == pytest.approx(0.1)
    assert summary["search_samples"] == 3_900
    assert content["runs"][1]["configuration"] == {"learning_rate": 0.1}
    assert content["runs"][1]["energy_joules"] == 100.0


def test_what_is_written_is_read_back_the_same(tmp_path, two_tasks):
    wild = [
        run("wild", [4.0, math.inf, math.nan], seed, task, diverged=True, best_test_loss=None)
        for task in "tu"
        for seed in (0, 1)
    ]
    content = compared([*two_tasks, *wild])
    path = tmp_path / "results.json"
    write_json(path, content)
    assert read_json(path) == content
    row = next(row for row in content["runs"] if row["controller"] == "wild")
    assert row["final_test_loss"] is None
    assert row["curve"]["outer_valid_loss"] == [4.0, None, None]
    assert content["schema_version"] == 2
    assert content["settings"]["miss_budgets"] == 2


def test_the_tables_show_every_controller_best_first(two_tasks, capsys):
    content = compared(two_tasks, {"fast": "policy", "adam": "oracle"})
    print_summary(content)
    shown = capsys.readouterr().out
    assert shown.index("fast") < shown.index("adam ")
    assert "2 tasks, 2 seeds each" in shown
    line = next(line for line in shown.splitlines() if "fast" in line)
    low, high = vs_adam(content, "fast")["ci_low"], vs_adam(content, "fast")["ci_high"]
    for cell in ("1.19", f"{low:.2f} to {high:.2f}", "0.50 u", "50%", "0%"):
        assert cell in line
    assert "a miss counting as 2 budgets" in " ".join(shown.split())
    print_tasks(content)
    shown = capsys.readouterr().out
    assert "speed-up vs adam_default" in shown
    line = next(line for line in shown.splitlines() if "fast" in line)
    assert "2.83" in line
    assert "0.50" in line
