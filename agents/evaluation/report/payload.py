"""What the page draws from: `results.json` with quartiles for seeds and short numbers."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

from trainpilot.agents.evaluation.report.curves import quartile_curves
from trainpilot.agents.evaluation.report.findings import Findings
from trainpilot.agents.evaluation.report.lookup import (
    by_speed,
    label,
    main_reference,
)
from trainpilot.agents.evaluation.report.reading import Results
from trainpilot.agents.evaluation.report.words import DECISIVE, KINDS, MEASURES

#: What the curves can show, and what a diverged run counts as.
CURVES = {
    "outer_valid_loss": math.inf,
    "valid_loss": math.inf,
    "test_loss": math.inf,
    "test_accuracy": 0.0,
}
Run = dict[str, Any]


def payload(results: Results, findings: Findings) -> dict[str, Any]:
    """The data of the page, ready for JSON: curves have 4 significant digits.

    Returns:
        `subject`, `rival`, `reference` (that of the headline), `decisive`, `references`, `kinds`,
        `measures`, `controllers` (fastest first, each with its summary), `tasks`, `optimizers`,
        `settings`, and `runs`, by task and controller: `curves` (quartiles), `schedule` (by seed)
        and `seeds`.
    """
    optimizers = sorted(
        {
            name
            for run in results["runs"]
            for name in run["curve"].get("optimizer") or ()
            if name is not None
        }
    )
    groups: dict[str, dict[str, list[Run]]] = defaultdict(lambda: defaultdict(list))
    for run in results["runs"]:
        groups[run["task"]][run["controller"]].append(run)
    reference = main_reference(results)
    data = {
        "subject": findings.subject,
        "rival": findings.rival,
        "reference": reference,
        "decisive": DECISIVE,
        "references": [
            {"name": name, "label": label(name), "controller": controller}
            for name, controller in results["references"].items()
        ],
        "kinds": {
            name: {"label": kind.label, "note": kind.note, "mark": kind.mark}
            for name, kind in KINDS.items()
        },
        "measures": {
            name: {"label": heading, "note": note} for name, (heading, note) in MEASURES.items()
        },
        "controllers": [
            {
                "name": name,
                "description": results["controllers"].get(name, {}).get("description", ""),
                **results["summary"][name],
            }
            for name in by_speed(results, reference)
        ],
        "tasks": results["tasks"],
        "optimizers": optimizers,
        "settings": results["settings"],
        "runs": {
            task: {name: _group(runs, optimizers) for name, runs in by_name.items()}
            for task, by_name in groups.items()
        },
    }
    # Curves have fewer digits than the table, whose numbers are rounded again as they are shown.
    return {key: short(value, 4 if key == "runs" else 7) for key, value in data.items()}


def short(data: Any, digits: int) -> Any:
    """The same data with floats of some significant digits; those not finite become None."""
    if isinstance(data, dict):
        return {key: short(value, digits) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [short(value, digits) for value in data]
    if isinstance(data, float):
        if not math.isfinite(data):
            return None
        value = float(f"{data:.{digits}g}")
        return int(value) if value.is_integer() else value
    return data


def _group(runs: list[Run], optimizers: list[str]) -> dict[str, Any]:
    """All seeds of a task and controller."""
    curves = {}
    samples: list[int] = []
    for measure, worst in CURVES.items():
        samples, quartiles = quartile_curves(runs, measure, worst)
        curves[measure] = quartiles.tolist()
    return {
        "samples": samples,
        "curves": curves,
        "schedule": {
            "learning_rate": _alike([run["curve"].get("learning_rate") or [] for run in runs]),
            "batch_size": _alike([run["curve"].get("batch_size") or [] for run in runs]),
            "optimizer": _alike(
                [
                    [
                        None if name is None else optimizers.index(name)
                        for name in run["curve"].get("optimizer") or ()
                    ]
                    for run in runs
                ]
            ),
        },
        "seeds": [
            {
                "seed": run["seed"],
                "diverged": run["diverged"],
                "speedup": {name: goal["speedup"] for name, goal in run["to_target"].items()},
                "reached": {name: goal["reached"] for name, goal in run["to_target"].items()},
            }
            for run in runs
        ],
    }


def _alike(rows: list[list[Any]]) -> list[list[Any]]:
    """One row where all seeds have the same: most schedules do not look at the run."""
    return rows[:1] if all(row == rows[0] for row in rows) else rows
