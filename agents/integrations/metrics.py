"""What a logger is given of a decision."""

from __future__ import annotations

import math
from typing import Any

from trainpilot.envs.hyperparameters import HYPERPARAMETER_NAMES
from trainpilot.envs.optimizers import OPTIMIZER_NAMES

_FIELDS = ("decision", "step", *HYPERPARAMETER_NAMES, "train_loss", "valid_loss", "distance")


def decision_metrics(record: dict[str, Any]) -> dict[str, float]:
    """A decision as numbers, for loggers that take nothing else.

    Args:
        record: as `PilotOptimizer.decisions` has it and `on_decision` is given it.

    Returns:
        "pilot/decision", its number; "pilot/step", the first step that it held for; the
        hyperparameters that it set; "pilot/train_loss" and "pilot/valid_loss" since then;
        "pilot/distance" of what the policy saw from what it was trained on;
        "pilot/overruled" and "pilot/intervention", 1 where the fallback decided or the guard
        stepped in, else 0. "pilot/optimizer" is the place in
        `trainpilot.envs.optimizers.OPTIMIZER_NAMES`. What is not known is left out, and so is a
        clip of infinity.
    """
    values = {name: record[name] for name in _FIELDS}
    values["optimizer"] = OPTIMIZER_NAMES.index(record["optimizer"])
    if math.isinf(record["gradient_clip"]):
        values["gradient_clip"] = None
    values["overruled"] = bool(record["overruled"])
    values["intervention"] = record["intervention"] is not None
    return {f"pilot/{name}": float(one) for name, one in values.items() if one is not None}
