"""All files of a report."""

from __future__ import annotations

from pathlib import Path

from trainpilot.agents.evaluation.report.findings import find
from trainpilot.agents.evaluation.report.html_page import render_html
from trainpilot.agents.evaluation.report.markdown import render_markdown
from trainpilot.agents.evaluation.report.pictures import draw_pictures
from trainpilot.agents.evaluation.report.reading import read_results
from trainpilot.agents.files import atomic_path


def write_report(path: Path, folder: Path | None = None) -> list[Path]:
    """Write the report of an evaluation: a page, a text and pictures, each atomically.

    Args:
        path: of a `results.json`.
        folder: where the report goes; by default beside the results.

    Returns:
        The files: `report.html`, `report.md`, and `speedups`, `curves` and `profile` as PNG and
        SVG.

    Raises:
        TrainpilotError: if the results cannot be read.
    """
    results = read_results(path)
    folder = path.parent if folder is None else folder
    findings = find(results)
    texts = {
        "report.html": render_html(results, findings),
        "report.md": render_markdown(results, findings),
    }
    for name, text in texts.items():
        with atomic_path(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return [*(folder / name for name in texts), *draw_pictures(folder, results, findings)]
