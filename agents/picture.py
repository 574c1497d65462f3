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
    figure = Figure(figsize=(9, 8), layout="constrained")
    loss, rate, optimizer = figure.subplots(3, 1, sharex=True, height_ratios=(3, 2, 1))
    for number, run in enumerate(runs):
        # The learned policy stands out; the others keep the usual cycle of colours.
        bold = run.controller == "policy"
        style = {
            "color": "black" if bold else f"C{number % 10}",
            "linewidth": 2.5 if bold else 1.2,
            "zorder": 3 if bold else 2,
        }
        loss.plot(run.samples, run.outer_valid_loss, label=run.controller, **style)
        starts = run.samples[: len(run.decisions)]
        rates = [record["learning_rate"] for record in run.decisions]
        used = [OPTIMIZER_NAMES.index(record["optimizer"]) for record in run.decisions]
        rate.step(starts, rates, where="post", **style)
        # Controllers that use the same optimizer stand side by side, not over each other.
        offset = 0.6 * ((number + 0.5) / len(runs) - 0.5)
        optimizer.step(starts, [index + offset for index in used], where="post", **style)
    loss.set_yscale("log")
    rate.set_yscale("log")
    loss.set_ylabel("outer_valid loss")
    rate.set_ylabel("learning rate")
    optimizer.set_ylabel("optimizer")
    optimizer.set_yticks(range(len(OPTIMIZER_NAMES)), OPTIMIZER_NAMES)
    optimizer.set_ylim(-0.5, len(OPTIMIZER_NAMES) - 0.5)
    optimizer.set_xlabel("samples")
    loss.set_title(f"{runs[0].task}, seed {runs[0].seed}")
    loss.legend(loc="upper right", ncols=2)
    for axis in (loss, rate, optimizer):
        axis.grid(alpha=0.3)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120)
