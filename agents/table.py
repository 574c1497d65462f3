"""The table of an evaluation, for a terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table


def print_comparison(results: dict[str, Any]) -> None:
    """Print a table for each task, best speed-up first.

    Args:
        results: as `trainpilot.agents.comparison.compare` gives them.
    """
    summary = results["summary"]
    reference = results["reference"]
    console = Console()
    if not console.is_terminal:
        console = Console(width=100)
    for task in next(iter(summary.values()))["tasks"]:
        of_task = {name: entry["tasks"][task] for name, entry in summary.items()}
        n_runs = next(iter(of_task.values()))["n_runs"]
        metrics = list(
            dict.fromkeys(m for entry in of_task.values() for m in entry["test_metrics"])
        )
        table = Table(title=f"{task}: mean of {n_runs} runs")
        table.add_column("controller")
        for heading in ("test loss", *metrics, f"speed-up vs {reference}", "reached", "switches"):
            table.add_column(heading.replace("_", " "), justify="right")
        for name, entry in sorted(of_task.items(), key=lambda item: -item[1]["speedup"]):
            table.add_row(
                name,
                f"{entry['final_test_loss']:.4f}",
                *(f"{entry['test_metrics'].get(m, float('nan')):.3f}" for m in metrics),
                f"{entry['speedup']:.2f}",
                f"{entry['reached']:.0%}",
                f"{entry['switches']:.1f}",
                style="bold" if name == "policy" else None,
            )
        console.print(table)
    console.print(
        f"speed-up: samples that {reference} needs to its own final outer_valid loss, over the "
        f"samples to that loss; a miss counts as {results['miss_budgets']:g} budgets"
    )
