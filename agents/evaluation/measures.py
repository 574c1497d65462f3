"""What is measured of a finished run, alone and against a reference's run."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from scipy.integrate import trapezoid

from trainpilot.agents.run import Run

#: A run that never reaches its target counts as if it had needed this many budgets.
MISS_BUDGETS = 2.0

#: The least share of its initial loss that a curve's logarithm is taken of: a loss may be 0.
LEAST_LOSS = 1e-6


class Target(NamedTuple):
    """What a reference's run sets for the runs of the same task and seed.

    Attributes:
        loss: the `outer_valid` loss to reach.
        samples: what the reference itself needs to it.
    """

    loss: float
    samples: float


def target_of(reference: Run) -> Target:
    """The reference's own final `outer_valid` loss.

    A reference that diverged ends nowhere: the lowest loss that it had reached stands in, and its
    own run is a miss.
    """
    # A curve starts at a finite loss, and `min` passes over what is not a number.
    losses = reference.outer_valid_loss
    loss = min(losses) if reference.diverged else losses[-1]
    return Target(loss, samples_to_target(reference, loss))


def samples_to_target(run: Run, target: float) -> float:
    """Samples after which the `outer_valid` loss first is at or below the target.

    Args:
        run: a finished run.
        target: the loss to reach.

    Returns:
        The samples; `MISS_BUDGETS` budgets for a run that never gets there, or that gets there
        and diverges afterwards.
    """
    point = _first_point(run, target)
    # The initial weights themselves may do: one sample keeps ratios finite.
    return MISS_BUDGETS * run.budget if point is None else max(run.samples[point], 1)


def _first_point(run: Run, target: float) -> int | None:
    """The first point of the curve at or below the target; None for a miss."""
    if run.diverged:
        return None
    losses = run.outer_valid_loss
    return next((point for point, loss in enumerate(losses) if loss <= target), None)


def area_under_curve(run: Run) -> float:
    """Mean over the budget of log(`outer_valid` loss / initial loss), by the trapezoidal rule.

    Lower is better; 0 is a run that learns nothing. From the point at which a run diverged it
    counts as at its initial loss: its weights are worth no more than the initial ones, and what
    it diverged to says nothing but where the guard stopped it. Shares of the initial loss below
    `LEAST_LOSS` count as that.
    """
    shares = np.array(run.samples) / run.budget
    losses = np.array(run.outer_valid_loss)
    if run.diverged:
        # The last point is the one at which it was found to have diverged.
        losses[-1] = losses[0]
        shares, losses = np.append(shares, 1.0), np.append(losses, losses[0])
    return float(trapezoid(np.log(np.maximum(losses / losses[0], LEAST_LOSS)), shares))


def switches(run: Run) -> int:
    """How often the optimizer was changed in mid-run; the choice at the start is none."""
    used = [record["optimizer"] for record in run.decisions]
    return sum(a != b for a, b in pairwise(used))


def measure(
    run: Run, targets: Mapping[str, Target], decisions: int, energy_watts: float | None = None
) -> dict[str, Any]:
    """Everything that `results.json` says of a run.

    Args:
        run: a finished run.
        targets: by reference, of the same task and seed.
        decisions: in a whole run.
        energy_watts: the machine's power for each process (W); None where nobody knows.

    Returns:
        An entry of `runs` (docs/evaluation.md). A number that does not exist is None, infinite
        or NaN.
    """
    return {
        "task": run.task,
        "controller": run.controller,
        "seed": run.seed,
        "budget": run.budget,
        "diverged": run.diverged,
        "roll_backs": run.roll_backs,
        "switches": switches(run),
        "clamped": sum(bool(record["clamped"]) for record in run.decisions),
        "seconds": run.seconds,
        "energy_joules": None if energy_watts is None else energy_watts * run.seconds,
        "search_samples": run.search_samples,
        "configuration": run.configuration,
        "final_outer_valid_loss": None if run.diverged else run.outer_valid_loss[-1],
        "area_under_curve": area_under_curve(run),
        "final_test_loss": run.test_loss,
        "best_test_loss": run.best_test_loss,
        "final_test_accuracy": run.test_metrics.get("accuracy"),
        "best_test_accuracy": run.best_test_accuracy,
        "test_metrics": run.test_metrics,
        "to_target": {name: _to_target(run, target, decisions) for name, target in targets.items()},
        "curve": {
            "samples": run.samples,
            "valid_loss": run.valid_loss,
            "outer_valid_loss": run.outer_valid_loss,
            "test_loss": run.test_curve,
            "test_accuracy": run.accuracy_curve,
            **{
                name: [record[name] for record in run.decisions]
                for name in ("learning_rate", "batch_size", "optimizer")
            },
        },
    }


def _to_target(run: Run, target: Target, decisions: int) -> dict[str, Any]:
    point = _first_point(run, target.loss)
    samples = samples_to_target(run, target.loss)
    # A point of the curve follows each decision.
    needed = MISS_BUDGETS * decisions if point is None else point
    made = len(run.samples) - 1
    return {
        "target": target.loss,
        "reached": point is not None,
        "samples": samples,
        "decisions": needed,
        # Of a run that diverged, the decisions that it made say how long the others would take.
        "seconds": run.seconds * needed / made if made else None,
        "speedup": target.samples / samples,
        "speedup_with_search": target.samples / (samples + run.search_samples),
    }
