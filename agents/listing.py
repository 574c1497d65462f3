"""`trainpilot tasks` and `trainpilot controllers`: what there is."""

from __future__ import annotations

import json
from importlib.resources import files
from statistics import median_low
from typing import Any

from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table

from trainpilot.agents.progress import ProgressBar
from trainpilot.inner_tasks.catalogue import (
    load_task,
    option_names,
    suite_of_tasks,
    task_names,
)
from trainpilot.inner_tasks.describing import describe_model, n_parameters
from trainpilot.inner_tasks.errors import MissingDataError
from trainpilot.inner_tasks.family import TaskFamily
from trainpilot.inner_tasks.sources import SOURCES

#: Tasks of a family that are looked at.
_SAMPLE = 9


def task_entries() -> list[dict[str, Any]]:
    """What is known of every task that ships; nothing is downloaded for it.

    Returns:
        For each task `name`, `suite` (None for none), `modality`, `dataset`, `model`, `n_params`,
        `n_train`, `licence` and `note`. Where the data are not here, the note says why, and
        `model`, `n_params` and `n_train` are None unless they are known without the data, as
        those of the tasks that are downloaded are. Of a family the note says how many tasks it
        has. Else it is None.
    """
    suites, names = suite_of_tasks(), task_names()
    entries = []
    with ProgressBar("reading tasks", len(names)) as progress:
        for done, name in enumerate(names):
            progress.update(done, name)
            entries.append(_entry(name, suites.get(name)))
    return entries


def _entry(name: str, suite: str | None) -> dict[str, Any]:
    try:
        task = load_task(name, download=False)
    except MissingDataError as error:
        source = SOURCES[error.dataset]
        return {
            "name": name,
            "suite": suite,
            "modality": source.modality,
            "dataset": error.dataset,
            "model": None if error.model is None else describe_model(error.model),
            "n_params": None if error.model is None else n_parameters(error.model),
            "n_train": error.n_train,
            "licence": source.licence,
            "note": str(error),
        }
    if isinstance(task, TaskFamily):
        return _family_entry(task, suite)
    model = task.make_model()
    return {
        "name": name,
        "suite": suite,
        "modality": task.modality,
        "dataset": task.dataset,
        "model": describe_model(model),
        "n_params": n_parameters(model),
        "n_train": len(task.splits.train.inputs),
        # Of a task that need not be made of tensors.
        "licence": getattr(task, "licence", None),
        "note": None,
    }


def _family_entry(family: TaskFamily, suite: str | None) -> dict[str, Any]:
    """What is known of a family; sizes are the middle ones of a few of its tasks."""
    tasks = [family.task(number) for number in range(min(_SAMPLE, family.n_tasks))]
    return {
        "name": family.name,
        "suite": suite,
        "modality": family.modality,
        "dataset": family.dataset,
        "model": family.model,
        "n_params": median_low(n_parameters(task.make_model()) for task in tasks),
        "n_train": median_low(len(task.splits.train.inputs) for task in tasks),
        "licence": family.licence,
        "note": f"{family.n_tasks} tasks, drawn at random; sizes are the median of {len(tasks)}",
    }


def list_tasks(as_json: bool = False) -> None:
    """Print the tasks that ship.

    Args:
        as_json: as a JSON list of what `task_entries` gives, else as a table.
    """
    entries = task_entries()
    if as_json:
        print(json.dumps(entries, indent=2))
        return
    table = Table(title="tasks")
    for heading in ("task", "suite", "modality", "data", "model"):
        table.add_column(heading)
    for heading in ("parameters", "examples"):
        table.add_column(heading, justify="right")
    table.add_column("licence of the data")
    for entry in entries:
        table.add_row(
            entry["name"],
            entry["suite"] or "-",
            entry["modality"],
            entry["dataset"],
            entry["model"] or "-",
            *("-" if entry[key] is None else f"{entry[key]:,}" for key in ("n_params", "n_train")),
            entry["licence"] or "-",
        )
    _print(table)
    for entry in entries:
        if entry["note"]:
            print(f"{entry['name']}: {entry['note']}")


def list_controllers() -> None:
    """Print the controllers that ship, with what each is and its settings."""
    table = Table(title="controllers")
    for heading in ("controller", "what it is", "settings"):
        table.add_column(heading)
    folder = files("trainpilot.conf") / "controller"
    for name in option_names("controller"):
        text = (folder / f"{name}.yaml").read_text(encoding="utf-8")
        # Unresolved: the policy's path is an interpolation of the command's.
        content: Any = OmegaConf.to_container(OmegaConf.create(text), resolve=False)
        settings = content[name].items()
        shown = [f"{key}={value}" for key, value in settings if key != "_target_"]
        table.add_row(name, text.splitlines()[0].lstrip("# "), ", ".join(shown))
    _print(table)


def _print(table: Table) -> None:
    console = Console()
    (console if console.is_terminal else Console(width=160)).print(table)
