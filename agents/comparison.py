"""Measures of finished runs, and their summary for each controller: `results.json`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from statistics import fmean
from typing import Any

from trainpilot.agents.run import Run

SCHEMA_VERSION = 1

#: A run that never reaches its target counts as if it had needed this many budgets.
MISS_BUDGETS = 2.0


def samples_to_target(run: Run, target: float) -> float:
    """Samples after which the `outer_valid` loss first is at or below the target.

    Args:
        run: a finished run.
        target: the loss to reach.

    Returns:
        The samples; `MISS_BUDGETS` budgets for a run that never gets there, or that gets there
        and diverges afterwards.
    """
    if not run.diverged:
        for samples, loss in zip(run.samples, run.outer_valid_loss, strict=True):
            if loss <= target:
                # The initial weights themselves may do: one sample keeps ratios finite.
                return max(samples, 1)
    return MISS_BUDGETS * run.budget


def compare(runs: Sequence[Run], reference: str) -> dict[str, Any]:
    """The content of `results.json`.

    The speed-up of a run is the samples that the reference's run with the same seed needs to
    its own final `outer_valid` loss, over the samples that this run needs to that loss. A miss
    counts as `MISS_BUDGETS` budgets.

    Args:
        runs: every controller, the reference among them, on the same tasks with the same seeds.
        reference: name of the reference controller: Adam at its default of 1e-3, as the
            summary's key `speedup.adam_default` says.

    Returns:
        `schema_version`; `reference`; `runs`, each with its measures; `summary` by controller.
    """
    references = {(run.task, run.seed): run for run in runs if run.controller == reference}
    measured = [_measure(run, references[run.task, run.seed]) for run in runs]
    names = list(dict.fromkeys(run.controller for run in runs))
    return {
        "schema_version": SCHEMA_VERSION,
        "reference": reference,
        "miss_budgets": MISS_BUDGETS,
        "runs": measured,
        "summary": {
            name: _summarise([row for row in measured if row["controller"] == name])
            for name in names
        },
    }


def _measure(run: Run, reference: Run) -> dict[str, Any]:
    # A reference that diverged ends nowhere: what it had reached before stands in.
    reached = reference.outer_valid_loss
    target = min(reached) if reference.diverged else reached[-1]
    needed = samples_to_target(run, target)
    final = math.inf if run.diverged else run.outer_valid_loss[-1]
    return {
        "task": run.task,
        "controller": run.controller,
        "seed": run.seed,
        "diverged": run.diverged,
        "roll_backs": run.roll_backs,
        "target": target,
        "reached": needed <= run.budget,
        "samples_to_target": needed,
        "speedup": samples_to_target(reference, target) / needed,
        "final_outer_valid_loss": final,
        "final_test_loss": run.test_loss,
        "test_metrics": run.test_metrics,
        "switches": _switches(run),
        "curve": {
            "samples": run.samples,
            "valid_loss": run.valid_loss,
            "outer_valid_loss": run.outer_valid_loss,
        },
    }


def _switches(run: Run) -> int:
    """How often the optimizer was changed in mid-run; the choice at the start is none."""
    used = [record["optimizer"] for record in run.decisions]
    return sum(a != b for a, b in pairwise(used))


def _summarise(rows: list[dict[str, Any]]) -> dict[str, Any]:
    tasks = {
        task: _summarise_task([row for row in rows if row["task"] == task])
        for task in dict.fromkeys(row["task"] for row in rows)
    }
    geomeans = [task["speedup"] for task in tasks.values()]
    return {
        "speedup": {
            "adam_default": {
                "geomean": geometric_mean(geomeans),
                "worst": min(geomeans),
                "reached": fmean(row["reached"] for row in rows),
            }
        },
        "divergence_rate": fmean(row["diverged"] for row in rows),
        "roll_backs": fmean(row["roll_backs"] for row in rows),
        "tasks": tasks,
    }


def _summarise_task(rows: list[dict[str, Any]]) -> dict[str, Any]:
    metrics = dict.fromkeys(name for row in rows for name in row["test_metrics"])
    return {
        "final_test_loss": fmean(row["final_test_loss"] for row in rows),
        # A run that diverged has no metrics: none may be averaged as if it were not there.
        "test_metrics": {
            name: fmean(row["test_metrics"].get(name, math.nan) for row in rows) for name in metrics
        },
        "speedup": geometric_mean([row["speedup"] for row in rows]),
        "reached": fmean(row["reached"] for row in rows),
        "switches": fmean(row["switches"] for row in rows),
        "n_runs": len(rows),
    }


def geometric_mean(values: Sequence[float]) -> float:
    """The geometric mean of numbers above 0."""
    return math.exp(fmean(math.log(value) for value in values))
