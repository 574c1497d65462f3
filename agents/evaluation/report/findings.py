"""What the numbers of an evaluation say, in sentences; none is computed here, only compared."""

from __future__ import annotations

from typing import Any, NamedTuple

from trainpilot.agents.evaluation.report.reading import Results
from trainpilot.agents.evaluation.report.words import (
    REFERENCES,
    RIVALS,
    brief,
    interval,
    listed,
    number,
    percent,
    plural,
    times,
    uncertainty,
    verdict,
)

ADAM = "adam_default"


class Findings(NamedTuple):
    """What the report says in words.

    Attributes:
        subject: the controller that it is about.
        rival: the best of those that know and cost no more; None for none.
        headline: a sentence with its uncertainty.
        comparison: sentences on the best rival and the stronger references.
        shortfalls: sentences on where the subject loses.
        method: sentences on how it was measured.
    """

    subject: str
    rival: str | None
    headline: str
    comparison: list[str]
    shortfalls: list[str]
    method: list[str]


def find(results: Results) -> Findings:
    """What there is to say about an evaluation.

    The subject is the policy: the controller named so, else the first of that kind. Without one it
    is the fastest heuristic.
    """
    reference = main_reference(results)
    subject = _subject(results, reference)
    rivals = [
        name
        for name in by_speed(results, reference)
        if results["summary"][name]["kind"] in RIVALS and name != subject
    ]
    rival = rivals[0] if rivals else None
    return Findings(
        subject,
        rival,
        _headline(results, subject, reference),
        _comparison(results, subject, rival, reference),
        _shortfalls(results, subject, rivals, reference),
        _method(results),
    )


def main_reference(results: Results) -> str:
    """The reference of the headline: Adam's default where it took part."""
    references = list(results["references"])
    return ADAM if ADAM in references or not references else references[0]


def speedup(results: Results, controller: str, reference: str) -> dict[str, Any]:
    """The speed-up of a controller with all that is known of it; empty for none."""
    return results["summary"][controller].get("speedup", {}).get(reference) or {}


def by_speed(results: Results, reference: str) -> list[str]:
    """The controllers, fastest first; those without a speed-up last."""

    def order(name: str) -> float:
        mean = speedup(results, name, reference).get("geomean")
        return -1.0 if mean is None else float(mean)

    return sorted(results["summary"], key=order, reverse=True)


def label(reference: str) -> str:
    """What the report calls a reference."""
    return REFERENCES.get(reference, reference)


def _subject(results: Results, reference: str) -> str:
    summary = results["summary"]
    ordered = by_speed(results, reference)
    policies: list[str] = [name for name in summary if summary[name]["kind"] == "policy"]
    policies.sort(key=lambda name: name != "policy")
    # Adam's default compared with itself says nothing, unless there is nobody else.
    itself = results["references"].get(reference)
    heuristics = [
        name for name in ordered if summary[name]["kind"] == "heuristic" and name != itself
    ]
    return [*policies, *heuristics, *ordered][0]


def called(results: Results, controller: str) -> str:
    """The subject in a sentence: a policy is called so, others by their name."""
    if controller == "policy":
        return "the policy"
    kind = results["summary"][controller]["kind"]
    return f"the {kind} {controller}"


def _headline(results: Results, subject: str, reference: str) -> str:
    own = speedup(results, subject, reference)
    who = called(results, subject)
    without = not any(line["kind"] == "policy" for line in results["summary"].values())
    if without:
        who = f"no policy took part; the fastest heuristic, {subject},"
    who = who[0].upper() + who[1:]
    goal = "Adam's final loss"
    if reference != ADAM:
        goal = f"the final loss of {label(reference)}"
    where = f"on {plural(len(results['tasks']), 'task')}"
    if own.get("geomean") is None:
        return f"{who} has no speed-up to {goal} {where}."
    return (
        f"{who} reaches {goal} {times(own['geomean'])} "
        f"{uncertainty(own['ci_low'], own['ci_high'])}, "
        f"in {percent(own['reached'])} of runs, {where}."
    )


def _comparison(results: Results, subject: str, rival: str | None, reference: str) -> list[str]:
    own = speedup(results, subject, reference)
    sentences = []
    if results["settings"].get("n_seeds") == 1:
        sentences.append("There is one seed only: nothing is known of chance between seeds.")
    if own.get("tasks_ci_low") is not None:
        sentences.append(
            "With other tasks like these instead of other seeds, the interval is "
            f"{interval(own['tasks_ci_low'], own['tasks_ci_high'])}."
        )
    if rival is not None:
        sentences.append(_against(results, subject, rival, reference))
    for other in ("shared_cosine", "oracle_fixed"):
        line = speedup(results, subject, other)
        if line.get("geomean") is None:
            continue
        sentences.append(
            f"To the final loss of {label(other)} it is {times(line['geomean'])} "
            f"{uncertainty(line['ci_low'], line['ci_high'])}: "
            f"{verdict(line['ci_low'], line['ci_high'])}; "
            f"it gets there in {percent(line['reached'])} of runs."
        )
    return sentences


def _against(results: Results, subject: str, rival: str, reference: str) -> str:
    own, other = (speedup(results, name, reference) for name in (subject, rival))
    if own.get("geomean") is None or other.get("geomean") is None:
        return f"There is no comparison with {rival}: a speed-up is missing."
    order = "ahead of" if other["geomean"] > own["geomean"] else "behind"
    sentence = f"Its best rival, {rival}, has {number(other['geomean'])}"
    if None in (own["ci_low"], other["ci_low"]):
        return f"{sentence}, {order} it with {number(own['geomean'])}."
    apart = own["ci_high"] < other["ci_low"] or other["ci_high"] < own["ci_low"]
    return (
        f"{sentence} ({interval(other['ci_low'], other['ci_high'])}), {order} it with "
        f"{number(own['geomean'])}; the intervals {'are apart' if apart else 'overlap'}."
    )


def _shortfalls(results: Results, subject: str, rivals: list[str], reference: str) -> list[str]:
    who = called(results, subject)
    who = who[0].upper() + who[1:]
    tasks = results["summary"][subject]["tasks"]
    return [
        _behind(results, subject, rivals, reference),
        *_worst(results, subject, reference),
        _misses(tasks, who, reference),
        _divergences(results["summary"][subject], tasks),
        *_test_losses(results, subject),
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
    slower = f", slower than {label(reference)}" if own["worst"] < 1 else ""
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


def _method(results: Results) -> list[str]:
    settings = results["settings"]
    seeds, decisions = settings.get("n_seeds"), settings.get("decisions")
    sentences = [
        f"Suite {settings.get('suite')}: {plural(len(results['tasks']), 'task')}, "
        f"{plural(len(results['summary']), 'controller')}, "
        f"{plural(seeds or 0, 'seed')} each from seed {settings.get('seed')}, "
        f"{plural(len(results['runs']), 'run')} in all.",
        "For each seed all controllers start from the same initial weights and see the same data "
        "in the same order, with the same budget of samples.",
        f"A run has {plural(decisions or 0, 'decision')}, micro-batches between two of them: "
        f"{settings.get('micro_batches_per_decision')}.",
        "The speed-up of a run is the samples that the reference's run with the same seed needs to "
        "its own final loss on outer_valid data, over the samples that this run needs to that "
        f"loss; a miss counts as {brief(settings.get('miss_budgets'))} budgets.",
        f"Policy: {settings.get('policy') or 'none'}. Made by trainpilot {results.get('version')}, "
        f"{results.get('created')}.",
    ]
    return sentences
