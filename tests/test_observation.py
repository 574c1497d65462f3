"""The observation is what its table says: scale-free, finite, within bounds."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from trainpilot.envs import observation as module
from trainpilot.envs.hyperparameters import Hyperparameters
from trainpilot.envs.observation import (
    FEATURE_NAMES,
    FEATURES,
    HIGH,
    LOW,
    Reading,
    begin,
    observe,
    schema_hash,
)
from trainpilot.envs.signals import Signals


def reading(progress=0.1, valid=2.0, accuracy=0.5, n_runs=1, **settings):
    """After `progress` of a budget of 100 micro-batches."""
    return Reading(
        Hyperparameters.full(n_runs, **settings),
        np.full(n_runs, 100 * np.nan_to_num(progress)),
        np.full(n_runs, progress),
        np.full(n_runs, valid),
        np.full(n_runs, accuracy),
    )


def signals(seed=0, n_steps=10, loss_scale=1.0):
    draw = np.random.default_rng(seed)
    loss = loss_scale * np.exp(-0.1 * np.arange(n_steps) + 0.1 * draw.normal(size=(1, n_steps)))
    positive = draw.uniform(0.5, 2, size=(4, 1, n_steps))
    cosines = draw.uniform(-1, 1, size=(3, 1, n_steps))
    return Signals(
        loss,
        loss_scale * positive[0],
        positive[1],
        1e-3 * positive[2],
        loss_scale * 0.5 * positive[3],
        *cosines,
    )


def named(vector):
    return dict(zip(FEATURE_NAMES, vector[0].tolist(), strict=True))


def test_docstring_table_is_the_schema():
    rows = re.findall(r"^\| (\d+) \| (\w+) \| .* \| (\S+) \| (\S+) \|$", module.__doc__, re.M)
    fixed = [feature for feature in FEATURES if not feature[0].startswith("optimizer_")]
    assert [(name, float(low), float(high)) for _, name, low, high in rows] == fixed
    assert [int(number) for number, *_ in rows] == list(range(len(fixed)))


def test_hash_changes_with_the_schema(monkeypatch):
    before = schema_hash()
    monkeypatch.setattr(module, "FEATURES", (("progress", 0, 2), *FEATURES[1:]))
    assert schema_hash() != before


def test_known_values():
    state, first = begin(reading(progress=0.0, valid=2.0, learning_rate=1e-3))
    assert named(first)["valid_accuracy"] == 0.5
    assert named(first)["train_loss"] == 0
    flat = Signals(*[np.ones((1, 10))] * 5, *[np.full((1, 10), 0.25)] * 3)
    used = {"optimizer": "sgd", "learning_rate": 0.3, "gradient_clip": 0.5, "batch_size": 4}
    after, vector = observe(state, flat, reading(progress=0.5, valid=1.0, **used))
    values = named(vector)
    assert values["progress"] == 0.5
    assert values["age"] == pytest.approx(np.log10(51))
    assert values["gradient_clip"] == pytest.approx(np.log(0.5))
    assert values["clipped"] == values["has_clip"] == values["has_budget"] == 1
    assert values["batch_size"] == 2
    assert values["train_loss"] == pytest.approx(0, abs=1e-9)
    assert values["train_loss_slope"] == pytest.approx(0, abs=1e-9)
    assert values["train_loss_noise"] == 0
    assert values["valid_loss"] == pytest.approx(np.log(0.501 / 1.001), rel=1e-5)
    assert values["valid_improvement"] == pytest.approx(-np.log(0.501 / 1.001), rel=1e-5)
    assert values["valid_regret"] == 0
    assert values["gradient_update_cosine"] == 0.25
    assert values["relative_update"] == 3
    # SGD's 0.3 is Adam's 0.01: one decade above the start.
    assert values["learning_rate"] == pytest.approx(1)
    assert values["learning_rate_change"] == pytest.approx(1)
    assert values["learning_rate_step"] == pytest.approx(1)
    # The decision's own ten micro-batches.
    assert values["since_switch"] == pytest.approx(np.log10(11))
    assert values["optimizer_sgd"] == 1
    assert values["optimizer_adam"] == 0
    worse = reading(progress=0.75, valid=1.5, **used)
    higher = flat._replace(train_loss=np.full((1, 10), 2.0))
    values = named(observe(after, higher, worse)[1])
    assert values["since_switch"] == pytest.approx(np.log10(1 + 75 - 40))
    assert values["learning_rate_step"] == 0
    assert values["train_improvement"] == pytest.approx(-np.log(2.001 / 1.001), rel=1e-5)
    assert values["train_regret"] == pytest.approx(np.log(2.001 / 1.001), rel=1e-5)
    assert values["valid_regret"] == pytest.approx(np.log(0.751 / 0.501), rel=1e-5)


def test_slope_of_an_exponential_is_its_rate():
    state, _ = begin(reading(progress=0.0))
    decaying = np.exp(-0.01 * np.arange(10))[None]
    exponential = Signals(decaying, *[np.ones((1, 10))] * 4, *[np.zeros((1, 10))] * 3)
    vector = named(observe(state, exponential, reading())[1])
    # A decision has 10 steps. The floor of the log ratio takes a thousandth off the rate.
    assert vector["train_loss_slope"] == pytest.approx(-0.1, rel=2e-3)


@pytest.mark.parametrize("scale", [1e-3, 100.0])
def test_multiplying_the_loss_changes_nothing(scale):
    vectors = []
    for factor in (1.0, scale):
        state, first = begin(reading(progress=0.0, valid=2.0 * factor))
        seen = [first]
        for step in range(3):
            state, vector = observe(
                state,
                signals(seed=step, loss_scale=factor),
                reading(progress=0.1 * (step + 1), valid=factor * (1.5 - 0.2 * step)),
            )
            seen.append(vector)
        vectors.append(np.concatenate(seen))
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-5)


def test_what_is_not_known_leaves_its_features_at_zero():
    """Of what is there, the vector says the same as if all were known."""
    lacking = {"progress": np.nan, "valid": np.nan, "accuracy": np.nan}
    gone = {
        "has_budget", "progress", "has_valid", "generalisation_gap", "valid_loss",
        "valid_improvement", "valid_regret", "has_accuracy", "valid_accuracy",
    }  # fmt: skip
    whole, _ = begin(reading(progress=0.0))
    part, _ = begin(reading(**lacking | {"progress": 0.0})._replace(progress=np.array([np.nan])))
    for step in range(2):
        known = reading(progress=0.1 * (step + 1))
        unknown = reading(**lacking)._replace(age=known.age)
        whole, full = observe(whole, signals(seed=step), known)
        part, partial = observe(part, signals(seed=step), unknown)
        for name, value in named(partial).items():
            assert value == (0 if name in gone else named(full)[name]), name
    assert all(named(full)[name] for name in ("has_budget", "has_valid", "has_accuracy"))


def test_a_valid_loss_that_is_not_finite_is_as_bad_as_can_be():
    state, _ = begin(reading(progress=0.0))
    values = named(observe(state, signals(), reading(valid=np.inf))[1])
    assert values["has_valid"] == 1
    assert values["valid_loss"] == values["valid_regret"] == 7


anything = st.floats(allow_nan=True, allow_infinity=True, width=64)


@settings(max_examples=200)
@given(
    blocks=arrays(np.float64, (2, 8, 1, 4), elements=anything),
    valid=arrays(np.float64, 3, elements=anything),
    accuracy=st.one_of(st.just(np.nan), st.floats(0, 1)),
)
def test_finite_and_within_bounds_whatever_the_signals_hold(blocks, valid, accuracy):
    state, vector = begin(reading(progress=0.0, valid=valid[0], accuracy=accuracy))
    vectors = [vector]
    for block, loss in zip(blocks, valid[1:], strict=True):
        state, vector = observe(state, Signals(*block), reading(valid=loss, accuracy=accuracy))
        vectors.append(vector)
    for vector in vectors:
        assert vector.dtype == np.float32
        assert np.isfinite(vector).all()
        assert (vector >= LOW).all()
        assert (vector <= HIGH).all()


def test_rows_are_independent():
    state, _ = begin(reading(progress=0.0, n_runs=2))
    one, two = signals(seed=1), signals(seed=2)
    both = Signals(*(np.concatenate(pair) for pair in zip(one, two, strict=True)))
    _, together = observe(state, both, reading(n_runs=2))
    for row, own in enumerate((one, two)):
        alone, _ = begin(reading(progress=0.0))
        np.testing.assert_array_equal(observe(alone, own, reading())[1][0], together[row])
