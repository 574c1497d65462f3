"""Where a controller loses, in sentences."""

from __future__ import annotations

import math
from typing import Any

from trainpilot.agents.evaluation.report.lookup import ADAM, called, label, speedup
from trainpilot.agents.evaluation.report.reading import Results
from trainpilot.agents.evaluation.report.words import DECISIVE, listed, number, percent, plural


def shortfalls(results: Results, subject: str, rivals: list[str], reference: str) -> list[str]:
    """Sentences on where a controller loses, worst first in each.

    Args:
        results: of `read_results`.
        subject: the controller.
        rivals: those on equal terms.
        reference: whose final loss is to be reached.
    """
    who = called(results, subject)
    who = who[0].upper() + who[1:]
    tasks = results["summary"][subject]["tasks"]
    return [
        _behind(results, subject, rivals, reference),
        *_worst(results, subject, reference),
        _misses(tasks, who, reference),
        _divergences(results["summary"][subject], tasks),
        *_test_losses(results, subject),
        *_test_losses_of_rivals(results, subject, rivals),
    ]


def _behind(results: Results, subject: str, rivals: list[str], reference: str) -> str:
    summary = results["summary"]
    lost = []
    for task, own in summary[subject]["tasks"].items():
        others = {
            name: summary[name]["tasks"].get(task, {}).get("speedup", {}).get(reference)
            for name in rivals
        }
        known = {name: value for name, value in others.items() if value is not None}
        mine = own["speedup"].get(reference)
        if not known:
            continue
        best = max(known, key=lambda name: known[name])
        if mine is None or known[best] > mine:
            gap = known[best] / mine if mine else float("inf")
            lost.append((gap, f"{task} ({best} {number(known[best])} against {number(mine)})"))
    if not rivals:
        return "No rival on equal terms took part."
    n_tasks = plural(len(summary[subject]["tasks"]), "task")
    if not lost:
        return f"On none of {n_tasks} is a rival on equal terms faster."
    lost.sort(key=lambda pair: -pair[0])
    return (
        f"On {len(lost)} of {n_tasks} at least one rival on equal terms is faster, "
        f"the widest gap first: {listed([text for _, text in lost])}."
    )


def _worst(results: Results, subject: str, reference: str) -> list[str]:
    own = speedup(results, subject, reference)
    if own.get("worst") is None:
        return []
    of_task = results["summary"][subject]["tasks"][own["worst_task"]]
    sure = (of_task["reached"].get(reference) or 0) >= DECISIVE
    slower = f", slower than {label(reference)}" if own["worst"] < 1 and sure else ""
    return [f"Its worst task is {own['worst_task']}, at {number(own['worst'])}{slower}."]


def _misses(tasks: dict[str, Any], who: str, reference: str) -> str:
    missed = [
        f"{task} (reached in {percent(own['reached'].get(reference))})"
        for task, own in tasks.items()
        if own["reached"].get(reference) is not None and own["reached"][reference] < 1
    ]
    if not missed:
        return f"{who} reaches the final loss of {label(reference)} in every run."
    return f"Some runs never reach the final loss of {label(reference)}: {listed(missed)}."


def _divergences(line: dict[str, Any], tasks: dict[str, Any]) -> str:
    backs = f"{number(line.get('roll_backs'), 2)} roll-backs a run on average"
    lost = [
        f"{task} ({percent(own['divergence_rate'])})"
        for task, own in tasks.items()
        if own.get("divergence_rate")
    ]
    if not lost:
        return f"No run of it diverged, with {backs}."
    return f"{percent(line['divergence_rate'])} of its runs diverged, on {listed(lost)}; {backs}."


def _test_losses(results: Results, subject: str) -> list[str]:
    adam = results["references"].get(ADAM)
    if adam is None or adam == subject or adam not in results["summary"]:
        return []
    worse = []
    theirs = results["summary"][adam]["tasks"]
    for task, own in results["summary"][subject]["tasks"].items():
        mine, other = own["final_test_loss"], theirs.get(task, {}).get("final_test_loss")
        if other is not None and (mine is None or mine > other):
            mine_text = "none, as a run ended without one" if mine is None else number(mine)
            worse.append(f"{task} ({mine_text}, Adam {number(other)})")
    if not worse:
        return ["On no task is its mean final test loss above that of Adam's default."]
    return [f"Its mean final test loss is above that of Adam's default on {listed(worse)}."]


def _test_losses_of_rivals(results: Results, subject: str, rivals: list[str]) -> list[str]:
    """Against whichever rival ends lowest on each task, chosen in hindsight."""
    summary = results["summary"]
    worse, n_compared = [], 0
    for task, own in summary[subject]["tasks"].items():
        losses = {
            name: summary[name]["tasks"].get(task, {}).get("final_test_loss") for name in rivals
        }
        known = {name: loss for name, loss in losses.items() if loss is not None}
        mine = own["final_test_loss"]
        if not known:
            continue
        n_compared += 1
        best = min(known, key=lambda name: known[name])
        if mine is None or known[best] < mine:
            gap = math.inf if mine is None or known[best] <= 0 else mine / known[best]
            worse.append((gap, f"{task} ({number(mine)}, {best} {number(known[best])})"))
    if not n_compared:
        return []
    n_tasks = plural(n_compared, "task")
    if not worse:
        return [f"On none of {n_tasks} does a rival on equal terms end at a lower mean test loss."]
    worse.sort(key=lambda pair: -pair[0])
    return [
        f"On {len(worse)} of {n_tasks} the best rival on equal terms by test loss ends lower, the "
        f"widest gap first: {listed([text for _, text in worse])}."
    ]
