"""What the runs of a controller come to: its entry of `summary` in `results.json`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, median
from typing import Any

import numpy as np

from trainpilot.agents.evaluation.profile import performance_profiles
from trainpilot.agents.evaluation.statistics import (
    geometric_mean,
    interquartile_mean,
    interval_over_seeds,
    interval_over_tasks,
    probability_of_improvement,
)

#: Kinds of controllers that performance profiles compare: what is chosen before a task is met.
#: Samples of the others do not say what they cost.
RIVALS = ("policy", "heuristic", "adaptive", "shared")

#: Ratios of test losses are held within these: either loss may be all but zero.
LEAST_RATIO, GREATEST_RATIO = 1e-2, 1e2

Row = dict[str, Any]
#: The runs of one controller, by task and then by seed.
Rows = Mapping[str, Sequence[Row]]


def summarise(
    rows: Mapping[str, Rows],
    kinds: Mapping[str, str],
    references: Mapping[str, str],
    algoperf_reference: str,
) -> dict[str, dict[str, Any]]:
    """The content of `summary`.

    Args:
        rows: by controller, then by task: measured runs (`measures.measure`) in the order of
            their seeds, which are the same for every controller.
        kinds: by controller.
        references: the controller that stands for each, `adam_default` among them.
        algoperf_reference: the reference whose targets `algoperf_score` is for.

    Returns:
        By controller (docs/evaluation.md).
    """
    rivals = [name for name in rows if kinds[name] in RIVALS]
    profiles = {
        reference: performance_profiles(
            {name: [_time(runs, reference) for runs in rows[name].values()] for name in rivals}
        )
        if rivals
        else {}
        for reference in references
    }
    default = rows[references["adam_default"]]
    summary = {}
    for name, own in rows.items():
        profile = {reference: found.get(name) for reference, found in profiles.items()}
        scored = profile[algoperf_reference]
        every = [row for runs in own.values() for row in runs]
        summary[name] = {
            "kind": kinds[name],
            "speedup": {
                reference: _speedup(own, rows[controller], reference)
                for reference, controller in references.items()
            },
            "speedup_with_search": {
                reference: geometric_mean(_logs(own, reference, "speedup_with_search"))
                for reference in references
            },
            "against": {
                other: {reference: _against(own, theirs, reference) for reference in references}
                for other, theirs in rows.items()
                if kinds[name] == "policy" and other != name
            },
            "algoperf_score": None if scored is None else scored["score"],
            "profile": profile,
            "divergence_rate": fmean(row["diverged"] for row in every),
            **{
                measure: fmean(row[measure] for row in every)
                for measure in ("roll_backs", "switches", "seconds", "search_samples")
            },
            "final_test_loss_ratio": _test_loss_ratio(own, default),
            "tasks": {task: _summarise_task(runs, references) for task, runs in own.items()},
        }
    return summary


def _logs(own: Rows, reference: str, measure: str = "speedup") -> list[np.ndarray]:
    return [np.log([row["to_target"][reference][measure] for row in runs]) for runs in own.values()]


def _samples(own: Rows, reference: str) -> list[np.ndarray]:
    return [np.array([row["to_target"][reference]["samples"] for row in of]) for of in own.values()]


def _speedup(own: Rows, other: Rows, reference: str) -> dict[str, Any]:
    logs = _logs(own, reference)
    by_task = {task: geometric_mean([each]) for task, each in zip(own, logs, strict=True)}
    worst = min(by_task, key=by_task.__getitem__)
    low, high = interval_over_seeds(logs)
    tasks_low, tasks_high = interval_over_tasks(logs)
    probability, (probability_low, probability_high) = probability_of_improvement(
        _samples(own, reference), _samples(other, reference)
    )
    return {
        "geomean": geometric_mean(logs),
        "ci_low": low,
        "ci_high": high,
        "tasks_ci_low": tasks_low,
        "tasks_ci_high": tasks_high,
        "iqm": interquartile_mean(logs),
        "probability_of_improvement": probability,
        "probability_ci_low": probability_low,
        "probability_ci_high": probability_high,
        "worst": by_task[worst],
        "worst_task": worst,
        "reached": fmean(_reached(runs, reference) for runs in own.values()),
    }


def _against(own: Rows, other: Rows, reference: str) -> dict[str, Any]:
    """A controller's speed-up over another's, pairs of runs of the same task and seed resampled."""
    pairs = zip(_logs(own, reference), _logs(other, reference), strict=True)
    logs = [ours - theirs for ours, theirs in pairs]
    low, high = interval_over_seeds(logs)
    return {"ratio": geometric_mean(logs), "ci_low": low, "ci_high": high}


def _reached(runs: Sequence[Row], reference: str) -> float:
    return fmean(row["to_target"][reference]["reached"] for row in runs)


def _time(runs: Sequence[Row], reference: str) -> float:
    """A controller's samples to target on a task; infinite where half of the runs miss it."""
    entries = [row["to_target"][reference] for row in runs]
    return median(entry["samples"] if entry["reached"] else math.inf for entry in entries)


def _test_loss_ratio(own: Rows, default: Rows) -> float:
    ratios = [
        [
            min(max(_test_loss(row) / _test_loss(other), LEAST_RATIO), GREATEST_RATIO)
            for row, other in zip(runs, default[task], strict=True)
        ]
        for task, runs in own.items()
    ]
    return geometric_mean([np.log(task) for task in ratios])


def _test_loss(row: Row) -> float:
    """The final test loss; that of the initial weights for a run that has none."""
    loss = row["final_test_loss"]
    if not math.isfinite(loss):
        curve = row["curve"]
        loss = (curve["test_loss"] or curve["outer_valid_loss"])[0]
    # Nothing is divided by 0, and two losses of 0 are the same.
    return float(max(loss, np.finfo(np.float32).tiny))


def _summarise_task(runs: Sequence[Row], references: Mapping[str, str]) -> dict[str, Any]:
    metrics = dict.fromkeys(name for row in runs for name in row["test_metrics"])
    best = [row["best_test_loss"] for row in runs]
    return {
        "final_test_loss": fmean(row["final_test_loss"] for row in runs),
        "best_test_loss": None if None in best else fmean(best),
        # A run that diverged has no metrics: none may be averaged as if it were not there.
        "test_metrics": {
            name: fmean(row["test_metrics"].get(name, math.nan) for row in runs) for name in metrics
        },
        "speedup": {
            reference: geometric_mean(
                [np.log([row["to_target"][reference]["speedup"] for row in runs])]
            )
            for reference in references
        },
        "reached": {reference: _reached(runs, reference) for reference in references},
        "divergence_rate": fmean(row["diverged"] for row in runs),
        "n_runs": len(runs),
    }
