"""`trainpilot tasks` and `trainpilot controllers`: what there is."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table

from trainpilot.inner_tasks.catalogue import load_task, option_names, task_names


def list_tasks() -> None:
    """Print the tasks that ship, with their data, model size and suite."""
    suites = _suites()
    table = Table(title="tasks")
    for heading in ("task", "suite", "modality", "data", "train examples", "parameters"):
        table.add_column(heading)
    for name in task_names():
        task = load_task(name)
        parameters = sum(parameter.numel() for parameter in task.make_model().parameters())
        table.add_row(
            name,
            suites.get(name, "-"),
            task.modality,
            task.dataset,
            f"{len(task.splits.train.inputs):,}",
            f"{parameters:,}",
        )
    _print(table)


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


def _suites() -> dict[str, str]:
    """The suite of each task that is in one."""
    suites = {}
    for name in option_names("suite"):
        text = (files("trainpilot.conf") / "suite" / f"{name}.yaml").read_text(encoding="utf-8")
        for default in OmegaConf.create(text).defaults:
            suites[str(next(iter(default.values())))] = name
    return suites


def _print(table: Table) -> None:
    console = Console()
    (console if console.is_terminal else Console(width=120)).print(table)
