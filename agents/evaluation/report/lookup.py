"""Names and numbers of `results.json` that several parts of the report look up."""

from __future__ import annotations

from typing import Any

from trainpilot.agents.evaluation.report.reading import Results
from trainpilot.agents.evaluation.report.words import REFERENCES

ADAM = "adam_default"


def main_reference(results: Results) -> str:
    """The reference of the headline: Adam's default where it took part."""
    references = list(results["references"])
    return ADAM if ADAM in references or not references else references[0]


def speedup(results: Results, controller: str, reference: str) -> dict[str, Any]:
    """The speed-up of a controller with all that is known of it; empty for none."""
    return results["summary"][controller].get("speedup", {}).get(reference) or {}


def against(results: Results, controller: str, other: str, reference: str) -> dict[str, Any]:
    """The speed-up of a policy over that of another, run by run; empty for none."""
    found = results["summary"][controller].get("against", {}).get(other, {})
    return found.get(reference) or {}


def by_speed(results: Results, reference: str) -> list[str]:
    """The controllers, fastest first; those without a speed-up last."""

    def order(name: str) -> float:
        mean = speedup(results, name, reference).get("geomean")
        return -1.0 if mean is None else float(mean)

    return sorted(results["summary"], key=order, reverse=True)


def label(reference: str) -> str:
    """What the report calls a reference."""
    return REFERENCES.get(reference, reference)


def called(results: Results, controller: str) -> str:
    """The subject in a sentence: a policy is called so, others by their name."""
    if controller == "policy":
        return "the policy"
    kind = results["summary"][controller]["kind"]
    return f"the {kind} {controller}"
