"""A finished inner run, as records and measures are made from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Run:
    """One inner run under one controller.

    Attributes:
        task: its name.
        controller: its name.
        seed: of initial weights and data order.
        budget: samples of a whole run.
        samples: processed at each point of the curves, from 0.
        valid_loss: on the observed part of `valid`, at each point.
        outer_valid_loss: on the observed part of `outer_valid`, at each point.
        decisions: a record for each decision (`trainpilot.agents.records`).
        diverged: whether it ended early.
        roll_backs: how often the guard rolled it back.
        test_loss: of the last weights; infinite if it diverged.
        test_metrics: likewise, by name; empty if it diverged.
        best_test_loss: of the weights with the lowest valid loss, which early stopping would
            have kept; None where that was not measured.
        best_test_accuracy: likewise; None also where the task has none.
        test_curve: test loss at each point of the curves, on a sample; empty where it was not
            measured.
        accuracy_curve: test accuracy likewise; empty also where the task has none.
        seconds: wall-clock time of the run: its share of what trained several side by side, and
            its controller's decisions.
        search_samples: processed before the run to find its configuration.
        configuration: what a search has settled on; None for what searches nothing.
    """

    task: str
    controller: str
    seed: int
    budget: int
    samples: list[int] = field(default_factory=list)
    valid_loss: list[float] = field(default_factory=list)
    outer_valid_loss: list[float] = field(default_factory=list)
    decisions: list[dict[str, Any]] = field(default_factory=list)
    diverged: bool = False
    roll_backs: int = 0
    test_loss: float = float("inf")
    test_metrics: dict[str, float] = field(default_factory=dict)
    best_test_loss: float | None = None
    best_test_accuracy: float | None = None
    test_curve: list[float] = field(default_factory=list)
    accuracy_curve: list[float] = field(default_factory=list)
    seconds: float = 0.0
    search_samples: int = 0
    configuration: dict[str, Any] | None = None

    def add_point(self, samples: int, valid_loss: float, outer_valid_loss: float) -> None:
        """Add a point to the curves."""
        self.samples.append(samples)
        self.valid_loss.append(float(valid_loss))
        self.outer_valid_loss.append(float(outer_valid_loss))
