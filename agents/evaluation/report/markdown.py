"""`report.md`: the report as text for a pull request."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from trainpilot.agents.evaluation.report.findings import Findings
from trainpilot.agents.evaluation.report.lookup import (
    ADAM,
    by_speed,
    label,
    main_reference,
    speedup,
)
from trainpilot.agents.evaluation.report.reading import Results
from trainpilot.agents.evaluation.report.words import (
    KINDS,
    NONE,
    interval,
    number,
    percent,
)


def render_markdown(results: Results, findings: Findings) -> str:
    """The report as GitHub's Markdown.

    Args:
        results: of `read_results`.
        findings: of `find`.
    """
    reference = main_reference(results)
    parts = [
        f"# {_text(findings.headline)}",
        _list(findings.comparison),
        "## All controllers",
        f"Speed-up to the final loss of {_text(label(reference))}, fastest first.",
        _controllers(results, findings.subject, reference),
        "## Where it falls short",
        _list(findings.shortfalls),
        "## Task by task",
        _tasks(results, findings, reference),
        "## How it was measured",
        _list(findings.method),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _controllers(results: Results, subject: str, reference: str) -> str:
    others = [name for name in ("shared_cosine", "oracle_fixed") if name in results["references"]]
    headings = ["controller", "kind", "speed-up", "95 % interval", "worst task", "reached"]
    headings += [f"against {label(name)}" for name in others]
    headings += ["with search", "diverged", "test loss / Adam's"]
    rows = []
    for name in by_speed(results, reference):
        line = results["summary"][name]
        own = speedup(results, name, reference)
        kind = KINDS.get(line["kind"])
        mark = f", {kind.mark}" if kind and kind.mark not in ("", line["kind"]) else ""
        rows.append(
            [
                _name(name, bold=name == subject),
                _text(line["kind"] + mark),
                number(own.get("geomean")),
                interval(own.get("ci_low"), own.get("ci_high")),
                _worst(own),
                percent(own.get("reached")),
                *(number(speedup(results, name, other).get("geomean")) for other in others),
                number((line.get("speedup_with_search") or {}).get(reference)),
                percent(line.get("divergence_rate")),
                number(line.get("final_test_loss_ratio")),
            ]
        )
    return _table(headings, rows, n_texts=2)


def _worst(own: dict[str, Any]) -> str:
    task = own.get("worst_task")
    return f"{number(own.get('worst'))} ({_text(task)})" if task else NONE


def _tasks(results: Results, findings: Findings, reference: str) -> str:
    """A row for each task: the subject, its best rival over all tasks, and Adam's default."""
    adam = results["references"].get(ADAM)
    names = list(dict.fromkeys([findings.subject, findings.rival, adam]))
    shown = [name for name in names if name in results["summary"]]
    headings = ["task", *(f"{name}: speed-up (reached)" for name in shown)]
    headings += [f"{name}: test loss" for name in shown]
    rows = []
    for task in results["tasks"]:
        of = [results["summary"][name]["tasks"].get(task["name"], {}) for name in shown]
        pairs = [
            (own.get("speedup", {}).get(reference), own.get("reached", {}).get(reference))
            for own in of
        ]
        rows.append(
            [
                _name(task["name"]),
                *(
                    NONE if value is None else f"{number(value)} ({percent(reached)})"
                    for value, reached in pairs
                ),
                *(number(own.get("final_test_loss")) for own in of),
            ]
        )
    return _table(headings, rows, n_texts=1)


def _text(text: str) -> str:
    """Text that is no markup, in a table or outside."""
    text = re.sub(r"[\\`*|\[\]~$]", r"\\\g<0>", text)
    # Inside a word an underscore is a letter like others.
    text = re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", text)
    return escape(" ".join(text.split()), quote=False)


def _name(name: str, bold: bool = False) -> str:
    return f"**{_text(name)}**" if bold else _text(name)


def _list(sentences: Iterable[str]) -> str:
    return "\n".join(f"- {_text(sentence)}" for sentence in sentences)


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]], n_texts: int) -> str:
    rules = ["---"] * n_texts + ["---:"] * (len(headings) - n_texts)
    lines = [[_text(heading) for heading in headings], rules, *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
