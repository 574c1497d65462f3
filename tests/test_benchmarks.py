"""What the benchmarks measure by reaching into the library is still there."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def benchmarks(monkeypatch):
    """Its files import each other by their names alone."""
    monkeypatch.syspath_prepend(FOLDER)
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if (FOLDER / f"{name}.py").exists():
            del sys.modules[name]


@pytest.mark.usefixtures("benchmarks")
def test_parts_of_the_engine_are_found_and_timed(monkeypatch):
    import observation
    import speed

    for module in (observation, speed):
        monkeypatch.setattr(module, "TURNS", 1)
    shares = observation.share_of_the_observation(4)
    parts = ("signals_share", "features_share", "evaluation_share")
    assert all(0 < shares[name] < 1 for name in parts)
    engine = speed.new_engine(speed.SUBJECTS["mlp"](), 4)
    steps = speed.parts_of_a_step(engine, speed.mixed(4))
    assert steps["whole"] > 0
    assert steps["forward"] > 0


@pytest.mark.usefixtures("benchmarks")
def test_what_a_pilot_costs_can_be_measured(monkeypatch):
    import pilot

    monkeypatch.setattr(pilot, "SUBJECTS", {"mlp": (pilot.mlp, (8, 64), 1, 1)})
    measured = pilot.measure("mlp")
    assert measured["step_seconds"] > 0
    assert set(measured["overhead"]) == {"300", "1000", "3000", "20000"}
    # Parameters and Adam's two moments, and what is counted.
    assert measured["snapshot_bytes_over_parameters"] == pytest.approx(3, abs=0.01)
