"""Pictures of an evaluation for documents."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from trainpilot.agents.evaluation.report.curves import quartile_curves
from trainpilot.agents.evaluation.report.findings import Findings
from trainpilot.agents.evaluation.report.lookup import (
    ADAM,
    by_speed,
    label,
    main_reference,
    speedup,
)
from trainpilot.agents.evaluation.report.reading import Results
from trainpilot.agents.evaluation.report.words import KINDS, RIVALS
from trainpilot.agents.files import atomic_path

_FORMATS = ("png", "svg")
_COLUMNS = 3
_MOST_LINES = 6
# Okabe and Ito's colours, which colour-blind readers can tell apart; black is the subject's.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_DASHES = ("-", "--", ":", "-.")


def draw_pictures(folder: Path, results: Results, findings: Findings) -> list[Path]:
    """Draw `speedups`, `curves` and `profile`, each as PNG and SVG, written atomically.

    Args:
        folder: where they go.
        results: of `read_results`.
        findings: of `find`.

    Returns:
        The files.
    """
    figures = {
        "speedups": _speedups(results, findings.subject),
        "curves": _curves(results, findings),
        "profile": _profile(results, findings),
    }
    paths = []
    # The same results give the same file: no date, no random identifiers.
    with mpl.rc_context({"svg.hashsalt": "trainpilot"}):
        for name, figure in figures.items():
            for kind in _FORMATS:
                path = folder / f"{name}.{kind}"
                metadata: Any = {"Date": None} if kind == "svg" else None
                with atomic_path(path) as temporary:
                    figure.savefig(temporary, dpi=150, metadata=metadata)
                paths.append(path)
    return paths


def _speedups(results: Results, subject: str) -> Figure:
    """A dot with its interval for each controller, the fastest at the top."""
    reference = main_reference(results)
    names = [
        name
        for name in by_speed(results, reference)
        if speedup(results, name, reference).get("geomean")
    ][::-1]
    figure = Figure(figsize=(8, 1.2 + 0.32 * len(names)), layout="constrained")
    axes = figure.subplots()
    axes.axvline(1, color="grey", linestyle="--", linewidth=1)
    for place, name in enumerate(names):
        own = speedup(results, name, reference)
        mean = own["geomean"]
        low, high = own["ci_low"] or mean, own["ci_high"] or mean
        colour = "black" if name == subject else _COLOURS[0]
        kind = KINDS.get(results["summary"][name]["kind"])
        # Who knows or pays more is hollow.
        axes.plot([low, high], [place, place], color=colour, linewidth=2.2, zorder=2)
        face = "white" if kind and kind.mark else colour
        axes.plot(mean, place, "o", color=colour, markerfacecolor=face, markersize=7, zorder=3)
    _log_scale(axes, "x")
    axes.set_yticks(range(len(names)), [_plain(_marked(results, name)) for name in names])
    for tick, name in zip(axes.get_yticklabels(), names, strict=True):
        tick.set_fontweight("bold" if name == subject else "normal")
    axes.set_xlabel(f"times as fast to the final loss of {_plain(label(reference))}")
    axes.grid(alpha=0.3, axis="x")
    return figure


def _curves(results: Results, findings: Findings) -> Figure:
    """Median and quartiles of the outer_valid loss, a panel for each task."""
    shown = _shown(results, findings)
    tasks = [task["name"] for task in results["tasks"]]
    n_columns = min(_COLUMNS, len(tasks))
    n_rows = -(-len(tasks) // n_columns)
    size = (max(6.0, 3.6 * n_columns), 2.7 * n_rows + 0.8)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(n_rows, n_columns, squeeze=False).ravel()
    for axes, task in zip(panels, tasks, strict=False):
        for name in shown:
            runs = [
                run for run in results["runs"] if (run["task"], run["controller"]) == (task, name)
            ]
            if not runs:
                continue
            samples, (low, middle, high) = quartile_curves(runs, "outer_valid_loss")
            style = _style(name, shown, findings.subject)
            axes.plot(samples, middle, label=_plain(name), **style)
            axes.fill_between(samples, low, high, color=style["color"], alpha=0.15, linewidth=0)
        _log_scale(axes, "y")
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.set_title(_plain(task), fontsize=10)
        axes.grid(alpha=0.3)
    for axes in panels[len(tasks) :]:
        axes.set_visible(False)
    figure.supxlabel("samples", fontsize=10)
    figure.supylabel("outer_valid loss", fontsize=10)
    _legend(figure, panels[0])
    return figure


def _profile(results: Results, findings: Findings) -> Figure:
    """The share of tasks that need at most so many times the samples of the fastest."""
    reference = main_reference(results)
    shown = _shown(results, findings)
    figure = Figure(figsize=(7, 4.6), layout="constrained")
    axes = figure.subplots()
    for name in shown:
        line = (results["summary"][name].get("profile") or {}).get(reference)
        if line:
            style = _style(name, shown, findings.subject)
            axes.step(line["ratio"], line["share"], where="post", label=_plain(name), **style)
    _log_scale(axes, "x")
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlabel("times the samples of the fastest")
    axes.set_ylabel(f"share of tasks at the final loss of\n{_plain(label(reference))}")
    axes.grid(alpha=0.3)
    _legend(figure, axes)
    return figure


def _shown(results: Results, findings: Findings) -> list[str]:
    """The controllers of a picture of lines: the subject, references, the fastest rivals.

    The subject comes last, over the others, and its best rival before it.
    """
    reference = main_reference(results)
    references = [results["references"].get(name) for name in (ADAM, "shared_cosine")]
    fastest = by_speed(results, reference)
    rivals = [name for name in fastest if results["summary"][name]["kind"] in RIVALS]
    wanted = [findings.rival, *references, *rivals, *fastest]
    others = [name for name in dict.fromkeys(wanted) if name in results["summary"]]
    others = [name for name in others if name != findings.subject][: _MOST_LINES - 1]
    return [*others[::-1], findings.subject]


def _style(name: str, shown: list[str], subject: str) -> dict[str, Any]:
    if name == subject:
        return {"color": "black", "linewidth": 2.5, "zorder": 3}
    place = shown.index(name)
    return {
        "color": _COLOURS[place % len(_COLOURS)],
        # Runs may coincide: what lies under dashes can still be seen.
        "linestyle": _DASHES[place % len(_DASHES)],
        "linewidth": 1.4,
        "zorder": 2,
    }


def _marked(results: Results, name: str) -> str:
    kind = KINDS.get(results["summary"][name]["kind"])
    return f"{name} ({kind.mark})" if kind and kind.mark else name


def _plain(text: str) -> str:
    """Text without formulas: matplotlib reads what stands between dollar signs as one."""
    return text.replace("$", r"\$")


def _log_scale(axes: Axes, which: Literal["x", "y"]) -> None:
    """A log scale with ticks as plain numbers: 1, 2, 5, 10."""
    # Without a number above 0 there is nothing to scale by.
    if not math.isfinite(axes.dataLim.minposx if which == "x" else axes.dataLim.minposy):
        return
    axes.set(**{f"{which}scale": "log"})
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_minor_locator(NullLocator())


def _legend(figure: Figure, axes: Axes) -> None:
    handles, names = axes.get_legend_handles_labels()
    if handles:
        # The subject is drawn last and named first.
        figure.legend(
            handles[::-1], names[::-1], loc="outside upper center", ncols=3, frameon=False
        )
