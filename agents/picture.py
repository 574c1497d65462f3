"""The picture of runs: loss and hyperparameters over samples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from trainpilot.agents.files import atomic_path
from trainpilot.agents.run import Run
from trainpilot.envs.optimizers import OPTIMIZER_NAMES


def draw_runs(path: Path, runs: Sequence[Run]) -> None:
    """Draw runs of one task with one seed, a line for each controller.

    Args:
        path: of the PNG, written atomically.
        runs: one for each controller.
    """
    found = {record["optimizer"] for run in runs for record in run.decisions}
    names = [name for name in OPTIMIZER_NAMES if name in found]
    figure = Figure(figsize=(10, 8), layout="constrained")
    loss, rate, optimizer = figure.subplots(3, 1, sharex=True, height_ratios=(3, 2, 1))
    for number, run in enumerate(runs):
        # The learned policy stands out; the others have the usual cycle of colours, then dashed.
        bold = run.controller == "policy"
        style = {
            "color": "black" if bold else f"C{number % 10}",
            "linestyle": "-" if bold else ("-", "--", ":")[number // 10 % 3],
            "linewidth": 2.5 if bold else 1.2,
            "zorder": 3 if bold else 2,
        }
        loss.plot(run.samples, run.outer_valid_loss, label=run.controller, **style)
        starts = run.samples[: len(run.decisions)]
        rates = [record["learning_rate"] for record in run.decisions]
        used = [names.index(record["optimizer"]) for record in run.decisions]
        rate.step(starts, rates, where="post", **style)
        # Controllers that use the same optimizer stand side by side, not over each other.
        offset = 0.6 * ((number + 0.5) / len(runs) - 0.5)
        optimizer.step(starts, [index + offset for index in used], where="post", **style)
    loss.set_yscale("log")
    rate.set_yscale("log")
    loss.set_ylabel("outer_valid loss")
    rate.set_ylabel("learning rate")
    optimizer.set_ylabel("optimizer")
    optimizer.set_yticks(range(len(names)), names)
    optimizer.set_ylim(-0.5, len(names) - 0.5)
    optimizer.set_xlabel("samples")
    loss.set_title(f"{runs[0].task}, seed {runs[0].seed}")
    figure.legend(*loss.get_legend_handles_labels(), loc="outside right upper", frameon=False)
    for axis in (loss, rate, optimizer):
        axis.grid(alpha=0.3)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120)
