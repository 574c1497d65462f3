"""`report.html`: one file that needs no network."""

from __future__ import annotations

import json
import re
from html import escape
from importlib.resources import files
from typing import Any

from trainpilot.agents.evaluation.report.findings import Findings
from trainpilot.agents.evaluation.report.payload import payload
from trainpilot.agents.evaluation.report.reading import Results

#: In the order in which they stand in the page.
_SCRIPTS = (
    "base.js",
    "chart.js",
    "glance.js",
    "table.js",
    "curves.js",
    "schedule.js",
    "dots.js",
    "profile.js",
    "main.js",
)


def render_html(results: Results, findings: Findings) -> str:
    """The page.

    Args:
        results: of `read_results`.
        findings: of `find`.

    Returns:
        A document that holds its styles, scripts and data, and forbids itself the network.
    """
    settings = results["settings"]
    parts = {
        "title": escape(f"{findings.subject} on {settings.get('suite')}: trainpilot's evaluation"),
        "headline": _headline(findings.headline),
        "comparison": _list(findings.comparison),
        "shortfalls": _list(findings.shortfalls),
        "method": _list(findings.method),
        "suite": escape(str(settings.get("suite"))),
        "created": escape(str(results.get("created"))[:10]),
        "style": _page("report.css"),
        "script": "\n".join(_page(name) for name in _SCRIPTS),
        "data": _json(payload(results, findings)),
    }
    # In one pass: what is put in is not searched again.
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], _page("template.html"))


def _page(name: str) -> str:
    folder = files("trainpilot.agents.evaluation.report") / "page"
    return (folder / name).read_text(encoding="utf-8")


def _json(data: Any) -> str:
    """JSON that can stand in a script element, whatever the names in it."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _text(sentence: str) -> str:
    return escape(sentence).replace(" %", "&nbsp;%")


def _headline(sentence: str) -> str:
    """The sentence with its speed-up set off, and the interval in a lighter hand."""
    text = re.sub(r"([\d.,]+ times as fast)", r"<em>\1</em>", _text(sentence), count=1)
    return re.sub(r"(\(95&nbsp;% [^)]*\))", r"<small>\1</small>", text, count=1)


def _list(sentences: list[str]) -> str:
    return "".join(f"<li>{_text(sentence)}</li>" for sentence in sentences)
