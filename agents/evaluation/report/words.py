"""What the report calls things, and how it writes numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

#: From this share of runs that reach a target on, its speed-up says who is faster.
DECISIVE = 0.95

#: What stands where there is no number.
NONE = "-"


class Kind(NamedTuple):
    """A kind of controller.

    Attributes:
        label: one word.
        note: what it is, and what it knows or costs.
        mark: a warning beside its name, where it is no rival on equal terms; else empty.
    """

    label: str
    note: str
    mark: str


KINDS = {
    "policy": Kind("policy", "Learned; decides by what it observes of the training.", ""),
    "heuristic": Kind("heuristic", "A constant, a schedule or a rule with given settings.", ""),
    "adaptive": Kind("adaptive", "An optimizer that adapts its own step.", ""),
    "shared": Kind(
        "shared", "The best of a grid on the tasks of meta_train, carried over unchanged.", ""
    ),
    "search": Kind(
        "search",
        "Tunes on the task itself; the search costs samples, which only the "
        "speed-up with search counts.",
        "costs more",
    ),
    "oracle": Kind(
        "oracle",
        "The best of a small grid on the very task by the final loss, which nobody knows "
        "beforehand. It is no upper bound of the speed to a target: others may be faster.",
        "knows more",
    ),
    "ablation": Kind("ablation", "The policy with a part taken away or changed.", "ablation"),
}

#: Kinds that know and cost no more than a policy: its rivals.
RIVALS = ("heuristic", "adaptive", "shared")

#: The references, as they stand after "the final loss of".
REFERENCES = {
    "adam_default": "Adam's default",
    "shared_fixed": "the best constant tuned on meta_train",
    "shared_cosine": "the best cosine tuned on meta_train",
    "oracle_fixed": "the best constant of each task",
}

#: Each measure of the table: its heading and what it means.
MEASURES = {
    "speedup": (
        "Speed-up",
        "Samples that the reference needs to its own final loss, over the samples to that loss. "
        "Geometric mean over tasks and seeds. An equal rival does not get 1: it ends above the "
        "reference in every second run, a miss, and comes to 0.7 or so. Above 1 is faster.",
    ),
    "interval": (
        "95 % interval",
        "Of the speed-up: where it would lie with other seeds, on these tasks.",
    ),
    "tasks_interval": (
        "Over tasks",
        "95 % interval of where the speed-up would lie with other tasks like these.",
    ),
    "iqm": ("Middle half", "Mean of the middle half of all speed-ups: outliers do not move it."),
    "probability_of_improvement": (
        "Better",
        "How often a run needs fewer samples than one of the reference, of all pairs of runs; a "
        "tie counts half. The reference never misses its own final loss, an equal rival often: it "
        "comes to 40 % or so. In brackets the 95 % interval with other seeds.",
    ),
    "worst": ("Worst task", "The lowest speed-up of any task, and which task that is."),
    "reached": (
        "Reached",
        "Share of the runs that reach the reference's final loss at all. An equal rival ends above "
        "it about half of the time.",
    ),
    "speedup_with_search": (
        "With search",
        "The speed-up when the samples that were spent on tuning count too.",
    ),
    "profile_score": (
        "Profile",
        "Score of the performance profile below, 0 to 1; higher is better.",
    ),
    "algoperf_score": (
        "AlgoPerf",
        "The profile's score, 0 to 1, to the final loss of one reference for all: shared_fixed, if "
        "algoperf_reference names no other.",
    ),
    "divergence_rate": ("Diverged", "Share of the runs that diverged for good."),
    "roll_backs": ("Roll-backs", "How often a run was put back to its last good weights, mean."),
    "switches": ("Switches", "How often a run changed its optimizer, mean."),
    "final_test_loss_ratio": (
        "Test loss",
        "Final test loss over that of Adam's default, geometric mean. Below 1 is better.",
    ),
    "seconds": (
        "Seconds",
        "Wall-clock time of a run, mean. Not to be compared between kinds: adaptive methods run a "
        "Python optimizer for each run, others C++ for many; trials are left out; cached "
        "runs keep the time of another day.",
    ),
    "search_samples": ("Search", "Samples spent on tuning before the run, mean."),
}


def number(value: float | None, digits: int = 3) -> str:
    """A number with some significant digits and no exponent, or `NONE`."""
    if value is None or not math.isfinite(value):
        return NONE
    if value == 0:
        return "0"
    places = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:,.{min(places, 8)}f}"


def brief(value: float | None) -> str:
    """A number without zeros at its end, or `NONE`."""
    return NONE if value is None else f"{value:g}"


def percent(share: float | None) -> str:
    """A share of 1 as per cent; all and none are said only of all and none."""
    if share is None or not math.isfinite(share):
        return NONE
    if 0 < share < 0.01 or 0.99 < share < 1:
        return f"{min(max(100 * share, 0.1), 99.9):.1f} %"
    return f"{100 * share:.0f} %"


def interval(low: float | None, high: float | None) -> str:
    """Two ends as "3.5 to 4.1", or `NONE`."""
    return NONE if low is None or high is None else f"{number(low)} to {number(high)}"


def uncertainty(low: float | None, high: float | None) -> str:
    """The interval of a speed-up in brackets, or that there is none."""
    ends = interval(low, high)
    return "(no interval)" if ends == NONE else f"(95 % interval {ends})"


def times(value: float | None) -> str:
    """A speed-up as "3.8 times as fast"."""
    return f"{number(value)} times as fast"


def listed(parts: Sequence[str]) -> str:
    """Parts as "a, b and c"."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def plural(count: int, noun: str) -> str:
    """A count with its noun, which takes an s."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def verdict(low: float | None, high: float | None, reached: float | None) -> str:
    """What an interval of a speed-up says: faster, slower, or no clear difference.

    Args:
        low: its lower end.
        high: its upper end.
        reached: share of the runs that reach the target. Where it is small the speed-up hangs
            on what a miss counts as.
    """
    if low is None or high is None:
        return "nothing is known of chance"
    if reached is None or reached < DECISIVE:
        return "no verdict, as too few runs get there"
    if low > 1:
        return "faster"
    return "slower" if high < 1 else "no clear difference"
