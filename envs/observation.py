"""The observation: a fixed-length, scale-free vector made from signals.

Pure: `begin` and `observe` take a state and give a new one, for any number of runs, so that
what a policy sees at deployment is made by the code that made it in meta-training. Losses and
gradients enter only relative to the run's own start, so that multiplying both by a constant
changes nothing. A signal that a deployment lacks (a validation set, an accuracy, the
whole budget) leaves its features at 0, and so does a feature that says whether it is there.

| index | name | meaning | low | high |
| --- | --- | --- | --- | --- |
| 0 | has_budget | 1 where the whole budget is known | 0 | 1 |
| 1 | progress | share of the budget that is spent | 0 | 1 |
| 2 | age | log10 of one plus the micro-batches so far | 0 | 7 |
| 3 | train_loss | log train loss relative to the first step's | -7 | 7 |
| 4 | train_loss_trend | fast minus slow moving average of the log train loss | -3 | 3 |
| 5 | train_loss_noise | deviation of the log train loss inside the decision | 0 | 3 |
| 6 | train_loss_slope | its slope over the decision, per decision | -3 | 3 |
| 7 | train_improvement | fall of the mean log train loss since the last decision | -3 | 3 |
| 8 | train_regret | mean log train loss minus its best so far | 0 | 7 |
| 9 | gradient_norm | log gradient norm relative to the first step's | -7 | 7 |
| 10 | gradient_noise | deviation of the log gradient norm inside the decision | 0 | 3 |
| 11 | gradient_momentum_cosine | mean cosine of gradient and mean gradient | -1 | 1 |
| 12 | gradient_parameter_cosine | mean cosine of gradient and parameters | -1 | 1 |
| 13 | gradient_update_cosine | mean cosine of gradient and update | -1 | 1 |
| 14 | gradient_signal | log norm of the mean gradient over norm of the gradient | -5 | 2 |
| 15 | relative_update | log10 of update norm over parameter norm, plus 3 | -5 | 5 |
| 16 | has_valid | 1 where there is a validation set | 0 | 1 |
| 17 | generalisation_gap | log valid loss minus log train loss | -5 | 5 |
| 18 | valid_loss | log valid loss relative to the start | -7 | 7 |
| 19 | valid_improvement | fall of the log valid loss since the last decision | -3 | 3 |
| 20 | valid_regret | log valid loss minus its best so far | 0 | 7 |
| 21 | has_accuracy | 1 where there is an accuracy | 0 | 1 |
| 22 | valid_accuracy | accuracy on valid | 0 | 1 |
| 23 | learning_rate | log10 of the learning rate in Adam's units, plus 3 | -5 | 5 |
| 24 | learning_rate_change | log10 of the learning rate relative to the start | -5 | 5 |
| 25 | learning_rate_step | log10 of the learning rate relative to the last decision's | -3 | 3 |
| 26 | weight_decay | log10 of (weight decay + 1e-6), plus 6, over 6 | 0 | 1.5 |
| 27 | momentum | minus log10 of one minus the momentum | 0 | 5 |
| 28 | has_clip | 1 where there is a gradient clip | 0 | 1 |
| 29 | gradient_clip | log of the clip over the decision's gradient norm | -5 | 5 |
| 30 | clipped | share of the decision's gradients that are longer than the clip | 0 | 1 |
| 31 | batch_size | log2 of the micro-batches in an update | 0 | 10 |
| 32 | since_switch | log10 of one plus the micro-batches since the last switch | 0 | 7 |
| 33+ | optimizer_NAME | 1 for the optimizer in use | 0 | 1 |

Sources: OpenAI's LHOPT (arXiv 2106.00958, appendix on features) and VeLO (arXiv 2211.09760)
for the choice of moving averages, cosines and relative norms.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trainpilot.envs.actions import relative_learning_rate
from trainpilot.envs.hyperparameters import FloatArray, Hyperparameters, IntArray
from trainpilot.envs.optimizers import optimizer_index
from trainpilot.envs.signals import Signals
from trainpilot.inner_tasks.errors import unknown

SCHEMA_VERSION = 2

#: Optimizers with a feature of their own; in any other, all of them are 0.
OBSERVED_OPTIMIZERS = ("sgd", "adam", "rmsprop", "nesterov", "lion")

#: Name, low and high of every feature, in order.
FEATURES: tuple[tuple[str, float, float], ...] = (
    ("has_budget", 0, 1),
    ("progress", 0, 1),
    ("age", 0, 7),
    ("train_loss", -7, 7),
    ("train_loss_trend", -3, 3),
    ("train_loss_noise", 0, 3),
    ("train_loss_slope", -3, 3),
    ("train_improvement", -3, 3),
    ("train_regret", 0, 7),
    ("gradient_norm", -7, 7),
    ("gradient_noise", 0, 3),
    ("gradient_momentum_cosine", -1, 1),
    ("gradient_parameter_cosine", -1, 1),
    ("gradient_update_cosine", -1, 1),
    ("gradient_signal", -5, 2),
    ("relative_update", -5, 5),
    ("has_valid", 0, 1),
    ("generalisation_gap", -5, 5),
    ("valid_loss", -7, 7),
    ("valid_improvement", -3, 3),
    ("valid_regret", 0, 7),
    ("has_accuracy", 0, 1),
    ("valid_accuracy", 0, 1),
    ("learning_rate", -5, 5),
    ("learning_rate_change", -5, 5),
    ("learning_rate_step", -3, 3),
    ("weight_decay", 0, 1.5),
    ("momentum", 0, 5),
    ("has_clip", 0, 1),
    ("gradient_clip", -5, 5),
    ("clipped", 0, 1),
    ("batch_size", 0, 10),
    ("since_switch", 0, 7),
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


def feature_places(names: Iterable[str]) -> list[int]:
    """Where features stand in the vector.

    Raises:
        TrainpilotError: if there is none of a name.
    """
    places = []
    for name in names:
        if name not in FEATURE_NAMES:
            raise unknown("feature", name, FEATURE_NAMES)
        places.append(FEATURE_NAMES.index(name))
    return places


class Reading(NamedTuple):
    """What is known of each run beside its signals, `(n_runs,)` each; NaN: not known.

    Attributes:
        hyperparameters: in use since the last decision.
        age: micro-batches so far.
        progress: share of the budget that is spent, in [0, 1].
        valid_loss: loss on the observed part of `valid`; infinite where it is not finite.
        valid_accuracy: accuracy there.
    """

    hyperparameters: Hyperparameters
    age: FloatArray
    progress: FloatArray
    valid_loss: FloatArray
    valid_accuracy: FloatArray


def has_budget(observation: Observation) -> NDArray[np.bool_]:
    """Whether runs are observed to have a budget, `(n_runs,)`."""
    return np.asarray(observation[:, FEATURE_NAMES.index("has_budget")] > 0)


class ObserverState(NamedTuple):
    """What the observation remembers of each run, `(n_runs,)` each; NaN: not seen yet.

    Losses but for `valid_...` are logs relative to the first.
    """

    train_start: FloatArray
    gradient_start: FloatArray
    train_fast: FloatArray
    train_slow: FloatArray
    train_last: FloatArray
    train_best: FloatArray
    valid_start: FloatArray
    valid_last: FloatArray
    valid_best: FloatArray
    rate_start: FloatArray
    rate_last: FloatArray
    optimizer: IntArray
    switch_age: FloatArray

    def where(self, rows: NDArray[np.bool_], other: ObserverState) -> ObserverState:
        """This state in the rows that are chosen, the other elsewhere."""
        pairs = zip(self, other, strict=True)
        return ObserverState(*(np.where(rows, mine, theirs) for mine, theirs in pairs))


def begin(reading: Reading) -> tuple[ObserverState, Observation]:
    """State and observation before the first inner step: there are no signals yet.

    Returns:
        The state, and the observation `(n_runs, n_features)` whose signals are zero.
    """
    unseen = np.full(len(reading.age), np.nan)
    rate = relative_learning_rate(reading.hyperparameters)
    state = ObserverState(
        train_start=unseen,
        gradient_start=unseen,
        train_fast=unseen,
        train_slow=unseen,
        train_last=unseen,
        train_best=unseen,
        valid_start=reading.valid_loss,
        valid_last=reading.valid_loss,
        valid_best=reading.valid_loss,
        rate_start=rate,
        rate_last=rate,
        optimizer=reading.hyperparameters.optimizer,
        switch_age=np.zeros(len(unseen)),
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
        train = _log_ratio(signals.train_loss, train_start[:, None])
        fast, slow = _moving_averages(state, train)
        optimizer = reading.hyperparameters.optimizer
        switched = optimizer != state.optimizer
        age_before = reading.age - train.shape[1]
        after = ObserverState(
            train_start=train_start,
            gradient_start=_first(state.gradient_start, signals.gradient_norm[:, 0]),
            train_fast=fast,
            train_slow=slow,
            train_last=train.mean(1),
            train_best=np.fmin(state.train_best, train.mean(1)),
            valid_start=_first(state.valid_start, reading.valid_loss),
            valid_last=reading.valid_loss,
            valid_best=np.fmin(state.valid_best, reading.valid_loss),
            rate_start=state.rate_start,
            rate_last=relative_learning_rate(reading.hyperparameters),
            optimizer=optimizer,
            switch_age=np.where(switched, age_before, state.switch_age),
        )
        features = {
            "train_loss": train.mean(1),
            "train_loss_trend": fast - slow,
            "train_loss_noise": train.std(1),
            "train_loss_slope": _slope(train) * train.shape[1],
            "train_improvement": state.train_last - train.mean(1),
            "train_regret": train.mean(1) - after.train_best,
            "learning_rate_step": np.log10(after.rate_last / state.rate_last),
            **_gradient_features(signals, reading, after),
            **_valid_features(signals, reading, state, after),
        }
    return after, _assemble(features, reading, after)


def resume(
    then: tuple[ObserverState, Observation],
    now: tuple[ObserverState, Observation],
    reading: Reading,
) -> tuple[ObserverState, Observation]:
    """State and observation of runs that are led back to where they stood at an earlier time.

    What signals and losses say is as it was then; hyperparameters and time are those of now.

    Args:
        then: state and observation at that time.
        now: what `observe` made of the decision since which they are led back.
        reading: what is known now, as `observe` was given it.
    """
    before, observation = then
    after, _ = now
    state = before._replace(
        rate_last=after.rate_last, optimizer=after.optimizer, switch_age=after.switch_age
    )
    features = {name: observation[:, place] for place, name in enumerate(FEATURE_NAMES)}
    place = FEATURE_NAMES.index("learning_rate_step")
    features["learning_rate_step"] = now[1][:, place]
    return state, _assemble(features, reading, state)


def _gradient_features(
    signals: Signals, reading: Reading, state: ObserverState
) -> dict[str, FloatArray]:
    """What gradients and updates say."""
    norm = signals.gradient_norm
    gradient = _log_ratio(norm, state.gradient_start[:, None])
    relative_update = np.log10(signals.update_norm / signals.parameter_norm)
    # Before its first update a run has no mean gradient yet.
    mean_norm = np.where(signals.momentum_norm > 0, signals.momentum_norm, np.nan)
    clip = reading.hyperparameters.gradient_clip
    return {
        "gradient_norm": gradient.mean(1),
        "gradient_noise": gradient.std(1),
        "gradient_momentum_cosine": signals.gradient_momentum_cosine.mean(1),
        "gradient_parameter_cosine": signals.gradient_parameter_cosine.mean(1),
        "gradient_update_cosine": _mean_known(signals.gradient_update_cosine),
        "gradient_signal": _mean_known(np.log(mean_norm / norm)),
        "relative_update": _mean_known(relative_update) + 3,
        "gradient_clip": np.where(np.isinf(clip), np.nan, np.log(clip / norm.mean(1))),
        "clipped": (norm > clip[:, None]).mean(1),
    }


def _valid_features(
    signals: Signals, reading: Reading, before: ObserverState, after: ObserverState
) -> dict[str, FloatArray]:
    """What the validation set says; all NaN where there is none."""
    valid = _log_ratio(reading.valid_loss, after.valid_start)
    # Both losses in the same unit: the train loss at the first step.
    floor = _LOSS_FLOOR * after.train_start
    gap = np.log(reading.valid_loss + floor) - np.log(signals.train_loss.mean(1) + floor)
    return {
        "generalisation_gap": gap,
        "valid_loss": valid,
        "valid_improvement": _log_ratio(before.valid_last, after.valid_start) - valid,
        "valid_regret": valid - _log_ratio(after.valid_best, after.valid_start),
    }


def _assemble(
    features: dict[str, NDArray[Any]], reading: Reading, state: ObserverState
) -> Observation:
    """The given features and those that need no signals, in order and within bounds."""
    with np.errstate(all="ignore"):
        known = features | _own_features(reading, state)
    zero = np.zeros(len(reading.age))
    vector = np.stack([known.get(name, zero) for name in FEATURE_NAMES], axis=1)
    # Undefined says nothing; infinite is as far as the bounds go.
    vector = np.nan_to_num(vector, nan=0.0, posinf=np.inf, neginf=-np.inf)
    return np.asarray(np.clip(vector, LOW, HIGH), dtype=np.float32)


def _own_features(reading: Reading, state: ObserverState) -> dict[str, NDArray[Any]]:
    """Those that need no signals."""
    hyperparameters = reading.hyperparameters
    rate = relative_learning_rate(hyperparameters)
    own = {
        "has_budget": ~np.isnan(reading.progress),
        "progress": reading.progress,
        "age": np.log10(1 + reading.age),
        "has_valid": ~np.isnan(reading.valid_loss),
        "has_accuracy": ~np.isnan(reading.valid_accuracy),
        "valid_accuracy": reading.valid_accuracy,
        "learning_rate": np.log10(rate) + 3,
        "learning_rate_change": np.log10(rate / state.rate_start),
        "weight_decay": (np.log10(hyperparameters.weight_decay + 1e-6) + 6) / 6,
        "momentum": -np.log10(1 - hyperparameters.momentum),
        "has_clip": np.isfinite(hyperparameters.gradient_clip),
        "batch_size": np.log2(hyperparameters.batch_size),
        "since_switch": np.log10(1 + reading.age - state.switch_age),
    }
    for name in OBSERVED_OPTIMIZERS:
        own[f"optimizer_{name}"] = hyperparameters.optimizer == optimizer_index(name)
    return own


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
