"""`trainpilot tasks` and `trainpilot controllers`: what there is."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table

from trainpilot.inner_tasks.catalogue import (
    load_task,
    option_names,
    suite_of_tasks,
    task_names,
)
from trainpilot.inner_tasks.describing import describe_model, n_parameters
from trainpilot.inner_tasks.errors import MissingDataError
from trainpilot.inner_tasks.protocol import InnerTask
from trainpilot.inner_tasks.sources import SOURCES


def task_entries() -> list[dict[str, Any]]:
    """What is known of every task that ships; nothing is downloaded for it.

    Returns:
        For each task `name`, `suite` (None for none), `modality`, `dataset`, `model`, `n_params`,
        `n_train`, `licence` and `note`. Where the data are not here, `model`, `n_params` and
        `n_train` are None and the note says why; else it is None.
    """
    suites = suite_of_tasks()
    return [_entry(name, suites.get(name)) for name in task_names()]


def _entry(name: str, suite: str | None) -> dict[str, Any]:
    task: InnerTask | None = None
    dataset, note = None, None
    try:
        task = load_task(name, download=False)
        dataset = task.dataset
    except MissingDataError as error:
        dataset, note = error.dataset, str(error)
    model = task.make_model() if task is not None else None
    source = SOURCES[dataset]
    return {
        "name": name,
        "suite": suite,
        "modality": source.modality,
        "dataset": dataset,
        "model": None if model is None else describe_model(model),
        "n_params": None if model is None else n_parameters(model),
        "n_train": None if task is None else len(task.splits.train.inputs),
        "licence": source.licence,
        "note": note,
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
            entry["licence"],
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
