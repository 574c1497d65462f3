"""What the integrations have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from trainpilot.agents.integrations.metrics import decision_metrics
from trainpilot.agents.pilot.optimizer import PilotOptimizer
from trainpilot.agents.pilot.pilot import Pilot
from trainpilot.inner_tasks.errors import TrainpilotError, first_line


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Says what to install where an import within fails.

    Args:
        name: of the library and of the extra that installs it.

    Raises:
        TrainpilotError: if the library is missing, or one that it needs.
    """
    try:
        yield
    except ImportError as error:
        raise TrainpilotError(
            f"this integration needs the package {name} (pip install trainpilot[{name}]); given: "
            f"an environment without it ({first_line(error)})"
        ) from error


def attach_logged(
    pilot: Pilot | str | Path,
    model: nn.Module,
    log: Callable[[dict[str, float], int], None],
    options: dict[str, Any],
) -> PilotOptimizer:
    """Attach a pilot whose decisions are logged.

    Args:
        pilot: or what `Pilot.load` takes.
        model: to train.
        log: called for each decision, once it is known what came of it, with numbers by name and
            with the steps made so far.
        options: arguments of `Pilot.attach`; an "on_decision" is called after `log`.
    """
    own = options.get("on_decision")

    def on_decision(record: dict[str, Any]) -> None:
        log(decision_metrics(record), optimizer.steps)
        if own is not None:
            own(record)

    loaded = pilot if isinstance(pilot, Pilot) else Pilot.load(pilot)
    optimizer = loaded.attach(model, **{**options, "on_decision": on_decision})
    return optimizer
