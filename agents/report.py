"""`trainpilot report`: the report of an evaluation."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import NoReturn

from trainpilot.agents.evaluation.report.writing import write_report
from trainpilot.agents.hydra_app import EXIT_MISTAKE, say
from trainpilot.agents.messages import one_sentence
from trainpilot.inner_tasks.errors import TrainpilotError

_PROGRAM = "trainpilot report"


class _Parser(argparse.ArgumentParser):
    """Tells a mistake in one sentence, as the other commands do."""

    def error(self, message: str) -> NoReturn:
        print(f"{_PROGRAM}: {message}", file=sys.stderr)
        sys.exit(EXIT_MISTAKE)


def main() -> None:
    """The command: it takes a path, and no settings."""
    parser = _Parser(
        prog=_PROGRAM,
        description="Draw the report of an evaluation: report.html, report.md and pictures.",
    )
    parser.add_argument("results", type=Path, help="the results.json of an evaluation")
    parser.add_argument("--out", type=Path, help="folder of the report (default: the results')")
    given = parser.parse_args()
    try:
        paths = write_report(given.results, given.out)
    except (TrainpilotError, OSError) as error:
        parser.error(one_sentence(error))
    say(f"{', '.join(path.name for path in paths)} are in {paths[0].parent}")


if __name__ == "__main__":
    main()
