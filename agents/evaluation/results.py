"""The content of `results.json`, schema version 2 (docs/evaluation.md)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import product
from statistics import fmean
from typing import Any

from trainpilot.agents.evaluation.contenders import KINDS
from trainpilot.agents.evaluation.measures import MISS_BUDGETS, measure, target_of
from trainpilot.agents.evaluation.summary import summarise
from trainpilot.agents.files import finite
from trainpilot.agents.run import Run
from trainpilot.inner_tasks.errors import TrainpilotError, unknown

SCHEMA_VERSION = 2


def results(
    runs: Sequence[Run],
    tasks: Sequence[Mapping[str, Any]],
    controllers: Mapping[str, Mapping[str, str]],
    references: Mapping[str, str],
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """Measure finished runs and sum them up.

    Args:
        runs: of every controller, on every task with the same seeds.
        tasks: entries of `tasks`, in the order in which they are shown: `name` at least. `targets`
            is added to each.
        controllers: `kind` (one of `KINDS`) and `description`, by name, in the order in which
            they are shown.
        references: the controller that stands for each, `adam_default` among them.
        settings: `decisions` and `algoperf_reference` at least; `energy_watts`, the power for each
            process, None or absent where nobody knows. `miss_budgets` is added.

    Returns:
        What `write_json` writes, with None for numbers that are not finite: read back it is the
        same.

    Raises:
        TrainpilotError: if a controller lacks a run, has one twice, or is of no known kind.
    """
    names = [task["name"] for task in tasks]
    seeds = list(dict.fromkeys(run.seed for run in runs))
    _check(runs, names, seeds, controllers)
    by_key = {(run.task, run.seed, run.controller): run for run in runs}
    targets = {
        (task, seed): {
            reference: target_of(by_key[task, seed, controller])
            for reference, controller in references.items()
        }
        for task, seed in product(names, seeds)
    }
    rows = {
        controller: {
            task: [
                measure(
                    by_key[task, seed, controller],
                    targets[task, seed],
                    settings["decisions"],
                    settings.get("energy_watts"),
                )
                for seed in seeds
            ]
            for task in names
        }
        for controller in controllers
    }
    kinds = {name: entry["kind"] for name, entry in controllers.items()}
    described = [
        {
            **task,
            "targets": {
                reference: fmean(targets[task["name"], seed][reference].loss for seed in seeds)
                for reference in references
            },
        }
        for task in tasks
    ]
    content: dict[str, Any] = finite(
        {
            "schema_version": SCHEMA_VERSION,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "version": version("trainpilot"),
            "settings": {**settings, "miss_budgets": MISS_BUDGETS},
            "controllers": {name: dict(entry) for name, entry in controllers.items()},
            "references": dict(references),
            "tasks": described,
            "runs": [row for own in rows.values() for task in own.values() for row in task],
            "summary": summarise(rows, kinds, references, settings["algoperf_reference"]),
        }
    )
    return content


def _check(
    runs: Sequence[Run],
    tasks: Sequence[str],
    seeds: Sequence[int],
    controllers: Mapping[str, Mapping[str, str]],
) -> None:
    for entry in controllers.values():
        if entry["kind"] not in KINDS:
            raise unknown("kind of controller", entry["kind"], KINDS)
    # A run that is missing would make its controller look better than it is.
    found = Counter((run.task, run.seed, run.controller) for run in runs)
    expected = Counter(product(tasks, seeds, controllers))
    for task, seed, controller in (expected - found) + (found - expected):
        raise TrainpilotError(
            "every controller needs one run for each task and seed; given: "
            f"{found[task, seed, controller]} of {controller} on {task} with seed {seed}"
        )
