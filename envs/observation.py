"""The observation: a fixed-length, scale-free vector made from signals.

Pure: `begin` and `observe` take a state and give a new one, for any number of runs, so that
what a policy sees at deployment is made by the code that made it in meta-training. Losses and
gradients enter only relative to the run's own start, so that multiplying the loss by a
constant changes nothing.

| index | name | meaning | low | high |
| --- | --- | --- | --- | --- |
| 0 | progress | share of the budget that is spent | 0 | 1 |
| 1 | train_loss | log train loss relative to the first step's | -7 | 7 |
| 2 | train_loss_trend | fast minus slow moving average of the log train loss | -3 | 3 |
| 3 | train_loss_noise | deviation of the log train loss inside the decision | 0 | 3 |
| 4 | train_loss_slope | its slope over the decision, per decision | -3 | 3 |
| 5 | gradient_norm | log gradient norm relative to the first step's | -7 | 7 |
| 6 | gradient_noise | deviation of the log gradient norm inside the decision | 0 | 3 |
| 7 | gradient_momentum_cosine | mean cosine of gradient and mean gradient | -1 | 1 |
| 8 | gradient_parameter_cosine | mean cosine of gradient and parameters | -1 | 1 |
| 9 | gradient_update_cosine | mean cosine of gradient and update | -1 | 1 |
| 10 | gradient_signal | log norm of the mean gradient over norm of the gradient | -5 | 2 |
| 11 | relative_update | log10 of update norm over parameter norm, plus 3 | -5 | 5 |
| 12 | generalisation_gap | log valid loss minus log train loss | -5 | 5 |
| 13 | valid_loss | log valid loss relative to the start | -7 | 7 |
| 14 | valid_improvement | fall of the log valid loss since the last decision | -3 | 3 |
| 15 | valid_regret | log valid loss minus its best so far | 0 | 7 |
| 16 | valid_accuracy | accuracy on valid, 0 where there is none | 0 | 1 |
| 17 | has_accuracy | 1 where the task has an accuracy | 0 | 1 |
| 18 | learning_rate | log10 of the learning rate in Adam's units, plus 3 | -5 | 5 |
| 19 | learning_rate_change | log10 of the learning rate relative to the start | -5 | 5 |
| 20 | weight_decay | log10 of (weight decay + 1e-6), plus 6, over 6 | 0 | 1.5 |
| 21 | momentum | minus log10 of one minus the momentum | 0 | 5 |
| 22 | since_switch | share of the budget since the optimizer was switched | 0 | 1 |
| 23+ | optimizer_NAME | 1 for the optimizer in use | 0 | 1 |

Sources: OpenAI's LHOPT (arXiv 2106.00958, appendix on features) and VeLO (arXiv 2211.09760)
for the choice of moving averages, cosines and relative norms.
"""

from __future__ import annotations

import hashlib
import json
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from trainpilot.envs.actions import relative_learning_rate
from trainpilot.envs.hyperparameters import FloatArray, Hyperparameters, IntArray
from trainpilot.envs.optimizers import optimizer_index
from trainpilot.envs.signals import Signals

SCHEMA_VERSION = 1

#: Optimizers with a feature of their own; in any other, all of them are 0.
OBSERVED_OPTIMIZERS = ("sgd", "adam", "rmsprop")

#: Name, low and high of every feature, in order.
FEATURES: tuple[tuple[str, float, float], ...] = (
    ("progress", 0, 1),
    ("train_loss", -7, 7),
    ("train_loss_trend", -3, 3),
    ("train_loss_noise", 0, 3),
    ("train_loss_slope", -3, 3),
    ("gradient_norm", -7, 7),
    ("gradient_noise", 0, 3),
    ("gradient_momentum_cosine", -1, 1),
    ("gradient_parameter_cosine", -1, 1),
    ("gradient_update_cosine", -1, 1),
    ("gradient_signal", -5, 2),
    ("relative_update", -5, 5),
    ("generalisation_gap", -5, 5),
    ("valid_loss", -7, 7),
    ("valid_improvement", -3, 3),
    ("valid_regret", 0, 7),
    ("valid_accuracy", 0, 1),
    ("has_accuracy", 0, 1),
    ("learning_rate", -5, 5),
    ("learning_rate_change", -5, 5),
    ("weight_decay", 0, 1.5),
    ("momentum", 0, 5),
    ("since_switch", 0, 1),
    *((f"optimizer_{name}", 0.0, 1.0) for name in OBSERVED_OPTIMIZERS),
)
FEATURE_NAMES = tuple(name for name, _, _ in FEATURES)
LOW = np.array([low for _, low, _ in FEATURES], dtype=np.float32)
HIGH = np.array([high for _, _, high in FEATURES], dtype=np.float32)

#: Losses below this share of the start look alike.
_LOSS_FLOOR = 1e-3
_FAST, _SLOW = 0.3, 0.05

Observation = NDArray[np.float32]


def schema_hash() -> str:
    """The hash that a policy's schema must have to be loaded: version, names and bounds."""
    text = json.dumps([SCHEMA_VERSION, FEATURES])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Reading(NamedTuple):
    """What is known of each run beside its signals, `(n_runs,)` each.

    Attributes:
        hyperparameters: in use since the last decision.
        progress: share of the budget that is spent, in [0, 1].
        valid_loss: loss on the observed part of `valid`.
        valid_accuracy: accuracy there, NaN where there is none.
    """

    hyperparameters: Hyperparameters
    progress: FloatArray
    valid_loss: FloatArray
    valid_accuracy: FloatArray


class ObserverState(NamedTuple):
    """What the observation remembers of each run, `(n_runs,)` each; NaN: not seen yet."""

    train_start: FloatArray
    gradient_start: FloatArray
    train_fast: FloatArray
    train_slow: FloatArray
    valid_start: FloatArray
    valid_last: FloatArray
    valid_best: FloatArray
    learning_rate_start: FloatArray
    optimizer: IntArray
    switch_progress: FloatArray

    def where(self, rows: NDArray[np.bool_], other: ObserverState) -> ObserverState:
        """This state in the rows that are chosen, the other elsewhere."""
        pairs = zip(self, other, strict=True)
        return ObserverState(*(np.where(rows, mine, theirs) for mine, theirs in pairs))


def begin(reading: Reading) -> tuple[ObserverState, Observation]:
    """State and observation before the first inner step: there are no signals yet.

    Returns:
        The state, and the observation `(n_runs, n_features)` whose signals are zero.
    """
    unseen = np.full(len(reading.progress), np.nan)
    state = ObserverState(
        train_start=unseen,
        gradient_start=unseen,
        train_fast=unseen,
        train_slow=unseen,
        valid_start=reading.valid_loss,
        valid_last=reading.valid_loss,
        valid_best=reading.valid_loss,
        learning_rate_start=relative_learning_rate(reading.hyperparameters),
        optimizer=reading.hyperparameters.optimizer,
        switch_progress=np.zeros(len(unseen)),
    )
    return state, _assemble({}, reading, state)


def observe(
    state: ObserverState, signals: Signals, reading: Reading
) -> tuple[ObserverState, Observation]:
    """State and observation after a decision's inner steps.

    Args:
        state: from `begin` or the last `observe`.
        signals: of the steps since then, `(n_runs, n_steps)` each.
        reading: what else is known now.

    Returns:
        The new state, and the observation `(n_runs, n_features)`, finite and within bounds
        whatever the signals hold.
    """
    with np.errstate(all="ignore"):
        train_start = _first(state.train_start, signals.train_loss[:, 0])
        gradient_start = _first(state.gradient_start, signals.gradient_norm[:, 0])
        train = _log_ratio(signals.train_loss, train_start[:, None])
        gradient = _log_ratio(signals.gradient_norm, gradient_start[:, None])
        valid = _log_ratio(reading.valid_loss, state.valid_start)
        valid_last = _log_ratio(state.valid_last, state.valid_start)
        valid_best = np.fmin(state.valid_best, reading.valid_loss)
        fast, slow = _moving_averages(state, train)
        optimizer = reading.hyperparameters.optimizer
        switched = optimizer != state.optimizer
        window_start = state.switch_progress
        after = ObserverState(
            train_start=train_start,
            gradient_start=gradient_start,
            train_fast=fast,
            train_slow=slow,
            valid_start=state.valid_start,
            valid_last=reading.valid_loss,
            valid_best=valid_best,
            learning_rate_start=state.learning_rate_start,
            optimizer=optimizer,
            switch_progress=np.where(switched, reading.progress, window_start),
        )
        relative_update = np.log10(signals.update_norm / signals.parameter_norm)
        # Before its first update a run has no mean gradient yet.
        gradient_signal = np.log(
            np.where(signals.momentum_norm > 0, signals.momentum_norm, np.nan)
            / signals.gradient_norm
        )
        # Both losses in the same unit: the train loss at the first step.
        gap = np.log(reading.valid_loss + _LOSS_FLOOR * train_start) - np.log(
            signals.train_loss.mean(1) + _LOSS_FLOOR * train_start
        )
        features = {
            "train_loss": train.mean(1),
            "train_loss_trend": fast - slow,
            "train_loss_noise": train.std(1),
            "train_loss_slope": _slope(train) * train.shape[1],
            "gradient_norm": gradient.mean(1),
            "gradient_noise": gradient.std(1),
            "gradient_momentum_cosine": signals.gradient_momentum_cosine.mean(1),
            "gradient_parameter_cosine": signals.gradient_parameter_cosine.mean(1),
            "gradient_update_cosine": _mean_known(signals.gradient_update_cosine),
            "gradient_signal": _mean_known(gradient_signal),
            "relative_update": _mean_known(relative_update) + 3,
            "generalisation_gap": gap,
            "valid_loss": valid,
            "valid_improvement": valid_last - valid,
            "valid_regret": valid - _log_ratio(valid_best, state.valid_start),
        }
    return after, _assemble(features, reading, after)


def _assemble(
    features: dict[str, FloatArray], reading: Reading, state: ObserverState
) -> Observation:
    """Put the features that need no signals beside the given ones, within bounds."""
    hyperparameters = reading.hyperparameters
    rate = relative_learning_rate(hyperparameters)
    accuracy = reading.valid_accuracy
    known = features | {
        "progress": reading.progress,
        "valid_accuracy": np.where(np.isnan(accuracy), 0.0, accuracy),
        "has_accuracy": np.where(np.isnan(accuracy), 0.0, 1.0),
        "learning_rate": np.log10(rate) + 3,
        "learning_rate_change": np.log10(rate / state.learning_rate_start),
        "weight_decay": (np.log10(hyperparameters.weight_decay + 1e-6) + 6) / 6,
        "momentum": -np.log10(1 - hyperparameters.momentum),
        "since_switch": reading.progress - state.switch_progress,
    }
    for name in OBSERVED_OPTIMIZERS:
        used = hyperparameters.optimizer == optimizer_index(name)
        known[f"optimizer_{name}"] = used.astype(np.float64)
    zero = np.zeros(len(reading.progress))
    vector = np.stack([known.get(name, zero) for name in FEATURE_NAMES], axis=1)
    # Undefined says nothing; infinite is as far as the bounds go.
    vector = np.nan_to_num(vector, nan=0.0, posinf=np.inf, neginf=-np.inf)
    return np.asarray(np.clip(vector, LOW, HIGH), dtype=np.float32)


def _first(seen: FloatArray, now: FloatArray) -> FloatArray:
    """The value at the first step: what was seen, or else what is seen now."""
    return np.where(np.isnan(seen), now, seen)


def _mean_known(values: FloatArray) -> FloatArray:
    """Mean over the steps that made an update; NaN if none did."""
    known = ~np.isnan(values)
    return np.asarray(np.where(known, values, 0.0).sum(1) / known.sum(1))


def _log_ratio(value: FloatArray, start: FloatArray) -> FloatArray:
    return np.asarray(np.log(value / start + _LOSS_FLOOR) - np.log1p(_LOSS_FLOOR))


def _slope(values: FloatArray) -> FloatArray:
    """Least-squares slope of each row, per step; 0 for a single step."""
    n_steps = values.shape[1]
    if n_steps == 1:
        return np.zeros(len(values))
    time = np.arange(n_steps) - (n_steps - 1) / 2
    return np.asarray((values * time).sum(1) / (time * time).sum())


def _moving_averages(state: ObserverState, train: FloatArray) -> tuple[FloatArray, FloatArray]:
    fast, slow = _first(state.train_fast, train[:, 0]), _first(state.train_slow, train[:, 0])
    for step in train.T:
        fast = fast + _FAST * (step - fast)
        slow = slow + _SLOW * (step - slow)
    return fast, slow
