"""What the numbers of an evaluation say, in sentences; none is computed here, only compared."""

from __future__ import annotations

from typing import Any, NamedTuple

from trainpilot.agents.evaluation.report.lookup import (
    ADAM,
    against,
    by_speed,
    called,
    label,
    main_reference,
    speedup,
)
from trainpilot.agents.evaluation.report.reading import Results
from trainpilot.agents.evaluation.report.shortfalls import shortfalls
from trainpilot.agents.evaluation.report.words import (
    RIVALS,
    brief,
    interval,
    number,
    percent,
    plural,
    times,
    uncertainty,
    verdict,
)


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
        shortfalls(results, subject, rivals, reference),
        _method(results),
    )


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
            f"{verdict(line['ci_low'], line['ci_high'], line['reached'])}; "
            f"it gets there in {percent(line['reached'])} of runs."
        )
    return sentences + _feedback(results, subject, reference)


def _feedback(results: Results, subject: str, reference: str) -> list[str]:
    """What the subject's own schedule does where nothing is observed."""
    own = speedup(results, subject, reference)
    sentences = []
    for part, schedule in (
        ("open_loop", "average schedule over all tasks"),
        ("task_schedule", "average schedule on each very task"),
    ):
        name = f"{subject}_{part}"
        line = speedup(results, name, reference) if name in results["summary"] else {}
        paired = against(results, subject, name, reference)
        if None in (own.get("geomean"), line.get("geomean"), paired.get("ci_low")):
            continue
        said = verdict(paired["ci_low"], paired["ci_high"], own["reached"])
        meaning = "that what it observes is worth anything does not show here"
        if said in ("faster", "slower"):
            meaning = f"what it observes makes it {said}"
        sentences.append(
            f"Its own {schedule}, replayed without feedback, has {number(line['geomean'])} against "
            f"its {number(own['geomean'])}; {_run_by_run(results, subject, paired)}: {meaning}."
        )
    return sentences


def _run_by_run(results: Results, subject: str, paired: dict[str, Any]) -> str:
    """How much faster the subject is, of pairs of runs of the same task and seed."""
    ends = uncertainty(paired["ci_low"], paired["ci_high"])
    return f"run by run {called(results, subject)} is {times(paired['ratio'])} {ends}"


def _against(results: Results, subject: str, rival: str, reference: str) -> str:
    own, other = (speedup(results, name, reference) for name in (subject, rival))
    if own.get("geomean") is None or other.get("geomean") is None:
        return f"There is no comparison with {rival}: a speed-up is missing."
    gap = other["geomean"] - own["geomean"]
    order = "ahead of" if gap > 0 else "behind" if gap < 0 else "level with"
    sentence = f"Its best rival, {rival}, has {number(other['geomean'])}"
    if other["ci_low"] is not None:
        sentence += f" ({interval(other['ci_low'], other['ci_high'])})"
    sentence += f", {order} it"
    if gap:
        sentence += f" with {number(own['geomean'])}"
    paired = against(results, subject, rival, reference)
    if paired.get("ci_low") is None:
        return f"{sentence}."
    said = verdict(paired["ci_low"], paired["ci_high"], own["reached"])
    return f"{sentence}; {_run_by_run(results, subject, paired)}: {said}."


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
