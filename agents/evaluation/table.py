"""The tables of an evaluation, for a terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

#: References that speed-ups are shown against, beside `adam_default`.
_FURTHER = ("shared_cosine", "oracle_fixed")
_NONE = "-"


def print_summary(results: dict[str, Any]) -> None:
    """Print a line for each controller, best speed-up over `adam_default` first.

    Args:
        results: as `trainpilot.agents.evaluation.results.results` gives them, or as they are
            read from `results.json`.
    """
    settings = results["settings"]
    further = [name for name in _FURTHER if name in results["references"]]
    n_tasks, n_seeds = len(results["tasks"]), len({run["seed"] for run in results["runs"]})
    table = Table(title=f"{_count(n_tasks, 'task')}, {_count(n_seeds, 'seed')} each")
    table.add_column("controller", no_wrap=True)
    for heading in (
        "speed-up",
        "95 %",
        "worst task",
        "reached",
        *(f"vs {name}".replace("_", " ") for name in further),
        "AlgoPerf",
        "test loss",
        "diverged",
    ):
        table.add_column(heading, justify="right", no_wrap=heading in ("95 %", "worst task"))
    for name, entry in _best_first(results):
        speedup = entry["speedup"]["adam_default"]
        table.add_row(
            name,
            f"{speedup['geomean']:.2f}",
            _interval(speedup["ci_low"], speedup["ci_high"]),
            f"{speedup['worst']:.2f} {speedup['worst_task']}",
            f"{speedup['reached']:.0%}",
            *(f"{entry['speedup'][other]['geomean']:.2f}" for other in further),
            _NONE if entry["algoperf_score"] is None else f"{entry['algoperf_score']:.2f}",
            f"{entry['final_test_loss_ratio']:.2f}",
            f"{entry['divergence_rate']:.0%}",
            style=_style(entry),
        )
    console = _console()
    console.print(table)
    console.print(
        f"speed-up: samples that adam_default ({results['references']['adam_default']}) needs to "
        "its own final outer_valid loss, over the samples to that loss, a miss counting as "
        f"{settings['miss_budgets']:g} budgets (geometric mean; 95 %: with other seeds); reached: "
        "share of runs; AlgoPerf: score from 0 to 1 among those that search nothing on the task, "
        f"to the targets of {settings['algoperf_reference']}; test loss: final, over "
        "adam_default's."
    )


def print_tasks(results: dict[str, Any], reference: str = "adam_default") -> None:
    """Print every controller's speed-up on every task, best first as in `print_summary`.

    Args:
        results: likewise.
        reference: which of `references` (default: "adam_default").
    """
    tasks = [task["name"] for task in results["tasks"]]
    table = Table(title=f"speed-up vs {reference}, by task")
    table.add_column("controller", no_wrap=True)
    for task in tasks:
        # Spaces let a heading fold.
        table.add_column(task.replace("_", " "), justify="right", overflow="fold")
    for name, entry in _best_first(results):
        speedups = (entry["tasks"][task]["speedup"][reference] for task in tasks)
        table.add_row(name, *(f"{value:.2f}" for value in speedups), style=_style(entry))
    _console().print(table)


def _best_first(results: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    summary = results["summary"].items()
    return sorted(summary, key=lambda item: -item[1]["speedup"]["adam_default"]["geomean"])


def _style(entry: dict[str, Any]) -> str | None:
    return "bold" if entry["kind"] == "policy" else None


def _interval(low: float | None, high: float | None) -> str:
    return _NONE if low is None or high is None else f"{low:.2f} to {high:.2f}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=140)
