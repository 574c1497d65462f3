"""The report of an evaluation holds the numbers of its file, and says them straight."""

from __future__ import annotations

import copy
import json
import re
import sys

import numpy as np
import pytest
from evaluation_fixture import make_results

from trainpilot.agents import cli
from trainpilot.agents.evaluation.report.curves import quantiles, quartile_curves
from trainpilot.agents.evaluation.report.findings import find
from trainpilot.agents.evaluation.report.html_page import render_html
from trainpilot.agents.evaluation.report.markdown import render_markdown
from trainpilot.agents.evaluation.report.words import interval, number, percent, verdict
from trainpilot.agents.evaluation.report.writing import write_report

FILES = ["report.html", "report.md"]
FILES += [f"{name}.{kind}" for name in ("speedups", "curves", "profile") for kind in ("png", "svg")]
DATA = re.compile(r'<script type="application/json" id="data">(.*?)</script>', re.DOTALL)


@pytest.fixture(scope="module")
def shared_results():
    return make_results()


@pytest.fixture
def results(shared_results):
    return copy.deepcopy(shared_results)


def embedded(page):
    (text,) = DATA.findall(page)
    return json.loads(text)


def written(tmp_path, results):
    path = tmp_path / "results.json"
    path.write_text(json.dumps(results, allow_nan=False))
    return path


def test_the_page_holds_every_number_of_the_summary(results):
    data = embedded(render_html(results, find(results)))
    assert {line["name"] for line in data["controllers"]} == set(results["summary"])
    for line in data["controllers"]:
        expected = results["summary"][line["name"]]
        for key, value in expected.items():
            if isinstance(value, dict):
                assert same(line[key], value), (line["name"], key)
            else:
                assert line[key] == pytest.approx(value)
    speeds = [line["speedup"]["adam_default"]["geomean"] for line in data["controllers"]]
    assert speeds == sorted(speeds, reverse=True)


def same(given, expected):
    if isinstance(expected, dict):
        return given.keys() == expected.keys() and all(
            same(given[key], value) for key, value in expected.items()
        )
    if isinstance(expected, list):
        return all(same(a, b) for a, b in zip(given, expected, strict=True))
    return given == (pytest.approx(expected) if isinstance(expected, float) else expected)


def test_the_page_needs_no_network(results):
    page = render_html(results, find(results))
    assert "default-src 'none'" in page
    addresses = set(re.findall(r"https?://[^\s\"']+", page))
    assert addresses == {"http://www.w3.org/2000/svg"}
    assert "{{" not in DATA.sub("", page)


def test_the_text_has_a_line_for_each_controller_and_task(results):
    text = render_markdown(results, find(results))
    for name, line in results["summary"].items():
        own = line["speedup"]["adam_default"]
        (row,) = [row for row in text.splitlines() if re.match(rf"\| (\*\*)?{name}(\*\*)? \|", row)]
        assert number(own["geomean"]) in row
        assert interval(own["ci_low"], own["ci_high"]) in row
    for task in results["tasks"]:
        mean = results["summary"]["policy"]["tasks"][task["name"]]["speedup"]["adam_default"]
        assert re.search(rf"^\| {task['name']} \| {re.escape(number(mean))} \(", text, re.MULTILINE)


def test_the_headline_is_the_policy_with_its_uncertainty(results):
    own = results["summary"]["policy"]["speedup"]["adam_default"]
    own.update(geomean=3.8, ci_low=3.5, ci_high=4.1, reached=0.9912)
    assert find(results).headline == (
        "The policy reaches Adam's final loss 3.80 times as fast (95 % interval 3.50 to 4.10), "
        "in 99.1 % of runs, on 4 tasks."
    )


def test_no_loss_is_hidden(results):
    summary = results["summary"]
    summary["policy"]["speedup"]["oracle_fixed"].update(
        geomean=0.9, ci_low=0.85, ci_high=0.97, reached=0.96
    )
    summary["policy"]["speedup"]["adam_default"].update(geomean=3.0, ci_low=2.8, ci_high=3.1)
    summary["step_decay"]["speedup"]["adam_default"].update(geomean=4.0, ci_low=3.5, ci_high=4.5)
    summary["policy"]["speedup"]["adam_default"]["reached"] = 0.97
    paired = {"ratio": 0.8, "ci_low": 0.7, "ci_high": 0.9}
    summary["policy"]["against"]["step_decay"]["adam_default"] = paired
    for number_, task in enumerate(results["tasks"]):
        for name in ("policy", "step_decay", "adam"):
            summary[name]["tasks"][task["name"]]["speedup"]["adam_default"] = 2.0
        summary["adam"]["tasks"][task["name"]]["final_test_loss"] = 0.5
        own = summary["policy"]["tasks"][task["name"]]
        own["final_test_loss"] = [0.4, 0.6, None, 0.5][number_]
    summary["step_decay"]["tasks"]["digits_cnn"]["speedup"]["adam_default"] = 5.0
    summary["policy"]["tasks"]["digits_mlp"]["divergence_rate"] = 0.25
    found = find(results)
    assert found.rival == "step_decay"
    comparison = " ".join(found.comparison)
    assert "step_decay, has 4.00 (3.50 to 4.50), ahead of it with 3.00" in comparison
    assert "; run by run the policy is 0.800 times as fast (95 % interval 0.700 to 0.900): slo" in (
        comparison
    )
    assert "0.900 times as fast (95 % interval 0.850 to 0.970): slower" in comparison
    shortfalls = " ".join(found.shortfalls)
    assert "On 1 of 4 tasks" in shortfalls
    assert "digits_cnn (step_decay 5.00 against 2.00)" in shortfalls
    assert "mnist_cnn (reached in 67 %)" in shortfalls
    assert "diverged, on digits_mlp (25 %)" in shortfalls
    assert "code_transformer (0.600, Adam 0.500) and digits_cnn (none" in shortfalls


def test_test_losses_are_held_against_the_best_rival_of_each_task(results):
    summary = results["summary"]
    for place, task in enumerate(results["tasks"]):
        for name in summary:
            summary[name]["tasks"][task["name"]]["final_test_loss"] = 0.5
        summary["policy"]["tasks"][task["name"]]["final_test_loss"] = [0.4, 0.6, None, 0.5][place]
        # Who knows or costs more, and the policy's own ablations, are no rivals.
        for name in ("oracle_fixed", "random_search_8", "policy_open_loop"):
            summary[name]["tasks"][task["name"]]["final_test_loss"] = 0.1
    summary["step_decay"]["tasks"]["code_transformer"]["final_test_loss"] = 0.3
    said = find(results).shortfalls[-1]
    assert said == (
        "On 2 of 4 tasks the best rival on equal terms by test loss ends lower, the widest gap "
        "first: digits_cnn (-, step_decay 0.500) and code_transformer (0.600, step_decay 0.300)."
    )
    for task in results["tasks"]:
        summary["policy"]["tasks"][task["name"]]["final_test_loss"] = 0.2
    assert find(results).shortfalls[-1] == (
        "On none of 4 tasks does a rival on equal terms end at a lower mean test loss."
    )


@pytest.mark.parametrize(
    ("low", "high", "reached", "said"),
    [
        (0.8, 0.9, 0.95, "slower"),
        (1.1, 1.2, 1.0, "faster"),
        (0.9, 1.1, 1.0, "no clear difference"),
        (0.8, 0.9, 0.94, "no verdict, as too few runs get there"),
        (1.1, 1.2, 0.5, "no verdict, as too few runs get there"),
        (1.1, 1.2, None, "no verdict, as too few runs get there"),
        (None, None, 1.0, "nothing is known of chance"),
    ],
)
def test_a_verdict_needs_runs_that_reach_the_target(low, high, reached, said):
    assert verdict(low, high, reached) == said


def test_a_worst_task_with_misses_is_not_called_slower(results):
    own = results["summary"]["policy"]
    own["speedup"]["adam_default"] |= {"worst": 0.8, "worst_task": "digits_cnn"}
    for reached, end in ((1.0, "at 0.800, slower than Adam's default."), (0.9, "at 0.800.")):
        own["tasks"]["digits_cnn"]["reached"]["adam_default"] = reached
        assert f"Its worst task is digits_cnn, {end}" in find(results).shortfalls


@pytest.mark.parametrize(
    ("low", "high", "reached", "said"),
    [
        (1.01, 1.2, 1.0, "what it observes makes it faster"),
        (0.98, 1.2, 1.0, "that what it observes is worth anything does not show here"),
        (0.8, 0.99, 1.0, "what it observes makes it slower"),
        (0.8, 0.99, 0.9, "that what it observes is worth anything does not show here"),
    ],
)
def test_what_feedback_is_worth_is_said_of_pairs_of_runs(results, low, high, reached, said):
    # Intervals of each that overlap say nothing: the runs are paired.
    own = {"geomean": 3.0, "ci_low": 2.0, "ci_high": 4.0, "reached": reached}
    for name in ("policy", "policy_open_loop"):
        results["summary"][name]["speedup"]["adam_default"] |= own
    results["summary"]["policy"]["against"]["policy_open_loop"]["adam_default"] = {
        "ratio": 1.0, "ci_low": low, "ci_high": high,
    }  # fmt: skip
    (sentence,) = [each for each in find(results).comparison if "without feedback" in each]
    assert "average schedule over all tasks" in sentence
    assert sentence.endswith(f"{said}.")


def test_results_of_before_without_pairs_have_no_verdict_on_them(results):
    del results["summary"]["policy"]["against"]
    comparison = " ".join(find(results).comparison)
    assert "Its best rival, step_decay" in comparison
    assert "run by run" not in comparison


def test_searches_oracles_and_ablations_are_no_rivals(results):
    for name in ("random_search_8", "oracle_fixed", "policy_open_loop"):
        results["summary"][name]["speedup"]["adam_default"]["geomean"] = 99.0
        for task in results["tasks"]:
            results["summary"][name]["tasks"][task["name"]]["speedup"]["adam_default"] = 99.0
    found = find(results)
    assert found.rival == "step_decay"
    others = [each for each in found.comparison if "without feedback" not in each]
    assert "99.0" not in " ".join([*others, *found.shortfalls])
    text = render_markdown(results, found)
    for mark in ("search, costs more", "oracle, knows more", "| ablation |"):
        assert mark in text


def test_without_a_policy_the_headline_is_of_the_best_heuristic(tmp_path):
    results = make_results(without=("policy", "policy_open_loop"))
    found = find(results)
    assert found.subject == "step_decay"
    assert found.headline.startswith("No policy took part; the fastest heuristic, step_decay,")
    assert [path.name for path in write_report(written(tmp_path, results))] == FILES


@pytest.mark.parametrize(("n_tasks", "n_seeds"), [(1, 1), (1, 3), (2, 1)])
def test_one_task_or_one_seed(tmp_path, n_tasks, n_seeds):
    results = make_results(n_tasks=n_tasks, n_seeds=n_seeds)
    found = find(results)
    assert f"on {n_tasks} task{'s' * (n_tasks > 1)}." in found.headline
    assert any("one seed only" in text for text in found.comparison) == (n_seeds == 1)
    paths = write_report(written(tmp_path, results), tmp_path / "out")
    assert all(path.stat().st_size > 500 for path in paths)


def test_names_are_no_markup(tmp_path):
    evil = "<script>alert(1)</script>"
    results = make_results(n_tasks=2, task_names=(evil, "a|b$x_$ {{data}}"))
    results["controllers"]["policy"]["description"] = "</script><img src=x onerror=alert(2)>"
    page = render_html(results, find(results))
    assert evil not in page
    assert "<img" not in page
    assert [task["name"] for task in embedded(page)["tasks"]] == [evil, "a|b$x_$ {{data}}"]
    text = render_markdown(results, find(results))
    assert "<script>" not in text
    rows = [line for line in text.splitlines() if line.startswith("| a")]
    assert any(row.startswith("| a\\|b\\$x\\_\\$ ") for row in rows)
    assert len(write_report(written(tmp_path, results))) == len(FILES)


def test_every_number_may_be_missing(tmp_path, results):
    def emptied(data):
        if isinstance(data, dict):
            return {key: emptied(value) for key, value in data.items()}
        return None if isinstance(data, float) else data

    results["summary"] = emptied(results["summary"])
    for run in results["runs"]:
        run["curve"]["outer_valid_loss"] = [None] * len(run["curve"]["outer_valid_loss"])
    found = find(results)
    assert "has no speed-up" in found.headline
    assert len(write_report(written(tmp_path, results))) == len(FILES)


def test_thirty_controllers_stay_small():
    results = make_results(n_tasks=2, n_controllers=15, n_seeds=10, decisions=30)
    page = render_html(results, find(results))
    # Ten tasks and twice the controllers may take 6 MB.
    assert len(page.encode()) < 600_000


def test_quantiles_know_infinity():
    rows = np.array([[1.0, 1.0, np.nan], [2.0, np.inf, np.nan], [4.0, np.inf, 5.0]])
    low, middle, high = quantiles(rows, (0.25, 0.5, 1.0))
    np.testing.assert_equal(low, [1.5, np.nan, 5.0])
    np.testing.assert_equal(middle, [2.0, np.nan, 5.0])
    np.testing.assert_equal(high, [4.0, np.nan, 5.0])
    finite = np.random.default_rng(0).normal(size=(7, 5))
    shares = (0.25, 0.5, 0.75)
    np.testing.assert_allclose(quantiles(finite, shares), np.quantile(finite, shares, axis=0))


def test_quantiles_of_nothing_but_infinities_are_unknown():
    assert np.isnan(quantiles(np.full((4, 1), np.inf), (0.3, 0.5))).all()


def test_a_run_that_diverged_stays_in_the_quartiles_as_the_worst():
    def run(samples, losses, diverged):
        return {"diverged": diverged, "curve": {"samples": samples, "loss": losses}}

    survivors = [run([0, 10, 20], [3.0, 2.0, 1.0], False)] * 2
    lost = [run([0, 10], [3.0, None], True)] * 3
    samples, (low, middle, high) = quartile_curves([*survivors, *lost], "loss")
    assert samples == [0, 10, 20]
    np.testing.assert_equal(low, [3.0, 2.0, 1.0])
    np.testing.assert_equal(middle, [3.0, np.nan, np.nan])
    np.testing.assert_equal(high, [3.0, np.nan, np.nan])
    # One that merely ends early keeps what it had.
    _, (_, middle, _) = quartile_curves([run([0, 10], [3.0, 2.0], False), survivors[0]], "loss")
    np.testing.assert_equal(middle, [3.0, 2.0, 1.5])


def test_numbers_as_text():
    assert [number(value) for value in (3.756, 0.05, 12345.6, 0, None)] == [
        "3.76",
        "0.0500",
        "12,346",
        "0",
        "-",
    ]
    # All and none are said only of all and none.
    shares = (0, 0.0001, 0.004, 0.5, 0.996, 0.9999, 1, None)
    shown = ["0 %", "0.1 %", "0.4 %", "50 %", "99.6 %", "99.9 %", "100 %", "-"]
    assert [percent(share) for share in shares] == shown


def run_cli(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["trainpilot", "report", *map(str, arguments)])
    code = 0
    try:
        cli.main()
    except SystemExit as end:
        code = end.code
    return code, capsys.readouterr().err


def test_the_command_leaves_all_files(monkeypatch, capsys, tmp_path, results):
    path = written(tmp_path, results)
    code, said = run_cli(monkeypatch, capsys, path, "--out", tmp_path / "new" / "folder")
    assert code == 0
    assert "report.html" in said
    assert sorted(left.name for left in (tmp_path / "new/folder").iterdir()) == sorted(FILES)
    assert [left.name for left in tmp_path.glob("*.*")] == ["results.json"]


MISTAKES = [
    (None, "the path of a results.json is needed; given: .*, where there is none"),
    ("{", "a whole JSON file is needed; given: .*, damaged"),
    ("[]", "schema version 2 is needed; given: .*, without a version"),
    ('{"schema_version": 1}', "schema version 2 is needed; given: .*, of version 1"),
    ('{"schema_version": 2}', "results.json must hold 'settings', a dict; given: .*, without"),
]


@pytest.mark.parametrize(("content", "message"), MISTAKES, ids=lambda value: str(value)[:20])
def test_a_mistake_is_one_sentence_and_leaves_nothing(
    monkeypatch, capsys, tmp_path, content, message
):
    path = tmp_path / "results.json"
    if content is not None:
        path.write_text(content)
    code, said = run_cli(monkeypatch, capsys, path)
    assert code == 2
    assert re.fullmatch(f"trainpilot report: .*{message}\n", said), said
    assert set(tmp_path.iterdir()) <= {path}


def test_a_missing_path_is_one_sentence(monkeypatch, capsys):
    code, said = run_cli(monkeypatch, capsys)
    assert code == 2
    assert re.fullmatch("trainpilot report: .*results\n", said), said
